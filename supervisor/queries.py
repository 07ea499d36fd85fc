"""Queries of what was and is: commits, runs and schedules, newest first, from whoever knows them.

Owns the way from records of the journal to what users are shown. Promises: what is read is held against the hash chain;
a run looks the same whether the coordinator knows it still or the journal alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from pydantic_core import to_json

from seqtor.actors.handlers import Handler
from seqtor.actors.journal.contract import CommitRow
from seqtor.actors.journal.decoding import error_of
from seqtor.actors.journal.history import History
from seqtor.actors.journal.recovery import commit_record
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.reactor.deciding import Link
from seqtor.actors.schedules.plans import calendar_of, described
from seqtor.messages.errors import RecordedFailure, RegistrationError, Rejected
from seqtor.messages.events import EventEmitted
from seqtor.messages.reactions import EventRecord
from seqtor.messages.records import CommitRecord, RecordedError
from seqtor.messages.runs import AttemptConflict, RunRecord, State
from seqtor.messages.schedules import ScheduleRecord, ScheduleState
from seqtor.messages.triggers import Trigger, UnregisteredTrigger

__all__ = [
    "PIECE",
    "RunFilter",
    "commits",
    "events",
    "kept_records",
    "next_slots",
    "require_limit",
    "run_record",
    "schedule_records",
]

PIECE = 1000


def commits(
    history: History, after: int, last: int, limit: int | None, *, oldest_first: bool
) -> Iterator[CommitRecord]:
    """The records of after+1..last, at most `limit`, read as they are asked for."""
    first = max(after + 1, history.first)
    if limit is not None:
        first, last = (first, min(last, first + limit - 1)) if oldest_first else (max(first, last - limit + 1), last)
    rows = history.rows(first, last) if oldest_first else newest_first(history, first, last)
    return (commit_record(row, history.place) for row in rows)


def newest_first(history: History, first: int, last: int) -> Iterator[CommitRow]:
    """The rows first..last from the last on."""
    while first <= last:
        start = max(first, last - PIECE + 1)
        yield from reversed(list(history.rows(start, last)))
        last = start - 1


class RunFilter:
    """Which runs are wanted: by state and by trigger type; None stands for all."""

    def __init__(self, state: Any, trigger: Any) -> None:
        self._states = None if state is None else _states(state)
        self._name = None if trigger is None else _trigger_name(trigger)

    def __call__(self, state: State, trigger_name: str) -> bool:
        return (self._states is None or state in self._states) and (self._name in (None, trigger_name))

    def takes(self, run: RunRecord) -> bool:
        """Whether the run is wanted."""
        trigger = run.trigger
        return self(run.state, trigger.type if isinstance(trigger, UnregisteredTrigger) else trigger.trigger_name)


def kept_records(
    history: History,
    last: int,
    wanted: RunFilter,
    handler_named: Callable[[str], Handler],
    upcasts: Upcasts,
) -> Iterator[RunRecord]:
    """The wanted runs that the journal keeps, from `last` on down."""
    for row in newest_first(history, history.first, last):
        record = commit_record(row, history.place)
        if wanted(record.state, record.trigger.type):
            yield run_record(record, handler_named, upcasts)


def run_record(
    record: CommitRecord, handler_named: Callable[[str], Handler], upcasts: Upcasts, started: tuple[str, ...] = ()
) -> RunRecord:
    """A commit's record as what is known of its run; `started` are the runs that reactions have made of it."""
    return RunRecord(
        seq=record.seq,
        id=record.run,
        trigger=_trigger(record, handler_named, upcasts),
        state=record.state,
        attempts=record.attempt,
        error=None if record.error is None else _error_text(record.error),
        conflicts=tuple([AttemptConflict(**dict(conflict)) for conflict in record.conflicts]),
        blocked_by=None,
        caused_by=tuple(record.causes) if record.cause is None else (record.cause,),
        causes=(*[accepted.run for accepted in record.submitted], *started),
        durable=True,
        submitted_at=record.submitted_at,
        sequenced_at=record.sequenced_at,
        committed_at=record.ended_at,
        handler_s=record.handler_s,
        retry_of=record.retry_of,
        retried_as=None if record.retry is None else record.retry.run,
        run_number=record.run_number,
        resubmits=record.resubmits,
    )


