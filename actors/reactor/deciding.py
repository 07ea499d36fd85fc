"""What follows from facts: which reactions they meet, and which triggers these start.

Owns the calls of the users' functions, in the order of the facts and of the reactions, and what is made of their answers.
Runs on `pool`. Promises: what one reaction does to one fact, raising, returning nonsense or exiting, is its failure and
changes nothing for the others; the same facts give the same run ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from seqtor.actors.coalescing import key_of as coalesce_key_of
from seqtor.actors.footprints import declare
from seqtor.actors.reactor.alarms import REACTION_FAILED
from seqtor.actors.reactor.facts import Facts, MatchedFact
from seqtor.actors.reactor.filters import key_of, meets
from seqtor.actors.reactor.matching import HalfMet, Waiting, match, sweep
from seqtor.actors.reactor.reactions import Composite, Reaction, Reactions
from seqtor.actors.submissions import Intake, Origin, Submission
from seqtor.messages.events import ALARM, OURS, is_alarm, make_alarm
from seqtor.messages.facts import Fact
from seqtor.messages.triggers import Priority, Trigger

if TYPE_CHECKING:
    from seqtor.actors.clock import Clock
    from seqtor.actors.outbox import Prepare

__all__ = ["Deciding", "Decision", "Link"]

CONDITION, FUNCTION = "condition", "function"
Enter = Callable[[str, str, str], None]


class Link(NamedTuple):
    """What became of a fact: the reactions that it has met, and the runs that they have started with it."""

    matched: tuple[str, ...] = ()
    started: tuple[str, ...] = ()

    def after(self, before: Link | None) -> Link:
        """With what was known of the fact before."""
        if before is None:
            return self
        return Link(tuple(dict.fromkeys((*before.matched, *self.matched))), (*before.started, *self.started))


class Decision(NamedTuple):
    """What follows from a batch of facts: all of it happens, or nothing.

    `waiting` began to wait (composite, key, part, who), `gone` wait no more (composite, key, id of the fact). `failed` are
    (reaction, id of the fact, text). `by` is how many runs each reaction has started.
    """

    facts: tuple[Fact, ...]
    half_met: HalfMet
    started: tuple[Submission[Any], ...]
    waiting: tuple[tuple[str, str, int, Waiting], ...]
    gone: tuple[tuple[str, str, str], ...]
    links: dict[str, Link]
    failed: tuple[tuple[str, str, str], ...]
    by: dict[str, int]


class Deciding:
    """What decides for one system; without state of its own."""

    def __init__(self, reactions: Reactions, intake: Intake, prepare: Prepare, clock: Clock) -> None:
        self.reactions = reactions
        self.intake = intake
        self.prepare = prepare
        self.clock = clock
        self.composites = reactions.composites()
        self.alarms = f"event {REACTION_FAILED}" in reactions.interests

    def decide(
        self, facts: Sequence[Fact], half_met: HalfMet, excluded: frozenset[tuple[str, str, str]], enter: Enter
    ) -> Decision:
        """Decide; `enter` is called with (reaction, id of the fact, what) before each call of a user's function."""
        batch = _Batch(self, half_met, excluded, enter)
        for fact in facts:
            batch.take(fact)
        return batch.decision(tuple(facts))


