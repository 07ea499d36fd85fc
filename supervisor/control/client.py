"""`connect`: a running system, from another process.

Owns what programs see of the control socket: `Connection` with the facade's verbs and queries, and `RemoteSubmission`.
Promises: a trigger is durably accepted when `submit` returns; errors are those that the facade raises; nothing is ever
sent twice, so whether to ask again is for the caller to say, with an idempotency key.
"""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from pydantic import TypeAdapter

from seqtor.actors.not_before import not_before
from seqtor.actors.submissions import require_key
from seqtor.control.failures import remade
from seqtor.control.link import Link, Lost
from seqtor.control.place import control_path
from seqtor.control.remote import HandedIn, Pending, RemoteSubmission
from seqtor.control.schedules import RemoteSchedule
from seqtor.control.values import from_answer, result_adapter, sent_trigger, trigger_type_named
from seqtor.messages.effects import DeadLetterRecord
from seqtor.messages.errors import NotRunning, OutcomeUnknown
from seqtor.messages.reactions import EventRecord, Lineage, ReactionState
from seqtor.messages.records import CommitRecord
from seqtor.messages.runs import ConflictReport, RunRecord, State, Stats
from seqtor.messages.schedules import ScheduleRecord
from seqtor.messages.triggers import Priority, Trigger
from seqtor.settings import seconds
from seqtor.tree.view import Tree

__all__ = ["Connection", "connect"]

ResultT = TypeVar("ResultT")
Payload = Mapping[str, Any]


def connect(target: str | os.PathLike[str], *, timeout: float | datetime.timedelta = 5.0) -> Connection:
    """Connect to the system that runs on a journal file, or listens at the path of a control socket.

    `timeout` is how long to wait for the system to take or answer something; how long a run takes is another matter.
    Raises NotRunning if no system runs there, PermissionError if it is another user's, TimeoutError if it does not answer.
    """
    connection = Connection(control_path(target), seconds(timeout, "timeout"))
    connection.open()
    return connection


