"""The root of the actors of one system: hears of their deaths, and restarts them.

Owns which actors are restarted together, and how often before the system gives up. Runs on the core, so none of the
core's actors handles a message meanwhile. Promises: an actor that crashes is restarted under the same reference, with what
waited in its mailbox; when the restarts of a group exceed its window, the system stops taking work and leaves nobody
waiting. Must never crash itself: then the system gives up, too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from loguru import logger

from seqtor.actors.base import Actor
from seqtor.actors.clock import Clock
from seqtor.actors.dispatchers.contract import Timers
from seqtor.messages.errors import RegistrationError
from seqtor.messages.lifecycle import (
    ActorCrashed,
    ActorStarted,
    ActorStopped,
    StoreRecovered,
    StoreRefusedToStart,
)
from seqtor.tree.window import Restart, Window

__all__ = ["Group", "Root"]


class RestartDue:
    """Told to oneself by a timer: the group has waited for its restart."""

    __slots__ = ("group", "message")

    def __init__(self, group: Group, message: ActorCrashed) -> None:
        self.group = group
        self.message = message


class Group:
    """Actors that are restarted together: all of them when one crashes.

    `restart` starts them anew, all suspended; it returns when they are scheduled. `may_restart` says whether that helps.
    """

    __slots__ = ("may_restart", "name", "policy", "refs", "restart", "restarts", "waits", "window")

    def __init__(
        self,
        name: str,
        refs: Sequence[Any],
        policy: Restart,
        restart: Callable[[ActorCrashed], None],
        may_restart: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name = name
        self.may_restart = may_restart
        self.refs = tuple(refs)
        self.policy = policy
        self.window = Window(policy)
        self.restart = restart
        self.restarts = 0
        self.waits = False  # For its restart.


class Root(Actor):
    """Parent of the runtime's actors."""

    receives: ClassVar[tuple[type, ...]] = (
        ActorCrashed, ActorStarted, ActorStopped, RestartDue, StoreRecovered, StoreRefusedToStart,
    )  # fmt: skip

    def __init__(
        self,
        stores: tuple[str, ...],
        recovered: Any,
        clock: Clock,
        timers: Timers,
        seed: int,
        broke_down: Callable[[str, BaseException, str], None],
        restarted: Callable[[str, BaseException, int], None],
    ) -> None:
        super().__init__()
        self._stores = stores
        self._recovered = recovered
        self._clock = clock
        self._timers = timers
        self._random = random.Random(seed)
        self._broke_down = broke_down
        self._restarted = restarted
        self._states: dict[str, Any] = {}
        self._groups: dict[str, Group] = {}  # By the URN of each of their actors.
        self.gave_up = False
        self._refused = False  # The start was refused: nothing follows from what is still told.
        self.committer: Any = None

    def supervise(self, group: Group) -> None:
        """Restart these actors from now on. Call it before they are told anything: a crash of others is final."""
        for ref in group.refs:
            self._groups[ref.actor_urn] = group

    @property
    def groups(self) -> tuple[Group, ...]:
        """What is supervised, in the order in which it was started."""
        return tuple(dict.fromkeys(self._groups.values()))

    def on_start(self) -> None:
        self._answer_when_complete()

    def on_store_recovered(self, message: StoreRecovered) -> None:
        if self._refused:
            return
        if self._recovered.is_set():
            self.committer.tell(message)
            return
        self._states[message.store] = message.state
        self._answer_when_complete()

    def on_store_refused_to_start(self, message: StoreRefusedToStart) -> None:
        self._refuse_to_start(f"store {message.store!r} could not recover", message.error)

    def on_actor_started(self, _: ActorStarted) -> None:
        """Nothing waits for it: what is told to an actor before waits in its mailbox."""

    def on_actor_stopped(self, _: ActorStopped) -> None:
        """Nothing follows from it: actors end in order only at the stop of the system."""

    def on_actor_crashed(self, message: ActorCrashed) -> None:
        group = self._groups.get(message.urn)
        if self._refused:
            return
        if not self._recovered.is_set():
            self._refuse_to_start(f"{message.actor} crashed", message.error)
        elif group is None:
            self._give_up(message.actor, message.error, "and nothing restarts it")
        elif not (self.gave_up or group.waits) and self._is_news(group, message):
            self._restart(group, message)

    def _is_news(self, group: Group, message: ActorCrashed) -> bool:
        """Whether the present instance crashed; an older one was restarted together with another that had crashed."""
        return any(ref.actor_urn == message.urn and message.incarnation in (0, ref.incarnation) for ref in group.refs)

    def _restart(self, group: Group, message: ActorCrashed) -> None:
        policy, window = group.policy, group.window
        for ref in group.refs:
            if ref.is_alive():
                ref.suspend()
        if not (group.may_restart() and all(ref.is_alive() for ref in group.refs)):
            self._give_up(message.actor, message.error, "which is final")  # The medium, or while the others stop.
            return
        if not window.add(self._clock.monotonic()):
            why = f"more than {policy.intensity} restarts of {group.name} in {policy.period:g} s"
            self._give_up(message.actor, message.error, why)
            return
        delay_s = policy.delay_s(len(window), self._random)
        logger.bind(actor=message.actor).opt(exception=message.error).warning(
            "{} crashed ({}: {}): {} is restarted after {:.3g} s, {} of at most {} times in {:g} s",
            message.actor, type(message.error).__name__, message.error, group.name, delay_s, len(window),
            policy.intensity, policy.period,
        )  # fmt: skip
        due = RestartDue(group, message)
        if delay_s:
            group.waits = True
            self._timers.call_after(delay_s, lambda: self.tell_self(due))
        else:
            self.on_restart_due(due)

    def on_restart_due(self, message: RestartDue) -> None:
        group = message.group
        if not self.gave_up and all(ref.is_alive() for ref in group.refs):  # Else the stop has come to them before.
            group.waits = False
            group.restarts += 1
            group.restart(message.message)
            self._restarted(message.message.actor, message.message.error, group.restarts)

    def _give_up(self, actor: str, error: BaseException, why: str) -> None:
        self.gave_up = True
        for group in self.groups:
            for ref in group.refs:
                if ref.suspended:  # Nobody waits for an answer from it any more.
                    ref.give_up("crashed too often")
        logger.bind(actor=actor).opt(exception=error).error("{} crashed, {}: the system stops taking work", actor, why)
        self._broke_down(actor, error, why)

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        """Leave nobody waiting."""
        if not self._recovered.is_set():
            self._refuse_to_start("the root crashed", exception_value)
        else:
            self._give_up("Root", exception_value, "which nothing restarts")

    def _refuse_to_start(self, what: str, cause: BaseException) -> None:
        if not self._recovered.is_set():
            error = RegistrationError(f"{what}: {type(cause).__name__}: {cause}")
            error.__cause__ = cause
            self._refused = True
            self._recovered.set_exception((RegistrationError, error, None))

    def _answer_when_complete(self) -> None:
        if len(self._states) == len(self._stores) and not self._recovered.is_set():
            self._recovered.set(tuple(self._states[name] for name in self._stores))
