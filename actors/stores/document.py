"""`Document`: one model, read and written per field.

Owns the state of a document, how field writes fold into it, and the view that handlers see. Promises: attempts that
touch different fields never conflict; the whole model is validated with every change, on the state as of seq - 1.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, TypeAdapter

from seqtor.actors.journal.encoding import model_json, text
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.registering import registering
from seqtor.actors.stores.access import Access
from seqtor.actors.stores.contract import StoreActor, StoreSpec, Tail
from seqtor.actors.stores.invariants import Invariants
from seqtor.actors.stores.model_kind import Increment, ModelKind
from seqtor.messages.errors import RegistrationError
from seqtor.messages.stores import Checkpoint, Write

__all__ = ["Document", "DocumentState", "DocumentStore", "DocumentView"]

ModelT = TypeVar("ModelT", bound=BaseModel)


class DocumentState(Generic[ModelT]):
    """One immutable version of a document; `value` is never handed out if it could be changed."""

    __slots__ = ("adapters", "kind", "value")

    def __init__(self, kind: ModelKind[ModelT], adapters: Mapping[str, TypeAdapter[Any]], value: ModelT) -> None:
        self.kind = kind
        self.adapters = adapters
        self.value = value


class DocumentStore(StoreActor[DocumentState[ModelT], "DocumentView[ModelT]"]):
    """The document's behaviour; never blocks, so it lives on the core."""

    dispatcher = "core"
    _keeps_only_state = True

    def __init__(self, kind: ModelKind[ModelT], adapters: Mapping[str, TypeAdapter[Any]], initial: ModelT) -> None:
        self._initial = DocumentState(kind, adapters, initial)

    def recover(self, checkpoint: Checkpoint | None) -> DocumentState[ModelT]:
        if checkpoint is None:
            return self._initial
        kind, kept = self._initial.kind, json.loads(checkpoint.data)
        value = kind.from_json(kept["value"], kept["version"], f"checkpoint at seq {checkpoint.seq}")
        return DocumentState(kind, self._initial.adapters, value)

    @staticmethod
    def fold(state: DocumentState[ModelT], writes: Sequence[Write]) -> DocumentState[ModelT]:
        return _resolve(state, writes)[0]

    @staticmethod
    def view(access: Access[DocumentState[ModelT]]) -> DocumentView[ModelT]:
        return DocumentView(access)


def _resolve(state: DocumentState[ModelT], writes: Sequence[Write]) -> tuple[DocumentState[ModelT], Sequence[Write]]:
    """Fold field writes and validate the whole; deltas become values, fields that stay equal are dropped."""
    old = state.value.__dict__
    values = dict(old)
    for name, op in writes:
        values[name] = values[name] + op.amounts[name] if type(op) is Increment else op
    if all(values[name] is old[name] for name, _ in writes):
        return state, ()
    new = state.kind.build(values)
    effective = [Write(name, getattr(new, name)) for name in new.__dict__ if getattr(new, name) != old[name]]
    if not effective:
        return state, ()
    return DocumentState(state.kind, state.adapters, new), effective


class Document(StoreSpec["DocumentView[ModelT]"], Generic[ModelT]):
    """The recipe of a document: `system.store("settings", Document(Settings, initial=..., invariants=[...]))`.

    Takes a `Record` or any pydantic model class, also a mutable one, of which handlers get private copies. Without
    `initial` it starts as `Model()`. Each invariant is a function of the whole new model that returns a bool or raises.
    Raises RegistrationError if there is no valid initial value.
    """

    def __init__(
        self,
        model: type[ModelT],
        initial: ModelT | None = None,
        invariants: Iterable[Callable[[ModelT], bool | None]] = (),
    ) -> None:
        with registering():  # What `seqtor check` looks at is never used afterwards.
            self.kind: ModelKind[ModelT] = ModelKind(model, Invariants(invariants, keyed=False))
            try:
                value = model() if initial is None else self.kind.require_instance(initial)
            except TypeError as error:
                raise RegistrationError(f"initial: {error}") from error
            except ValueError as error:
                raise RegistrationError(
                    f"Document({model.__name__}) without initial= starts as {model.__name__}(), which is not valid; give "
                    f"defaults to its fields or pass initial=: {error}"
                ) from error
            adapters = (
                {} if self.kind.validates else {name: self.kind.field_adapter(name) for name in model.model_fields}
            )
            super().__init__(DocumentStore, self.kind, adapters, value)
            self._initial = value
            self.version = self.kind.version
            self.keeps_parts = True
            self.needs_judge = self.kind.validates or bool(self.kind.invariants)

    def resolve(
        self, state: DocumentState[ModelT], writes: Sequence[Write]
    ) -> tuple[DocumentState[ModelT], Sequence[Write]]:
        return _resolve(state, writes)

    def op_json(self, key: str, op: Any) -> str:
        # As the model itself would write the field; what is around it is `{"name":` and `}`.
        part = self.kind.model.model_construct(**{key: op})
        return model_json(part, include={key})[len(text(key)) + 2 : -1]

    def restore(self, checkpoint: Checkpoint | None, state: DocumentState[ModelT], tail: Tail) -> DocumentState[ModelT]:
        return self.folder(checkpoint, state)(tail)

    def folder(
        self, checkpoint: Checkpoint | None, state: DocumentState[ModelT]
    ) -> Callable[[Tail], DocumentState[ModelT]]:
        # Put together as JSON, so that an upcast sees the whole document and not one field of it.
        kept: dict[str, Any] | None = None

        def fold(tail: Tail) -> DocumentState[ModelT]:
            nonlocal kept, state
            fields: dict[str, Any] = {}
            seq, version = 0, self.version
            for seq, writes in tail:  # noqa: B007 - the last one is named in an error
                for key, value, version in writes:  # noqa: B007
                    fields[key] = value
            if fields:
                if kept is None:
                    before = self.checkpoint_of(state) if checkpoint is None else checkpoint.data
                    kept = cast("dict[str, Any]", json.loads(before)["value"])
                kept = {**kept, **fields}
                state = DocumentState(self.kind, state.adapters, self.kind.from_json(kept, version, f"seq {seq}"))
            return state

        return fold

    def same_op(self, key: str, op: Any, kept: Any, version: int) -> bool:
        values = {**json.loads(model_json(self._initial)), key: kept}
        return bool(getattr(self.kind.from_json(values, version, f"field {key!r}"), key) == op)

    @property
    def by_key(self) -> bool:
        return not self.needs_judge

    @property
    def shape(self) -> str:
        return self.kind.shape

    def checkpoint_of(self, state: DocumentState[ModelT]) -> bytes:
        return f'{{"version":{self.version},"value":{model_json(state.value)}}}'.encode()

    def require_kept(self, state: DocumentState[ModelT], writes: Sequence[Write]) -> None:
        if self.tries_values:
            self.kind.require_kept(state.value)

    def prepare_for_journal(self, upcasts: Upcasts) -> None:
        self.kind.upcasts = upcasts
        self.tries_values = not self.kind.comes_back
        self.needs_judge = self.needs_judge or self.tries_values

    def check(
        self, state: DocumentState[ModelT], writes: Sequence[Write] | None = None, store: str | None = None
    ) -> None:
        if self.kind.invariants:
            self.kind.invariants.check(self.kind.hand_out(state.value), (), store)

    def part(self, state: DocumentState[ModelT], key: str) -> Any:
        return getattr(state.value, key)

    def private_copy(self, state: DocumentState[ModelT]) -> ModelT:
        return state.value.model_copy(deep=True)

    def writes_for(self, state: DocumentState[ModelT], value: Any) -> Sequence[Write]:
        model = self.kind.require_instance(value)
        return [Write(name, getattr(model, name)) for name in type(model).model_fields]


