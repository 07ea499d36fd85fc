"""What simulated systems leave behind when nobody stops them, cleared away.

Owns `cleared`: a process that dies takes all that it has with it; a simulated one leaves its actors in pykka's registry, its
threads in handlers and its coroutines where they wait.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pykka import ActorRegistry

from seqtor.actors import SimulatedDispatchers

__all__ = ["cleared"]


@contextmanager
def cleared() -> Iterator[Callable[[], list[str]]]:
    """Afterwards nothing is left of the systems that were started meanwhile. Gives what tells who stands in a handler."""
    made: list[weakref.ref[SimulatedDispatchers]] = []
    before = set(ActorRegistry.get_all())
    init: Any = SimulatedDispatchers.__init__

    def noting(dispatchers: SimulatedDispatchers, *args: Any, **kwargs: Any) -> None:
        init(dispatchers, *args, **kwargs)
        made.append(weakref.ref(dispatchers))

    def living() -> list[SimulatedDispatchers]:
        return [dispatchers for ref in made if (dispatchers := ref()) is not None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedDispatchers, "__init__", noting)
        try:
            yield lambda: [str(mailbox._actor) for each in living() for mailbox in each.handlers.in_flight]
        finally:
            for each in living():
                each.drop()
            for ref in ActorRegistry.get_all():
                if ref not in before:
                    ActorRegistry.unregister(ref)
