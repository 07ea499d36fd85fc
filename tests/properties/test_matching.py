"""The state machine of half-met composites against a slow one that looks at all facts each time, over random facts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from seqtor import on_event
from seqtor.actors.reactor.matching import HalfMet, match, sweep
from seqtor.actors.reactor.reactions import Composite, make_reaction
from seqtor.messages.facts import EventFact

EXAMPLES = int(60 * float(os.environ.get("SEQTOR_EXAMPLES", "1")))
CODES = "abc"


def slow_matches(facts: Sequence[EventFact], keys: Sequence[str], hits: Any, parts: int, within_s: float) -> list[Any]:
    """The matches, found by looking at everything that came before each fact."""
    taken: dict[int, int] = {}  # By the number of a fact: the part that it waits in, or was used in.
    used: set[int] = set()
    found = []
    for number, fact in enumerate(facts):
        now = max(each.at for each in facts[: number + 1])

        def waiting(part: int, number: int = number, now: float = now) -> list[int]:
            return [
                earlier
                for earlier in range(number)
                if earlier in taken
                and taken[earlier] == part
                and earlier not in used
                and keys[earlier] == keys[number]
                and max(each.at for each in facts[: earlier + 1]) >= now - within_s
            ]

        places = hits(fact)
        if not places:
            continue
        own = taken[number] = min(places, key=lambda part: (len(waiting(part)), part))
        chosen = [next(iter([*waiting(part), *([number] if part == own else [])]), None) for part in range(parts)]
        if None not in chosen:
            used.update(chosen)  # type: ignore[arg-type]
            found.append([facts[each].id for each in chosen])  # type: ignore[index]
    return found


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    events=st.lists(
        st.tuples(st.sampled_from(CODES), st.sampled_from(["k1", "k2"]), st.integers(-2, 4)), max_size=40
    ),
    parts=st.lists(st.sets(st.sampled_from(CODES), min_size=1), min_size=2, max_size=3),
    within_s=st.sampled_from([None, 3.0, 10.0]),
)  # fmt: skip
def test_the_matches_are_those_that_looking_at_all_facts_finds(
    events: list[tuple[str, str, int]], parts: list[set[str]], within_s: float | None
) -> None:
    at, facts, keys = 100.0, [], []
    for number, (code, key, step) in enumerate(events):
        at += step
        facts.append(EventFact(f"f{number}", at, number, code, "null"))
        keys.append(key)

    def hits(fact: EventFact) -> list[int]:
        return [part for part, codes in enumerate(parts) if fact.code in codes]

    composite = Composite("c", tuple((on_event("x"),) for _ in parts), lambda fact: 0, within_s)
    state, found = HalfMet(swept=-10_000), []
    for fact, key in zip(facts, keys, strict=True):
        places = hits(fact)
        if not places:
            state = state._replace(now=max(state.now, fact.at))
            continue
        taken = match(state, composite, key, fact, [(part, (0,)) for part in places])
        state = taken.state
        if taken.match is not None:
            found.append([each.fact.id for each in taken.match])
        state, _ = sweep(state, lambda _: composite)  # At any moment it changes no match.
        state = state._replace(swept=-10_000)
    assert found == slow_matches(facts, keys, hits, len(parts), float("inf") if within_s is None else within_s)
    used = [fact for each in found for fact in each]
    assert len(set(used)) == len(used), "each fact is used once at most"


def test_a_reaction_takes_its_condition_apart() -> None:
    a, b, c = on_event("a"), on_event("b"), on_event("c")
    reaction = make_reaction(a | (b & (a | c)).correlate(lambda fact: 0).within(5), lambda facts: None, "r", None, None)
    assert reaction.singles == (a,)
    [composite] = reaction.composites
    assert (composite.parts, composite.within_s) == (((b,), (a, c)), 5.0)
