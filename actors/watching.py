"""Who wants to know when an actor has ended for good.

Owns the list of watchers of the process. Promises: each watcher of an actor gets one `ActorDied`, however the actor
ended, and at once if it has ended already. A restart is no death. Costs an actor that ends one look at an empty dict
while nobody watches anybody.
"""

from __future__ import annotations

import threading
from typing import Any

import pykka

from seqtor.actors.mailbox import Mailbox
from seqtor.messages.supervision import ActorDied

__all__ = ["WATCHES", "tell_watchers", "unwatch", "watch"]

WATCHES: dict[str, list[Any]] = {}  # URN: the mailboxes (or refs) of those who watch it.
_lock = threading.Lock()


def watch(watched: pykka.ActorRef[Any], watcher: pykka.ActorRef[Any] | Mailbox) -> None:
    """Send `ActorDied` to `watcher` when the actor has ended for good; now, if it has. Twice: watched once."""
    with _lock:
        watchers = WATCHES.setdefault(watched.actor_urn, [])
        if watcher not in watchers:
            watchers.append(watcher)
    _hook(watched)
    if watched.actor_stopped.is_set():  # After the entry was made: an end between the two is told by one of both.
        tell_watchers(watched.actor_urn, None)


def unwatch(watched: pykka.ActorRef[Any], watcher: pykka.ActorRef[Any] | Mailbox) -> None:
    """Send nothing more; what has been sent stays in the mailbox. Harmless if it does not watch."""
    with _lock:
        watchers = WATCHES.get(watched.actor_urn, [])
        if watcher in watchers:
            watchers.remove(watcher)
        if not watchers:
            WATCHES.pop(watched.actor_urn, None)


def tell_watchers(urn: str, error: BaseException | None) -> None:
    """The actor has ended for good."""
    with _lock:
        watchers = WATCHES.pop(urn, ())
    for watcher in watchers:
        try:
            watcher.tell(ActorDied(urn=urn, error=error))
        except pykka.ActorDeadError:
            continue  # The watcher has ended itself.


def _hook(watched: pykka.ActorRef[Any]) -> None:
    """Actors of other runtimes do not tell: have this one do it."""
    actor: Any = watched._actor_weakref()
    if actor is None or isinstance(watched.actor_inbox, Mailbox) or "_handle_failure" in vars(actor):
        return
    handle_failure, stop, urn = actor._handle_failure, actor._stop, watched.actor_urn

    def failed(kind: Any, error: Any, traceback: Any) -> None:
        handle_failure(kind, error, traceback)
        tell_watchers(urn, error)

    def stopped() -> None:
        stop()
        tell_watchers(urn, None)

    actor._handle_failure, actor._stop = failed, stopped
