"""Random programs in worker processes: the handler, and the stores as it knows them there.

A trigger carries its program and which stores there are, so a worker process needs nothing of the test.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator
from typing import Any

from seqtor import StoreRef, Supervisor, Transaction, Trigger
from tests.properties.execution import NEVER, AsyncProgram, Case, Desk, Submitted, SyncProgram, check, wait_for
from tests.properties.language import Execution, Steps, perform

__all__ = ["run_in_processes"]


class ProcessProgram(Trigger[Any]):
    """A program that runs in a worker process; `pickled` is (stores, steps)."""

    number: int
    pickled: bytes


REFS: dict[bytes, dict[str, StoreRef[Any]]] = {}  # By the pickled stores.


def refs_of(pickled_stores: bytes) -> dict[str, StoreRef[Any]]:
    """The references to the stores: the system's own, or in a worker process such as have the same names."""
    if pickled_stores not in REFS:
        REFS.clear()
        REFS[pickled_stores] = pickle.loads(pickled_stores).register(Supervisor())
    return REFS[pickled_stores]


def execute(trigger: ProcessProgram, tx: Transaction) -> Any:
    pickled_stores, steps = pickle.loads(trigger.pickled)
    run = Execution(tx, refs_of(pickled_stores))
    for _ in perform(steps, run):
        pass
    return run.result


class ProcessDesk(Desk):
    """A case whose sync programs alternate between threads and worker processes."""

    def __init__(self, case: Case, system: Supervisor) -> None:
        super().__init__(case, system, pause=lambda ticks: None, tick_s=0.0)
        system.on(ProcessProgram, executor="process")(execute)

    def triggers(self) -> Iterator[tuple[Trigger[Any], Submitted]]:
        pickled_stores = pickle.dumps(self.case.stores)
        REFS.clear()
        REFS[pickled_stores] = self.refs
        for i, each in enumerate(self.case.submitted):
            if each.is_async:
                yield AsyncProgram(number=i), each
            elif i % 4 == 3:
                yield SyncProgram(number=i), each
            else:
                yield ProcessProgram(number=i, pickled=pickle.dumps((pickled_stores, each.steps))), each

    def steps(self, trigger: Any) -> Steps:
        return self.case.submitted[trigger.number].steps


def run_in_processes(case: Case) -> None:
    """Execute in two worker processes, on threads and on the loop, and compare with the serial oracle."""
    plain = [dataclasses.replace(each, by_completion=False, declares=None) for each in case.submitted]
    case = dataclasses.replace(case, submitted=tuple(plain))
    system = Supervisor(settings={"threads": case.threads, "processes": 2, **NEVER})
    desk = ProcessDesk(case, system)
    with system:
        first = system._running._path.board.newest  # type: ignore[union-attr]
        submissions = [system.submit(trigger, priority=each.priority) for trigger, each in desk.triggers()]
        wait_for(submissions)
        for submission in submissions:  # Executions in other processes are not counted there; the records say how many.
            desk.attempts[desk.number_of(submission)] = system.record(submission.seq or 0).attempts
        check(desk, submissions, first)
        system.verify()  # Executes all of them in this process.
