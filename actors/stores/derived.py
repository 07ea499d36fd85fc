"""`Derived`: one record that is a pure function of other stores.

Owns the state of a derived store, how it follows from its sources, and the view that handlers see. Promises: what is visible
at a seq is what the sources were at that seq; a function that raises makes the store unreadable and no commit fail; nobody
writes it but the commits of its sources, and who reconciles it.

Its resulting writes are in the records of those commits, field by field as a document's, so a start and a look into the past
need none of its code.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, cast

from pydantic import BaseModel, create_model

from seqtor.actors.journal.encoding import json_of, model_json, text
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.registering import registering, require_function
from seqtor.actors.stores.access import Access, ReadOnlyAccess
from seqtor.actors.stores.collection import Collection
from seqtor.actors.stores.contract import StoreActor, StoreRef, StoreSpec, Tail
from seqtor.actors.stores.invariants import Invariants
from seqtor.actors.stores.model_kind import ModelKind
from seqtor.messages.derived import SourceChange
from seqtor.messages.errors import DerivedUnreadable, RegistrationError
from seqtor.messages.models import FrozenModel, Record
from seqtor.messages.stores import Checkpoint, Write

__all__ = ["COUNTED", "HELD", "RECONCILED", "UNREADABLE", "Derived", "DerivedState", "DerivedStore", "DerivedView"]

ModelT = TypeVar("ModelT", bound=BaseModel)
# Keys beside the names of the fields, which cannot begin like this.
UNREADABLE = "!unreadable"  # Why the store cannot be read; "" if it can.
COUNTED = "!counted"  # What the guard counted in the sources at the last reconciliation.
RECONCILED = "!reconciled"  # When that was, as POSIX seconds.
HELD = "!held"  # Why the guard refused it; "" if it did not.
BESIDE = (UNREADABLE, COUNTED, RECONCILED, HELD)
GUARD_ABOVE = 10  # So many may go without anybody being asked.
NOT_BUILT = "it was not computed yet"
EVERY = datetime.timedelta(minutes=15)


class DerivedState(Generic[ModelT]):
    """One immutable version of a derived store. `value` is the last that could be computed, None if there is none."""

    __slots__ = ("counted", "held", "model", "reconciled", "unreadable", "value")

    def __init__(
        self,
        model: type[ModelT],
        value: ModelT | None,
        unreadable: str = "",
        counted: int | None = None,
        held: str = "",
        reconciled: float | None = None,
    ) -> None:
        self.model = model
        self.value = value
        self.unreadable = unreadable
        self.counted = counted
        self.held = held
        self.reconciled = reconciled

    def part(self, key: str) -> Any:
        """What is kept under a key."""
        if key.startswith("!"):
            return getattr(self, key[1:])
        return None if self.value is None else getattr(self.value, key)

    def with_writes(self, writes: Sequence[Write]) -> DerivedState[ModelT]:
        """The state with these fields, and what is beside them, set."""
        beside = {key[1:]: self.part(key) for key in BESIDE}
        fields: dict[str, Any] = {}
        for key, op in writes:
            if key.startswith("!"):
                beside[key[1:]] = op
            else:
                fields[key] = op
        value = self.value
        if fields:
            before = {} if value is None else value.__dict__
            value = self.model.model_validate({**before, **fields}, by_alias=False, by_name=True)
        return DerivedState(self.model, value, **beside)


class DerivedStore(StoreActor[DerivedState[ModelT], "DerivedView[ModelT]"]):
    """The behaviour of a derived store; never blocks, so it lives on the core."""

    dispatcher: ClassVar[Literal["core", "dedicated"]] = "core"
    _keeps_only_state = True

    def __init__(self, kind: ModelKind[ModelT]) -> None:
        self._kind = kind

    def recover(self, checkpoint: Checkpoint | None) -> DerivedState[ModelT]:
        if checkpoint is None:
            return DerivedState(self._kind.model, None, NOT_BUILT)
        kept = json.loads(checkpoint.data)
        return _from_kept(self._kind, kept["value"], kept["version"], f"checkpoint at seq {checkpoint.seq}")

    @staticmethod
    def fold(state: DerivedState[ModelT], writes: Sequence[Write]) -> DerivedState[ModelT]:
        return state.with_writes(writes)

    @staticmethod
    def view(access: Access[DerivedState[ModelT]]) -> DerivedView[ModelT]:
        return DerivedView(access)


class ExportedStore(DerivedStore[ModelT]):
    """The same with a file, which blocks."""

    dispatcher = "dedicated"


class Derived(StoreSpec["DerivedView[ModelT]"], Generic[ModelT]):
    """The recipe of a derived store: `system.store("totals", Derived(Totals, [orders], rebuild=totals_of))`.

    `rebuild(orders, ...)` gets the views of the sources, read-only and in this order, and returns the whole record. With
    `fold(value, changes)` a commit costs what it changes: it gets the record so far and a `SourceChange` for each key, and
    returns the record after them; it must return what `rebuild` would. Both are pure, and run inside the commit.

    Every `reconcile` (None: never by itself) the record is computed anew and compared; a difference is mended, and is the
    event `seqtor.drift`. If the sources then hold less than half of what they held the last time, of more than 10, nothing
    is mended, and it is the event `seqtor.guard`; `guard(orders, ...)` says how much that is (default: how many keys the
    collections among the sources have). `export` is a path where the record is kept as a JSON file, replaced as a whole when
    a change is durable, and looked at with each reconciliation. Raises RegistrationError for what cannot be meant.
    """

    def __init__(
        self,
        model: type[ModelT],
        sources: Sequence[StoreRef[Any]],
        *,
        rebuild: Callable[..., ModelT],
        fold: Callable[[ModelT, Sequence[SourceChange]], ModelT] | None = None,
        reconcile: float | datetime.timedelta | None = EVERY,
        guard: Callable[..., int] | None = None,
        export: str | os.PathLike[str] | None = None,
    ) -> None:
        with registering():  # What `seqtor check` looks at is never used afterwards.
            self.kind: ModelKind[ModelT] = ModelKind(model, Invariants((), keyed=False))
            if not self.kind.shared or not issubclass(model, Record):
                raise RegistrationError(f"a derived store keeps an immutable Record, {model.__name__} is none")
            self.sources = _require_sources(sources, fold is not None)
            views = f"the views of {', '.join(ref.name for ref in self.sources)}"
            for name, function, count, what in (
                ("rebuild", rebuild, len(self.sources), views),
                ("fold", fold, 2, "the record so far and the changes"),
                ("guard", guard, len(self.sources), views),
            ):
                if function is not None:
                    require_function(function, f"Derived({model.__name__}): {name}=", count, what)
            super().__init__(DerivedStore if export is None else ExportedStore, self.kind)
            self.needs_judge = False
            self.export = self.own_path = None if export is None else Path(export)
            self.reconcile = reconcile
            self._rebuild = rebuild
            self._fold_changes = fold
            self._guard = guard
            # What fold= is for is that nobody looks at everything.
            self._counts_at_once = fold is None or guard is None
            self.version = self.kind.version
            self.keeps_parts = True

    # What follows from the sources -------------------------------------------------------------------------------------

    def views(self, states: Iterable[Any]) -> list[Any]:
        """What the functions see of the sources' states."""
        return [
            ref.spec.view(ReadOnlyAccess(state, ref.spec.fold)) for ref, state in zip(self.sources, states, strict=True)
        ]

    def built(self, states: Sequence[Any]) -> ModelT:
        """The record that the sources give. Raises what `rebuild` raises, TypeError if it returns something else."""
        return self._require(self._rebuild(*self.views(states)), "rebuild")

    def counted(self, states: Sequence[Any]) -> int | None:
        """How much the guard counts in the sources, None if there is nothing to count."""
        if self._guard is not None:
            return self._guard(*self.views(states))
        lengths = [len(view) for ref, view in zip(self.sources, self.views(states), strict=True) if _is_collection(ref)]
        return sum(lengths) if lengths else None

    def loss(self, state: DerivedState[ModelT], counted: int | None) -> str:
        """What the guard has to say if the sources now hold so much; "" if nothing."""
        before = state.counted
        if before is None or counted is None or before <= GUARD_ABOVE or 2 * counted >= before:
            return ""
        return f"its sources went from {before} to {counted}"

    def derived(
        self, state: DerivedState[ModelT], before: Sequence[Any], after: Sequence[Any],
        written: Mapping[int, Sequence[Write]],
    ) -> tuple[DerivedState[ModelT], Sequence[Write]]:  # fmt: skip
        """What a commit of the sources makes of the state: the new one, and the writes that changed it.

        `before` and `after` are the sources' states, `written` the resulting writes by the sources' indexes.
        """
        if self._fold_changes is not None and (state.unreadable or state.value is None):
            return state, ()  # What it would be folded into is not known; reconciling computes it anew.
        try:
            if self._fold_changes is None:
                value = self.built(after)
            else:
                changes = list(self._changes(before, after, written))
                value = self._require(self._fold_changes(cast("ModelT", state.value), changes), "fold")
            held = self.loss(state, self.counted(after)) if self._counts_at_once else state.held
        except Exception as error:
            return self.written(state, [Write(UNREADABLE, _said(error))])
        return self.written(state, [*self.differences(state, value), Write(HELD, held)])

    def differences(self, state: DerivedState[ModelT], value: ModelT) -> list[Write]:
        """The writes by which the state becomes one that holds this value and can be read."""
        writes = [] if not state.unreadable else [Write(UNREADABLE, "")]
        old = None if state.value is None else state.value.__dict__
        for name, new in value.__dict__.items():
            if old is None or (old[name] is not new and old[name] != new):
                writes.append(Write(name, new))
        return writes

    def written(
        self, state: DerivedState[ModelT], writes: Sequence[Write]
    ) -> tuple[DerivedState[ModelT], Sequence[Write]]:
        """The state with these writes, and those of them that change anything."""
        effective = [write for write in writes if write.key not in BESIDE or state.part(write.key) != write.op]
        return (state.with_writes(effective), effective) if effective else (state, ())

    def _changes(
        self, before: Sequence[Any], after: Sequence[Any], written: Mapping[int, Sequence[Write]]
    ) -> Iterable[SourceChange]:
        for ref, old, new in zip(self.sources, before, after, strict=True):
            part = ref.spec.part
            for key in dict.fromkeys([write.key for write in written.get(ref.index, ())]):
                yield SourceChange(ref.name, key, part(old, key), part(new, key))

    def _require(self, value: Any, function: str) -> ModelT:
        if not isinstance(value, self.kind.model):
            raise TypeError(f"{function} must return {self.kind.model.__name__}, it returned {value!r}")
        kept = self.kind.require_instance(value)
        if self.tries_values:
            self.kind.require_kept(kept)
        return kept

    # What every store has ----------------------------------------------------------------------------------------------

    def resolve(
        self, state: DerivedState[ModelT], writes: Sequence[Write]
    ) -> tuple[DerivedState[ModelT], Sequence[Write]]:
        return self.written(state, writes)

    def op_json(self, key: str, op: Any) -> str:
        if key in BESIDE:
            return json_of(op)
        part = self.kind.model.model_construct(**{key: op})
        return model_json(part, include={key})[len(text(key)) + 2 : -1]

    def restore(self, checkpoint: Checkpoint | None, state: DerivedState[ModelT], tail: Tail) -> DerivedState[ModelT]:
        return self.folder(checkpoint, state)(tail)

    def folder(
        self, checkpoint: Checkpoint | None, state: DerivedState[ModelT]
    ) -> Callable[[Tail], DerivedState[ModelT]]:
        kept: dict[str, Any] = json.loads(self.checkpoint_of(state) if checkpoint is None else checkpoint.data)["value"]

        def fold(tail: Tail) -> DerivedState[ModelT]:
            nonlocal kept, state
            changed: dict[str, Any] = {}
            seq, version = 0, self.version
            for seq, writes in tail:  # noqa: B007 - the last one is named in an error
                for key, value, version in writes:  # noqa: B007
                    changed[key] = value
            if changed:
                kept = {**kept, **changed}
                state = _from_kept(self.kind, kept, version, f"seq {seq}")
            return state

        return fold

    def write_of(self, key: str, value: Any, version: int, where: str) -> Write:
        if key in BESIDE:
            return Write(key, value)
        field = self.kind.model.model_fields.get(key)
        if field is None:
            raise RegistrationError(f"{where}: {self.kind.model.__name__} has no field {key!r} any more")
        part: Any = create_model("Part", __base__=FrozenModel, value=(field.rebuild_annotation(), ...))
        return Write(key, part.model_validate_json(json_of({"value": value})).value)

    def same_op(self, key: str, op: Any, kept: Any, version: int) -> bool:
        return bool(self.write_of(key, kept, version, "").op == op)

    @property
    def shape(self) -> str:
        return self.kind.shape

    def checkpoint_of(self, state: DerivedState[ModelT]) -> bytes:
        parts = [f"{text(key)}:{json_of(state.part(key))}" for key in BESIDE]
        fields = "" if state.value is None else model_json(state.value)[1:-1]
        values = ",".join([*([fields] if fields else []), *parts])
        return f'{{"version":{self.version},"value":{{{values}}}}}'.encode()

    def prepare_for_journal(self, upcasts: Upcasts) -> None:
        self.kind.upcasts = upcasts
        self.tries_values = not self.kind.comes_back

    def part(self, state: DerivedState[ModelT], key: str) -> Any:
        return state.part(key)

    def private_copy(self, state: DerivedState[ModelT]) -> ModelT:
        return _readable(state)


