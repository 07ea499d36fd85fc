"""What a store is: state, how writes fold into it, and what a handler sees of it.

Owns `StoreActor`, the contract that the built-in stores and every user's own store are written against, and
`StoreSpec`, the recipe from which the runtime builds (and rebuilds) one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from seqtor.actors.journal.encoding import json_of
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.registering import registering
from seqtor.messages.errors import JournalCorrupted, RegistrationError
from seqtor.messages.outside import decoded, encoded
from seqtor.messages.stores import Checkpoint, Commit, Write

if TYPE_CHECKING:
    from seqtor.actors.publications import StateBelow
    from seqtor.actors.stores.access import Access

__all__ = ["StoreActor", "StoreRef", "StoreSpec", "Tail"]

State = TypeVar("State")
View = TypeVar("View")
ViewT_co = TypeVar("ViewT_co", covariant=True)


class StoreActor(Generic[State, View]):
    """A store's behaviour; subclass it to plug in your own.

    The runtime keeps one instance in a store actor's cell: `__init__` keeps its arguments and runs again at each
    restart. `State` is immutable. `fold` and `view` are pure and run anywhere, all else on the store's dispatcher, one
    method at a time. Time travel and replay recover stores too, so `recover` leaves alone what is outside; a store that
    writes outside opens it in `persisted`.

    `dispatcher = "dedicated"` (the default) gives the store a thread of its own and keeps its `fold` off the runtime's
    core. `"core"` saves those hops, and promises that nothing in it ever blocks.
    """

    dispatcher: ClassVar[Literal["core", "dedicated"]] = "dedicated"
    journal_id: str = ""
    look_every_s: float | None = None
    _keeps_only_state: ClassVar[bool] = False  # Nothing beside the state, which outlives a crash: no need to recover.
    settled: State
    _report: Callable[[str, Any], None] | None = None

    def recover(self, checkpoint: Checkpoint | None) -> State:
        """Return the state to start from; `checkpoint` is None at the first start."""
        raise NotImplementedError(f"{type(self).__name__}.recover must return the state to start from")

    def validate(self, old: State, new: State, commit: Commit) -> None:
        """Refuse a commit by raising `Rejected`; called in seq order, on the state as of seq - 1 and the new one."""

    def persisted(self) -> int | None:
        """Open what is outside, and return up to which seq it holds the commits; 0 if it is empty or another journal's.

        None says that nothing is outside: `persist` is not called. Called at the start and when the store is rebuilt.
        """
        return None

    def persist(self, commits: Sequence[Commit]) -> None:
        """Write durable commits outside, in seq order; on return they must be there for good.

        A store that nothing was written to for long gets a commit without writes, to note its seq.
        At least once: after a crash those behind `persisted()` come again. `StoreUnavailable` and every other exception
        suspend this store alone, with a backoff, and then the same commits come again.
        """

    @property
    def kept_through(self) -> int | None:
        """What `persisted` would return after a crash now, if that is less than what was persisted: the journal keeps that.

        None: it is not less.
        """
        return None

    def look(self) -> None:
        """Look for edits from outside: called at the start, behind what was to be persisted, and every `look_every_s`.

        Here and in `edit_ended`, `self.settled` is the state as of the last commit that was persisted.
        """

    def edited_outside(self, key: str, content: Any) -> None:
        """Have an edit from outside submitted as an `OutsideEdit`; for `persist` and `look`. None: the key is gone.

        Raises TypeError if the content is neither JSON nor bytes. Twice: the same edit is submitted once at a time.
        """
        if self._report is not None:
            self._report(key, content)

    def edit_ended(self, key: str, content: Any) -> None:
        """Called when the run of an edit is durable, however it ended: now it is in the journal, and may be overwritten.

        What it has committed is persisted before or after this call.
        """

    def checkpoint(self, state: State) -> bytes | None:
        """Return the state as bytes, or None if it has no checkpoint."""
        return None

    def close(self) -> None:
        """Release what the store holds; called at an ordered stop only."""

    @staticmethod
    def fold(state: Any, writes: Sequence[Write]) -> Any:
        """Return the state with the writes applied, in their order. Pure."""
        raise NotImplementedError("a store must define fold(state, writes)")

    @staticmethod
    def view(access: Access[Any]) -> Any:
        """Return what `tx[store]` and `snapshot[store]` give, reading and writing through `access`. Pure."""
        raise NotImplementedError("a store must define view(access)")

    @classmethod
    def spec(cls: type[StoreActor[State, View]], *args: Any, **kwargs: Any) -> StoreSpec[View]:
        """Return the recipe for `system.store(name, ...)`; takes what `__init__` takes."""
        return StoreSpec(cls, *args, **kwargs)


class StoreSpec(Generic[ViewT_co]):
    """The recipe of one store: its class and arguments, and what the committer must know about it.

    `needs_judge` says that resolving a commit runs user code and must happen on `pool`; `validates` that the store's
    actor must be asked about each commit; `sources` are the stores that it is derived from. `own_path` is the
    file or folder that it has for itself, if it has one.
    """

    sources: tuple[StoreRef[Any], ...] = ()
    own_path: Path | None = None

    def __init__(self, store_class: type[StoreActor[Any, Any]], *args: Any, **kwargs: Any) -> None:
        with registering():  # What `seqtor check` looks at is never used afterwards.
            if store_class.dispatcher not in ("core", "dedicated"):
                raise RegistrationError(
                    f'{store_class.__name__}.dispatcher is {store_class.dispatcher!r}: it must be "core" or "dedicated"'
                )
            for method in ("fold", "view"):
                if getattr(store_class, method) is getattr(StoreActor, method):
                    raise RegistrationError(f"{store_class.__name__} must define the static method {method}")
                if not isinstance(_definition(store_class, method), staticmethod):
                    raise RegistrationError(f"{store_class.__name__}.{method} must be a @staticmethod: it has no self")
            persists = store_class.persist is not StoreActor.persist
            if persists != (store_class.persisted is not StoreActor.persisted):
                raise RegistrationError(
                    f"{store_class.__name__} must define both persist and persisted: the second says up to which seq the "
                    "first need not be called again"
                )
            if persists and store_class.dispatcher == "core":
                raise RegistrationError(
                    f"{store_class.__name__} writes outside (persist), which blocks: it cannot be on the core; leave "
                    'dispatcher = "dedicated"'
                )
        self.store_class = store_class
        self.args = args
        self.kwargs = kwargs
        self.fold: Callable[[Any, Sequence[Write]], Any] = store_class.fold
        self.view: Callable[[Access[Any]], Any] = store_class.view
        self.needs_judge = store_class.dispatcher != "core"
        self.validates = store_class.validate is not StoreActor.validate
        self.persists = store_class.persist is not StoreActor.persist
        self.version = 1
        self.tries_values = False
        self.keeps_parts = False  # Whether what a record holds is decoded with the rest, as a document's field.

    def build(self) -> StoreActor[Any, Any]:
        """Make a fresh instance of the store's behaviour."""
        return self.store_class(*self.args, **self.kwargs)

    def resolve(self, state: Any, writes: Sequence[Write]) -> tuple[Any, Sequence[Write]]:
        """Fold writes into the state as of seq - 1; returns the new state and the writes that changed it.

        Raises what ends the run: `Rejected`, or an exception that fails it.
        """
        new = self.fold(state, writes)
        return new, () if new is state else writes

    def op_json(self, key: str, op: Any) -> str:
        """A resulting write's op as the JSON that the journal keeps."""
        return op_text(op)

    def restore(self, checkpoint: Checkpoint | None, state: Any, tail: Tail) -> Any:
        """Fold the commits behind a checkpoint into the state that `recover` made of it.

        Raises JournalCorrupted if a commit does not fold, RegistrationError if a record no longer fits its model.
        """
        for seq, writes in tail:
            try:
                state = self.fold(state, [self.write_of(*each, where=f"seq {seq}") for each in writes])
            except RegistrationError:
                raise
            except Exception as error:
                raise JournalCorrupted(
                    f"seq {seq}: {self.store_class.__name__}.fold raised {type(error).__name__}: {error} for a commit that "
                    "it had folded when it was made: was the store's code changed?",
                    seq,
                ) from error
        return state

    def write_of(self, key: str, value: Any, version: int, where: str) -> Write:
        """A recorded write, as `fold` takes it; `where` names the record. Raises RegistrationError if it does not fit."""
        return Write(key, op_of(value))

    def adopt(self, access: Access[Any], key: str, content: Any) -> None:
        """Write what was found outside under a key, without reading. Raises what ends the run."""
        access.write(key, content)

    def whole(self, state: Any) -> Sequence[Write] | None:
        """The writes that make the state out of nothing; None if only the store could tell."""
        return None

    def folder(self, checkpoint: Checkpoint | None, state: Any) -> Callable[[Tail], Any]:
        """A function that folds the next recorded commits and returns the state after them; it remembers where it is."""

        def fold(tail: Tail) -> Any:
            nonlocal state
            state = self.restore(None, state, tail)
            return state

        return fold

    def same_op(self, key: str, op: Any, kept: Any, version: int) -> bool:
        """Whether JSON that was kept stands for the op, though it may be written in another order (that of a set)."""
        return False

    @property
    def by_key(self) -> bool:
        """Whether writes of different keys have nothing to do with each other, so that their order does not matter.

        Not if only the store knows how they fold, or if anything looks at the whole new state.
        """
        return False

    def state_of(self, below: StateBelow) -> Any:
        """The state that a run sees which was overtaken; it may be put together when it is looked at."""
        return below.whole()

    @property
    def shape(self) -> str:
        """Changes whenever the stored form does; a checkpoint is made at the first start with a new one."""
        return ""

    def checkpoint_of(self, state: Any) -> Any:
        """The state as bytes, off the store's dispatcher; NotImplemented if only the store's actor can tell."""
        return NotImplemented

    def prepare_for_journal(self, upcasts: Upcasts) -> None:
        """Called before a start with a journal: take the functions that make old records fit, and see to `require_kept`."""

    def require_kept(self, state: Any, writes: Sequence[Write]) -> None:
        """Raise TypeError if a resulting write would not come back from the journal as it is."""

    def check(self, state: Any, writes: Sequence[Write] | None = None, store: str | None = None) -> None:
        """Run the invariants on a new state; those of single keys on what these resulting writes changed, or on all.

        Raises `Rejected`, which names the `store`.
        """

    def part(self, state: Any, key: str) -> Any:
        """What the state holds under a key, for comparing; NotImplemented if only the store knows."""
        return NotImplemented

    def private_copy(self, state: Any) -> Any:
        """A copy of the whole state that its holder may change, for `tx.read`."""
        return copy.deepcopy(state)

    def writes_for(self, state: Any, value: Any) -> Sequence[Write]:
        """The writes that turn the state into `value`, for `tx.prepare_commit`."""
        raise TypeError(
            f"{self.store_class.__name__} has no form for whole values: write through tx[store], "
            "prepare_commit is for Collection and Document"
        )


