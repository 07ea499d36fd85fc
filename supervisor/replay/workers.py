"""Threads that do pieces of work in any order, each with surroundings of its own.

Owns nothing but the threads. Promises: `do` returns when all pieces are done; what a piece raises is raised there; a
worker's surroundings are made and closed on its thread.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

__all__ = ["Workers"]

PieceT = TypeVar("PieceT")
DoneT = TypeVar("DoneT")
AroundT = TypeVar("AroundT")
STOP_S = 1.0


class Workers(Generic[AroundT]):
    """`count` threads, daemons: a handler that never returns must not keep the process alive."""

    def __init__(self, count: int, open_around: Callable[[], AroundT]) -> None:
        self._open_around = open_around
        self._pieces: queue.SimpleQueue[tuple[Callable[[Any, AroundT], Any], Any] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"seqtor-replay-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def do(self, work: Callable[[PieceT, AroundT], DoneT], pieces: Sequence[PieceT]) -> list[DoneT]:
        """Do `work` on each piece; returns what it returned, in the order in which it was done."""
        for piece in pieces:
            self._pieces.put((work, piece))
        done = []
        failure: BaseException | None = None
        for _ in pieces:
            result, error = self._done.get()
            failure = failure or error
            done.append(result)
        if failure is not None:
            raise failure
        return done

    def close(self) -> None:
        """Let the threads end."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._pieces.get_nowait()
        for _ in self._threads:
            self._pieces.put(None)
        for thread in self._threads:
            thread.join(STOP_S)

    def _work(self) -> None:
        around: Any = self._open_around()
        try:
            while (given := self._pieces.get()) is not None:
                work, piece = given
                try:
                    self._done.put((work(piece, around), None))
                except BaseException as error:
                    self._done.put((None, error))
        finally:
            around.close()
