"""The dispatcher of actors that a program starts without a system.

Owns one for the process, made at first use. Threads are started as actors need them, because such actors may wait for each
other.
"""

from __future__ import annotations

import threading

from seqtor.actors.dispatchers.elastic import ElasticDispatcher

__all__ = ["standalone_dispatcher"]

_lock = threading.Lock()
_standalone: ElasticDispatcher | None = None


def standalone_dispatcher() -> ElasticDispatcher:
    """The process's dispatcher for actors without a system."""
    global _standalone
    with _lock:
        if _standalone is None:
            _standalone = ElasticDispatcher("seqtor-standalone")
        return _standalone
