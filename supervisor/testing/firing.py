"""`assert_fired`: that a reaction has started something, and what nearly made it do so if it has not.

Owns the search for near misses: the facts that happened, held against each part of the condition. Works on every running
system, simulated or not; looks and does not wait. The users' filters are called once more, outside of the reactor.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic_core import from_json

from seqtor.actors.handlers import did_you_mean
from seqtor.actors.journal.history import History
from seqtor.actors.reactor.filters import MISSING, meets
from seqtor.actors.reactor.kept import recorded_facts
from seqtor.actors.reactor.reactions import Reaction
from seqtor.messages.conditions import Condition, Where, parts_of
from seqtor.messages.events import EventEmitted
from seqtor.messages.facts import EffectFailureFact, EventFact, Fact, FailureFact, ResultFact, StatusFact
from seqtor.messages.reactions import ReactionState
from seqtor.messages.runs import State
from seqtor.queries import newest_first
from seqtor.system import Supervisor
from seqtor.testing.settling import shown

__all__ = ["assert_fired"]

NEAREST_MAX = 5
BY_KIND = {
    "event": EventFact,
    "status": StatusFact,
    "result": ResultFact,
    "failure": FailureFact,
}


def assert_fired(system: Supervisor, reaction: Callable[..., Any] | str, *, times: int | None = None) -> None:
    """Raise AssertionError unless a reaction has started runs since the start, exactly `times` if that is given.

    `reaction` is the function that `@system.when(...)` decorates, or the reaction's name. Nothing is waited for:
    `desk.settle()` comes before.
    """
    reactions = _registered(system, reaction)
    states = [state for state in system.reactions() if state.name in {each.name for each in reactions}]
    started = sum(state.started for state in states)
    if started == times or (times is None and started):
        return
    named = " and ".join(repr(each.name) for each in reactions)
    expected = "" if times is None else f", expected {times}"
    what = "has not fired" if not started else f"has started {started} {'run' if started == 1 else 'runs'}"
    lines = [f"the reaction {named} {what}{expected}"]
    for each in reactions:
        state = next(state for state in states if state.name == each.name)
        near = _Near(system, each, state)
        is_too_often = times is not None and started > times
        lines += [f"{each.name!r} waits for: {each.condition}", *(near.fired() if is_too_often else near.lines())]
    raise AssertionError("\n".join(lines))


def _registered(system: Supervisor, reaction: Any) -> list[Reaction]:
    known = list(system._reactions)
    found = [each for each in known if each.name == reaction or each.function is reaction]
    if not found:
        name = reaction if isinstance(reaction, str) else getattr(reaction, "__name__", repr(reaction))
        names = [each.name for each in known]
        raise LookupError(
            f"there is no reaction {name!r}{did_you_mean(name, names)}; registered with @system.when(...) are: "
            f"{', '.join(names) or 'none'}"
        )
    return found


class Miss(NamedTuple):
    """A fact that did not meet a part of the condition; the fewer `steps` it was away, the nearer."""

    steps: int
    seq: int
    text: str


class _Near:
    """What was near one reaction that has not fired, or not often enough."""

    def __init__(self, system: Supervisor, reaction: Reaction, state: ReactionState) -> None:
        self._system = system
        self._reaction = reaction
        self._state = state
        self._conditions = list(parts_of(reaction.condition))

    def lines(self) -> Iterator[str]:
        """What happened, nearest first, a line each."""
        state = self._state
        with self._system._history() as (history, through):
            facts = list(self._facts(history, through))
        met = [fact for fact in facts if any(_meets(each, fact) is True for each in self._conditions)]
        told = {fact.id: _told(fact) for fact in facts}
        if state.failed and state.last_failure is not None:
            often = "once" if state.failed == 1 else f"{state.failed} times, the last time"
            fact_id, _, error = state.last_failure.partition(": ")
            yield f"  its function, or a filter, has failed {often} for {told.get(fact_id, fact_id)}: {error}"
        for half in state.half_met:
            since = datetime.datetime.fromtimestamp(half.since, datetime.UTC)
            have = " and ".join(told.get(fact, fact) for part in half.facts for fact in part)
            waits_for = " and ".join(half.waits_for) or "one that is in time"
            yield f"  half met since {since:%H:%M:%S}, under the key {half.key}: has {have}; waits for {waits_for}"
        yield from self._unstarted(met)
        misses = sorted(
            (miss for fact in facts for miss in self._misses(fact)), key=lambda miss: (miss.steps, -miss.seq)
        )
        if misses:
            yield "nearest:"
            yield from (f"  {miss.text}" for miss in misses[:NEAREST_MAX])
            if len(misses) > NEAREST_MAX:
                yield f"  and {len(misses) - NEAREST_MAX} more"
        if not (misses or met or state.half_met):
            yield from self._nothing()

    def fired(self) -> Iterator[str]:
        """What has started runs, newest first, a line each."""
        with self._system._history() as (history, through):
            facts = list(self._facts(history, through))
        link_of = self._system._require_running().reactions.link_of(None)
        links = [(fact, link_of(fact.id)) for fact in facts]
        found = [(fact, link) for fact, link in links if link is not None and self._reaction.name in link.matched]
        if found:
            yield "what it has fired for:"
        for fact, link in found[:NEAREST_MAX]:
            runs = f"started the {'run' if len(link.started) == 1 else 'runs'} {', '.join(link.started)}"
            yield f"  {_told(fact)}, and {runs if link.started else 'started nothing'}"
        if len(found) > NEAREST_MAX:
            yield f"  and {len(found) - NEAREST_MAX} more"

    def _unstarted(self, met: list[Fact]) -> Iterator[str]:
        """The facts that have met the condition, and of which nothing was made."""
        reactions, state = self._system._require_running().reactions, self._state
        pending = {} if reactions.book is None else reactions.book.pending
        link_of = reactions.link_of(None)
        for fact in met[:NEAREST_MAX]:
            link = link_of(fact.id)
            is_alone = any(_meets(each, fact) is True for each in self._reaction.singles)
            if fact.id in pending:
                yield f"  {_told(fact)} is not matched yet: settle() first"
            elif is_alone and link is not None and not state.failed and not (state.started and link.started):
                yield f"  {_told(fact)} has met it, and its function returned nothing to run"

    def _facts(self, history: History, through: int) -> Iterator[Fact]:
        """The facts that are about what the condition names, newest first, whatever its filters say."""
        reader = self._system._require_running().reactions._reader
        kinds = _kinds(self._conditions)
        for row in newest_first(history, history.first, through):
            for kept in recorded_facts(from_json(row.body), kinds):
                fact = reader.read(kept)
                if fact is not None:
                    yield fact

    def _misses(self, fact: Fact) -> Iterator[Miss]:
        for condition in self._conditions:
            found = _meets(condition, fact)
            if found is not True:
                why = _why_not(condition, fact) if found is False else (1, f"its filter raised {found}")
                if why is not None:
                    yield Miss(why[0], fact.seq or 0, f"{_told(fact)}: {why[1]}")

    def _nothing(self) -> Iterator[str]:
        """Nothing that it names has happened: what has?"""
        system = self._system
        events = sorted({event.code for event in system.events(limit=None)})
        runs = sorted({run.trigger.trigger_name for run in system.runs(limit=None)} - {EventEmitted.trigger_name})
        for condition in self._conditions:
            if condition.kind == "effect":
                yield f"  there was no {condition}: no try of it was its last"
            elif condition.kind == "tick":
                slot = next(iter(system.schedule_named(condition.name).next(1)), None)
                due = "there is none to come" if slot is None else f"the next one is {slot:%Y-%m-%d %H:%M:%S} UTC"
                yield f"  there was no {condition}: {due}; clock.advance(...) lets it come"
            else:
                noun, happened = ("events", events) if condition.kind == "event" else ("runs", runs)
                hint = did_you_mean(condition.name, happened).removesuffix("?").removeprefix("; ")
                yield f"  there was no {condition}{hint and f' ({hint}?)'}; {noun} were: {', '.join(happened) or 'none'}"


def _kinds(conditions: Iterable[Condition[Any]]) -> frozenset[str]:
    """The kinds of facts about what conditions name: how a run ended matters only for the comparison."""
    kinds: set[str] = set()
    for condition in conditions:
        if condition.kind in ("status", "result", "failure"):
            kinds.update(f"status {state.value} {condition.name}" for state in State)
            kinds.update((f"result {condition.name}", f"failure {condition.name}"))
        else:
            kinds.add(f"{condition.kind} {condition.name}")
    return frozenset(kinds)


def _meets(condition: Condition[Any], fact: Fact) -> bool | str:
    """Whether a fact meets a condition; a text if the users' filter raises."""
    try:
        return meets(condition, fact)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _why_not(condition: Condition[Any], fact: Fact) -> tuple[int, str] | None:
    """How far a fact is from a condition, and what is missing; None if they are not about the same."""
    kind = BY_KIND.get(condition.kind)
    if kind is None or not isinstance(fact, kind):
        return _other_ending(condition, fact)
    if condition.kind == "event":
        return None if fact.code != condition.name else _filtered(condition.where, fact.payload, "the payload")  # type: ignore[union-attr]
    if condition.kind == "status":
        assert isinstance(fact, StatusFact)
        if fact.state not in condition.states:
            return 1, f"it waits for {' or '.join(sorted(condition.states))}"
        return _filtered(condition.where, fact.trigger, "the trigger")
    if condition.kind == "result":
        assert isinstance(fact, ResultFact)
        return _filtered(condition.where, fact.result, "the result") or _filtered(
            condition.trigger, fact.trigger, "the trigger"
        )
    if condition.kind == "failure":
        assert isinstance(fact, FailureFact)
        if condition.exceptions and not isinstance(fact.error, condition.exceptions):
            return 1, f"it waits for {' or '.join(each.__name__ for each in condition.exceptions)}"
        return _filtered(condition.where, fact.trigger, "the trigger")
    return None


