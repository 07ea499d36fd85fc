"""What a dispatcher is: the thing that gives a ready actor a thread.

Owns the two protocols. A `Dispatcher` runs mailboxes; `Dispatchers` is the set that one system lives on (`core`, `pool`,
`loop`, `dedicated`), with its clock and timers. Whether these are real threads or one simulated one is unknown to actors.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from seqtor.actors.clock import Clock
from seqtor.actors.futures import Driver
from seqtor.actors.mailbox import Mailbox
from seqtor.messages.lifecycle import DeadLetter

__all__ = ["AttemptDispatcher", "Cancellable", "CoreDispatcher", "Dispatcher", "Dispatchers", "Expirable", "LoopDispatcher",
           "OutsideDispatcher", "PoolDispatcher", "Timers"]  # fmt: skip


class Cancellable(Protocol):
    """Something that will happen unless it is cancelled."""

    def cancel(self) -> Any: ...


class Expirable(Protocol):
    """An attempt whose deadline can pass, or the judging of one."""

    @property
    def seq(self) -> int:
        """Of which run."""
        ...

    @property
    def handler_name(self) -> str:
        """Whose handler, for what is reported; called from any thread."""
        ...

    def abandon(self) -> None:
        """Let the attempt do nothing more, because its run was aborted; called from any thread, harmless after its end."""
        ...

    def expire(self) -> None:
        """End the attempt because its deadline has passed; called from any thread, harmless after its end."""
        ...


class Timers(Protocol):
    """Calls back later, on an unknown thread; the callback may only send messages."""

    def call_after(self, delay_s: float, callback: Callable[[], None]) -> Cancellable: ...


class Dispatcher(Protocol):
    """Runs the mailboxes that it is told are ready."""

    @property
    def driver(self) -> Driver | None:
        """What runs other actors while the only thread waits; None where there are threads."""
        ...

    def ready(self, mailbox: Mailbox) -> None:
        """Run the mailbox soon; called by whoever put its first message, from any thread."""
        ...

    def dead_letter(self, letter: DeadLetter) -> None:
        """Report a message that will not be delivered."""
        ...


class CoreDispatcher(Dispatcher, Protocol):
    """The serial dispatcher."""

    def after_stretch(self, callback: Callable[[], None]) -> None:
        """Call back, serially with the core's mailboxes, when it does not delay the execution of runs."""
        ...


class AttemptDispatcher(Dispatcher, Protocol):
    """A dispatcher on which run actors execute handlers."""

    def ready_all(self, mailboxes: Sequence[Mailbox]) -> None:
        """Run several mailboxes soon, in their order."""
        ...

    def enter_handler(self, attempt: Expirable, deadline_s: float) -> None:
        """The calling thread is about to run a handler; `attempt.expire()` is called when it takes too long."""
        ...

    def leave_handler(self) -> bool:
        """The handler has returned. False if the attempt had expired and the thread has been replaced meanwhile."""
        ...

    def adapt(self, *, conflicted: bool) -> None:
        """A batch of commits has ended, with conflicts or without."""
        ...

    def start_coroutine(
        self, coroutine: Coroutine[Any, Any, None], attempt: Expirable, deadline_s: float
    ) -> Cancellable:
        """Run the coroutine of an async handler; only on `loop`."""
        ...


class PoolDispatcher(AttemptDispatcher, Protocol):
    """The dispatcher of sync handlers: threads, each of which may be stuck in one."""

    @property
    def replaced(self) -> int:
        """How many threads were given up because a handler did not leave them."""
        ...

    @property
    def stuck(self) -> int:
        """How many of those have not come back."""
        ...

    def abandon(self, seq: int) -> None:
        """The run at `seq` was aborted: abandon what is executed for it, and give its thread up for a new one."""
        ...


class OutsideDispatcher(AttemptDispatcher, Protocol):
    """The dispatcher of sync handlers that execute outside of the order: a thread for each."""

    @property
    def replaced(self) -> int:
        """How many threads were taken for stuck in a handler."""
        ...

    @property
    def stuck(self) -> int:
        """How many of those have not come back."""
        ...

    def abandon_attempt(self, attempt: Expirable) -> None:
        """The run was aborted or goes on elsewhere: abandon what executes, and count on its thread no more."""
        ...


class LoopDispatcher(AttemptDispatcher, Protocol):
    """The dispatcher of async handlers."""

    def call(self, callback: Callable[[], None]) -> None:
        """Call back on the loop's thread."""
        ...


class Dispatchers(Protocol):
    """The set of dispatchers of one system."""

    @property
    def core(self) -> CoreDispatcher: ...
    @property
    def pool(self) -> PoolDispatcher: ...
    @property
    def outside(self) -> OutsideDispatcher: ...
    @property
    def loop(self) -> LoopDispatcher: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def timers(self) -> Timers: ...
    @property
    def driver(self) -> Driver | None: ...
    @property
    def threads(self) -> int: ...

    def dedicated(self, name: str) -> Dispatcher:
        """A dispatcher with a thread of its own."""
        ...

    def entropy(self) -> int:
        """64 random bits; from the seed in simulation."""
        ...

    def start(self, head_seq: Callable[[], int]) -> None:
        """Start the threads. `head_seq` tells the lowest seq that has not ended."""
        ...

    def stop(self, timeout_s: float) -> list[str]:
        """Stop the threads; returns the names of those that did not stop in time."""
        ...
