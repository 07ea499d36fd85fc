"""The dispatchers of sync handlers in a simulation: `pool` and `outside`.

Owns their slots and the deadlines of what executes there, in virtual time. Promises what the real ones do: no more execute
than there are slots, the last one is kept for the head of the order; a handler that stays past its deadline, or past the
abort of its run, is counted as stuck and has its slot taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from loguru import logger

from seqtor.actors.dispatchers.contract import Cancellable, Expirable
from seqtor.actors.dispatchers.dead_letters import log_dead_letter
from seqtor.actors.dispatchers.handler_threads import HandlerThread
from seqtor.actors.interleaved import interleave
from seqtor.actors.mailbox import Mailbox
from seqtor.messages.lifecycle import DeadLetter

if TYPE_CHECKING:
    from seqtor.actors.dispatchers.simulated import SimulatedDispatchers

__all__ = ["SimulatedPool"]


class Stay:
    """One attempt on a thread, and the watch over its deadline."""

    __slots__ = ("attempt", "stuck_since", "watch")

    def __init__(self, attempt: Expirable) -> None:
        self.attempt = attempt
        self.watch: Cancellable | None = None
        self.stuck_since: float | None = None


class SimulatedPool:
    """One of the two; `slots` is None for `outside`, which has a thread for each."""

    def __init__(self, simulation: SimulatedDispatchers, slots: int | None) -> None:
        self._simulation = simulation
        self._slots = slots
        self.driver = simulation
        self.head_seq: Callable[[], int] = lambda: 0
        self.replaced = 0
        self.stuck = 0

    def ready(self, mailbox: Mailbox) -> None:
        self._simulation.ready(mailbox)

    def ready_all(self, mailboxes: Sequence[Mailbox]) -> None:
        self._simulation.ready_all(mailboxes)

    def dead_letter(self, letter: DeadLetter) -> None:
        log_dead_letter(letter)

    def adapt(self, *, conflicted: bool) -> None:
        """The seed decides how long stretches are."""

    def start_coroutine(
        self, coroutine: Coroutine[Any, Any, None], attempt: Expirable, deadline_s: float
    ) -> Cancellable:
        raise NotImplementedError("async handlers run on the loop dispatcher")

    def free_from(self) -> float | None:
        """From which rank on nothing may be taken; None if all may be."""
        if self._slots is None:
            return None
        executing = 0
        for mailbox, thread in self._simulation.handlers.in_flight.items():
            if mailbox._dispatcher is self and (thread.stay is None or thread.stay.stuck_since is None):
                executing += 1
        if executing >= self._slots:
            return -1.0
        return self.head_seq() if executing == self._slots - 1 else None

    # Attempts and their deadlines ------------------------------------------------------------------------------------

    def enter_handler(self, attempt: Expirable, deadline_s: float) -> None:
        thread = self._simulation.handlers.here()
        if thread is None:
            return
        self.end_stay(thread)
        stay = thread.stay = Stay(attempt)
        stay.watch = self._simulation.call_after(deadline_s, lambda: self._expire(stay))
        if self._simulation.interleaving:
            interleave(attempt)

    def give_way(self) -> None:
        """The handler is about to do an operation of `tx`: perhaps others go before."""
        thread = self._simulation.handlers.here()
        if thread is not None:
            self._simulation.give_way(thread)

    def leave_handler(self) -> bool:
        thread = self._simulation.handlers.here()
        if thread is None:
            return True
        self._simulation.give_way(thread, leaves=True)
        return self.end_stay(thread)

    def end_stay(self, thread: HandlerThread) -> bool:
        """The thread has left its handler, if it was in one. False if it had been taken for stuck."""
        stay, thread.stay = thread.stay, None
        if stay is None:
            return True
        stay.watch.cancel()
        if stay.stuck_since is None:
            return True
        self.stuck -= 1
        logger.bind(actor="pool").info(
            "the thread that was stuck in {} has come back after {:.1f} s: {} are stuck now",
            stay.attempt.handler_name, self._simulation.clock.monotonic() - stay.stuck_since, self.stuck,
        )  # fmt: skip
        return False

    def abandon(self, seq: int) -> None:
        """The run at `seq` was aborted: abandon what is executed for it, and count on its thread no more."""
        for stay in self._stays():
            if stay.attempt.seq == seq and self._take_for_stuck(stay):
                stay.attempt.abandon()

    def abandon_attempt(self, attempt: Expirable) -> None:
        """The run was aborted or goes on elsewhere: abandon what executes, and count on its thread no more."""
        attempt.abandon()
        for stay in self._stays():
            if stay.attempt is attempt:
                self._take_for_stuck(stay)

    def _stays(self) -> list[Stay]:
        in_flight = self._simulation.handlers.in_flight
        return [thread.stay for mailbox, thread in in_flight.items() if mailbox._dispatcher is self and thread.stay]

    def _expire(self, stay: Stay) -> None:
        if self._take_for_stuck(stay):
            stay.attempt.expire()

    def _take_for_stuck(self, stay: Stay) -> bool:
        if stay.stuck_since is not None:
            return False
        stay.stuck_since = self._simulation.clock.monotonic()
        self.stuck += 1
        self.replaced += 1
        logger.bind(actor="pool").warning(
            "a thread is stuck in {}, past its deadline or its abort: {} are stuck now",
            stay.attempt.handler_name, self.stuck,
        )  # fmt: skip
        return True