def _other_ending(condition: Condition[Any], fact: Fact) -> tuple[int, str] | None:
    """The run that a condition is about has ended, but in a way of which it does not tell."""
    if not isinstance(fact, StatusFact):
        return None
    name, state = fact.trigger.trigger_name, fact.state
    if condition.kind == "failure" and state in (State.REJECTED, State.RETRYING, State.COMMITTED, State.ABORTED):
        advice = {
            State.REJECTED: f"that is no failure; use on_status({name}, 'rejected')",
            State.RETRYING: "on_failure waits for the last try",
        }.get(state, f"that is no failure; use on_status({name}, {state.value!r})")
        return 2, advice
    if condition.kind == "result" and state is not State.COMMITTED:
        return 2, f"so it has no result; use on_status({name}, {state.value!r})"
    return None


def _filtered(where: Where, value: Any, what: str) -> tuple[int, str] | None:
    """What of a filter a value does not pass; None if it passes."""
    if where.kind == "value" and value != where.content:
        return 1, f"{what} is {shown(value)}, and where= asks for {shown(where.content)}"
    if where.kind == "predicate" and where.content(value) is not True:
        return 1, f"where={getattr(where.content, '__name__', where.content)} returned False for {what} {shown(value)}"
    if where.kind == "items":
        wrong = [each for each in where.content if _item(value, each[0]) != each[1]]
        if wrong:
            named = "; ".join(_of_item(value, key, wanted) for key, wanted in wrong)
            return len(wrong), named
    return None


