"""Bugs of threads that are planted into the mailbox and the dispatchers, and the world that must find each."""

from __future__ import annotations

from typing import NamedTuple

from seqtor.actors.dispatchers.elastic import ElasticDispatcher
from seqtor.actors.dispatchers.outside import Outside
from seqtor.actors.dispatchers.pool import Core, Pool
from seqtor.actors.mailbox import Mailbox
from tests.simulation.planted import Plant
from tests.threads import elastics, mailboxes, pools
from tests.threads.exploring import World

__all__ = ["PLANTED", "Planted"]


class Planted(NamedTuple):
    """A bug, and who finds it."""

    plant: Plant
    by: type[World]


PLANTED = (
    # The mailbox.
    Planted(Plant("the gate is opened after the last look at the queue", Mailbox, "run",
                  "self._gate.release()\n    if queue and self._gate.acquire(False):",
                  "more = bool(queue)\n    self._gate.release()\n    if more and self._gate.acquire(False):"),
            mailboxes.OneSenderOneServer),
    Planted(Plant("what is left after a batch is scheduled without the gate", Mailbox, "run",
                  "if queue and self._gate.acquire(False):", "if queue:"),
            mailboxes.TwoSendersTwoServers),
    Planted(Plant("the gate is looked at and then taken", Mailbox, "put",
                  "if self._gate.acquire(False):", "if not self._gate.locked() and (self._gate.acquire(False) or True):"),
            mailboxes.TwoSendersTwoServers),
    Planted(Plant("a message is queued behind the look at the gate", Mailbox, "put",
                  "self._queue.append(item)\n    if self._gate.acquire(False):\n"
                  "        self._dispatcher.ready(self)  # type: ignore[union-attr]\n",
                  "scheduled = not self._gate.acquire(False)\n    self._queue.append(item)\n    if not scheduled:\n"
                  "        self._dispatcher.ready(self)  # type: ignore[union-attr]\n"),
            mailboxes.OneSenderOneServer),
    Planted(Plant("the bound lets one more in", Mailbox, "put", ">= self.depth_max", "> self.depth_max"),
            mailboxes.Bounded),
    Planted(Plant("a full mailbox drops without a word", Mailbox, "put", "return self._refuse_full(item)", "return None"),
            mailboxes.Bounded),
    Planted(Plant("what is put after the end vanishes", Mailbox, "put", "elif self.closed:", "elif False:"),
            mailboxes.Stopped),
    Planted(Plant("a mailbox is closed after it has been emptied", Mailbox, "close",
                  "self.closed = True\n    self.suspended = False\n"
                  "    self._actor = None  # The mailbox outlives its actor in refs; it must not keep it alive.\n"
                  "    return self._bury(reason, actor) if self._queue else 0",
                  "buried = self._bury(reason, actor)\n    self.closed = True\n    self._actor = None\n    return buried"),
            mailboxes.Stopped),
    Planted(Plant("who delivered the crash schedules what the restart has scheduled", Mailbox, "_leave",
                  "if not self._owed:", "if False:"),
            mailboxes.Restarted),
    Planted(Plant("who suspends forgets that the mailbox is scheduled", Mailbox, "suspend",
                  "self._owed = not running and not self._gate.acquire(False)", "self._owed = False"),
            mailboxes.SuspendedFromOutside),
    Planted(Plant("who restarts does not look whether the gate is free by now", Mailbox, "_run_without_actor",
                  "self._owed = False  # The gate is the mailbox's again: `restart` schedules it.", "pass"),
            mailboxes.SuspendedFromOutside),
    Planted(Plant("a replaced mailbox waits for its turn to pass on", Mailbox, "detach",
                  "self._dispatcher = ONWARD", "pass"),
            mailboxes.Detached),
    Planted(Plant("what is passed on is looked at and then taken", Mailbox, "_pass_on",
                  "except IndexError:", "except KeyError:"),
            mailboxes.Detached),
    # The pool and the core.
    Planted(Plant("a thread goes to sleep without a second look", Pool, "_park", "if self._core.has_work():", "if False:"),
            pools.CoreBecomesReady),
    Planted(Plant("who makes the core ready looks first", Core, "ready",
                  "self._ready.append(mailbox)\n    if not self.pool.searching:",
                  "searching = self.pool.searching\n    self._ready.append(mailbox)\n    if not searching:"),
            pools.CoreBecomesReady),
    Planted(Plant("two threads drive the core", Core, "drive", "return False\n", "pass\n"),
            pools.TheCoreIsSerial),
    Planted(Plant("who begins to execute wakes nobody for what is left", Pool, "_take",
                  "self._wake_parked()\n", "pass\n"),
            pools.BlockedRuns),
    Planted(Plant("a thread that executes still counts as searching", Pool, "_take", "self.searching -= 1", "pass"),
            pools.BlockedRuns),
    Planted(Plant("a run becomes ready and wakes nobody", Pool, "ready",
                  "if not self.searching and self._parked:\n", "if False:\n"),
            pools.RunsBecomeReady),
    Planted(Plant("the last slot is everybody's", Pool, "_may_take",
                  "return self._executing", "return True or self._executing"),
            pools.TheHeadHasASlot),
    Planted(Plant("a thread that was given up frees a slot", Pool, "leave_handler", "if worker.retired:", "if False:"),
            pools.StuckThread),
    Planted(Plant("a stuck thread keeps its slot", Pool, "_replace", "self._executing -= 1", "pass"),
            pools.StuckThread),
    Planted(Plant("a stop wakes one thread", Pool, "stop", "while self._parked:", "if self._parked:"),
            pools.StopsWhileIdle),
    Planted(Plant("a thread that hears of the stop does not look once more", Pool, "_park",
                  "if self._may_take():", "if self._stopping:\n            self.searching -= 1\n            return False\n"
                  "        if self._may_take():"),
            pools.StopsWhileReady),
    # The dispatchers that start a thread when they need one.
    Planted(Plant("two mailboxes count on one idle thread", ElasticDispatcher, "ready", "self._idle -= 1\n", "pass\n"),
            elastics.EachBegins),
    Planted(Plant("an idle thread leaves though a mailbox counts on it", ElasticDispatcher, "_work",
                  "if self._idle:\n                    self._idle -= 1\n", "if True:\n"),
            elastics.IdleThreadLeaves),
    Planted(Plant("a stop ends one thread less", ElasticDispatcher, "stop", "for _ in threads:", "for _ in threads[1:]:"),
            elastics.StopsAsItBecomesReady),
    Planted(Plant("a deadline is counted after its attempt has left", Outside, "_take_for_stuck",
                  "if stay.stuck_since is not None or stay not in self._stays.values():", "if False:"),
            elastics.StuckOutside),
)  # fmt: skip
