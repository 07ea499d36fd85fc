"""Who executes effects: actors with a thread each, and one on the loop.

Owns them and who of them is free. It outlives the effects' actor, so that a crash of that one leaves no threads behind. On
the core only.
"""

from __future__ import annotations

from seqtor.actors.base import Ref
from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.effects.execution import EffectTasks, EffectWorker, Workshop
from seqtor.actors.mailbox import Mailbox
from seqtor.messages.effects import ReportFree

__all__ = ["Workforce"]

THREADS_MAX = 32
TASKS_MAX = 1000


class Workforce:
    """The workers of one system; `effects` is the mailbox that they tell how an execution ended."""

    def __init__(self, workshop: Workshop, dispatchers: Dispatchers) -> None:
        self._workshop = workshop
        self._dispatchers = dispatchers
        self._busy: dict[str, Ref] = {}
        self._idle: list[Ref] = []
        self._tasks: Ref | None = None
        self._on_loop = 0
        self.effects: Mailbox

    def take_thread(self) -> Ref | None:
        """A worker with nothing to do, made if there may be one more; None if all are busy.

        Raises RuntimeError if there is none at all and no thread to be had.
        """
        worker = self._idle.pop() if self._idle else self._make()
        if worker is not None:
            self._busy[worker.actor_urn] = worker
        return worker

    def _make(self) -> Ref | None:
        count = len(self._busy)
        if count >= THREADS_MAX:
            return None
        try:
            dispatcher = self._dispatchers.dedicated(f"effects-{count + 1}")
        except RuntimeError:  # No more threads to be had.
            if count:
                return None
            raise
        return EffectWorker.start_on(dispatcher, self._workshop, self.effects, parent=self.effects)

    def take_task(self) -> Ref | None:
        """The worker on the loop, for one more; None if it has enough to do."""
        if self._on_loop >= TASKS_MAX:
            return None
        if self._tasks is None:
            loop = self._dispatchers.loop
            self._tasks = EffectTasks.start_on(loop, self._workshop, self.effects, loop, parent=self.effects)
        self._on_loop += 1
        return self._tasks

    def free(self, urn: str) -> None:
        """Take a worker back that has done what it was given. Harmless for a thread that is free."""
        worker = self._busy.pop(urn, None)
        if worker is not None:
            self._idle.append(worker)
        elif self._tasks is not None and self._tasks.actor_urn == urn:
            self._on_loop -= 1

    def lose(self, urn: str) -> None:
        """Forget a worker that has crashed."""
        self._busy.pop(urn, None)
        self._idle = [worker for worker in self._idle if worker.actor_urn != urn]
        if self._tasks is not None and self._tasks.actor_urn == urn:
            self._tasks, self._on_loop = None, 0

    def begin_again(self) -> None:
        """Cancel what runs on the loop, and have threads report when they are free: the effects' actor was restarted.

        It begins anew what has not ended, and a thread may be in the middle of a try that it does not know of.
        """
        tasks, self._tasks, self._on_loop = self._tasks, None, 0
        if tasks is not None:
            tasks.stop(block=False)
        for worker in self._busy.values():
            worker.actor_inbox.tell(ReportFree())

    def all(self) -> tuple[list[Ref], list[Ref]]:
        """Return whom to stop: those at rest, and those that are in a function."""
        tasks = [] if self._tasks is None else [self._tasks]
        return [*self._idle, *tasks], list(self._busy.values())
