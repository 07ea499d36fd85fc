"""Random programs, executed in parallel, come to the same when they are executed again: in any order, on any threads."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from seqtor import SeqtorError, Supervisor
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.encoding import GENESIS
from seqtor.actors.journal.memory import MemoryBackend
from tests.programs import WAIT_S, Deposit, Transfer, open_bank
from tests.properties.execution import NEVER, Case, Desk, cases, examples, switching_often, wait_for

ROOT = Path(__file__).parents[2]
ELSEWHERE = """
import sys
from seqtor import Supervisor
from tests.programs import open_bank

system = Supervisor(sys.argv[1])
open_bank(system, a=40, b=5)
print(system.verify(workers=int(sys.argv[2]), shuffle=int(sys.argv[3])).chain)
"""


def submit_all(desk: Desk, between: Any) -> None:
    """Hand in what the case says and wait for all of it."""
    submissions = []
    for trigger, each in desk.triggers():
        submissions.append(desk.system.submit(trigger, priority=each.priority))
        for _ in range(each.gap):
            between()
    wait_for(submissions)


def recorded_chain(system: Supervisor) -> str:
    """The hash of the record that was appended last, as it is kept."""
    with system._history() as (history, through):
        hashes = {0: GENESIS}
        left = {}
        for row in history.rows(1, through):
            hashes[row.seq] = row.chain
            left[json.loads(row.body)["previous"]] = row.seq
        last = 0
        while last in left:
            last = left[last]
        return hashes[last].hex()


def check_replay(system: Supervisor, count: int) -> None:
    """One worker, many workers, in any order: the chain is the recorded one."""
    chain = recorded_chain(system)
    for workers, shuffle in ((1, None), (16, 1), (3, 2)):
        report = system.verify(workers=workers, shuffle=shuffle)
        assert (report.chain, report.executed) == (chain, count)
        assert report.last == count + report.skipped.get("deferred", 0)


@examples(60)
@given(case=cases, seed=st.integers(0, 2**32 - 1), journaled=st.booleans())
def test_any_program_gives_the_same_chain_again_under_any_order_of_execution(
    case: Case, seed: int, journaled: bool
) -> None:
    simulation = SimulatedDispatchers(seed, threads=case.threads)
    backend = MemoryBackend() if journaled else None
    desk = Desk(
        case,
        Supervisor(backend, dispatchers=lambda _: simulation, settings=NEVER),
        pause=lambda ticks: None,
        tick_s=0.0,
    )
    with desk.system as system:
        submit_all(desk, simulation.step)
        check_replay(system, len(case.submitted))
    if journaled:  # Stopped: the journal is opened for reading.
        check_replay(system, len(case.submitted))


@examples(25, shrink=False)
@given(case=cases)
def test_any_program_that_ran_on_real_threads_gives_the_same_chain_again(case: Case) -> None:
    with switching_often():
        system = Supervisor(MemoryBackend(), settings={"threads": case.threads, **NEVER})
        desk = Desk(case, system, pause=lambda ticks: None, tick_s=0.0)
        with system:
            submit_all(desk, lambda: None)
            check_replay(system, len(case.submitted))


@examples(3, shrink=False)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_new_process_with_another_hash_seed_gives_the_same_chain(seed: int) -> None:
    choose = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        system = Supervisor(Path(folder) / "bank.db", settings={"threads": 4})
        open_bank(system, a=40, b=5)
        with system:
            submissions = [
                system.submit(
                    Transfer(source=choose.choice("abc"), target=choose.choice("abcd"), amount=choose.randrange(20))
                    if choose.random() < 0.8
                    else Deposit(account=choose.choice("abc"))
                )
                for _ in range(200)
            ]
            for submission in submissions:
                with suppress(SeqtorError):
                    submission.result(WAIT_S)
            chain = recorded_chain(system)
        for workers, hash_seed in ((1, seed % 1000 + 1), (16, seed % 1000 + 2)):
            done = subprocess.run(
                [sys.executable, "-c", ELSEWHERE, str(Path(folder) / "bank.db"), str(workers), str(hash_seed)],
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (done.stdout.strip(), done.stderr) == (chain, "")
