"""The program of a worker process: imports the system's program, executes handlers, ends when the system does.

Owns the process. Promises: one handler at a time, on the main thread; when the socket to the system ends, so does the
process, also in the middle of a handler; interrupts and terminations of the process group are the system's to act upon;
what handlers have opened here is closed at an ordered stop.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import threading
from collections.abc import Sequence
from importlib import import_module
from multiprocessing import spawn
from typing import Any

from seqtor.actors.mailbox import Mailbox
from seqtor.actors.processes.remote import Program, WorkerRun
from seqtor.actors.processes.wire import (
    Broken,
    Finished,
    Job,
    Link,
    Preparation,
    Ready,
    WorkerDied,
    not_portable,
    packed,
)
from seqtor.actors.registering import starts_refused
from seqtor.actors.resources import Opened, ResourceRef, Resources
from seqtor.messages.errors import RegistrationError
from seqtor.messages.runs import State

__all__ = ["main"]

LEFT_ALONE = (signal.SIGINT, signal.SIGTERM)
PARENT_S = 5.0  # How often to look for the parent by its id; a fork of it may keep the socket open.


def main(fd: int) -> None:
    """Live as a worker process of the system at the other end of `fd`."""
    for number in LEFT_ALONE:  # Not SIG_IGN, which programs that a handler starts would inherit.
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_ALONE)
    threading.Thread(target=_end_with_the_system, args=(fd, os.getppid()), name="seqtor-lifeline", daemon=True).start()
    link = Link(fd)
    resources = None
    try:
        preparation = link.receive()
        if not _prepare(link, preparation):
            return
        resources = WorkerResources(preparation.resources)
        program = Program(link, preparation, resources.open_here)
        while (job := link.receive()) is not None:
            link.send(_execute(program, job))
    except WorkerDied:  # The system is gone.
        pass
    finally:
        if resources is not None:
            resources.close()


def _end_with_the_system(fd: int, parent: int) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # Nothing but that the other end is gone.
    while not poll.poll(PARENT_S * 1000):
        if os.getppid() != parent:
            break
    os._exit(1)


def _prepare(link: Link, preparation: Preparation) -> bool:
    try:
        with starts_refused():
            spawn.prepare(preparation.main)
            for name in preparation.names:
                import_module(name.module)
        for name in preparation.names:
            name.require_here()
    except BaseException as error:
        link.send(Broken(packed(error)))
        return False
    link.send(Ready())
    return True


def _execute(program: Program, job: Job) -> Finished:
    """Execute a job; what it came to is ready to cross."""
    name = job.trigger.trigger_name
    run = WorkerRun(program, job)
    run.execute()
    reads = tuple([(each.store, dict(each.keys), each.ranges, each.whole) for each in run.accesses])
    writes = [each.writes for each in run.accesses]
    outcome, result, error = run.outcome, run.result, run.error
    raw_error = None if error is None else packed(error)
    try:
        rest = pickle.dumps((writes, result, raw_error), protocol=5)
    except Exception as misfit:
        what = f"the result of {name}" if _crosses(writes) else f"what {name} writes"
        outcome = State.FAILED
        rest = pickle.dumps(([()] * len(reads), None, packed(not_portable(what, misfit))), protocol=5)
    del run, error
    return Finished(outcome.value, reads, rest)


def _crosses(value: Any) -> bool:
    try:
        pickle.dumps(value, protocol=5)
    except Exception:
        return False
    return True


class WorkerResources(Resources):
    """The resources of this process: opened at their first use here, on the main thread."""

    driver = None

    def __init__(self, names: Sequence[str]) -> None:
        here: Any = self
        super().__init__((), here)
        self._names = frozenset(names)
        self._opened_here: dict[str, Opened] = {}

    def open_here(self, ref: Any) -> Any:
        """What the resource opened."""
        here: Any = self
        return self.get(ref, here, is_async=False)

    def _of(self, ref: Any) -> Opened:
        if not isinstance(ref, ResourceRef):
            raise TypeError(f"resource() takes the ResourceRef that system.resource() returned, got {ref!r}")
        if ref.name not in self._names:
            raise RegistrationError(f"the resource {ref.name!r} belongs to another system")
        if ref.name not in self._opened_here:
            self._opened_here[ref.name] = Opened(ref)
        return self._opened_here[ref.name]

    # The place where they are opened and closed.

    def ready(self, mailbox: Mailbox) -> None:
        """Run the mailbox on this thread."""
        mailbox.run()

    def dead_letter(self, letter: Any) -> None:
        """Nothing is sent that could become one."""