def events(history: History, after: int, last: int, link_of: Callable[[str], Link | None]) -> Iterator[EventRecord]:
    """The events of after+1..last, newest first, with what reactions made of them."""
    name = EventEmitted.trigger_name
    for row in newest_first(history, max(after + 1, history.first), last):
        if f'"type":"{name}"' not in row.body:  # Most are something else.
            continue
        record = commit_record(row, history.place)
        payload: Any = record.trigger.payload
        if record.trigger.type != name or record.state is not State.COMMITTED:
            continue
        link = link_of(record.run) or Link()
        yield EventRecord(
            id=record.run,
            seq=record.seq,
            time=record.ended_at,
            code=payload["code"],
            payload_json=payload.get("payload_json", "null"),
            emitter=record.cause,
            matched=link.matched,
            started=link.started,
        )


def require_limit(limit: Any) -> int | None:
    """The limit, None for none. Raises TypeError for what is no count."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise TypeError(f"limit is a count (an int from 0) or None for all, got {limit!r}")
    return limit


def _trigger(record: CommitRecord, handler_named: Callable[[str], Handler], upcasts: Upcasts) -> Trigger[Any]:
    kept = record.trigger
    try:
        kind = handler_named(kept.type).trigger_type
        return upcasts.model(kind, kept.payload, kept.version, kind.trigger_version, f"seq {record.seq}")
    except RegistrationError:  # Who looks at the past must not need the code of the past.
        return UnregisteredTrigger(type=kept.type, version=kept.version, payload_json=to_json(kept.payload).decode())


def _error_text(kept: RecordedError) -> str:
    """As the coordinator says it of an error that it has."""
    error = error_of(kept)
    if isinstance(error, Rejected):
        return str(error)
    if isinstance(error, RecordedFailure):
        return f"{error.kind.rpartition('.')[2]}: {error.message}"
    return f"{type(error).__name__}: {error}"


def _states(state: Any) -> Collection[State]:
    each = (state,) if isinstance(state, str) else state
    try:
        return frozenset(State(one) for one in each)
    except (ValueError, TypeError):
        raise TypeError(f"state is one of {', '.join(State)}, or several of them, got {state!r}") from None


def _trigger_name(trigger: Any) -> str:
    if isinstance(trigger, str):
        return trigger
    if isinstance(trigger, type) and issubclass(trigger, Trigger):
        return trigger.trigger_name
    raise TypeError(f"trigger is a Trigger subclass or the name of one, got {trigger!r}")


def schedule_records(
    states: Mapping[str, ScheduleState], now: float, limit: int | None
) -> list[tuple[ScheduleRecord, ScheduleState]]:
    """All schedules, newest first, with the states that they show. What has ended may be among what is under way."""
    newest_first = sorted(states.items(), key=lambda item: (-item[1].registered_at, item[0]))
    return [(_schedule_record(name, state, now), state) for name, state in newest_first[:limit]]


def next_slots(state: ScheduleState, now: float, count: int) -> list[float]:
    """The next slots of a schedule, POSIX seconds; none of one that is paused."""
    if state.paused or state.gone:
        return []
    return list(islice(calendar_of(state.plan, state.anchor).slots(max(state.through, now)), count))


def _schedule_record(name: str, state: ScheduleState, now: float) -> ScheduleRecord:
    following = next_slots(state, now, 1)
    return ScheduleRecord(
        name=name,
        trigger=state.trigger.type,
        payload_json=state.trigger.payload_json,
        when=described(state.plan),
        plan=state.plan,
        paused=state.paused,
        gone=state.gone,
        registered_at=state.registered_at,
        last=state.last,
        next=following[0] if following else None,
        started=state.started,
        under_way=len(state.under_way),
        queued=len(state.queued),
        missed_count=state.missed_count,
        missed=state.missed,
    )
