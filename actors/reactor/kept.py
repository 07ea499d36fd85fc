"""Facts from what has ended, and as the journal keeps them.

Owns which facts a record yields, and the way to `RecordedFact` and back. Promises: the record of a run yields the same facts
whether its run has just ended here or is read from the journal; a fact that is kept comes back equal, as far as the types of
results and exceptions can.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from seqtor.actors.journal.encoding import error_record, json_of, module_of, trigger_text
from seqtor.messages.events import ALARM, EventEmitted
from seqtor.messages.facts import EffectFailureFact, EventFact, Fact, FailureFact, ResultFact, StatusFact, TickFact
from seqtor.messages.records import EffectRecord, RecordedEffect, RecordedError, RecordedFact, RecordedTrigger
from seqtor.messages.runs import State
from seqtor.messages.schedules import SlotReached

if TYPE_CHECKING:
    from seqtor.actors.handlers import Handler
    from seqtor.actors.journal.upcasts import Upcasts
    from seqtor.actors.submissions import Submission
    from seqtor.messages.commits import EndedRun

__all__ = ["FactReader", "KeptFact", "effect_fact", "facts_of", "recorded", "recorded_effect", "recorded_facts"]

KeptFact = Fact | RecordedFact
EVENT = EventEmitted.trigger_name
SLOT = SlotReached.trigger_name
FAILED = frozenset({State.FAILED, State.DEADLINE})


def facts_of(
    submission: Submission[Any], seq: int | None, at: float, kinds: Collection[str], ended: EndedRun | None = None
) -> list[Fact]:
    """The facts of some `kinds` (as `interest_of` names them) that a trigger's end yields; `seq` of its record.

    `ended` says how, for who knows it before the submission does; else the submission says it.
    """
    state = submission.ended_as if ended is None else ended.state
    name = submission.handler.name
    found: list[Fact] = []
    run = submission.id
    if state is None or state is State.DEFERRED:
        return found
    trigger: Any = submission.trigger
    if name == EVENT and state is State.COMMITTED and f"event {trigger.code}" in kinds:
        found.append(EventFact(run, at, seq, trigger.code, trigger.payload_json, submission.cause))
    if name == SLOT and state is State.COMMITTED and f"tick {trigger.schedule}" in kinds:
        scheduled = None if submission.origin is None else submission.origin.scheduled
        if scheduled is not None:  # Else a program has handed it in.
            found.append(TickFact(run, at, seq, trigger.schedule, scheduled[1]))
    if f"status {state.value} {name}" in kinds:
        found.append(StatusFact(f"{run}/{state.value}", at, seq, run, state, trigger))
    if seq is not None and f"status coalesced {name}" in kinds and not _is_retry(submission):
        found += [
            StatusFact(f"{each.id}/coalesced", at, seq, each.id, State.COALESCED, each.given)
            for each in submission.absorbed
        ]
    if state is State.COMMITTED:
        if f"result {name}" in kinds:
            result = submission.recorded_result if ended is None else ended.result
            found.append(ResultFact(f"{run}/result", at, seq, run, result, trigger))
    elif state in FAILED and (f"failure {name}" in kinds or "failure *" in kinds):
        error: Any = submission.error if ended is None else ended.error
        found.append(FailureFact(f"{run}/failure", at, seq, run, error, trigger))
    return found


def _is_retry(submission: Submission[Any]) -> bool:
    """Whether the record of the run before it was that of the triggers that became one with it."""
    return submission.origin is not None and submission.origin.retry is not None


def effect_fact(record: EffectRecord, error: BaseException, kinds: Collection[str]) -> EffectFailureFact | None:
    """The fact that an effect was given up, if it is of one of these kinds."""
    effect = record.effect
    if effect is None or not (f"effect {effect.name}" in kinds or "effect *" in kinds):
        return None
    return EffectFailureFact(
        _effect_id(record, effect), record.ended_at, record.seq, effect.name,
        to_json(effect.payload).decode(), error, record.attempts,
    )  # fmt: skip


# As records ----------------------------------------------------------------------------------------------------------


def recorded(fact: Fact) -> RecordedFact:
    """A fact as it is kept."""
    if isinstance(fact, EventFact):
        return RecordedFact(
            kind="event", id=fact.id, at=fact.at, seq=fact.seq, name=fact.code, run=fact.emitter,
            payload=from_json(fact.payload_json),
        )  # fmt: skip
    if isinstance(fact, EffectFailureFact):
        return RecordedFact(
            kind="effect", id=fact.id, at=fact.at, seq=fact.seq, name=fact.effect, payload=from_json(fact.payload_json),
            error=_error(fact.error), attempts=fact.attempts,
        )  # fmt: skip
    if isinstance(fact, TickFact):
        return RecordedFact(kind="tick", id=fact.id, at=fact.at, seq=fact.seq, name=fact.schedule, payload=fact.slot)
    assert isinstance(fact, (StatusFact, ResultFact, FailureFact))
    trigger = fact.trigger
    kept = RecordedTrigger.model_validate_json(trigger_text(_Named(trigger)))  # type: ignore[arg-type]
    common: dict[str, Any] = {
        "id": fact.id, "at": fact.at, "seq": fact.seq, "name": kept.type, "run": fact.run, "version": kept.version,
        "payload": kept.payload,
    }  # fmt: skip
    if isinstance(fact, StatusFact):
        return RecordedFact(kind="status", state=fact.state, **common)
    if isinstance(fact, ResultFact):
        return RecordedFact(kind="result", result=from_json(json_of(fact.result)), **common)
    return RecordedFact(kind="failure", error=_error(fact.error), **common)


class _Named:
    """What `trigger_text` needs of a submission."""

    __slots__ = ("handler", "trigger")

    def __init__(self, trigger: Any) -> None:
        self.trigger = trigger
        self.handler = self

    @property
    def name(self) -> str:
        return str(self.trigger.trigger_name)


def _error(error: BaseException) -> RecordedError:
    try:
        kept = error_record(error)
        from_json(to_json(kept.model_dump()))  # Raises for text that is no valid Unicode.
    except Exception:
        kept = RecordedError(type=f"{module_of(type(error))}.{type(error).__qualname__}", message=repr(type(error)))
    return kept


def recorded_facts(record: dict[str, Any], kinds: Collection[str]) -> list[RecordedFact]:
    """The facts of some kinds that a commit's record (as parsed JSON) yields."""
    state, trigger, run = record["state"], record["trigger"], record["run"]
    name = trigger["type"]
    found: list[RecordedFact] = []
    if state == "deferred":
        return found
    common: dict[str, Any] = {"at": record["ended_at"], "seq": record["seq"]}
    about: dict[str, Any] = {
        "name": name, "run": run, "version": trigger.get("version", 1), "payload": trigger["payload"], **common,
    }  # fmt: skip
    if name == EVENT and state == "committed":
        event = trigger["payload"]
        if f"event {event['code']}" in kinds:
            payload = from_json(event.get("payload_json", "null"))
            found.append(
                RecordedFact(
                    kind="event", id=run, name=event["code"], run=record.get("cause"), payload=payload, **common
                )
            )
    if name == SLOT and state == "committed" and f"tick {trigger['payload']['schedule']}" in kinds:
        scheduled = record.get("scheduled")
        if scheduled is not None:
            schedule = trigger["payload"]["schedule"]
            found.append(RecordedFact(kind="tick", id=run, name=schedule, payload=scheduled[1], **common))
    if f"status {state} {name}" in kinds:
        found.append(RecordedFact(kind="status", id=f"{run}/{state}", state=State(state), **about))
    if f"status coalesced {name}" in kinds:
        found += [_coalesced(each, common) for each in record.get("absorbed", ())]
    if state == "committed":
        if f"result {name}" in kinds:
            found.append(RecordedFact(kind="result", id=f"{run}/result", result=record.get("result"), **about))
    elif state in FAILED and (f"failure {name}" in kinds or "failure *" in kinds):
        error = RecordedError.model_validate(record["error"])
        found.append(RecordedFact(kind="failure", id=f"{run}/failure", error=error, **about))
    return found


