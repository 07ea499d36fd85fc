"""What a worker process asks during one attempt, answered on the system's side.

Owns the conversation of one attempt, on the thread that has the worker. Promises: every answer comes from the attempt's own
`Transaction`, so reads are tracked, and conflicts found, as those of a thread's; an attempt that is over answers nothing
else; what was read and written is in the transaction before its intent is sent.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from seqtor.actors.answers import CallElsewhere
from seqtor.actors.processes.importable import FunctionName
from seqtor.actors.processes.reading import BASE, is_collection, portable_state
from seqtor.actors.processes.wire import (
    OVER,
    RAISED,
    VALUE,
    Answer,
    Finished,
    Link,
    Question,
    WorkerDied,
    not_portable,
    packed,
    unpacked,
)
from seqtor.actors.runs import Run
from seqtor.actors.transactions import AttemptAbandoned, Transaction
from seqtor.messages.errors import RegistrationError
from seqtor.messages.records import RecordedCall
from seqtor.messages.runs import State

__all__ = ["Answering", "Shipped"]

STATES_MAX = 2  # Per store: that of this attempt's snapshot, and that of the first one's.
RELEASES = frozenset({"submit", "emit", "progress"})


class Shipped:
    """Which whole states one worker process has."""

    def __init__(self) -> None:
        self._kept: dict[int, list[tuple[Any, int]]] = {}
        self._next = 0

    def place(self, store: int, state: Any) -> tuple[int, tuple[int, ...], bool]:
        """The number of a state there, the numbers of those to be forgotten, and whether it has yet to be sent."""
        kept = self._kept.setdefault(store, [])
        for entry in kept:
            if entry[0] is state:
                kept.remove(entry)
                kept.append(entry)
                return entry[1], (), False
        self._next += 1
        kept.append((state, self._next))
        gone = tuple(number for _, number in kept[:-STATES_MAX])
        del kept[:-STATES_MAX]
        return self._next, gone, True


class Answering:
    """One attempt that a worker process executes."""

    def __init__(self, link: Link, shipped: Shipped, run: Run, transaction: Transaction) -> None:
        self._link = link
        self._shipped = shipped
        self._run = run
        self._transaction = transaction
        self.is_over = False  # Whether the worker waits for another job.

    def until_finished(self) -> tuple[State, Any, BaseException | None]:
        """Answer until the handler has returned: the outcome, the result and the error of the attempt.

        Raises WorkerDied, and AttemptAbandoned if the attempt was over before.
        """
        while True:
            try:
                frame = self._link.receive()
            except Exception as error:  # Only a question holds what may not be known here.
                self._send(Answer(RAISED, packed(not_portable("what the handler gave to tx", error))))
                continue
            if type(frame) is Finished:
                self.is_over = True
                return self._settle(frame)
            self._send(self._answer(frame))

    def _send(self, answer: Answer) -> None:
        try:
            self._link.send(answer)
        except Exception as error:
            self._link.send(Answer(RAISED, packed(not_portable("what the handler asks for", error))))

    def _answer(self, question: Question) -> Answer:
        try:
            answer = getattr(self, f"on_{question.name}")(*question.arguments)
        except AttemptAbandoned as over:
            return Answer(OVER, str(over))
        except WorkerDied:
            raise
        except BaseException as error:
            return Answer(RAISED, packed(error))
        return Answer(VALUE, answer)

    def _settle(self, finished: Finished) -> tuple[State, Any, BaseException | None]:
        """Take over what the views there have read and written, in their order."""
        transaction = self._transaction
        outcome = State(finished.outcome)
        try:
            writes, result, raw_error = pickle.loads(finished.rest)
            error = None if raw_error is None else unpacked(raw_error, noted=True)
        except Exception as misfit:
            name = self._run.submission.handler.name
            writes, result = [()] * len(finished.reads), None
            outcome, error = State.FAILED, not_portable(f"what {name} writes or returns", misfit)
        stores = self._run.context.stores
        accesses = {}
        for (store, keys, ranges, whole), written in zip(finished.reads, writes, strict=True):
            access = transaction._access(stores[store])
            access.take_over(keys, ranges, whole=whole, writes=written)
            accesses[store] = access
        transaction._accesses = accesses
        return outcome, result, error

    # Reading -----------------------------------------------------------------------------------------------------------

    def on_look(self) -> None:
        self._transaction.check()

    def on_read(self, store: int, key: str) -> Any:
        """Track a key; of a collection its value is the answer, so that one question is enough."""
        ref = self._run.context.stores[store]
        access = self._transaction._access(ref)
        access.read(key)
        return access.base.entries.get(key) if is_collection(ref.spec) else None

    def on_range(self, store: int, start: str | None, stop: str | None) -> None:
        self._transaction._access(self._run.context.stores[store]).read_range(start, stop)

    def on_whole(self, store: int) -> None:
        _ = self._transaction._access(self._run.context.stores[store]).state

    def on_changed(self, store: int, key: str) -> bool:
        return self._transaction.changed(self._run.context.stores[store], key)

    def on_values(self, store: int, which: int, keys: Sequence[str]) -> list[Any]:
        entries = self._state(store, which).entries
        return [entries.get(key) for key in keys]

    def on_keys(self, store: int, which: int, start: str | None, stop: str | None) -> list[str]:
        return list(self._state(store, which).keys.between(start, stop))

    def on_length(self, store: int, which: int) -> int:
        return len(self._state(store, which).entries)

    def on_state(self, store: int, which: int) -> tuple[int, tuple[int, ...], bool, Any]:
        ref = self._run.context.stores[store]
        state = self._state(store, which)
        number, forgotten, must_send = self._shipped.place(store, state)
        return number, forgotten, must_send, portable_state(ref.spec, state) if must_send else None

    def _state(self, store: int, which: int) -> Any:
        """What the views read, which own reads track, or what `peek` shows."""
        transaction = self._transaction
        if which == BASE:
            return transaction._access(self._run.context.stores[store]).base
        transaction.check()
        return transaction._first_snapshot.states[store]

    # Releasing and calling ---------------------------------------------------------------------------------------------

    def on_release(self, verb: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if verb not in RELEASES:
            raise AttributeError(verb)
        return getattr(self._transaction, verb)(*arguments, **options)

    def on_effect(self, name: FunctionName, payload: Any) -> None:
        try:
            function = name.find()
        except (ImportError, AttributeError) as error:
            raise RegistrationError(
                f"the effect function {name} cannot be found by its name ({error}): define it at the top level of its module"
            ) from None
        self._transaction.effect(function, payload)

    def on_call(self, call_id: str, name: str) -> RecordedCall:
        """The recorded call: of before, or made by the worker now."""
        call = CallElsewhere(self._make, (), {}, name, name)
        return self._run.calls.answer(self._transaction, call_id, call)  # type: ignore[no-any-return]

    def _make(self) -> RecordedCall:
        """Have the worker make the call: the answer to its question is that there is no record."""
        self._link.send(Answer(VALUE, None))
        made: Question = self._link.receive()
        (what,) = made.arguments
        if made.name == "passed":
            raise unpacked(what)
        return what  # type: ignore[no-any-return]
