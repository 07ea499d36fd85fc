"""Messages of the reactor, and what can be asked about reactions and events."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic_core import from_json

from seqtor.messages.message import message
from seqtor.messages.runs import State

__all__ = [
    "EventRecord",
    "FactsFound",
    "FactsMatched",
    "HalfMetComposite",
    "HoldReactions",
    "Lineage",
    "MatchFacts",
    "ReactionRecorded",
    "ReactionState",
]


@message
class FactsFound:
    """From: the ledger, when something has become durable that interests a reaction. To: reactor. Answer: none.

    Twice: the second finds nothing new.
    """


@message
class MatchFacts:
    """From: reactor. To: a matcher on `pool`. Answer: `FactsMatched`. Twice: matched twice, the second is ignored.

    `facts` in append order; `half_met` is what waits before them. `excluded` are the calls of users' functions that did not
    return: (reaction, id of the fact, what).
    """

    batch: int
    attempt: int
    facts: tuple[Any, ...]
    half_met: Any
    excluded: frozenset[tuple[str, str, str]]


@message
class FactsMatched:
    """From: the matcher, or its watch. To: reactor. Answer: none. Twice: the second is ignored, as is one that is too late.

    `decision` is what follows from the facts; or it is None and `stuck` is the call that did not return in time.
    """

    batch: int
    attempt: int
    decision: Any = None
    stuck: tuple[str, str, str] | None = None


@message
class ReactionRecorded:
    """From: journal, as its answer to `AppendEntry`. To: reactor. Answer: none; the record `number` is on disk.

    Twice: the second is ignored.
    """

    number: int


@message
class HoldReactions:
    """From: the system that stops or has broken down. To: reactor. Answer: none; nothing more is matched.

    What is not matched is matched after the next start. Twice: harmless.
    """


class HalfMetComposite(NamedTuple):
    """A composite that waits for more facts: its key, the ids of those that it has by part, and since when (POSIX seconds).

    `waits_for` are the parts for which it has none.
    """

    condition: str
    key: str
    facts: tuple[tuple[str, ...], ...]
    waits_for: tuple[str, ...]
    since: float


class ReactionState(NamedTuple):
    """A reaction: its name and condition, how many runs it has started and how often it has failed since the start.

    `known` is False for one of which the journal holds half-met composites and that the program does not register.
    """

    name: str
    condition: str
    started: int
    failed: int
    last_failure: str | None
    half_met: tuple[HalfMetComposite, ...]
    known: bool = True


class EventRecord(NamedTuple):
    """An event that was recorded: `emitter` is the run that emitted it, None for one from outside; POSIX seconds.

    `matched` are the reactions whose condition, or a part of it, it has met; `started` the runs that followed from it.
    """

    id: str
    seq: int
    time: float
    code: str
    payload_json: str
    emitter: str | None
    matched: tuple[str, ...] = ()
    started: tuple[str, ...] = ()

    @property
    def payload(self) -> Any:
        """What was emitted with it: a copy of the JSON value."""
        return from_json(self.payload_json)


class Lineage(NamedTuple):
    """A run and what followed from it: what it submitted, what reactions started because of it, what its effects returned.

    `code` is that of an event; `caused_by` is the run that submitted it, or the ids of the facts of which a reaction has
    made it. What has no record, because it waits or has ended without a seq, has its run id alone. `followed` is in the
    order in which it was started; a run with several causes is below one of them. It has 100 levels at most.
    """

    run: str
    seq: int | None = None
    trigger: str | None = None
    code: str | None = None
    state: State | None = None
    caused_by: tuple[str, ...] = ()
    followed: tuple[Lineage, ...] = ()
