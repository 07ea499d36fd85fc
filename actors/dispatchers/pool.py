"""The thread pool: executes run actors, and drives the serial core.

Owns `n` execution slots on `n + 1` threads. Promises:

* the core (`sequencer`, `coordinator`, `committer`, in-memory stores) is driven by one thread at a time, by whichever
  has work for it; another thread is woken only if none is looking for work already;
* the run with the lowest seq goes first, and one slot is kept for the head of the order, so that what everything else
  waits for never waits for a thread;
* the thread beyond the slots always remains for the core: hanging handlers cannot keep it from answering;
* a thread stuck in a handler past its deadline, or past the abort of its run, is replaced, counted and reported.

Invariant behind the waking: if there is work that may be taken, some thread is searching or about to be woken. A thread
counts as *searching* while it looks for work or drives the core, as *executing* inside a mailbox of the pool, and as
*parked* otherwise. A thread that starts to execute wakes another if work is left and nobody is searching.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from loguru import logger

from seqtor.actors.clock import Clock
from seqtor.actors.dispatchers.contract import Cancellable, Expirable, Timers
from seqtor.actors.dispatchers.dead_letters import log_dead_letter
from seqtor.actors.dispatchers.ready_queue import ReadyQueue
from seqtor.actors.mailbox import Mailbox

__all__ = ["Core", "Pool"]


STRETCH_MAX = 32
CALM_BATCHES = 64


class Worker:
    """One thread of the pool: how it is woken, and which attempt it executes until when."""

    __slots__ = ("attempt", "deadline_at", "executing", "retired", "stuck_in", "thread", "wake")

    def __init__(self) -> None:
        self.wake = threading.Lock()
        self.wake.acquire()
        self.executing = False
        self.retired = False
        self.stuck_in: tuple[int, str, float] | None = None  # (seq, trigger, since when), of a retired one.
        self.attempt: Expirable | None = None
        self.deadline_at = 0.0
        self.thread: threading.Thread | None = None


class Core:
    """The serial dispatcher: its mailboxes run one at a time, on a thread of the pool."""

    driver = None
    mailboxes_per_drive = 64

    def __init__(self) -> None:
        self._ready: deque[Mailbox] = deque()
        self._deferred: deque[Callable[[], None]] = deque()
        self._gate = threading.Lock()
        self.pool: Pool
        self.dead_letter = log_dead_letter

    def ready(self, mailbox: Mailbox) -> None:
        self._ready.append(mailbox)
        if not self.pool.searching:
            self.pool.wake_one()

    def after_stretch(self, callback: Callable[[], None]) -> None:
        """Call back on the core when the driving thread has executed a stretch of runs, or has nothing to execute."""
        self._deferred.append(callback)

    def is_behind(self) -> bool:
        """Whether mailboxes wait."""
        return bool(self._ready)

    def has_work(self) -> bool:
        """Whether mailboxes or callbacks wait and no thread drives."""
        return bool(self._ready or self._deferred) and not self._gate.locked()

    def drive(self, *, stretch_ended: bool) -> bool:
        """Run ready mailboxes on the calling thread, a bounded number; False if another thread drives already."""
        if not self._gate.acquire(False):
            return False
        try:
            ready, deferred = self._ready, self._deferred
            for _ in range(self.mailboxes_per_drive):
                if ready:
                    ready.popleft().run()
                elif stretch_ended and deferred:
                    deferred.popleft()()
                else:
                    break
        finally:
            self._gate.release()
        return True


class Pool:
    """Execution slots for run actors with sync handlers, and the threads that drive the core."""

    driver = None

    def __init__(self, core: Core, slots: int, clock: Clock, timers: Timers, name: str) -> None:
        self._core = core
        core.pool = self
        self._slots = slots
        self._clock = clock
        self._timers = timers
        self._name = name
        self._lock = threading.Lock()
        self._queue: ReadyQueue[Mailbox] = ReadyQueue()
        self._workers: list[Worker] = []
        self._thread_numbers = itertools.count()
        self._parked: list[Worker] = []
        self._executing = 0
        self._stopping = False
        self._head_seq: Callable[[], int] = lambda: 0
        self._local = threading.local()
        self._watch: Cancellable | None = None
        self._watch_at = float("inf")
        self._stretch = STRETCH_MAX
        self._calm = 0
        self.searching = 0
        self.replaced = 0
        self.stuck = 0
        self.dead_letter = log_dead_letter

    def start(self, head_seq: Callable[[], int]) -> None:
        """Start the threads."""
        self._head_seq = head_seq
        with self._lock:
            for _ in range(self._slots + 1):
                self._start_worker()

    def stop(self, timeout_s: float) -> list[str]:
        """Let the threads end; returns the names of those that are stuck in a handler."""
        with self._lock:
            self._stopping = True
            while self._parked:
                self._wake_parked()
            if self._watch is not None:
                self._watch.cancel()
            workers = list(self._workers)
        give_up_at = self._clock.monotonic() + timeout_s
        stuck = []
        for worker in workers:
            if worker.thread is not None and worker.thread is not threading.current_thread():
                worker.thread.join(max(0.0, give_up_at - self._clock.monotonic()))
                if worker.thread.is_alive():
                    stuck.append(worker.thread.name)
        return stuck

    def ready(self, mailbox: Mailbox) -> None:
        with self._lock:
            self._queue.push(mailbox.rank, mailbox)
            if not self.searching and self._parked:
                self._wake_parked()

    def ready_all(self, mailboxes: Sequence[Mailbox]) -> None:
        """Schedule several mailboxes at once."""
        with self._lock:
            for mailbox in mailboxes:
                self._queue.push(mailbox.rank, mailbox)
            if not self.searching and self._parked:
                self._wake_parked()

    def wake_one(self) -> None:
        """Wake a parked thread unless one is searching."""
        with self._lock:
            if not self.searching and self._parked:
                self._wake_parked()

    def enter_handler(self, attempt: Expirable, deadline_s: float) -> None:
        worker: Worker = self._local.worker
        worker.deadline_at = deadline_at = self._clock.monotonic() + deadline_s
        worker.attempt = attempt
        if deadline_at < self._watch_at:
            self._watch_until(deadline_at)

    def adapt(self, *, conflicted: bool) -> None:
        if conflicted:
            self._stretch = 1
            self._calm = 0
        elif self._stretch < STRETCH_MAX:
            self._calm += 1
            if self._calm == CALM_BATCHES:
                self._stretch *= 2
                self._calm = 0

    def leave_handler(self) -> bool:
        worker: Worker = self._local.worker
        with self._lock:
            worker.attempt = None
            if worker.retired:
                return False
            self._free_slot(worker)
        return True

    def start_coroutine(self, coroutine: Any, attempt: Expirable, deadline_s: float) -> Cancellable:
        raise NotImplementedError("async handlers run on the loop dispatcher")

    # Threads -----------------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        worker = Worker()
        name = f"{self._name}-pool-{next(self._thread_numbers)}"
        worker.thread = threading.Thread(target=self._work, args=(worker,), name=name, daemon=True)
        self._workers.append(worker)
        self.searching += 1
        try:
            worker.thread.start()
        except RuntimeError:  # No more threads to be had: nobody may count on this one.
            self._workers.remove(worker)
            self.searching -= 1
            raise

    def _work(self, worker: Worker) -> None:
        self._local.worker = worker
        core = self._core
        executed = executed_in_stretch = 0
        while not worker.retired:
            if executed >= self._stretch and core.is_behind():
                executed = 0
                stretch_ended = executed_in_stretch >= STRETCH_MAX
                if stretch_ended:
                    executed_in_stretch = 0
                if not core.drive(stretch_ended=stretch_ended) and not self._give_way(worker):
                    return
                continue
            mailbox = self._take(worker)
            if mailbox is not None:
                executed += 1
                executed_in_stretch += 1
                mailbox.run()
                if worker.executing:
                    with self._lock:
                        worker.attempt = None  # Of an actor that crashed in it; nobody else takes it off.
                        self._free_slot(worker)
            elif core.has_work():
                executed = executed_in_stretch = 0
                core.drive(stretch_ended=True)
            elif not self._park(worker):
                return
        self._come_back(worker)

    def _take(self, worker: Worker) -> Mailbox | None:
        with self._lock:
            if not self._may_take():
                return None
            mailbox = self._queue.pop()
            worker.executing = True
            self._executing += 1
            self.searching -= 1
            if not self.searching and self._parked and (self._core.has_work() or self._may_take()):
                self._wake_parked()
            return mailbox

    def _may_take(self) -> bool:
        entry = self._queue.peek()
        if entry is None or self._executing >= self._slots:
            return False
        # The last slot is the head's: what all others wait for must not wait for one of them.
        return self._executing < self._slots - 1 or entry[0] <= self._head_seq()

    def _free_slot(self, worker: Worker) -> None:
        if worker.executing:
            worker.executing = False
            self._executing -= 1
            self.searching += 1

    def _park(self, worker: Worker) -> bool:
        with self._lock:
            if self._may_take():
                return True
            self.searching -= 1
            # A mailbox that became ready before `searching` fell woke nobody: look again, now that it would.
            if self._core.has_work():
                self.searching += 1
                return True
            if self._stopping:
                return False
            self._parked.append(worker)
        worker.wake.acquire()
        return True

    def _give_way(self, worker: Worker) -> bool:
        """Let the thread go on that drives the core: what would be executed meanwhile would be stale when it commits."""
        with self._lock:
            if self._stopping or self.searching < 2:
                return not self._stopping
            self.searching -= 1
            self._parked.append(worker)
        worker.wake.acquire()
        return True

    def _wake_parked(self) -> None:
        worker = self._parked.pop()
        self.searching += 1
        worker.wake.release()

    # Deadlines ---------------------------------------------------------------------------------------------------

    def _watch_until(self, moment: float) -> None:
        with self._lock:
            if moment >= self._watch_at:
                return
            if self._watch is not None:
                self._watch.cancel()
            self._watch_at = moment
            self._watch = self._timers.call_after(moment - self._clock.monotonic(), self._expire_attempts)

    def _expire_attempts(self) -> None:
        expired: list[tuple[Worker, Expirable]] = []
        with self._lock:
            now = self._clock.monotonic()
            next_at = float("inf")
            # Before looking: a thread that enters a handler meanwhile is seen here, or sets a watch of its own.
            self._watch_at = float("inf")
            self._watch = None
            for worker in list(self._workers):
                attempt = worker.attempt
                if attempt is None or worker.retired:
                    continue
                if worker.deadline_at <= now:
                    expired.append((worker, attempt))
                    self._replace(worker, attempt)
                else:
                    next_at = min(next_at, worker.deadline_at)
        if next_at != float("inf"):
            self._watch_until(next_at)
        for worker, attempt in expired:
            attempt.expire()
            self._report(worker)

    def abandon(self, seq: int) -> None:
        """Give up the threads that execute the run at `seq`, which was aborted."""
        abandoned: list[tuple[Worker, Expirable]] = []
        with self._lock:
            for worker in list(self._workers):
                attempt = worker.attempt
                if attempt is not None and attempt.seq == seq and not worker.retired:
                    abandoned.append((worker, attempt))
                    self._replace(worker, attempt)
        for worker, attempt in abandoned:
            attempt.abandon()
            self._report(worker)

    def _replace(self, worker: Worker, attempt: Expirable) -> None:
        """Give the slot of a stuck thread to a new one; the old thread ends when its handler returns."""
        worker.stuck_in = (attempt.seq, attempt.handler_name, self._clock.monotonic())
        self.stuck += 1
        worker.retired = True
        worker.attempt = None
        if worker.executing:
            worker.executing = False
            self._executing -= 1
        self._workers.remove(worker)
        self.replaced += 1
        try:
            self._start_worker()
        except RuntimeError as error:
            logger.error("{}: a stuck thread could not be replaced, one slot is lost: {}", self._name, error)

    def _report(self, worker: Worker) -> None:
        assert worker.stuck_in is not None
        seq, trigger, _ = worker.stuck_in
        logger.bind(seq=seq, trigger=trigger, actor="pool").warning(
            "a thread is stuck in {} (seq {}), past its deadline or its abort; a new one has its place: {} are stuck now",
            trigger, seq, self.stuck,
        )  # fmt: skip

    def _come_back(self, worker: Worker) -> None:
        """A thread that was given up has left its handler; it ends."""
        if worker.stuck_in is None:
            return
        seq, trigger, since = worker.stuck_in
        with self._lock:
            self.stuck -= 1
        logger.bind(seq=seq, trigger=trigger, actor="pool").info(
            "the thread that was stuck in {} (seq {}) has come back after {:.1f} s: {} are stuck now",
            trigger, seq, self._clock.monotonic() - since, self.stuck,
        )  # fmt: skip
