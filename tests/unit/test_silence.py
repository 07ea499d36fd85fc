"""The library prints nothing until the program asks for its log, and then each line says what it is about."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, sys, threading
import seqtor
from seqtor import *
from seqtor.messages import Write

class Account(Record):
    balance: int = 0

class Act(Trigger[str]):
    how: str

class Stumbling(StoreActor):
    def recover(self, checkpoint): return 0
    def validate(self, old, new, commit): raise OSError("disk")
    @staticmethod
    def fold(state, writes): return state + len(writes)
    @staticmethod
    def view(access): return access

gate = threading.Event()
system = Supervisor(settings={"threads": 2})
accounts = system.store("accounts", Collection(Account, invariants=[lambda book: len(book) < 2]))
stumbling = system.store("stumbling", Stumbling.spec())

@system.on(Act, deadline=0.05)
def act(trigger, tx):
    if trigger.how == "reject":
        raise Rejected("no")
    if trigger.how == "fail":
        raise ValueError("wrong")
    if trigger.how == "exit":
        raise SystemExit(3)
    if trigger.how == "hang":
        gate.wait(10)
        tx[accounts]["late"] = Account()
    if trigger.how == "unserialisable":
        return object()
    if trigger.how == "break":
        tx[accounts].update(a=Account(), b=Account())
    if trigger.how == "crash":
        tx[stumbling].write("a", 1)
    if trigger.how == "conflict":
        for _ in range(50):
            tx[accounts].get("a")
        tx[accounts]["a"] = Account(balance=tx[accounts].get("a", Account()).balance + 1)
    return "done"

class Later(Trigger[None]):
    pass

@system.on(Later)
async def later(trigger, tx):
    await asyncio.sleep(3600)

if "--enable" in sys.argv:
    from loguru import logger
    logger.remove()
    logger.add(sys.stdout, level="DEBUG", format="{level}|{extra}|{message}")
    logger.enable("seqtor")

system.start()
ways = ["reject", "fail", "exit", "hang", "unserialisable", "break", "crash", *["conflict"] * 30]
for submission in system.submit_many([Act(how=how) for how in ways]):
    try:
        submission.result(20)
    except SeqtorError:
        pass
gate.set()
system.tell(Later())
try:
    system.tell(None)
except UnknownTrigger:
    pass
system.stop(grace=0.01)
"""


def run(*arguments: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout, done.stderr


def test_nothing_is_printed_whatever_goes_wrong() -> None:
    assert run() == ("", "")


def test_a_program_that_enables_the_log_hears_of_every_bad_ending() -> None:
    out, _ = run("--enable")
    lines = out.splitlines()
    endings = {
        "rejected: no": "DEBUG",
        "failed: wrong": "WARNING",
        "deadline: Act at seq 4 ran longer": "WARNING",
        "rejected: invariant": "DEBUG",
    }
    for ending, expected in endings.items():
        (line,) = [line for line in lines if ending in line]
        level, extra, _ = line.split("|", 2)
        assert level == expected
        assert "'seq': " in extra
        assert "'trigger': 'Act'" in extra
        assert "'actor': 'coordinator'" in extra
    assert sum("StoreCell crashed (OSError: disk): store 'stumbling' is restarted" in line for line in lines) == 3
    assert any("work was left after a grace of 0.01 s" in line for line in lines)