def _coalesced(absorbed: dict[str, Any], common: dict[str, Any]) -> RecordedFact:
    run, trigger = absorbed["run"], absorbed["trigger"]
    return RecordedFact(
        kind="status", id=f"{run}/coalesced", state=State.COALESCED, name=trigger["type"], run=run,
        version=trigger.get("version", 1), payload=trigger["payload"], **common,
    )  # fmt: skip


def recorded_effect(record: EffectRecord, kinds: Collection[str]) -> RecordedFact | None:
    """The fact that an effect was given up, from its record, if it is of one of these kinds."""
    if record.error is None:
        return None
    effect = record.effect
    if effect is None or not (f"effect {effect.name}" in kinds or "effect *" in kinds):
        return None
    return RecordedFact(
        kind="effect", id=_effect_id(record, effect), at=record.ended_at, seq=record.seq, name=effect.name,
        payload=effect.payload, error=record.error, attempts=record.attempts,
    )  # fmt: skip


def _effect_id(record: EffectRecord, effect: RecordedEffect) -> str:
    return f"{ALARM if effect.alarm else ''}{record.seq}.{record.index}/effect"


class FactReader:
    """Makes facts of what the journal has kept, with the types of the program."""

    def __init__(
        self,
        handler_named: Callable[[str], Handler | None],
        upcasts: Upcasts,
        error_of: Callable[[RecordedError], BaseException],
        result_of: Callable[[Handler, Any], Any],
    ) -> None:
        self._handler_named = handler_named
        self._upcasts = upcasts
        self._error_of = error_of
        self._result_of = result_of

    def read(self, kept: RecordedFact) -> Fact | None:
        """The fact; None if it is about a type that the program does not register any more, so that nothing matches it.

        Raises JournalCorrupted for a trigger that does not fit its type.
        """
        payload_json = to_json(kept.payload, inf_nan_mode="strings").decode()
        if kept.kind == "event":
            return EventFact(kept.id, kept.at, kept.seq, kept.name, payload_json, kept.run)
        if kept.kind == "effect":
            assert kept.error is not None
            error = self._error_of(kept.error)
            return EffectFailureFact(kept.id, kept.at, kept.seq, kept.name, payload_json, error, kept.attempts)
        if kept.kind == "tick":
            return TickFact(kept.id, kept.at, kept.seq, kept.name, float(payload_json))
        handler = self._handler_named(kept.name)
        if handler is None:
            return None
        kind = handler.trigger_type
        trigger = self._upcasts.model(kind, kept.payload, kept.version, kind.trigger_version, f"the fact {kept.id}")
        run = kept.run or ""
        if kept.kind == "status":
            assert kept.state is not None
            return StatusFact(kept.id, kept.at, kept.seq, run, kept.state, trigger)
        if kept.kind == "result":
            return ResultFact(kept.id, kept.at, kept.seq, run, self._result_of(handler, kept.result), trigger)
        assert kept.error is not None
        return FailureFact(kept.id, kept.at, kept.seq, run, self._error_of(kept.error), trigger)
