"""What goes wrong around a random system: writing outside fails, messages come twice, actors crash, the clock is set.

Owns the patches, which last as long as their context. Each is drawn from a source of its own, so that the same plan goes
wrong in the same places.
"""

from __future__ import annotations

import inspect
import random
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from pykka.messages import ProxyCall

from seqtor import StoreUnavailable, Supervisor
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.base import Actor
from seqtor.actors.clock import VirtualClock
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.stores.folder import Folder
from seqtor.actors.stores.table_rows import Rows
from seqtor.messages import catalogue

__all__ = ["TWICE", "Crashes", "Repeats", "SetClock", "Troubles", "actors_of", "crash"]

KILLED = "on_stop() takes"  # What a killed actor says.
STANDS = re.compile(r"Twice: (the second\b(?! actor| run\b)|harmless|ignored|nothing|refused|fenced)")


def _may_repeat() -> frozenset[type]:
    """The messages between actors of which their own text says that a second one does no harm."""
    kinds = [each for each in vars(catalogue).values() if isinstance(each, type) and each.__doc__]
    found = {each for each in kinds if STANDS.search(inspect.getdoc(each) or "")}
    return frozenset(each for each in found if "reply_to" not in getattr(each, "__annotations__", {}))


TWICE = _may_repeat()


class SetClock(VirtualClock):
    """A virtual clock whose time of day is set forward and back; durations go on as they are."""

    def set_by(self, seconds: float) -> None:
        """Let the time of day jump."""
        self._start_s += seconds


class Repeats:
    """Messages that come twice, at once or later."""

    def __init__(self, patch: pytest.MonkeyPatch, chance: random.Random, often: float) -> None:
        self.dispatchers: SimulatedDispatchers | None = None
        self.count = 0
        put = Mailbox.put

        def put_twice(mailbox: Mailbox, item: Any) -> Any:
            refused = put(mailbox, item)
            if type(item) in TWICE and chance.random() < often:
                self._repeat(mailbox, item, put, chance.choice((None, None, 0.01, 20.0)))
            return refused

        patch.setattr(Mailbox, "put", put_twice)
        patch.setattr(Mailbox, "tell", put_twice)

    def _repeat(self, mailbox: Mailbox, item: Any, put: Callable[[Mailbox, Any], Any], delay_s: float | None) -> None:
        if mailbox.closed or self.dispatchers is None:
            return
        self.count += 1
        if delay_s is None:
            put(mailbox, item)
        else:
            actor = mailbox._actor  # What was on its way to an instance ends with it: the core's mailboxes are emptied.
            self.dispatchers.call_after(delay_s, lambda: put(mailbox, item) if mailbox._actor is actor else None)


class Troubles:
    """Steps of writing outside that fail before they are done, or behind that; not while a system starts."""

    STEPS = ((Folder, "plan"), (Folder, "put"), (Folder, "sync"), (Folder, "settle"), (Rows, "write"))

    def __init__(self, patch: pytest.MonkeyPatch, chance: random.Random, often: float) -> None:
        self.on = False
        self.count = 0
        for owner, name in self.STEPS:
            patch.setattr(owner, name, self._failing(getattr(owner, name), chance, often))

    def _failing(self, step: Callable[..., Any], chance: random.Random, often: float) -> Callable[..., Any]:
        def failing(*args: Any) -> Any:
            if not self.on or chance.random() >= often:
                return step(*args)
            self.count += 1
            if chance.random() < 0.5:
                step(*args)
            if chance.random() < 0.5:
                raise StoreUnavailable(retry_after=chance.choice((0.0, 1.0, 90.0)))
            raise OSError("the medium fails")

        return failing


class Crashes:
    """Watches who crashes; `unasked` are those whom nobody has killed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.unasked: list[tuple[str, BaseException]] = []
        crash = Actor._crash

        def crashed(actor: Actor, reply_to: Any) -> None:
            error = sys.exc_info()[1]
            if error is not None and KILLED not in str(error):
                self.unasked.append((str(actor), error))
            crash(actor, reply_to)

        patch.setattr(Actor, "_crash", crashed)


def actors_of(system: Supervisor) -> dict[str, Any]:
    """The runtime's actors by name: of the core, beside it, the stores, the journal."""
    running: Any = system._running
    core = zip(("committer", "coordinator", "sequencer"), running._path.refs, strict=True)
    beside = {"scheduler": running.schedules.ref, "effects": running._effects.ref, "reactor": running.reactions.ref}
    cells = {f"store {ref.name}": cell for ref, cell in zip(running._stores, running._cell_refs, strict=True)}
    journal = {} if running.journal is None else {"journal": running.journal.ref}
    found = {**dict(core), **beside, **cells, **journal}
    return {name: ref for name, ref in found.items() if ref is not None}


def crash(actor: Any) -> None:
    """Make an actor crash at its next message."""
    actor.actor_inbox.put(ProxyCall(attr_path=("on_stop",), args=("one too many",), kwargs={}))
