"""A process that is killed in the middle of a call: `python -m tests.crash.caller JOURNAL CALLS MOMENT HANDLER`.

Owns the program: a run that asks the outside world twice, and one below it that changes what the first one has read. Each
call that reaches the outside appends its id to the file CALLS. At the named moment the process kills itself with SIGKILL;
with the moment "never" it prints the answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from functools import partial
from typing import Any

from seqtor import Collection, Record, Supervisor, Transaction, Trigger, current_call_id
from seqtor.actors.journal.contract import Group
from seqtor.actors.journal.sqlite import SqliteBackend

__all__ = ["MOMENTS"]

MOMENTS = {  # What the first life calls, and what the second one calls again or for the first time.
    "in the first call": (["first"], ["first", "second"]),
    "before the first answer is written": (["first"], ["first", "second"]),
    "after the first answer was written": (["first"], ["second"]),
    "in the second call": (["first", "second"], ["second"]),
    "before the second answer is written": (["first", "second"], ["second"]),
    "after the second answer was written": (["first", "second"], []),
    "after the calls": (["first", "second"], []),
}


class Level(Record):
    """What is read and changed."""

    level: int = 0


class Consult(Trigger[str]):
    """Asks twice."""


class Change(Trigger[int]):
    """Has the lower seq; commits when the other is in its first call, or after it."""


class Dying(SqliteBackend):
    """Kills the process before or after it writes a certain answer."""

    moment = ""

    def append(self, group: Group) -> None:
        for which in ("first", "second"):
            if any(row.kind == "call" and f"caller.{which}" in row.body for row in group.entries):
                self.come_to(f"before the {which} answer is written")
                super().append(group)
                self.come_to(f"after the {which} answer was written")
                return
        super().append(group)

    def come_to(self, moment: str) -> None:
        if moment == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)


class Outside:
    """The outside world."""

    def __init__(self, path: str, come_to: Any) -> None:
        self.path = path
        self.come_to = come_to
        self.first_was_called = threading.Event()

    def called(self, which: str) -> None:
        with open(self.path, "a", encoding="utf-8") as calls:  # noqa: PTH123
            calls.write(f"{which} {current_call_id()}\n")
        self.come_to(f"in the {which} call")
        self.first_was_called.set()


def first(question: str) -> str:
    OUTSIDE[0].called("first")
    return f"first to {question}"


def second(question: str) -> str:
    OUTSIDE[0].called("second")
    return f"second to {question}"


async def first_async(question: str) -> str:
    await asyncio.sleep(0)
    return first(question)


async def second_async(question: str) -> str:
    await asyncio.sleep(0)
    return second(question)


OUTSIDE: list[Outside] = []


def make_system(backend: Dying, handler: str) -> Supervisor:
    """The program, with a plain handler or a coroutine function, of arrival or (an agent's) of completion."""
    system = Supervisor(backend)
    levels = system.store("levels", Collection(Level, initial={"it": Level()}))

    def question(tx: Transaction) -> str:
        return f"{tx.peek(levels)['it'].level} {tx.now.isoformat()} {tx.uuid4()} {tx.random.random()}"

    def note(tx: Transaction, level: int) -> None:
        backend.come_to("after the calls")
        tx[levels]["it"] = Level(level=level + 1)

    sequence: Any = "completion" if handler.startswith("agent") else "arrival"
    if handler in ("sync", "agent-sync"):

        @system.on(Consult, sequence=sequence)
        def consult(trigger: Consult, tx: Transaction) -> str:
            level = tx[levels]["it"].level
            one = tx.call(first, question(tx))
            two = tx.call(second, one)
            note(tx, level)
            return two
    else:

        @system.on(Consult, sequence=sequence)
        async def consult_async(trigger: Consult, tx: Transaction) -> str:
            level = tx[levels]["it"].level
            one = await tx.acall(first_async, question(tx))
            two = await tx.acall(second_async, one)
            note(tx, level)
            return two

    @system.on(Change)
    def change(trigger: Change, tx: Transaction) -> int:
        # In the life that ends before the first call is over, it is still there when the other is asked again.
        assert OUTSIDE[0].first_was_called.wait(20)
        tx[levels]["it"] = Level(level=tx[levels]["it"].level + 10)
        return tx[levels]["it"].level

    return system


def main(journal: str, calls: str, moment: str, handler: str) -> None:
    """Live until the moment, or to the end."""
    backend = Dying(journal)
    backend.moment = moment
    OUTSIDE.append(Outside(calls, backend.come_to))
    system = make_system(backend, handler)
    with system:
        submit = partial(system.submit, idempotency_key="change")
        changing = submit(Change())
        answer = system.submit(Consult(), idempotency_key="consult")
        if moment == "never":
            OUTSIDE[0].first_was_called.set()  # It may have been answered in the first life.
        print(answer.result(20))
        print(changing.result(20), system.snapshot(answer.seq)[system.stores["levels"]]["it"].level)
        print(system.verify().executed)


if __name__ == "__main__":
    main(*sys.argv[1:])
