"""The actors that carry out what other processes ask: one for what is handed in, one for queries.

Owns the way from a request to the facade's verb and from what that returns to JSON. Promises: a request that the facade
refuses is answered with the refusal, and a query that takes long delays other queries only, never what is handed in. Must
never do what the facade would not do for a caller in its own process.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import ValidationError
from pydantic_core import to_json

from seqtor.actors.base import Actor
from seqtor.actors.handlers import did_you_mean
from seqtor.control import protocol
from seqtor.control.values import as_json
from seqtor.messages.control import ServeRequest
from seqtor.messages.events import make_event
from seqtor.messages.triggers import Priority, Trigger

if TYPE_CHECKING:
    from seqtor.actors.submissions import Submission
    from seqtor.system import Supervisor

__all__ = ["HANDS_IN", "Cancelling", "ControlDesk"]

ROWS_MAX = 100_000
INSIDE = "for more ask inside the process, or its journal when it has stopped"


class Cancelling(NamedTuple):
    """A submission that is to be taken back: what its connection has made of a `Cancel`."""

    submission: Submission[Any]


class ControlDesk(Actor):
    """Carries out requests, one at a time; what goes wrong with one is its answer."""

    receives: ClassVar[tuple[type, ...]] = (ServeRequest,)
    mailbox_depth_max: ClassVar[int | None] = 4096
    batch_max: ClassVar[int] = 1

    def __init__(self, system: Supervisor) -> None:
        super().__init__()
        self._system = system

    def on_serve_request(self, message: ServeRequest) -> Any:
        request = message.request
        try:
            return SERVES[type(request)](self._system, request)
        except BaseException as error:  # Such as SystemExit in a validator: nothing here can be left half done.
            return error


def submit(system: Supervisor, request: protocol.Submit) -> Any:
    triggers = [trigger_from(system, sent) for sent in request.triggers]
    priority = None if request.priority is None else Priority(request.priority)
    at = None if request.at is None else datetime.datetime.fromtimestamp(request.at, datetime.UTC)
    if request.key is None:
        return system.submit_many(triggers, priority=priority, delay=request.delay, at=at)
    if len(triggers) != 1:
        raise ValueError(f"an idempotency key is for one trigger, got {len(triggers)}")
    return [system.submit(triggers[0], priority=priority, idempotency_key=request.key, delay=request.delay, at=at)]


def emit(system: Supervisor, request: protocol.Emit) -> Any:
    return [system.submit(make_event(request.code, request.payload), idempotency_key=request.key)]


def query(system: Supervisor, request: protocol.Query) -> Any:
    if request.verb == "tree":
        return system.tree().as_dict()
    return as_json(system.stats() if request.verb == "stats" else system.conflicts())


def record(system: Supervisor, request: protocol.Record) -> Any:
    return as_json(system.record(request.seq))


def runs(system: Supervisor, request: protocol.Runs) -> Any:
    return as_json(system.runs(state=request.state, trigger=request.trigger, limit=_bounded(request.limit)))


def commits(system: Supervisor, request: protocol.Commits) -> Any:
    limit = _bounded(request.limit)
    return as_json(list(system.commits(request.after, limit, oldest_first=request.oldest_first)))


def dead_letters(system: Supervisor, request: protocol.DeadLetters) -> Any:
    return as_json(system.dead_letters(_bounded(request.limit)))


def events(system: Supervisor, request: protocol.Events) -> Any:
    return as_json(
        system.events(
            code=request.code, matched=request.matched, started=request.started, after=request.after,
            limit=_bounded(request.limit),
        )
    )  # fmt: skip


def reactions(system: Supervisor, request: protocol.Reactions) -> Any:
    return as_json(system.reactions(limit=_bounded(request.limit)))


def lineage(system: Supervisor, request: protocol.Lineage) -> Any:
    return as_json(system.lineage(request.seq))


def abort(system: Supervisor, request: protocol.Abort) -> Any:
    return system.abort(request.seq, request.reason)


def schedules(system: Supervisor, request: protocol.Schedules) -> Any:
    return as_json(system.schedules(_bounded(request.limit)))


def change_schedule(system: Supervisor, request: protocol.ChangeSchedule) -> Any:
    ref = system.schedule_named(request.name)
    if request.do == "next":
        return [slot.timestamp() for slot in ref.next(request.count)]
    return getattr(ref, request.do)()


def resubmit(system: Supervisor, request: protocol.Resubmit) -> Any:
    return [system.resubmit(request.letter)]


def cancel(_: Supervisor, request: Cancelling) -> Any:
    return request.submission.cancel()


def states(system: Supervisor, request: protocol.States) -> Any:
    """What the stores held, as the command `state` shows it."""
    refs = system.stores
    if request.store is not None and request.store not in refs:
        raise LookupError(f"there is no store {request.store!r}{did_you_mean(request.store, refs)}")
    if request.seq is not None and request.seq > (last := system.snapshot().seq):
        raise LookupError(f"there is no seq {request.seq} yet: the newest is {last}")
    snapshot = system.snapshot(request.seq)
    wanted = refs if request.store is None else (request.store,)
    return {"seq": snapshot.seq, "stores": {name: snapshot.as_json(refs[name]) for name in wanted}, "unread": []}


def history(system: Supervisor, request: protocol.History) -> Any:
    """Every change of a key, as the command `history` shows it."""
    refs = system.stores
    if request.store not in refs:
        raise LookupError(f"there is no store {request.store!r}{did_you_mean(request.store, refs)}")
    changes = list(islice(_changes(system, request.store, request.key), ROWS_MAX + 1))
    if len(changes) > ROWS_MAX:
        raise ValueError(f"{request.store}[{request.key!r}] has more than {ROWS_MAX:,} changes: {INSIDE}")
    return changes


def _bounded(limit: int | None) -> int:
    """The limit, for what is all in memory before it is sent. Raises ValueError."""
    if limit is None or limit > ROWS_MAX:
        raise ValueError(f"limit={limit}: at most {ROWS_MAX:,} come through the control socket; {INSIDE}")
    return limit


def _changes(system: Supervisor, store: str, key: str) -> Iterator[dict[str, Any]]:
    first: int | None = None
    for record in system.commits(oldest_first=True):
        if first is None:
            first = record.seq
            yield from _held_before(system, first, store, key)
        for write in record.writes:
            if write[0] == store and write[1] == key:
                yield {
                    "seq": record.seq,
                    "time": record.ended_at,
                    "run": record.run,
                    "trigger": record.trigger.type,
                    "value": write[2],
                }
    if first is None:
        yield from _held_before(system, system.snapshot().seq + 1, store, key)


def _held_before(system: Supervisor, first: int, store: str, key: str) -> Iterator[dict[str, Any]]:
    held = system.snapshot(first - 1).as_json(system.stores[store])
    if key in held:
        yield {"seq": first - 1, "time": None, "run": None, "trigger": None, "value": held[key]}


def trigger_from(system: Supervisor, sent: protocol.SentTrigger) -> Trigger[Any]:
    """The trigger that was sent, as its registered type. Raises UnknownTrigger, ValueError for fields that do not fit."""
    kind = system.trigger_type(sent.type)
    if sent.version is not None and sent.version != kind.trigger_version:
        raise ValueError(
            f"{sent.type} was sent in version {sent.version}, and the system that runs has version "
            f"{kind.trigger_version}: use the same code on both sides, or send its fields by name"
        )
    try:
        return kind.model_validate_json(to_json(sent.payload), by_alias=True, by_name=True)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'the payload'}: {each['msg']}"
            for each in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise ValueError(f"{sent.type} does not take {_shown(sent.payload)}: {wrong}") from None


def _shown(payload: Any) -> str:
    text = to_json(payload).decode()
    return text if len(text) <= 200 else f"{text[:200]}..."


SERVES: dict[type, Callable[[Any, Any], Any]] = {
    protocol.Submit: submit,
    protocol.Emit: emit,
    protocol.Query: query,
    protocol.Record: record,
    protocol.Runs: runs,
    protocol.Commits: commits,
    protocol.DeadLetters: dead_letters,
    protocol.Events: events,
    protocol.Reactions: reactions,
    protocol.Lineage: lineage,
    protocol.Abort: abort,
    protocol.Resubmit: resubmit,
    protocol.Schedules: schedules,
    protocol.ChangeSchedule: change_schedule,
    protocol.States: states,
    protocol.History: history,
    Cancelling: cancel,
}
HANDS_IN = (protocol.Submit, protocol.Emit, protocol.Abort, protocol.Resubmit, protocol.ChangeSchedule, Cancelling)