class DocumentView(Generic[ModelT]):
    """A document as one attempt sees it: its snapshot with its own writes."""

    __slots__ = ("_access", "_own", "_state")

    def __init__(self, access: Access[DocumentState[ModelT]]) -> None:
        self._access = access
        self._state = access.base
        self._own: dict[str, Any] = {}

    @property
    def value(self) -> ModelT:
        """The whole model, a tracked read of every field."""
        self._access.read_range(None, None)
        return self._merged() if self._own else self._state.kind.hand_out(self._state.value)

    @property
    def fields(self) -> ModelT:
        """The fields one by one: `view.fields.title` is a tracked read of `title` alone."""
        return cast("ModelT", _Fields(self))

    def update(self, **fields: Any) -> None:
        """Set the named fields, all or none.

        Raises TypeError for an unknown name, pydantic's ValidationError for a bad value.
        """
        kind, adapters = self._state.kind, self._state.adapters
        kind.require_fields(fields)
        values = {
            name: adapters[name].validate_python(given) if name in adapters else given for name, given in fields.items()
        }
        for name, value in values.items():
            own = value if kind.shared else copy.deepcopy(value)
            self._access.put(Write(name, own))
            self._own[name] = own

    def set(self, model: ModelT) -> None:
        """Set every field to those of `model`."""
        value = self._state.kind.require_instance(model)
        for name in type(value).model_fields:
            self._access.put(Write(name, getattr(value, name)))
            self._own[name] = getattr(value, name)

    def increment(self, **fields: Any) -> None:
        """Add amounts to fields without reading them; never conflicts with another increment."""
        self._state.kind.require_amounts(fields)
        for name, amount in fields.items():
            own = self._own.get(name)
            if name in self._own and type(own) is not Increment:
                self.update(**{name: own + amount})
                continue
            self._access.put(Write(name, Increment({name: amount})))
            self._own[name] = own.plus({name: amount}) if type(own) is Increment else Increment({name: amount})

    def _merged(self) -> ModelT:
        values = dict(self._state.value.__dict__)
        for name, own in self._own.items():
            values[name] = values[name] + own.amounts[name] if type(own) is Increment else own
        if not self._state.kind.shared:
            values = {name: copy.deepcopy(value) for name, value in values.items()}
        return self._state.kind.build(values)

    def _field(self, name: str) -> Any:
        kind = self._state.kind
        if name not in kind.model.model_fields:
            kind.require_fields({name: None})
        if self._own and kind.validates:
            # What the field will be depends on the others too: the model's own validators may look at them.
            return getattr(self.value, name)
        if name not in self._own:
            self._access.read(name)
            value = getattr(self._state.value, name)
            return value if kind.shared else copy.deepcopy(value)
        own = self._own[name]
        if type(own) is Increment:
            self._access.read(name)
            return self._state.adapters[name].validate_python(getattr(self._state.value, name) + own.amounts[name])
        self._access.check()
        return own if kind.shared else copy.deepcopy(own)

    def __repr__(self) -> str:
        return f"<DocumentView of {self._state.kind.model.__name__}>"


class _Fields:
    __slots__ = ("_view",)

    def __init__(self, view: DocumentView[Any]) -> None:
        object.__setattr__(self, "_view", view)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"fields are read here: write view.update({name}=...)")

    def __getattr__(self, name: str) -> Any:
        try:
            return self._view._field(name)
        except TypeError as error:
            raise AttributeError(str(error)) from None