class Connection:
    """A running system in another process: the facade's verbs and queries. Thread-safe; close it, or use it in a `with`.

    When the system goes away, those who wait get `OutcomeUnknown`; the next call connects again, and raises `NotRunning` as
    long as no system runs. A trigger is an instance, or the name of its type and its fields: `submit("Deposit", {"amount":
    5})`, for which the other process's class need not be known here.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._link: Link | None = None
        self._lock = threading.Lock()
        self._closed = False

    def open(self) -> None:
        """Connect now, unless it is connected. Raises what `connect` raises."""
        self._opened()

    def close(self) -> None:
        """Disconnect; runs go on. Twice: harmless."""
        with self._lock:
            self._closed = True
            link, self._link = self._link, None
        if link is not None:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Verbs -----------------------------------------------------------------------------------------------------------

    @overload
    def submit(
        self, trigger: Trigger[ResultT], *, priority: Priority | None = None, idempotency_key: str | None = None,
        delay: float | datetime.timedelta | None = None, at: datetime.datetime | None = None,
    ) -> RemoteSubmission[ResultT]: ...  # fmt: skip
    @overload
    def submit(
        self, trigger: str, payload: Payload | None = None, *, priority: Priority | None = None,
        idempotency_key: str | None = None, delay: float | datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> RemoteSubmission[Any]: ...  # fmt: skip
    def submit(
        self,
        trigger: Any,
        payload: Payload | None = None,
        *,
        priority: Priority | None = None,
        idempotency_key: str | None = None,
        delay: float | datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> RemoteSubmission[Any]:
        """Hand a trigger in; returns when it is durably accepted, so that it is executed whatever happens.

        With a key it is exactly once, also when it is submitted again after a crash of the system or of this process. With
        `delay` or `at` it does not run before, as with `Supervisor.submit`; a delay begins when the system accepts it.
        Raises what `Supervisor.submit` raises; ValueError for fields that do not fit; OutcomeUnknown if the connection ends
        first, TimeoutError if it takes too long: submit again under the same key to be sure.
        """
        options = _options(priority, idempotency_key, delay, at)
        return self._submit([_sent(trigger, payload)], [trigger], options, wait=True)[0]

    def submit_many(
        self,
        triggers: Iterable[Trigger[ResultT]],
        *,
        priority: Priority | None = None,
        delay: float | datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> list[RemoteSubmission[ResultT]]:
        """Hand a batch in, in order: all of them, or none if one is refused. Raises what `submit` raises."""
        if isinstance(triggers, Trigger):
            raise TypeError("submit_many() takes an iterable of triggers; hand a single one in with submit()")
        batch = list(triggers)
        return self._submit(
            [_sent(each, None) for each in batch], batch, _options(priority, None, delay, at), wait=True
        )

    def tell(
        self,
        trigger: Trigger[Any] | str,
        payload: Payload | None = None,
        *,
        priority: Priority | None = None,
        idempotency_key: str | None = None,
        delay: float | datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> None:
        """Hand a trigger in and forget it; it is durably accepted on return. Raises what `submit` raises."""
        options = _options(priority, idempotency_key, delay, at)
        self._submit([_sent(trigger, payload)], [trigger], options, wait=False)

    @overload
    def ask(
        self, trigger: Trigger[ResultT], *, timeout: float | datetime.timedelta | None = None,
        priority: Priority | None = None, idempotency_key: str | None = None,
    ) -> ResultT: ...  # fmt: skip
    @overload
    def ask(
        self, trigger: str, payload: Payload | None = None, *, timeout: float | datetime.timedelta | None = None,
        priority: Priority | None = None, idempotency_key: str | None = None,
    ) -> Any: ...  # fmt: skip
    def ask(
        self,
        trigger: Any,
        payload: Payload | None = None,
        *,
        timeout: float | datetime.timedelta | None = None,
        priority: Priority | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Hand a trigger in and wait for its result.

        Raises what `submit` and `RemoteSubmission.result` raise; after a TimeoutError the run goes on.
        """
        timeout_s = None if timeout is None else seconds(timeout, "timeout")
        options = _options(priority, idempotency_key)
        [submission] = self._submit([_sent(trigger, payload)], [trigger], options, wait=True)
        return submission.result(timeout_s)

    def emit(self, code: str, payload: Any = None, *, idempotency_key: str | None = None) -> str:
        """Record an event; returns its id when it is durably accepted. Raises what `submit` raises."""
        request = {"verb": "emit", "code": code, "payload": payload, "key": require_key(idempotency_key)}
        return str(self._hand_in(request, [], idempotency_key)[0])

    def _submit(
        self, sent: list[Any], triggers: list[Any], options: dict[str, Any], *, wait: bool
    ) -> list[RemoteSubmission[Any]]:
        request = {"verb": "submit", "triggers": sent, "wait": wait, **options}
        key = options["key"]
        adapters: dict[Any, TypeAdapter[Any]] = {}
        submissions: list[RemoteSubmission[Any]] = []
        for trigger, each in zip(triggers, sent, strict=True):
            kind = trigger_type_named(trigger) if isinstance(trigger, str) else type(trigger)
            if kind not in adapters:
                adapters[kind] = result_adapter(kind)
            submissions.append(RemoteSubmission(each["type"], key, adapters[kind]))
        ids = self._hand_in(request, submissions if wait else [], key)
        for submission, run in zip(submissions, ids, strict=True):
            submission.id = run
        return submissions

    def _hand_in(self, request: dict[str, Any], submissions: list[RemoteSubmission[Any]], key: str | None) -> list[str]:
        pending = Pending(submissions)
        try:
            link, number = self._send(request, pending)
            for index, submission in enumerate(submissions):
                submission.handed_in = HandedIn(link, number, index, self._timeout_s)
            answer = pending.first(self._timeout_s)
        except Lost as lost:
            again = f"submit again under the key {key!r}" if key else "with an idempotency key you could submit again"
            raise OutcomeUnknown(
                f"the connection to '{self.path}' ended ({lost}) before the trigger was accepted, or refused: {again}"
            ) from None
        except TimeoutError:
            again = "submit again under the same key" if key else "with an idempotency key you could submit again"
            raise TimeoutError(
                f"the system at '{self.path}' has not said within {self._timeout_s:g} s that it has accepted the trigger; "
                f"it may still do so: {again}"
            ) from None
        if answer.error is not None:
            raise remade(answer.error)
        return answer.accepted or []

    # What operators do -----------------------------------------------------------------------------------------------

    def abort(self, seq: int, reason: str) -> None:
        """As `Supervisor.abort`: end the run at `seq`."""
        self.query("abort", seq=seq, reason=reason)

    def resubmit(self, letter: DeadLetterRecord | str) -> RemoteSubmission[Any]:
        """As `Supervisor.resubmit`: another try of a dead letter, or of the one with that id."""
        name, number = (letter, letter) if isinstance(letter, str) else (letter.name, letter.id)
        submission: RemoteSubmission[Any] = RemoteSubmission(name, None, result_adapter(trigger_type_named(name)))
        [submission.id] = self._hand_in({"verb": "resubmit", "letter": number}, [submission], None)
        return submission

    # Queries ---------------------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """As `Supervisor.stats`."""
        return from_answer(Stats, self.query("stats"))

    def record(self, seq: int) -> RunRecord:
        """As `Supervisor.record`."""
        return from_answer(RunRecord, self.query("record", seq=seq))

    def runs(
        self,
        *,
        state: State | str | Iterable[State | str] | None = None,
        trigger: type[Trigger[Any]] | str | None = None,
        limit: int | None = 100,
    ) -> list[RunRecord]:
        """As `Supervisor.runs`."""
        states = [state] if isinstance(state, str) else None if state is None else list(state)
        name = trigger if isinstance(trigger, str) or trigger is None else trigger.trigger_name
        return [from_answer(RunRecord, each) for each in self.query("runs", state=states, trigger=name, limit=limit)]

    def commits(self, after: int = 0, limit: int | None = 100, *, oldest_first: bool = False) -> list[CommitRecord]:
        """As `Supervisor.commits`: the records of durable commits after a seq, at most 100,000 at a time.

        With `oldest_first` the next ones come with `after` the last seq of these.
        """
        found = self.query("commits", after=after, limit=limit, oldest_first=oldest_first)
        return [CommitRecord.model_validate(each) for each in found]

    def conflicts(self) -> ConflictReport:
        """As `Supervisor.conflicts`."""
        return from_answer(ConflictReport, self.query("conflicts"))

    def dead_letters(self, limit: int = 100) -> list[DeadLetterRecord]:
        """As `Supervisor.dead_letters`."""
        return [from_answer(DeadLetterRecord, each) for each in self.query("dead_letters", limit=limit)]

    def events(
        self,
        *,
        code: str | None = None,
        matched: bool | None = None,
        started: bool | None = None,
        after: int = 0,
        limit: int | None = 100,
    ) -> list[EventRecord]:
        """As `Supervisor.events`, at most 100,000 at a time."""
        found = self.query("events", code=code, matched=matched, started=started, after=after, limit=limit)
        return [from_answer(EventRecord, each) for each in found]

    def reactions(self, *, limit: int = 100) -> list[ReactionState]:
        """As `Supervisor.reactions`."""
        return [from_answer(ReactionState, each) for each in self.query("reactions", limit=limit)]

    def lineage(self, seq: int) -> Lineage:
        """As `Supervisor.lineage`."""
        return from_answer(Lineage, self.query("lineage", seq=seq))

    def schedules(self, limit: int = 100) -> list[ScheduleRecord]:
        """As `Supervisor.schedules`."""
        return [from_answer(ScheduleRecord, each) for each in self.query("schedules", limit=limit)]

    def schedule_named(self, name: str) -> RemoteSchedule:
        """As `Supervisor.schedule_named`: a schedule of the system, to be paused, resumed, fired or removed."""
        return RemoteSchedule(self.query, name)

    def tree(self) -> Tree:
        """As `Supervisor.tree`."""
        return TypeAdapter(Tree).validate_python(self.query("tree"))

    def state(self, store: str | None = None, seq: int | None = None) -> dict[str, Any]:
        """What the stores hold, or held after a seq, as JSON: `{"seq": ..., "stores": {store: {key: value}}}`."""
        return self.query("state", store=store, seq=seq)  # type: ignore[no-any-return]

    def history(self, store: str, key: str) -> list[dict[str, Any]]:
        """Every change of one key, oldest first, as JSON: `seq`, `time`, `run`, `trigger`, `value`."""
        return self.query("history", store=store, key=key)  # type: ignore[no-any-return]

    def query(self, verb: str, **arguments: Any) -> Any:
        """What the system answers to a query, as JSON.

        Raises what the facade raises; NotRunning if the system goes away, TimeoutError if it takes too long.
        """
        pending = Pending([])
        try:
            self._send({"verb": verb, **arguments}, pending)
            answer = pending.first(self._timeout_s)
        except Lost as lost:
            raise NotRunning(f"the connection to '{self.path}' ended before {verb} was answered: {lost}") from None
        except TimeoutError:
            raise TimeoutError(
                f"the system at '{self.path}' has not answered {verb} within {self._timeout_s:g} s: pass a longer timeout "
                "to connect()"
            ) from None
        if answer.error is not None:
            raise remade(answer.error)
        return answer.value

    # The link --------------------------------------------------------------------------------------------------------

    def _send(self, request: dict[str, Any], pending: Pending) -> tuple[Link, int]:
        link = pending.link = self._opened()
        return link, link.send(request, pending)

    def _opened(self) -> Link:
        with self._lock:
            if self._closed:
                raise NotRunning(f"the connection to '{self.path}' was closed here: connect again")
            if self._link is not None and self._link.lost is not None:
                self._link.close()
                self._link = None
            if self._link is None:
                self._link = Link(self.path, self._timeout_s)
            return self._link

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self._link and self._link.lost is None else "not connected"
        return f"<Connection to '{self.path}' {state}>"


def _options(
    priority: Priority | None,
    key: str | None,
    delay: float | datetime.timedelta | None = None,
    at: datetime.datetime | None = None,
) -> dict[str, Any]:
    """What `submit` was told of a trigger, as the protocol says it; without what was not told."""
    options: dict[str, Any] = {"key": require_key(key)}
    if priority is not None:
        options["priority"] = int(Priority(priority))
    wait = not_before(delay, at)
    if wait is not None:
        options |= {"delay": wait.delay_s} if wait.at is None else {"at": max(0.0, wait.at)}
    return options


def _sent(trigger: Any, payload: Payload | None) -> dict[str, Any]:
    if isinstance(trigger, str):
        if not isinstance(payload, (Mapping, type(None))):
            raise TypeError(f"the fields of {trigger} are a mapping, such as {{'amount': 5}}, got {payload!r}")
        return {"type": trigger, "payload": dict(payload or {})}
    if not isinstance(trigger, Trigger):
        raise TypeError(f"a trigger is an instance of a Trigger subclass, or the name of one, got {trigger!r}")
    if payload is not None:
        raise TypeError(f"{trigger!r} has its fields already: pass it alone, or the name of its type and a payload")
    return sent_trigger(trigger)
