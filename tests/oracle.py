"""The serial oracle: runs triggers one after another, over plain dicts, and says what must come out.

Owns the meaning of API.md section 3 written down a second time, as simply as possible: no snapshots, no read sets, no
attempts. A handler is given a `PlainTransaction` in place of a `Transaction` and cannot tell. Promises: shares no code
with the runtime but what a program itself brings (models, invariants, the `fold` and `view` of a custom store); after
every seq it knows the state, the result and the error.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, Protocol

import pydantic
from pydantic import BaseModel

from seqtor import Rejected, State, StoreActor
from seqtor.messages import Commit, CommitIntent, Write

__all__ = [
    "Outcome",
    "PastDeadline",
    "PlainCollection",
    "PlainCustom",
    "PlainDocument",
    "PlainStore",
    "PlainTransaction",
    "SerialOracle",
    "error_key",
    "run_to_end",
]


class PastDeadline(BaseException):
    """What a handler raises to the oracle where it would go on past its deadline."""


class Outcome(NamedTuple):
    """How one trigger ends when everything before it has ended, and the stores after it."""

    state: State
    result: Any
    error: BaseException | None
    contents: dict[str, Any]


class PlainStore(Protocol):
    """A store without concurrency."""

    state: Any

    def open(self) -> Any:
        """The view that a handler gets."""
        ...

    def after(self, view: Any) -> Any:
        """The state with the writes of a view. Raises what makes them invalid."""
        ...

    def wrote(self, view: Any) -> bool:
        """Whether anything was written through the view."""
        ...

    def whole(self) -> Any:
        """A private copy of everything, as `tx.read` gives it."""
        ...

    def replace_whole(self, view: Any, value: Any) -> None:
        """Write a whole value, as a `CommitIntent` asks for. Raises TypeError for one of another kind."""
        ...

    def check(self, state: Any) -> None:
        """Raise Rejected if an invariant does not hold."""
        ...

    def validate(self, state: Any, seq: int, view: Any) -> None:
        """Raise what the store's own `validate` raises."""
        ...

    def contents(self) -> Any:
        """The state as plain values, for comparing."""
        ...


# Collections -------------------------------------------------------------------------------------------------------


class PlainCollectionView(MutableMapping[str, Any]):
    """A dict with increments. What the run wrote is seen by the run."""

    def __init__(self, model: type[BaseModel], before: Mapping[str, BaseModel]) -> None:
        self._model = model
        self._before = before
        self._own: dict[str, BaseModel | None] = {}  # Set by this run, or (None) deleted.
        self._added: dict[str, dict[str, Any]] = {}  # Amounts for keys that the run has not set or deleted.
        self.wrote = False

    def _now(self, key: str) -> Any:
        if not isinstance(key, str):
            raise TypeError(f"keys are strings, got {key!r}")
        if key in self._own:
            return copy.deepcopy(self._own[key])
        before = self._before.get(key)
        return add(self._model, before, self._added[key]) if key in self._added else copy.deepcopy(before)

    def __getitem__(self, key: str) -> Any:
        value = self._now(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._now(key) is not None

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str) or not isinstance(value, self._model):
            raise TypeError(f"expected str and {self._model.__name__}, got {key!r}: {value!r}")
        self.wrote = True
        self._own[key] = copy.deepcopy(value)
        self._added.pop(key, None)

    def __delitem__(self, key: str) -> None:
        if self._now(key) is None:
            raise KeyError(key)
        self.wrote = True
        self._own[key] = None
        self._added.pop(key, None)

    def clear(self) -> None:
        """Delete every key, whatever it holds."""
        for key in self._present():
            self.wrote = True
            self._own[key] = None
        self._added.clear()

    def _present(self) -> list[str]:
        keys = (set(self._before) | set(self._added) | set(self._own)) - {k for k, v in self._own.items() if v is None}
        return sorted(keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._present())

    def __len__(self) -> int:
        return len(self._present())

    def scan(
        self, *, prefix: str | None = None, start: str | None = None, stop: str | None = None
    ) -> Iterator[tuple[str, Any]]:
        """The keys there are now, in order; one that is deleted before its turn is left out."""
        if prefix is not None and (start is not None or stop is not None):
            raise TypeError("a prefix, or start and stop")
        wanted = [
            key
            for key in self._present()
            if (prefix is None or key.startswith(prefix))
            and (start is None or key >= start)
            and (stop is None or key < stop)
        ]
        return ((key, self._now(key)) for key in wanted if self._own.get(key, self) is not None)

    def increment(self, key: str, **fields: Any) -> None:
        """Add without reading; to what the run itself has set it is an assignment."""
        for name in fields:
            if name not in self._model.model_fields:
                raise TypeError(f"no field {name!r}")
        if key in self._own:
            self[key] = add(self._model, self._own[key], fields)
            return
        self.wrote = True
        added = self._added.setdefault(key, {})
        for name, amount in fields.items():
            added[name] = added.get(name, 0) + amount

    def after(self) -> dict[str, Any]:
        state = dict(self._before)
        for key, amounts in self._added.items():
            state[key] = add(self._model, self._before.get(key), amounts)
        for key, value in self._own.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        return state