def _item(value: Any, key: Any) -> Any:
    if isinstance(value, Mapping):
        return value.get(key, MISSING)
    return getattr(value, key, MISSING) if isinstance(key, str) else MISSING


def _of_item(value: Any, key: Any, wanted: Any) -> str:
    found = _item(value, key)
    is_there = "is missing" if found is MISSING else f"is {shown(found)}"
    return f"{key} {is_there}, and where= asks for {shown(wanted)}"


def _told(fact: Fact) -> str:
    where = "without a seq" if fact.seq is None else f"seq {fact.seq}"
    if isinstance(fact, EventFact):
        return f"{where}: event {fact.code!r} {shown(fact.payload)}"
    if isinstance(fact, StatusFact):
        return f"{where}: {shown(fact.trigger)} ended as {fact.state.value}"
    if isinstance(fact, ResultFact):
        return f"{where}: {shown(fact.trigger)} came to {shown(fact.result)}"
    if isinstance(fact, FailureFact):
        return f"{where}: {shown(fact.trigger)} failed with {fact.exception_type}: {fact.message}"
    if isinstance(fact, EffectFailureFact):
        return f"{where}: the effect {fact.effect!r} was given up with {fact.exception_type}: {fact.message}"
    return f"{where}: slot of {fact.schedule}"