class DerivedView(Generic[ModelT]):
    """A derived store as one attempt sees it: read-only, and without what the attempt itself has written to the sources.

    Reading raises DerivedUnreadable if its function has raised, until it was reconciled.
    """

    __slots__ = ("_access", "_state")

    def __init__(self, access: Access[DerivedState[ModelT]]) -> None:
        self._access = access
        self._state = access.base

    @property
    def value(self) -> ModelT:
        """The whole record, a tracked read of every field."""
        self._access.read_range(None, None)
        return _readable(self._state)

    @property
    def fields(self) -> ModelT:
        """The fields one by one: `view.fields.total` is a tracked read of `total` alone."""
        return cast("ModelT", _Fields(self._access, self._state))

    if not TYPE_CHECKING:  # Only to say what to write instead.

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            raise AttributeError(
                f"a derived store has no {name!r} of its own: read view.value.{name}, or view.fields.{name} for it alone"
            )

        def __getitem__(self, key: Any) -> Any:
            raise TypeError("a derived store is one record, not a mapping: read view.value, or view.fields.name")

        def __setitem__(self, key: Any, value: Any) -> None:
            raise TypeError("a derived store follows from its sources: write those")

    def __repr__(self) -> str:
        return f"<DerivedView of {self._state.model.__name__}>"


