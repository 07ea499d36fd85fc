"""Whether a fact meets a condition, and under which key it is put together with others: calls the users' functions.

Owns the comparison. Runs on `pool`, within a deadline. Raises what the users' functions raise, and TypeError for an answer
that is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from seqtor.actors.reactor.reactions import Composite
from seqtor.messages.conditions import Condition, Where
from seqtor.messages.facts import EffectFailureFact, EventFact, Fact, FailureFact, ResultFact, StatusFact, TickFact

__all__ = ["key_of", "meets"]

MISSING = object()
RETRY = re.compile(r"~[0-9]+$")  # At the end of a run's id.


def meets(condition: Condition[Any], fact: Fact) -> bool:
    """Whether the fact meets a single condition."""
    kind = condition.kind
    if kind == "event":
        return isinstance(fact, EventFact) and fact.code == condition.name and _passes(condition.where, fact, "payload")
    if kind == "status":
        return (
            isinstance(fact, StatusFact)
            and fact.trigger.trigger_name == condition.name
            and fact.state in condition.states
            and _passes(condition.where, fact, "trigger")
        )
    if kind == "result":
        return (
            isinstance(fact, ResultFact)
            and fact.trigger.trigger_name == condition.name
            and _passes(condition.where, fact, "result")
            and _passes(condition.trigger, fact, "trigger")
        )
    if kind == "failure":
        return (
            isinstance(fact, FailureFact)
            and condition.name in (fact.trigger.trigger_name, "*")
            and (not condition.exceptions or isinstance(fact.error, condition.exceptions))
            and _passes(condition.where, fact, "trigger")
        )
    if kind == "tick":
        return isinstance(fact, TickFact) and fact.schedule == condition.name
    return isinstance(fact, EffectFailureFact) and condition.name in (fact.effect, "*")


def _passes(where: Where, fact: Fact, name: str) -> bool:
    if where.kind == "any":
        return True
    value = getattr(fact, name)
    if where.kind == "predicate":
        return _bool(where.content(value), "where")
    if where.kind == "items":
        if isinstance(value, Mapping):
            return all(key in value and _equal(value[key], wanted) for key, wanted in where.content)
        return all(
            isinstance(key, str) and _equal(getattr(value, key, MISSING), wanted) for key, wanted in where.content
        )
    return _equal(value, where.content)


def _equal(value: Any, wanted: Any) -> bool:
    return _bool(value == wanted, "==")


def _bool(value: Any, what: str) -> bool:
    if value is True or value is False:
        return value
    raise TypeError(
        f"{what} returned {value!r} ({type(value).__name__}) where a bool was expected: return True or False"
    )


def key_of(composite: Composite, fact: Fact) -> str | None:
    """The correlation key as a text that tells different ones apart; None if the fact takes no part."""
    if composite.key is None:
        run: str = fact.run  # type: ignore[union-attr]  # Checked at registration: all its facts are about runs.
        return f"run {RETRY.sub('', run)}"  # A retry is another run of the same trigger; what it has released is not.
    key = composite.key(fact)
    if key is None:
        return None
    return json.dumps(_plain(key), ensure_ascii=True)


def _plain(key: Any) -> Any:
    if isinstance(key, (str, int)):  # A bool is an int; json tells the two apart.
        return key
    if isinstance(key, tuple):
        return [_plain(each) for each in key]
    raise TypeError(
        f"correlate() returned {key!r} ({type(key).__name__}): return a str, an int, a bool, a tuple of these, or None for "
        "a fact that takes no part"
    )
