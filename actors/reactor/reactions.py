"""Reactions as they are registered: a condition taken apart, and the index by which facts find them.

Owns what can be known at registration. Promises: immutable once the system has started; a fact finds those that may match it
without a look at the others, also by what a filter says must be equal.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from zlib import crc32

from seqtor.actors.handlers import require_priority
from seqtor.actors.retries import Retry
from seqtor.messages.conditions import AllOf, AnyOf, Condition, parts_of
from seqtor.messages.errors import RegistrationError
from seqtor.messages.events import OURS
from seqtor.messages.facts import EventFact, Fact
from seqtor.messages.triggers import Priority

__all__ = ["ANY_NAME", "Composite", "Reaction", "Reactions", "interest_of", "interests_of", "make_reaction"]

BY_RUN = frozenset({"status", "result", "failure"})
ANY_NAME = "*"
MISSING = object()


class Composite(NamedTuple):
    """An `&` of a reaction: each part is met by any of its conditions. `id` says which, and of what shape.

    `key` gives the correlation key of a fact, None for the run that the fact is about.
    """

    id: str
    parts: tuple[tuple[Condition[Any], ...], ...]
    key: Callable[[Any], Any] | None
    within_s: float | None


class Reaction(NamedTuple):
    """A function and its condition: a run for each fact that meets one of `singles`, and for each match of a composite."""

    name: str
    function: Callable[[Any], Any]
    condition: Any
    singles: tuple[Condition[Any], ...]
    composites: tuple[Composite, ...]
    priority: Priority | None = None
    tries: int = 1
    retried: tuple[type[BaseException], ...] = ()

    def __hash__(self) -> int:
        return hash(self.name)


def interests_of(condition: Condition[Any]) -> Iterator[str]:
    """The kinds of facts that may meet a condition."""
    if condition.kind == "status":
        for state in sorted(condition.states):
            yield f"status {state.value} {condition.name}"
    else:
        yield f"{condition.kind} {condition.name}"


def interest_of(fact: Fact) -> str:
    """The kind of a fact."""
    kind = type(fact).__name__
    if isinstance(fact, EventFact):
        return f"event {fact.code}"
    if kind == "StatusFact":
        return f"status {fact.state.value} {fact.trigger.trigger_name}"  # type: ignore[union-attr]
    if kind == "ResultFact":
        return f"result {fact.trigger.trigger_name}"  # type: ignore[union-attr]
    if kind == "FailureFact":
        return f"failure {fact.trigger.trigger_name}"  # type: ignore[union-attr]
    if kind == "EffectFailureFact":
        return f"effect {fact.effect}"  # type: ignore[union-attr]
    return f"tick {fact.schedule}"  # type: ignore[union-attr]


def make_reaction(condition: Any, function: Any, name: str | None, priority: Any, retry: Any) -> Reaction:
    """Check and make a reaction; raises RegistrationError that says what to change."""
    if not isinstance(condition, (Condition, AllOf, AnyOf)):
        raise RegistrationError(f"when() takes a condition, such as on_event('code'), got {condition!r}")
    if name is not None and (not isinstance(name, str) or not name):
        raise RegistrationError(f"a reaction's name is a non-empty string, got {name!r}")
    called = getattr(function, "__name__", None) or type(function).__name__
    _require_function(function, called)
    if priority is not None:
        priority = require_priority(priority, RegistrationError, f"priority of the reaction {called}")
    chosen = name or called
    singles: list[Condition[Any]] = []
    composites: list[Composite] = []
    for part in condition.parts if isinstance(condition, AnyOf) else (condition,):
        if isinstance(part, AllOf):
            composites.append(_composite(part, f"{chosen}#{len(composites) + 1}"))
        else:
            singles.append(part)
    return Reaction(
        chosen, function, condition, tuple(singles), tuple(composites), priority, *_tries(retry, called)
    )  # fmt: skip


def _require_function(function: Any, called: str) -> None:
    if not callable(function):
        raise RegistrationError(
            f"@system.when(...) decorates a function that is called with the facts, got {function!r}"
        )
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise RegistrationError(
            f"the reaction {called} is a coroutine function: it only says which trigger runs, so make it a plain one; what "
            "waits belongs into the handler of that trigger"
        )
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise RegistrationError(
            f"the reaction {called} is called with the facts alone: def {called}(facts) ({error})"
        ) from None
    except ValueError:
        pass  # A callable without a signature that Python can read: its call will tell.


def _tries(retry: Any, called: str) -> tuple[int, tuple[type[BaseException], ...]]:
    if retry is None:
        return 1, ()
    if not isinstance(retry, Retry):
        raise RegistrationError(f"retry= of the reaction {called} takes a Retry(...), got {retry!r}")
    if retry.backoff:
        raise RegistrationError(
            f"retry= of the reaction {called} waits between its tries, and the facts behind it would wait with it: say "
            "Retry(n, backoff=0), or give retry= to the handler of the trigger that it starts"
        )
    return retry.max_runs, retry.on


def _composite(condition: AllOf, place: str) -> Composite:
    parts = tuple([tuple(parts_of(part)) for part in condition.parts])
    leaves = [leaf for part in parts for leaf in part]
    if condition.key is None and not all(leaf.kind in BY_RUN for leaf in leaves):
        other = next(leaf for leaf in leaves if leaf.kind not in BY_RUN)
        raise RegistrationError(
            f"`{condition}` does not say which facts belong together: {other} is not about a run; write "
            "(a & b).correlate(lambda fact: ...), with a function that gives the same key for facts that do; "
            "correlate(lambda fact: 0) puts any of them together"
        )
    shape = "&".join("|".join(interest for leaf in part for interest in interests_of(leaf)) for part in parts)
    return Composite(f"{place}:{crc32(shape.encode()):08x}", parts, condition.key, condition.within_s)


class Reactions:
    """The reactions of one system, by name and in the order of their registration."""

    def __init__(self) -> None:
        self._by_name: dict[str, Reaction] = {}
        self._index: dict[str, _Places] | None = None

    def __iter__(self) -> Iterator[Reaction]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def find(self, name: str) -> Reaction | None:
        """The reaction with this name, or None."""
        return self._by_name.get(name)

    def add(self, condition: Any, function: Any, name: str | None, priority: Any, retry: Any) -> None:
        """Register; raises RegistrationError for what will not do. Without a name it is called after its function."""
        made = make_reaction(condition, function, name, priority, retry)
        if made.name.startswith(OURS):
            raise RegistrationError(
                f"the names that begin with {OURS!r} are seqtor's own: call {made.name!r} otherwise"
            )
        if made.name in self._by_name:
            if name is not None:
                raise RegistrationError(f"there is a reaction called {name!r} already: give this one another name")
            number = 2
            while f"{made.name}.{number}" in self._by_name:
                number += 1
            made = make_reaction(condition, function, f"{made.name}.{number}", priority, retry)
        self._by_name[made.name] = made
        self._index = None

    def add_own(self, condition: Any, function: Any, name: str) -> None:
        """Register one of seqtor's own."""
        self._by_name[name] = make_reaction(condition, function, name, None, None)
        self._index = None

    @property
    def interests(self) -> frozenset[str]:
        """The kinds of facts that any of them may match."""
        return frozenset(
            interest for reaction in self for leaf in parts_of(reaction.condition) for interest in interests_of(leaf)
        )

    def composites(self) -> dict[str, tuple[Reaction, Composite]]:
        """Every composite by its id."""
        return {each.id: (reaction, each) for reaction in self for each in reaction.composites}

    def for_fact(self, fact: Fact) -> Iterable[Reaction]:
        """The reactions that a fact may match, in the order of their registration, each once."""
        if self._index is None:
            self._index = self._made_index()
        interest = interest_of(fact)
        found: dict[int, Reaction] = {}
        places = self._index.get(interest)
        if places is not None:
            places.find(fact, found)
        places = self._index.get(f"{interest.partition(' ')[0]} {ANY_NAME}")
        if places is not None:
            places.find(fact, found)
        return [found[number] for number in sorted(found)] if len(found) > 1 else found.values()

    def _made_index(self) -> dict[str, _Places]:
        index: dict[str, _Places] = {}
        for number, reaction in enumerate(self):
            for leaf in parts_of(reaction.condition):
                for interest in interests_of(leaf):
                    index.setdefault(interest, _Places()).add(leaf, number, reaction)
        return index


class _Places:
    """The reactions to one kind of fact. Events that must have one item equal are found by it."""

    __slots__ = ("_by_item", "_others")

    def __init__(self) -> None:
        self._others: dict[int, Reaction] = {}
        self._by_item: dict[Any, dict[Any, dict[int, Reaction]]] = {}

    def add(self, leaf: Condition[Any], number: int, reaction: Reaction) -> None:
        items = leaf.where.content if leaf.kind == "event" and leaf.where.kind == "items" else ()
        for key, value in items:
            if type(key) is str and type(value) in (str, int):
                self._by_item.setdefault(key, {}).setdefault(value, {})[number] = reaction
                return
        self._others[number] = reaction

    def find(self, fact: Fact, found: dict[int, Reaction]) -> None:
        found.update(self._others)
        if not self._by_item:
            return
        payload = fact.payload  # type: ignore[union-attr]  # Only events have places by item.
        if not isinstance(payload, dict):
            return
        for key, by_value in self._by_item.items():
            value = payload.get(key, MISSING)
            try:
                found.update(by_value.get(value, {}))
            except TypeError:
                continue  # A list or a dict equals none of these.