def add(model: type[BaseModel], value: BaseModel | None, amounts: Mapping[str, Any]) -> BaseModel:
    """The value with amounts added, validated; an absent one starts from the model's defaults."""
    fields = dict(model() if value is None else value)
    return model.model_validate({**fields, **{name: fields[name] + amount for name, amount in amounts.items()}})


class PlainCollection:
    """`Collection` as a dict."""

    def __init__(
        self,
        model: type[BaseModel],
        initial: Mapping[str, BaseModel] | None = None,
        invariants: Iterable[Callable[[Any], Any]] = (),
    ) -> None:
        self.model = model
        self.state: dict[str, Any] = copy.deepcopy(dict(initial or {}))
        self.invariants = tuple(invariants)

    def open(self) -> PlainCollectionView:
        return PlainCollectionView(self.model, self.state)

    def after(self, view: PlainCollectionView) -> dict[str, Any]:
        return view.after()

    def wrote(self, view: PlainCollectionView) -> bool:
        return view.wrote

    def whole(self) -> dict[str, Any]:
        return {key: copy.deepcopy(self.state[key]) for key in sorted(self.state)}

    def replace_whole(self, view: PlainCollectionView, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise TypeError("expected a mapping")
        for key in list(view):
            if key not in value:
                del view[key]
        for key in sorted(value):
            view[key] = value[key]

    def check(self, state: dict[str, Any]) -> None:
        check_invariants(self.invariants, {key: copy.deepcopy(state[key]) for key in sorted(state)})

    def validate(self, state: Any, seq: int, view: Any) -> None:
        """Collections have no validation of their own."""

    def contents(self) -> list[Any]:
        return [[key, self.state[key].model_dump()] for key in sorted(self.state)]


# Documents ---------------------------------------------------------------------------------------------------------


class PlainDocumentView:
    """One model. `lazy`: the model's validators look at all fields, so a change is validated with the whole."""

    def __init__(self, model: type[BaseModel], before: BaseModel, lazy: bool) -> None:
        self._model = model
        self._before = before
        self._lazy = lazy
        self._own: dict[str, Any] = {}
        self._added: dict[str, Any] = {}
        self.wrote = False

    @property
    def value(self) -> Any:
        """The whole model, validated if the run has changed it."""
        return copy.deepcopy(self.after())

    @property
    def fields(self) -> Any:
        """Its fields by attribute."""
        return PlainFields(self)

    def field(self, name: str) -> Any:
        if name not in self._model.model_fields:
            raise AttributeError(name)
        if self._lazy and (self._own or self._added):
            return getattr(self.value, name)
        if name in self._added:
            return self._validated(name, getattr(self._before, name) + self._added[name])
        return copy.deepcopy(self._own[name] if name in self._own else getattr(self._before, name))

    def update(self, **fields: Any) -> None:
        """Set the named fields: all of them, or none if one is invalid."""
        for name in fields:
            if name not in self._model.model_fields:
                raise TypeError(f"no field {name!r}")
        if not self._lazy:
            fields = {name: self._validated(name, value) for name, value in fields.items()}
        for name, value in fields.items():
            self.wrote = True
            self._own[name] = copy.deepcopy(value)
            self._added.pop(name, None)

    def set(self, model: Any) -> None:
        if not isinstance(model, self._model):
            raise TypeError(f"expected {self._model.__name__}, got {model!r}")
        self.wrote = True
        for name in self._model.model_fields:
            self._own[name] = copy.deepcopy(getattr(model, name))
        self._added.clear()

    def increment(self, **fields: Any) -> None:
        for name, amount in fields.items():
            if name not in self._model.model_fields:
                raise TypeError(f"no field {name!r}")
            if name in self._own:
                self.update(**{name: self._own[name] + amount})
            else:
                self.wrote = True
                self._added[name] = self._added.get(name, 0) + amount

    def _validated(self, name: str, value: Any) -> Any:
        return getattr(self._model.model_validate({**dict(self._before), name: value}), name)

    def after(self) -> BaseModel:
        if not self._own and not self._added:
            return self._before
        values = {**dict(self._before), **self._own}
        values.update({name: values[name] + amount for name, amount in self._added.items()})
        return self._model.model_validate(copy.deepcopy(values))


class PlainFields:
    """Field access of a document view."""

    def __init__(self, view: PlainDocumentView) -> None:
        self._view = view

    def __getattr__(self, name: str) -> Any:
        return self._view.field(name)


class PlainDocument:
    """`Document` as one model."""

    def __init__(
        self,
        model: type[BaseModel],
        initial: BaseModel | None = None,
        invariants: Iterable[Callable[[Any], Any]] = (),
        *,
        lazy: bool = False,
    ) -> None:
        self.model = model
        self.state = copy.deepcopy(initial) if initial is not None else model()
        self.invariants = tuple(invariants)
        self.lazy = lazy

    def open(self) -> PlainDocumentView:
        return PlainDocumentView(self.model, self.state, self.lazy)

    def after(self, view: PlainDocumentView) -> BaseModel:
        return view.after()

    def wrote(self, view: PlainDocumentView) -> bool:
        return view.wrote

    def whole(self) -> Any:
        return copy.deepcopy(self.state)

    def replace_whole(self, view: PlainDocumentView, value: Any) -> None:
        view.set(value)

    def check(self, state: Any) -> None:
        check_invariants(self.invariants, copy.deepcopy(state))

    def validate(self, state: Any, seq: int, view: Any) -> None:
        """Documents have no validation of their own."""

    def contents(self) -> Any:
        return self.state.model_dump()


def check_invariants(invariants: Sequence[Callable[[Any], Any]], seen: Any) -> None:
    """Raise Rejected for the first invariant that is False or raises."""
    for invariant in invariants:
        try:
            holds = invariant(seen)
        except Rejected:
            raise
        except Exception as error:
            raise Rejected("an invariant raised", "invariant") from error
        if holds is not None and holds is not True:
            raise Rejected("an invariant does not hold", "invariant")


# Stores on the StoreActor contract ---------------------------------------------------------------------------------


class PlainAccess:
    """What `view` of a custom store gets: its state, and a list for its writes. Reads need no names here."""

    def __init__(self, before: Any, fold: Callable[[Any, Sequence[Write]], Any]) -> None:
        self._before = before
        self._fold = fold
        self.writes: list[Write] = []

    @property
    def state(self) -> Any:
        return self._fold(self._before, self.writes) if self.writes else self._before

    def read(self, key: str, version: int | None = None) -> None:
        """Nothing else runs, so nothing can change what is read."""

    def read_range(self, start: str | None, stop: str | None) -> None:
        """Nothing else runs, so nothing can change what is read."""

    def write(self, key: str, op: Any) -> None:
        self.writes.append(Write(key, op))


class PlainCustom:
    """A user's own store: its `fold`, `view` and `validate`, one after another."""

    def __init__(self, behaviour: StoreActor[Any, Any], contents: Callable[[Any], Any]) -> None:
        self.behaviour = behaviour
        self.state = behaviour.recover(None)
        self._contents = contents

    def open(self) -> Any:
        return self.behaviour.view(self._access())  # type: ignore[arg-type]

    def _access(self) -> PlainAccess:
        self.access = PlainAccess(self.state, self.behaviour.fold)
        return self.access

    def after(self, view: Any) -> Any:
        return self.access.state

    def wrote(self, view: Any) -> bool:
        return bool(self.access.writes)

    def whole(self) -> Any:
        return copy.deepcopy(self.state)

    def replace_whole(self, view: Any, value: Any) -> None:
        raise TypeError("a custom store has no form for whole values")

    def check(self, state: Any) -> None:
        """A custom store has no invariants, it has `validate`."""

    def validate(self, state: Any, seq: int, view: Any) -> None:
        if state is not self.state:
            self.behaviour.validate(self.state, state, Commit(seq, (), tuple(self.access.writes)))

    def contents(self) -> Any:
        return self._contents(self.state)


# Runs --------------------------------------------------------------------------------------------------------------


class PlainTransaction:
    """What a handler gets: the state as of seq - 1, with its own writes."""

    attempt = 1

    def __init__(
        self, stores: Mapping[str, PlainStore], seq: int | None, before: int, first: Mapping[str, Any] | None = None
    ) -> None:
        self.seq = seq
        self.stores = stores
        self._before = before
        self._first = first  # The states that the first attempt read, by store.
        self.views: dict[str, Any] = {}

    def __getitem__(self, ref: Any) -> Any:
        if ref.name not in self.views:
            self.views[ref.name] = self.stores[ref.name].open()
        return self.views[ref.name]

    def peek(self, ref: Any) -> Any:
        """The store as the first attempt saw it: a recorded input."""
        return self._then(ref).open()

    def changed(self, ref: Any, key: str) -> bool:
        """Whether a key, or a field, is not what the first attempt saw."""
        return part_of(self._then(ref).state, key) != part_of(self.stores[ref.name].state, key)

    def _then(self, ref: Any) -> Any:
        assert self._first is not None, "the oracle was not told what the first attempt saw"
        store: Any = copy.copy(self.stores[ref.name])
        store.state = self._first[ref.name]
        return store

    def call(self, function: Any, *arguments: Any) -> Any:
        """The answer: functions of the oracle's programs answer the same question with the same answer."""
        return function(*arguments)

    def read(self, ref: Any) -> tuple[int, Any]:
        self[ref]
        return self._before, self.stores[ref.name].whole()

    def prepare_commit(self, ref: Any, seq: int, value: Any) -> CommitIntent:
        if seq != self._before:
            raise ValueError(f"this run reads the state after seq {self._before}, not {seq}")
        return CommitIntent(ref.name, seq, value)

    def adopt(self, intents: Sequence[CommitIntent]) -> None:
        """Write exactly the intents."""
        if len({intent.store for intent in intents}) != len(intents):
            raise TypeError("two intents for one store")
        if any(self.stores[name].wrote(view) for name, view in self.views.items()):
            raise TypeError("intents and writes in one run")
        for intent in intents:
            store = self.stores[intent.store]
            self.views[intent.store] = view = store.open()
            store.replace_whole(view, intent.value)


class SerialOracle:
    """Runs handlers one after another; `outcomes[n - 1]` is how seq n ends."""

    def __init__(self, stores: Mapping[str, PlainStore]) -> None:
        self.stores = dict(stores)
        self.outcomes: list[Outcome] = []
        self.initial = self.contents()
        self._states = [self._now()]  # By seq.

    def contents(self) -> dict[str, Any]:
        """All stores as plain values."""
        return {name: store.contents() for name, store in self.stores.items()}

    def contents_after(self, seq: int) -> dict[str, Any]:
        """All stores as plain values after a seq."""
        return self.outcomes[seq - 1].contents if seq else self.initial

    def run(
        self,
        handler: Callable[[Any, Any], Any],
        trigger: Any,
        *,
        max_runs: int = 1,
        run_number: int = 1,
        first_snapshot: int | None = None,
        by_completion: bool = False,
    ) -> Outcome:
        """Run the next trigger to its end; with `max_runs` a failure is followed by another run, as long as it is not the
        last.
        """
        seq = len(self.outcomes) + 1
        first = None if first_snapshot is None else self._states[first_snapshot]
        tx = PlainTransaction(self.stores, None if by_completion else seq, seq - 1, first)
        state, result, error = self._run(handler, trigger, seq, tx)
        if state is State.FAILED and run_number < max_runs:
            state = State.RETRYING
        return self._note(Outcome(state, result, error, self.contents()))

    def expire(
        self, handler: Callable[[Any, Any], Any], trigger: Any, *, first_snapshot: int | None, by_completion: bool
    ) -> bool:
        """The next seq ends past its deadline, as was recorded; whether its handler would go on past any."""
        before = self._now()
        ended = self.run(handler, trigger, first_snapshot=first_snapshot, by_completion=by_completion)
        for name, state in before.items():
            self.stores[name].state = state
        self.outcomes.pop()
        self._states.pop()
        self._note(Outcome(State.DEADLINE, None, None, self.contents()))
        return ended.state is State.DEADLINE

    def skip(self, state: State) -> Outcome:
        """The next seq ends without an effect, by no doing of its handler: aborted, or past its deadline."""
        return self._note(Outcome(state, None, None, self.contents()))

    def _now(self) -> dict[str, Any]:
        return {name: store.state for name, store in self.stores.items()}

    def _note(self, outcome: Outcome) -> Outcome:
        self.outcomes.append(outcome)
        self._states.append(self._now())
        return outcome

    def _run(
        self, handler: Callable[[Any, Any], Any], trigger: Any, seq: int, tx: PlainTransaction
    ) -> tuple[State, Any, BaseException | None]:
        after: dict[str, Any] = {}
        try:
            result = handler(trigger, tx)
            if inspect.iscoroutine(result):
                result = run_to_end(result)
            if isinstance(result, (list, tuple)) and result and all(isinstance(r, CommitIntent) for r in result):
                tx.adopt(result)
                result = None
            for name, view in tx.views.items():
                store = self.stores[name]
                after[name] = store.after(view)
                if after[name] != store.state:
                    store.check(after[name])
            for name, view in tx.views.items():
                self.stores[name].validate(after[name], seq, view)
        except Rejected as rejection:
            return State.REJECTED, None, rejection
        except PastDeadline:
            return State.DEADLINE, None, None
        except Exception as error:
            return State.FAILED, None, error
        for name, state in after.items():
            self.stores[name].state = state
        return State.COMMITTED, result, None


def part_of(state: Any, key: str) -> Any:
    """What a collection holds under a key, or a document in a field."""
    return state.get(key) if isinstance(state, Mapping) else getattr(state, key)


def run_to_end(coroutine: Any) -> Any:
    """Run a coroutine that waits for nothing but its turn (`asyncio.sleep(0)`)."""
    try:
        while True:
            waits_for = coroutine.send(None)
            assert waits_for is None, f"the serial oracle cannot wait for {waits_for!r}"
    except StopIteration as stop:
        return stop.value


def error_key(error: BaseException | None) -> Any:
    """What must be equal of two errors. Texts count where they are the program's own, not where they are ours."""
    if error is None:
        return None
    if isinstance(error, Rejected):
        return ("Rejected", error.code, None if error.code == "invariant" else (error.message, error.details))
    if isinstance(error, pydantic.ValidationError):
        return ("ValidationError", [part["type"] for part in error.errors()])
    if isinstance(error, TypeError):
        return ("TypeError",)
    return (type(error).__name__, str(error))
