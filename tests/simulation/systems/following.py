"""What reactions must have made of the facts of a random system: each fact once, to each reaction that it meets.

Owns a slow reading of conditions over records, independent of the runtime's. Facts that meet a composite together are found
by going through the records in the order in which they were appended.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from seqtor import CommitRecord, State, on_cron
from tests.simulation.systems.making import refuses
from tests.simulation.systems.plan import Plan, ReactionPlan
from tests.simulation.systems.serial import root_of

__all__ = ["require_reactions"]


class Fact(NamedTuple):
    """`name` is the code of an event, the state of a status; `about` the type or schedule; `payload` of an event."""

    id: str
    kind: str
    name: str
    at: float
    key: str
    payload: Any = None


def require_reactions(
    plan: Plan, records: list[CommitRecord], ended: dict[str, State], kinds: Mapping[str, int], told: AbstractSet[str]
) -> Counter[str]:
    """Every reaction has started what it must, and nothing else.

    `records` are in the order in which they were appended. `ended` are the triggers that ended without a seq, `kinds` of
    which type their callers know them to be; `told` are those of which callers were told that they were cancelled, though
    nothing of them may be on disk.
    """
    facts = _timed(plan, list(_facts(records, ended, kinds)))
    expected: Counter[tuple[str, tuple[str, ...], int]] = Counter()
    for reaction in plan.reactions:
        for ids in _matches(reaction, facts):
            for part in range(_parts(reaction, ids)):
                expected[reaction.name, ids, part] += 1
    found: Counter[tuple[str, tuple[str, ...], int]] = Counter()
    for record in records:
        if record.trigger.type == "Noted":
            payload: Any = record.trigger.payload
            ids = tuple(payload["facts"])
            assert record.state is State.COMMITTED
            assert sorted(record.causes) == list(ids), f"seq {record.seq}: the facts of which a reaction has made it"
            found[payload["reaction"], ids, payload.get("part", 0)] += 1
    twice = [each for each, count in found.items() if count > 1]
    assert not twice, f"reacted twice: {twice}"
    lost, invented = expected - found, found - expected
    invented = Counter({each: count for each, count in invented.items() if not _is_told(each[1], told)})
    wrong = f"facts without a reaction: {dict(lost)}; reactions without: {dict(invented)}"
    assert not lost, wrong
    assert not invented, wrong
    return Counter({"reactions": sum(found.values())})


def _timed(plan: Plan, facts: list[Fact]) -> list[Fact]:
    """The facts with the times by which windows are measured: the newest so far of all that meet a part of a composite."""
    composites = [reaction for reaction in plan.reactions if reaction.what in ("both", "run")]
    newest, found = 0.0, []
    for fact in facts:
        if any(_part(reaction, fact) is not None for reaction in composites):
            newest = max(newest, fact.at)
        found.append(fact._replace(at=newest))
    return found


def _is_told(ids: tuple[str, ...], told: AbstractSet[str]) -> bool:
    """Whether the fact is a cancel of which nothing is on disk: it counts as long as its process lives."""
    run, _, state = ids[0].partition("/")
    return state == "cancelled" and run in told


def _parts(reaction: ReactionPlan, ids: tuple[str, ...]) -> int:
    if reaction.answers == "none" or (reaction.answers == "raises" and refuses(ids)):
        return 0
    return 2 if reaction.answers == "two" else 1


def _facts(records: list[CommitRecord], ended: Mapping[str, State], kinds: Mapping[str, int]) -> Iterator[Fact]:
    """All facts in the order of their records."""
    for record in records:
        yield from _facts_of(record)
    for run, state in ended.items():
        yield Fact(f"{run}/{state.value}", "status", state.value, 0.0, run, kinds[root_of(run)])


def _facts_of(record: CommitRecord) -> Iterator[Fact]:
    kind, payload, run, at = record.trigger.type, record.trigger.payload, record.run, record.ended_at
    root, state = root_of(run), record.state
    given: Any = payload
    if state is State.DEFERRED:
        return
    if kind == "seqtor.event" and state is State.COMMITTED:
        yield Fact(run, "event", given["code"], at, root, json.loads(given.get("payload_json", "null")))
    if kind == "seqtor.slot_reached" and record.scheduled is not None:
        yield Fact(run, "tick", given["schedule"], at, root)
    if kind.startswith("Work"):
        number = int(kind[4:])
        yield Fact(f"{run}/{state.value}", "status", state.value, at, root, number)
        if record.retry_of is None:
            for each in record.coalesced:
                yield Fact(f"{each}/coalesced", "status", "coalesced", at, each, number)
        if state is State.COMMITTED:
            yield Fact(f"{run}/result", "result", "", at, root, (number, record.result))
        elif state in (State.FAILED, State.DEADLINE):
            error = "" if record.error is None else record.error.type.rpartition(".")[2]
            yield Fact(f"{run}/failure", "failure", error, at, root, number)
    for index, effect in enumerate(record.effects):
        if effect.name == "doomed":
            yield Fact(f"{record.seq}.{index}/effect", "effect", "doomed", at, root)


def _matches(reaction: ReactionPlan, facts: list[Fact]) -> Iterator[tuple[str, ...]]:
    """The ids of the facts that meet it together, each time that some do."""
    if reaction.what in ("both", "run"):
        yield from _pairs(reaction, facts)
        return
    for fact in facts:
        if _meets(reaction, fact):
            yield (fact.id,)


def _meets(reaction: ReactionPlan, fact: Fact) -> bool:
    about, what = reaction.about, reaction.what
    if what == "event":
        return fact.kind == "event" and fact.name == about and _passes(reaction.where, fact.payload)
    if what == "either":
        return fact.kind == "event" and fact.name in about
    if what == "status":
        states = ("committed", "rejected", "retrying", "cancelled", "coalesced")
        return fact.kind == "status" and fact.payload == about and fact.name in states
    if what == "result":
        return fact.kind == "result" and bool(fact.payload[0] == about) and len(fact.payload[1]) % 2 == 0
    if what == "failure":
        return fact.kind == "failure" and fact.payload == about and (reaction.where != "items" or fact.name == "Flawed")
    if what == "tick":
        return fact.kind == "tick" and fact.name == on_cron(about[0], about[1], misfire=about[2]).name
    return fact.kind == "effect"


def _passes(where: str, payload: Any) -> bool:
    if where == "items":
        return bool(payload["k"] == "x")
    if where == "predicate":
        return bool(payload["n"] % 2 == 0)
    return where != "raises" or bool(payload["n"] != 3)


def _pairs(reaction: ReactionPlan, facts: list[Fact]) -> Iterator[tuple[str, ...]]:
    """Two facts of the same key, the oldest first, none of them used twice, within the window."""
    waiting: dict[str, tuple[list[Fact], list[Fact]]] = {}
    for fact in facts:
        part = _part(reaction, fact)
        if part is None:
            continue
        key = fact.key if reaction.what == "run" else str(fact.payload["k"])
        queues = waiting.setdefault(key, ([], []))
        if reaction.within is not None:
            for queue in queues:
                queue[:] = [each for each in queue if each.at >= fact.at - reaction.within]
        if queues[1 - part]:
            yield tuple(sorted((queues[1 - part].pop(0).id, fact.id)))
        else:
            queues[part].append(fact)


def _part(reaction: ReactionPlan, fact: Fact) -> int | None:
    if reaction.what == "run":
        if fact.kind == "status" and fact.name == "committed" and fact.payload == reaction.about[0]:
            return 0
        return 1 if fact.kind == "result" and fact.payload[0] == reaction.about[1] else None
    return reaction.about.index(fact.name) if fact.kind == "event" and fact.name in reaction.about else None
