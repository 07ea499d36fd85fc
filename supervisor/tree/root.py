"""The root of the actors of one system: starts them in order, hears of their deaths.

Owns what happens when an actor of the runtime crashes: in this release nothing is restarted; the system stops taking
work and everyone who waits is told that the outcome is unknown. Restarts come with the supervision tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from loguru import logger

from seqtor.actors.base import Actor
from seqtor.messages.errors import RegistrationError
from seqtor.messages.lifecycle import ActorCrashed, StoreRecovered, StoreRefusedToStart

__all__ = ["Root"]


class Root(Actor):
    """Parent of stores, sequencer, coordinator and committer."""

    receives: ClassVar[tuple[type, ...]] = (ActorCrashed, StoreRecovered, StoreRefusedToStart)

    def __init__(
        self, stores: tuple[str, ...], recovered: Any, broke_down: Callable[[str, BaseException], None]
    ) -> None:
        super().__init__()
        self._stores = stores
        self._recovered = recovered
        self._broke_down = broke_down
        self._states: dict[str, Any] = {}

    def on_start(self) -> None:
        self._answer_when_complete()

    def on_store_recovered(self, message: StoreRecovered) -> None:
        self._states[message.store] = message.state
        self._answer_when_complete()

    def on_store_refused_to_start(self, message: StoreRefusedToStart) -> None:
        self._refuse_to_start(f"store {message.store!r} could not recover", message.error)

    def _refuse_to_start(self, what: str, cause: BaseException) -> None:
        if not self._recovered.is_set():
            error = RegistrationError(f"{what}: {type(cause).__name__}: {cause}")
            error.__cause__ = cause
            self._recovered.set_exception((RegistrationError, error, None))

    def on_actor_crashed(self, message: ActorCrashed) -> None:
        if not self._recovered.is_set():
            self._refuse_to_start(f"{message.actor} crashed", message.error)
            return
        logger.bind(actor=message.actor).opt(exception=message.error).error(
            "{} crashed: the system stops taking work", message.actor
        )
        self._broke_down(message.actor, message.error)

    def _answer_when_complete(self) -> None:
        if len(self._states) == len(self._stores) and not self._recovered.is_set():
            self._recovered.set(tuple(self._states[name] for name in self._stores))