class _Batch:
    """One batch while it is decided."""

    def __init__(
        self, deciding: Deciding, half_met: HalfMet, excluded: frozenset[tuple[str, str, str]], enter: Enter
    ) -> None:
        self._deciding = deciding
        self._half_met = half_met
        self._excluded = excluded
        self._enter = enter
        self._started: list[Submission[Any]] = []
        self._waiting: dict[tuple[str, str, str], tuple[str, str, int, Waiting]] = {}
        self._gone: list[tuple[str, str, str]] = []
        self._links: dict[str, tuple[list[str], list[str]]] = {}
        self._failed: list[tuple[str, str, str]] = []
        self._by: dict[str, int] = {}

    def take(self, fact: Fact) -> None:
        for reaction in self._deciding.reactions.for_fact(fact):
            try:
                if (reaction.name, fact.id, CONDITION) in self._excluded:
                    raise TimeoutError("its condition did not return within the deadline")
                self._enter(reaction.name, fact.id, CONDITION)
                singles = [leaf for leaf in reaction.singles if meets(leaf, fact)]
                composites = [hit for hit in (_hit(each, fact) for each in reaction.composites) if hit is not None]
            except BaseException as error:
                self._fail(reaction, fact, error)
                continue
            if singles or composites:
                self._link(fact.id)[0].append(reaction.name)
            if singles:
                self._start(reaction, fact, (MatchedFact(fact, tuple(singles)),), "")
            for composite, key, hits in composites:
                self._match(reaction, composite, key, fact, hits)

    def _match(
        self,
        reaction: Reaction,
        composite: Composite,
        key: str,
        fact: Fact,
        hits: Sequence[tuple[int, tuple[int, ...]]],
    ) -> None:
        step = match(self._half_met, composite, key, fact, hits)
        self._half_met = step.state
        for waiting in step.removed:
            self._forget(composite.id, key, waiting)
        if step.added is not None:
            part, waiting = step.added
            self._waiting[composite.id, key, fact.id] = (composite.id, key, part, waiting)
        if step.match is not None:
            parts = [
                MatchedFact(waiting.fact, tuple([conditions[each] for each in waiting.conditions]))
                for waiting, conditions in zip(step.match, composite.parts, strict=True)
            ]
            parts.sort(key=lambda each: (each.fact is fact, each.fact.at))  # It is the last that has happened.
            self._start(reaction, fact, tuple(parts), composite.id)

    def _forget(self, composite: str, key: str, waiting: Waiting) -> None:
        place = (composite, key, waiting.fact.id)
        if self._waiting.pop(place, None) is None:  # Else nobody has heard of it.
            self._gone.append(place)

    def _start(self, reaction: Reaction, fact: Fact, matched: tuple[MatchedFact, ...], place: str) -> None:
        """Ask the function what runs, and make it."""
        try:
            if (reaction.name, fact.id, FUNCTION) in self._excluded:
                raise TimeoutError("its function did not return within the deadline")
            triggers = self._called(reaction, fact, Facts(matched))
            started = [
                self._submission(reaction, trigger, matched, place, number)
                for number, trigger in enumerate(triggers, 1)
            ]
        except BaseException as error:
            self._fail(reaction, fact, error)
            return
        self._started += started
        self._by[reaction.name] = self._by.get(reaction.name, 0) + len(started)
        for each in matched:
            self._link(each.fact.id)[1].extend(submission.id for submission in started)

    def _called(self, reaction: Reaction, fact: Fact, facts: Facts) -> tuple[Trigger[Any], ...]:
        for left in range(reaction.tries - 1, -1, -1):
            self._enter(reaction.name, fact.id, FUNCTION)
            try:
                return _triggers(reaction.function(facts))
            except BaseException as error:
                if not left or not isinstance(error, reaction.retried):
                    raise
        raise AssertionError("there is at least one try")

    def _submission(
        self, reaction: Reaction, trigger: Trigger[Any], matched: Sequence[MatchedFact], place: str, number: int
    ) -> Submission[Any]:
        deciding = self._deciding
        checked, handler, priority, own_time = deciding.prepare(trigger, reaction.priority)
        ids = tuple([each.fact.id for each in matched])
        run = f"{_run_id(reaction.name, place, ids)}.{number}"
        if reaction.name.startswith(OURS) and not is_alarm(run):
            run = ALARM + run
        coalesce = None if handler.coalesce is None else coalesce_key_of(checked, handler)
        now = deciding.clock.time()
        event_time = now if own_time is None else own_time
        origin = Origin(run, coalesce=coalesce, causes=ids)
        submission: Submission[Any] = Submission(
            deciding.intake, number, checked, handler, priority, event_time, now, origin
        )
        declare(submission)
        return submission

    def _fail(self, reaction: Reaction, fact: Fact, error: BaseException) -> None:
        text = f"{type(error).__name__}: {_text(error)}"
        self._link(fact.id)
        self._failed.append((reaction.name, fact.id, text))
        if self._deciding.alarms and not is_alarm(fact.id):
            payload = {"reaction": reaction.name, "fact": fact.id, "error": text}
            alarm = Reaction(REACTION_FAILED, lambda _: None, None, (), (), Priority.NORMAL)
            matched = (MatchedFact(fact, ()),)
            made = self._submission(alarm, make_alarm(REACTION_FAILED, payload), matched, reaction.name, 1)
            self._started.append(made)
            self._link(fact.id)[1].append(made.id)

    def _link(self, fact: str) -> tuple[list[str], list[str]]:
        return self._links.setdefault(fact, ([], []))

    def decision(self, facts: tuple[Fact, ...]) -> Decision:
        composites = self._deciding.composites
        self._half_met, swept = sweep(
            self._half_met, lambda place: composites[place][1] if place in composites else None
        )
        for composite, key, waiting in swept:
            self._forget(composite, key, waiting)
        return Decision(
            facts=facts,
            half_met=self._half_met,
            started=tuple(self._started),
            waiting=tuple(self._waiting.values()),
            gone=tuple(self._gone),
            links={fact: Link(tuple(matched), tuple(started)) for fact, (matched, started) in self._links.items()},
            failed=tuple(self._failed),
            by=self._by,
        )


def _hit(composite: Composite, fact: Fact) -> tuple[Composite, str, list[tuple[int, tuple[int, ...]]]] | None:
    """Where the fact may take part in a composite, and under which key; None if nowhere."""
    hits = []
    for part, conditions in enumerate(composite.parts):
        met = tuple([number for number, leaf in enumerate(conditions) if meets(leaf, fact)])
        if met:
            hits.append((part, met))
    if not hits:
        return None
    key = key_of(composite, fact)
    return None if key is None else (composite, key, hits)


def _triggers(returned: Any) -> tuple[Trigger[Any], ...]:
    if returned is None:
        return ()
    if isinstance(returned, Trigger):
        return (returned,)
    if isinstance(returned, (str, bytes)) or not isinstance(returned, Iterable):
        raise TypeError(f"it returned {returned!r}: return a Trigger, several of them, or None")
    found = tuple(returned)
    for each in found:
        if not isinstance(each, Trigger):
            raise TypeError(f"it returned {each!r} among others: return a Trigger, several of them, or None")
    return found


def _run_id(reaction: str, place: str, facts: Sequence[str]) -> str:
    """The same for the same reaction and facts, and of one length, however long a chain of reactions becomes."""
    digest = blake2b("\0".join([reaction, place, *facts]).encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()
    return f"{ALARM if any(map(is_alarm, facts)) else ''}r{digest}"


def _text(error: BaseException) -> str:
    try:
        return str(error).encode("utf-8", "backslashreplace").decode()
    except Exception:
        return "(the exception gives no text)"