Tail = Iterable[tuple[int, Sequence[tuple[str, Any, int]]]]
"""Commits in seq order: (seq, writes), each write (key, JSON, version)."""


def op_text(op: Any) -> str:
    """The op of a custom store, JSON or bytes, as JSON: bytes as {"$bytes": base64}, keys that begin with $ escaped."""
    kind = type(op)
    if kind is int or kind is str or op is None or kind is bool:
        return json_of(op)
    return json_of(encoded(op))


op_of = decoded  # What `op_text` wrote, as an op.


def _definition(cls: type, name: str) -> Any:
    return next(base.__dict__[name] for base in cls.__mro__ if name in base.__dict__)


class StoreRef(Generic[ViewT_co]):
    """Names a registered store; `tx[ref]` and `snapshot[ref]` give its view.

    `restart` (a `Restart`, or None for that of the settings) and `shutdown_s` are for who supervises its actor; `siblings`
    are the stores of its system, itself among them, by their index.
    """

    __slots__ = ("_seq_of", "index", "name", "restart", "shutdown_s", "siblings", "spec")

    def __init__(
        self,
        name: str,
        index: int,
        spec: StoreSpec[ViewT_co],
        seq_of: Callable[[int], int],
        restart: Any = None,
        shutdown_s: float = 5.0,
        siblings: Sequence[StoreRef[Any]] = (),
    ) -> None:
        self.name = name
        self.siblings = siblings
        self.index = index
        self.spec = spec
        self.restart = restart
        self.shutdown_s = shutdown_s
        self._seq_of = seq_of

    def __repr__(self) -> str:
        return f"<StoreRef {self.name!r} ({self.spec.store_class.__name__}) at seq {self._seq_of(self.index)}>"
