"""The program that is killed: events, failures and what they start.

`python -m tests.crash.reactions_program JOURNAL MOMENT N` is one life: at the N-th time that it comes to the named moment
the process kills itself with SIGKILL; with "-" it lives until everything has ended. PLAIN is a life before it
had reactions.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from seqtor import (
    Collection,
    Facts,
    HandlerFailed,
    Record,
    Supervisor,
    Transaction,
    Trigger,
    on_event,
    on_failure,
    on_result,
)
from seqtor.actors.journal.checkpoints import Checkpoints
from seqtor.actors.journal.sqlite import SqliteBackend
from seqtor.actors.reactor.deciding import Deciding
from tests.crash.effects_program import Fate

__all__ = ["EXPECTED", "MOMENTS", "PLAIN", "make_system"]

NUMBERS = range(3)
PLAIN = "an event without reactions"
EXPECTED = {
    f"{what} {number}": 1 for number in NUMBERS for what in ("first", "second", "both", "failed", "then")
}  # fmt: skip


class Entry(Record):
    """How often something was noted."""

    count: int = 0


class Note(Trigger[str]):
    """What a reaction starts."""

    text: str


class Fail(Trigger[None]):
    """Fails."""

    number: int


def make_system(journal: Path, *, reacting: bool = True) -> Supervisor:
    """The system under test: single facts, a composite, a failure, and a reaction to what a reaction has started."""
    system = Supervisor(journal)
    notes = system.store("notes", Collection(Entry))
    first, second = on_event("first"), on_event("second")

    @system.on(Note)
    def note(trigger: Note, tx: Transaction) -> str:
        tx[notes].increment(trigger.text, count=1)
        return trigger.text

    @system.on(Fail)
    def fail(trigger: Fail, tx: Transaction) -> None:
        raise ValueError(str(trigger.number))

    if not reacting:
        return system

    @system.when(first | second)
    def single(facts: Facts) -> Note:
        return Note(text=f"{facts.event.code} {facts.event.payload}")

    @system.when((first & second).correlate(lambda fact: fact.payload))
    def both(facts: Facts) -> Note:
        return Note(text=f"both {facts[first].payload}")

    @system.when(on_failure(Fail, ValueError))
    def failed(facts: Facts) -> Note:
        return Note(text=f"failed {facts.failure.message}")

    @system.when(on_result(Note, where=lambda text: text.startswith("both")))
    def then(facts: Facts) -> Note:
        return Note(text=f"then {facts.result.result[5:]}")

    return system


def arm(fate: Fate) -> None:
    """Have the runtime tell its fate where it is."""
    append, take, finish = SqliteBackend.append, Checkpoints.take, SqliteBackend.finish_checkpoint
    decide = Deciding.decide

    def appending(self: SqliteBackend, group: Any) -> None:
        moments = moments_of(group)
        for moment in moments:
            fate.come_to(f"before {moment} is written")
        append(self, group)
        for moment in moments:
            fate.come_to(f"after {moment} is written")

    def deciding(self: Deciding, *arguments: Any) -> Any:
        fate.come_to("before facts are matched")
        found = decide(self, *arguments)
        fate.come_to("after facts are matched")
        return found

    def taking(self: Any, *arguments: Any, **named: Any) -> Any:
        fate.come_to("before a checkpoint is taken")
        return take(self, *arguments, **named)

    def finishing(self: Any, *arguments: Any, **named: Any) -> Any:
        fate.come_to("before a checkpoint is finished")
        found = finish(self, *arguments, **named)
        fate.come_to("after a checkpoint is finished")
        return found

    SqliteBackend.append, Checkpoints.take = appending, taking  # type: ignore[method-assign]
    SqliteBackend.finish_checkpoint, Deciding.decide = finishing, deciding  # type: ignore[method-assign]


def moments_of(group: Any) -> list[str]:
    """Which moments the writing of a group is."""
    types = {json.loads(commit.body)["trigger"]["type"] for commit in group.commits}
    kinds = {entry.kind for entry in group.entries}
    what = {
        "an accepted event": "accepted" in kinds,
        "an event": "seqtor.event" in types,
        "a failure": "Fail" in types,
        "a decision": "reaction" in kinds,
        "a started run": "Note" in types,
    }
    return [name for name, is_in_it in what.items() if is_in_it]


MOMENTS = [
    *(
        f"{when} {what} is written"
        for what in ("an event", "a failure", "a decision", "a started run")
        for when in ("before", "after")
    ),
    "before facts are matched",
    "after facts are matched",
    "before a checkpoint is taken",
    "before a checkpoint is finished",
    "after a checkpoint is finished",
]


def main(journal: str, moment: str, count: str) -> None:
    """One life: everything is handed in under its key."""
    arm(Fate(moment, int(count)))
    if moment == PLAIN:
        with make_system(Path(journal), reacting=False) as system:
            system.emit("first", PLAIN)
            system.snapshot(seq=1)
            os.kill(os.getpid(), signal.SIGKILL)
    with make_system(Path(journal)) as system:
        for number in NUMBERS:
            system.emit("first", number, idempotency_key=f"first {number}")
            with contextlib.suppress(HandlerFailed):
                system.ask(Fail(number=number), idempotency_key=f"fail {number}", timeout=30)
            system.emit("second", number, idempotency_key=f"second {number}")


if __name__ == "__main__":
    main(*sys.argv[1:])
