"""Random programs, executed in parallel, come to the same when they are executed again: in any order, on any threads."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from seqtor import Supervisor
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.memory import MemoryBackend
from tests.properties.execution import Case, Desk, cases, examples, switching_often, wait_for


def submit_all(desk: Desk, between: Any) -> None:
    """Hand in what the case says and wait for all of it."""
    submissions = []
    for trigger, each in desk.triggers():
        submissions.append(desk.system.submit(trigger, priority=each.priority))
        for _ in range(each.gap):
            between()
    wait_for(submissions)


def recorded_chain(system: Supervisor) -> str:
    """The hash chain as it is kept."""
    with system._history() as (history, through):
        return (history.chain_before(through + 1) or b"").hex()


def check_replay(system: Supervisor, count: int) -> None:
    """One worker, many workers, in any order: the chain is the recorded one."""
    chain = recorded_chain(system)
    for workers, shuffle in ((1, None), (16, 1), (3, 2)):
        report = system.verify(workers=workers, shuffle=shuffle)
        assert (report.chain, report.executed, report.last) == (chain, count, count)


@examples(60)
@given(case=cases, seed=st.integers(0, 2**32 - 1), journaled=st.booleans())
def test_any_program_gives_the_same_chain_again_under_any_order_of_execution(
    case: Case, seed: int, journaled: bool
) -> None:
    simulation = SimulatedDispatchers(seed, threads=case.threads)
    backend = MemoryBackend() if journaled else None
    desk = Desk(case, Supervisor(backend, dispatchers=lambda _: simulation), pause=lambda ticks: None, tick_s=0.0)
    with desk.system as system:
        submit_all(desk, simulation.step)
        check_replay(system, len(case.submitted))
    if journaled:  # Stopped: the journal is opened for reading.
        check_replay(system, len(case.submitted))


@examples(25, shrink=False)
@given(case=cases)
def test_any_program_that_ran_on_real_threads_gives_the_same_chain_again(case: Case) -> None:
    with switching_often():
        system = Supervisor(MemoryBackend(), settings={"threads": case.threads})
        desk = Desk(case, system, pause=lambda ticks: None, tick_s=0.0)
        with system:
            submit_all(desk, lambda: None)
            check_replay(system, len(case.submitted))