class _Fields:
    __slots__ = ("_access", "_state")

    def __init__(self, access: Access[Any], state: DerivedState[Any]) -> None:
        object.__setattr__(self, "_access", access)
        object.__setattr__(self, "_state", state)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a derived store follows from its sources: write those")

    def __getattr__(self, name: str) -> Any:
        if name not in self._state.model.model_fields:
            known = ", ".join(self._state.model.model_fields)
            raise AttributeError(f"{self._state.model.__name__} has no field {name!r}; it has {known}")
        self._access.read(UNREADABLE)
        self._access.read(name)
        return getattr(_readable(self._state), name)


def _readable(state: DerivedState[ModelT]) -> ModelT:
    if state.unreadable or state.value is None:
        raise DerivedUnreadable(
            f"the derived store of {state.model.__name__} cannot be read: {state.unreadable}. Mend its function; it is "
            "readable again when it was reconciled, on its schedule or with ReconcileDerived"
        )
    return state.value


def _from_kept(kind: ModelKind[ModelT], kept: Mapping[str, Any], version: int, where: str) -> DerivedState[ModelT]:
    """A state from the JSON that the journal kept. What does not fit the model any more is computed anew."""
    beside = {key[1:]: kept[key] for key in BESIDE if key in kept}
    fields = {key: value for key, value in kept.items() if key not in BESIDE}
    if not fields:
        return DerivedState(kind.model, None, **beside)
    try:
        value = kind.from_json(fields, version, where)
    except RegistrationError as error:
        beside["unreadable"] = _said(error)
        return DerivedState(kind.model, None, **beside)
    return DerivedState(kind.model, value, **beside)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _require_sources(sources: Any, by_change: bool) -> tuple[StoreRef[Any], ...]:
    if isinstance(sources, (str, StoreRef)) or not isinstance(sources, Iterable):
        raise RegistrationError(f"sources takes a list of stores, got {sources!r}: Derived(Model, [orders], ...)")
    found = tuple(sources)
    if not found:
        raise RegistrationError("a derived store follows from others: name at least one source")
    for ref in found:
        if not isinstance(ref, StoreRef):
            raise RegistrationError(f"a source is what system.store(...) returned, got {ref!r}")
        if ref.spec.sources:
            raise RegistrationError(f"the source {ref.name!r} is derived itself: derive from its sources instead")
        if by_change and type(ref.spec).part is StoreSpec.part:
            raise RegistrationError(
                f"the source {ref.name!r} cannot say what it holds under a key, so nothing can be folded from its changes: "
                "leave fold= out, rebuild= alone will do"
            )
    if len({ref.index for ref in found}) != len(found):
        raise RegistrationError(f"a source is named twice: {', '.join(ref.name for ref in found)}")
    return found


def _is_collection(ref: StoreRef[Any]) -> bool:
    return isinstance(ref.spec, Collection)
