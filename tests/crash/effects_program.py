"""The program that is killed: orders that release effects. `python -m tests.crash.effects_program JOURNAL OUTSIDE MOMENT N`.

Owns the system of one life. What the effects do to the outside world is a line in the file OUTSIDE, which outlives the
process as the outside world does. At the N-th time that it comes to the named moment the process kills itself with
SIGKILL; with "-" it lives until everything has ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqtor import Collection, EffectContext, Record, Retry, Supervisor, Transaction, Trigger
from seqtor.actors.effects.execution import Workshop
from seqtor.actors.journal.checkpoints import Checkpoints
from seqtor.actors.journal.sqlite import SqliteBackend

__all__ = ["EFFECTS", "MOMENTS", "ORDERS", "PLAN", "make_system"]

ORDERS = 4
# Per order: the name of the effect, and whether it returns a trigger.
PLAN = [("place", True), ("notify", True), ("place", False), ("refuse", False), ("notify", False)]
EFFECTS = ORDERS * len(PLAN)


class Line(Record):
    """What an effect is told."""

    order: int
    index: int
    returns: bool


class Order(Trigger[int]):
    """Releases the effects of the plan."""

    number: int


class Acknowledged(Trigger[None]):
    """What an effect returns."""

    key: str


def make_system(journal: Path, arrive: Callable[[EffectContext, Line], None]) -> Supervisor:
    """The system under test; `arrive` is called by every try, and does to the outside world what there is to do."""
    system = Supervisor(journal)
    lines = system.store("lines", Collection(Line))

    @system.effect("place")
    def place(context: EffectContext, line: Line) -> Trigger[Any] | None:
        arrive(context, line)
        return Acknowledged(key=context.key) if line.returns else None

    @system.effect("notify")
    async def notify(context: EffectContext, line: Line) -> Trigger[Any] | None:
        arrive(context, line)
        return Acknowledged(key=context.key) if line.returns else None

    @system.effect("refuse", retry=Retry(2, backoff=0.001))
    def refuse(context: EffectContext, line: Line) -> None:
        arrive(context, line)
        raise ValueError("refused")

    functions: dict[str, Any] = {"place": place, "notify": notify, "refuse": refuse}

    @system.on(Order)
    def order(trigger: Order, tx: Transaction) -> int:
        for index, (name, returns) in enumerate(PLAN):
            line = Line(order=trigger.number, index=index, returns=returns)
            tx[lines][f"{trigger.number}.{index}"] = line
            tx.effect(functions[name], line)
        return trigger.number

    @system.on(Acknowledged)
    def acknowledged(trigger: Acknowledged, tx: Transaction) -> None:
        tx[lines][trigger.key] = Line(order=-1, index=0, returns=False)

    return system


class Fate:
    """Kills the process when it comes to its moment for the n-th time."""

    def __init__(self, moment: str, count: int) -> None:
        self._moment = moment
        self._left = count
        self._lock = threading.Lock()

    def come_to(self, moment: str) -> None:
        with self._lock:
            if moment == self._moment:
                self._left -= 1
                if self._left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)


def arm(fate: Fate) -> None:
    """Have the runtime tell its fate where it is."""

    def around(owner: Any, name: str, before: Callable[..., list[str]], after: Callable[..., list[str]]) -> None:
        original = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            for moment in before(*arguments):
                fate.come_to(moment)
            found = original(*arguments, **named)
            for moment in after(*arguments):
                fate.come_to(moment)
            return found

        setattr(owner, name, wrapped)

    around(SqliteBackend, "append", lambda _, group: written("before", group), lambda _, group: written("after", group))
    around(Workshop, "arguments", lambda *_: ["before an effect begins"], lambda *_: [])
    around(Checkpoints, "take", lambda *_: ["before a checkpoint is taken"], lambda *_: [])
    around(
        SqliteBackend,
        "finish_checkpoint",
        lambda *_: ["before a checkpoint is finished"],
        lambda *_: ["after a checkpoint was finished"],
    )


def written(when: str, group: Any) -> list[str]:
    """Which moments the writing of a group is."""
    types = [json.loads(commit.body)["trigger"]["type"] for commit in group.commits]
    ends = [json.loads(entry.body) for entry in group.entries if entry.kind == "effect"]
    what = {
        "a commit with effects": "Order" in types,
        "an end with a trigger": any("submitted" in end for end in ends),
        "the end of an effect": any("submitted" not in end and "error" not in end for end in ends),
        "a dead letter": any("error" in end for end in ends),
        "the run of a returned trigger": "Acknowledged" in types,
    }
    return [f"{when} {each} is written" for each, is_in_it in what.items() if is_in_it]


MOMENTS = [
    *(
        f"{when} {what} is written"
        for when in ("before", "after")
        for what in (
            "a commit with effects",
            "an end with a trigger",
            "the end of an effect",
            "a dead letter",
            "the run of a returned trigger",
        )
    ),
    "before an effect begins",
    "before the outside world hears of it",
    "after the outside world has heard of it",
    "before a checkpoint is taken",
    "before a checkpoint is finished",
    "after a checkpoint was finished",
]


def main(journal: str, outside: str, moment: str, count: str) -> None:
    """One life: everything is submitted under its key, then waited for."""
    fate = Fate(moment, int(count))
    arm(fate)
    file = os.open(outside, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def arrive(context: EffectContext, line: Line) -> None:
        fate.come_to("before the outside world hears of it")
        heard = {"key": context.key, "seq": context.seq, "attempt": context.attempt, "pid": os.getpid()}
        os.write(file, (json.dumps({**heard, "line": line.model_dump()}) + "\n").encode())
        fate.come_to("after the outside world has heard of it")

    system = make_system(Path(journal), arrive)
    with system:
        for number in range(ORDERS):
            assert system.submit(Order(number=number), idempotency_key=str(number)).result(30) == number
        stats = system.stats()
        while stats.effects_through < stats.committed_through or stats.durable_through < stats.committed_through:
            os.sched_yield()
            stats = system.stats()


if __name__ == "__main__":
    main(*sys.argv[1:])
