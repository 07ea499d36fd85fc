"""The crew: the worker processes of one system, and a thread for each.

Owns the queue of runs for worker processes, the processes and their threads. Promises:

* the run with the lowest seq goes first; nothing is executed until its worker has imported the program, so that neither
  the snapshot is old nor the deadline runs while a process starts;
* a process is started when there is a run for it, up to `count`; one that has died is replaced;
* a process in a handler past its deadline, or past the abort of its run, is killed and replaced, counted and reported;
* a thread here waits for its process and nothing else, so that no thread of the pool is held.

No slot is kept for the head of the order, as the pool does: a worker waits for no other run, so the head, which goes before
all others, gets the next one that is free.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

from loguru import logger

from seqtor.actors.dispatchers.contract import Cancellable, Expirable, Timers
from seqtor.actors.dispatchers.dead_letters import log_dead_letter
from seqtor.actors.dispatchers.ready_queue import ReadyQueue
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.processes.answering import Answering
from seqtor.actors.processes.importable import FunctionName
from seqtor.actors.processes.process import WorkerProcess
from seqtor.actors.processes.wire import Job, Preparation, WorkerDied, not_portable
from seqtor.actors.runs import Run
from seqtor.actors.transactions import AttemptAbandoned, Transaction
from seqtor.messages.runs import State

__all__ = ["Crew"]


class Member:
    """One thread and its process."""

    __slots__ = ("attempt", "doomed", "prepared", "process", "thread", "unusable", "watch")

    def __init__(self) -> None:
        self.attempt: Expirable | None = None  # What it executes, from `enter_handler` to `leave_handler`.
        self.process: WorkerProcess | None = None
        self.prepared = False  # Whether it has imported the program.
        self.doomed = False  # The process was killed, by its deadline, an abort or the stop.
        self.unusable: BaseException | None = None  # Why there is no process.
        self.watch: Cancellable | None = None
        self.thread: threading.Thread


class Crew:
    """Worker processes that execute handlers, the run with the lowest seq first."""

    driver = None

    def __init__(self, count: int, timers: Timers, name: str) -> None:
        self.count = count
        self._timers = timers
        self._name = name
        self._changed = threading.Condition()  # Guards all that follows.
        self._queue: ReadyQueue[Mailbox] = ReadyQueue()
        self._members: list[Member] = []
        self._free = 0  # Members that execute nothing: they wait for a run, or for their process.
        self._numbers = itertools.count()
        self._stopping = False
        self._local = threading.local()
        self._preparation: Preparation | None = None
        self.replaced = 0
        self.dead_letter = log_dead_letter

    def start(self, preparation: Preparation) -> None:
        """Start the first process: what is wrong with it is logged before there is a run for it."""
        self._preparation = preparation
        with self._changed:
            self._start_member()

    def stop(self, timeout_s: float) -> list[str]:
        """Let idle processes end in order, kill the others; returns the names of threads that do not end."""
        with self._changed:
            self._stopping = True
            members = list(self._members)
            for member in members:
                if member.attempt is not None or not member.prepared:
                    self._doom(member)
            self._changed.notify_all()
        stuck = []
        for member in members:
            member.thread.join(timeout_s + 6.0 if member.process is not None else timeout_s)
            if member.thread.is_alive():
                stuck.append(member.thread.name)
        return stuck

    # Called by whoever has a run for it ------------------------------------------------------------------------------

    def ready(self, mailbox: Mailbox) -> None:
        with self._changed:
            self._queue.push(mailbox.rank, mailbox)
            self._wake()

    def ready_all(self, mailboxes: Sequence[Mailbox]) -> None:
        """Schedule several mailboxes at once."""
        with self._changed:
            for mailbox in mailboxes:
                self._queue.push(mailbox.rank, mailbox)
                self._wake()

    def _wake(self) -> None:
        self._changed.notify()
        if len(self._queue) > self._free and len(self._members) < self.count and not self._stopping:
            self._start_member()

    def abandon(self, seq: int) -> None:
        """Kill the process that executes the run at `seq`, which was aborted."""
        with self._changed:
            found = [member for member in self._members if member.attempt is not None and member.attempt.seq == seq]
        for member in found:
            self._end_attempt(member, member.attempt, expired=False)

    # Called by a run on the thread of a member -------------------------------------------------------------------------

    def enter_handler(self, attempt: Expirable, deadline_s: float) -> None:
        member: Member = self._local.member
        with self._changed:
            member.attempt = attempt
        member.watch = self._timers.call_after(deadline_s, lambda: self._end_attempt(member, attempt, expired=True))

    def leave_handler(self) -> bool:
        member: Member = self._local.member
        if member.watch is not None:
            member.watch.cancel()
            member.watch = None
        with self._changed:
            was_ours, member.attempt = member.attempt is not None, None
        return was_ours

    def execute(self, run: Run, transaction: Transaction) -> tuple[State, Any, BaseException | None]:
        """Have this thread's process execute an attempt; returns its outcome, its result and its error.

        Raises AttemptAbandoned if the attempt is over, WorkerDied if the process has ended in it, and what keeps it from
        being executed at all.
        """
        member: Member = self._local.member
        process = member.process
        if process is None:
            raise member.unusable or WorkerDied("there is no worker process")
        submission, first = run.submission, run.first_snapshot
        job = Job(
            FunctionName.of(submission.handler.function), submission.trigger, run.seq, transaction.attempt, submission.id,
            submission.sequenced_at, transaction.snapshot_seq, transaction.snapshot_seq if first is None else first.seq,
            None if submission.origin is None else submission.origin.scheduled,
        )  # fmt: skip
        answering = Answering(process.link, process.shipped, run, transaction)
        try:
            process.link.send(job)
        except WorkerDied:
            pass  # As if it had died a moment later.
        except Exception as error:
            raise not_portable(f"the trigger {submission.handler.name}", error) from error
        try:
            return answering.until_finished()
        except WorkerDied:
            fate = self._bury(member, process)
            if not transaction.is_live:
                raise AttemptAbandoned from None
            text = f"the worker process {process.pid} {fate} in {submission.handler.name} at seq {run.seq}"
            about = {"seq": run.seq, "attempt": transaction.attempt, "trigger": submission.handler.name}
            logger.bind(**about, actor="crew").warning(text)
            raise WorkerDied(text) from None
        finally:
            if not answering.is_over and member.process is process:  # Nobody knows what it would say next.
                process.kill()
                self._bury(member, process)

    def adapt(self, *, conflicted: bool) -> None:
        """One run at a time in each process anyway."""

    def start_coroutine(self, coroutine: Any, attempt: Expirable, deadline_s: float) -> Cancellable:
        raise NotImplementedError("async handlers run on the loop dispatcher")

    # Members -----------------------------------------------------------------------------------------------------------

    def _start_member(self) -> None:
        member = Member()
        name = f"{self._name}-worker-{next(self._numbers)}"
        member.thread = threading.Thread(target=self._work, args=(member,), name=name, daemon=True)
        self._members.append(member)
        self._free += 1
        try:
            member.thread.start()
        except RuntimeError as error:  # No more threads to be had.
            self._members.remove(member)
            self._free -= 1
            if not self._members:
                raise
            logger.error("{}: one worker process less: {}", self._name, error)

    def _work(self, member: Member) -> None:
        self._local.member = member
        while True:
            self._see_to_process(member)
            mailbox = self._take()
            if mailbox is None:
                break
            self._see_to_process(member)  # Once more, if it could not be started while there was no run for it.
            mailbox.run()
            with self._changed:
                self._free += 1
        process, member.process = member.process, None
        if process is not None and not member.doomed:
            process.end()
        elif process is not None:
            process.bury()

    def _take(self) -> Mailbox | None:
        """Wait for the next run; None at the stop."""
        with self._changed:
            while not self._stopping:
                if len(self._queue):
                    self._free -= 1
                    return self._queue.pop()
                self._changed.wait()
        return None

    def _see_to_process(self, member: Member) -> None:
        """Start a process if there is none; if that fails, the run that needs it is told."""
        if member.process is not None and member.doomed:  # Its handler had just returned when it was killed.
            self._bury(member, member.process)
        if member.process is not None or self._stopping:
            return
        member.unusable = None
        member.doomed = member.prepared = False
        assert self._preparation is not None  # Set at the start, before there is a member.
        process = None
        try:
            process = WorkerProcess()
            with self._changed:
                member.process = process
                if self._stopping:
                    process.kill()
            process.prepare(self._preparation)
            with self._changed:
                member.prepared = True
        except (Exception, WorkerDied) as error:
            if process is not None and isinstance(error, WorkerDied):
                error = WorkerDied(f"the worker process {process.pid} {process.bury()} while it imported the program")
            elif process is not None:
                process.kill()
                process.bury()
            with self._changed:
                member.process = None
                member.unusable = error
            if not self._stopping:
                logger.bind(actor="crew").error("{}", error)

    def _bury(self, member: Member, process: WorkerProcess) -> str:
        with self._changed:
            member.process = None
            self.replaced += 1
        return process.bury()

    def _end_attempt(self, member: Member, attempt: Expirable | None, *, expired: bool) -> None:
        """Kill the process of a member if it still executes the attempt."""
        with self._changed:
            if attempt is None or member.attempt is not attempt:
                return
            name, seq = attempt.handler_name, attempt.seq
            # First: the thread that finds its process dead has to find its attempt over.
            attempt.expire() if expired else attempt.abandon()
            member.attempt = None
            self._doom(member)
        logger.bind(seq=seq, trigger=name, actor="crew").warning(
            "a worker process was killed in {} (seq {}), past its {}; a new one takes its place",
            name, seq, "deadline" if expired else "abort",
        )  # fmt: skip

    def _doom(self, member: Member) -> None:
        member.doomed = True
        if member.process is not None:
            member.process.kill()
