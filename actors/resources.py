"""Resources: what handlers and effects need that is opened once, such as a client or a model.

Owns the opening at first use, one for all who ask at the same time, and the closing in reverse order at the stop.
Promises: a resource is opened once per system; an opener that raises is tried again at the next use; a plain one is
opened on the thread that asks first and closed on the dispatcher of that thread, an async one is opened and closed by one
task of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

from loguru import logger

from seqtor.actors.base import Actor
from seqtor.actors.dispatchers.contract import Dispatcher, LoopDispatcher
from seqtor.actors.futures import ReplyFuture
from seqtor.messages.errors import NotRunning, RegistrationError, SeqtorError
from seqtor.messages.lifecycle import CloseResource

__all__ = ["ResourceRef", "Resources"]

ValueT = TypeVar("ValueT")
ValueT_co = TypeVar("ValueT_co", covariant=True)
CLOSE_TIMEOUT_S = 5.0


class ResourceRef(Generic[ValueT_co]):
    """Names a registered resource; `tx.resource(ref)` and `context.resource(ref)` return what it opened.

    That of an async context manager is awaited: `client = await tx.resource(ref)`.
    """

    __slots__ = ("index", "name", "opener")

    def __init__(self, name: str, index: int, opener: Callable[[], Any]) -> None:
        self.name = name
        self.index = index
        self.opener = opener

    def __repr__(self) -> str:
        return f"<ResourceRef {self.name!r}>"


class Opened:
    """One resource: its manager and value while it is open."""

    __slots__ = ("closing", "is_async", "is_open", "lock", "manager", "opening", "place", "ref", "task", "value")

    def __init__(self, ref: ResourceRef[Any]) -> None:
        self.ref = ref
        self.lock = threading.RLock()  # Held while a plain one is opened, which may take long.
        self.is_open = False
        self.is_async = False  # Known when its opener has been called.
        self.manager: Any = None
        self.value: Any = None
        self.place: Dispatcher | None = None  # Where a plain one was opened.
        # Of an async one; touched on the loop only.
        self.opening: asyncio.Future[Any] | None = None
        self.closing: asyncio.Future[ReplyFuture] | None = None
        self.task: asyncio.Task[None] | None = None


class Resources:
    """The resources of one running system. `get` may be called from any thread."""

    def __init__(self, refs: Sequence[ResourceRef[Any]], loop: LoopDispatcher) -> None:
        self._all = tuple(Opened(ref) for ref in refs)
        self._loop = loop
        self._lock = threading.Lock()
        self._in_order: list[Opened] = []
        self._closed = False

    def get(self, ref: ResourceRef[ValueT], place: Dispatcher, *, is_async: bool) -> ValueT:
        """What the resource opened, or an awaitable of it if it is an async one; opens it at the first use.

        `place` is the dispatcher of the caller, `is_async` whether the caller can await. Raises what the opener raises,
        TypeError for an async resource where nothing can be awaited, RegistrationError for one of another system.
        """
        opened = self._of(ref)
        if opened.is_open and not opened.is_async:
            return opened.value  # type: ignore[no-any-return]
        with opened.lock:
            self._require_not_closed(opened)
            if not opened.is_open and not opened.is_async:
                manager = ref.opener()
                if hasattr(type(manager), "__aenter__"):
                    opened.is_async = True
                    opened.manager = manager if is_async else None
                else:
                    self._open(opened, manager, place)
        if not opened.is_async:
            return opened.value  # type: ignore[no-any-return]
        if not is_async:
            raise TypeError(
                f"the resource {ref.name!r} is an async context manager, which lives on the event loop: use it in handlers "
                "and effects that are declared with async def, or register a plain context manager for the others"
            )
        return cast("ValueT", self._opened(opened))

    def close(self) -> list[str]:
        """Close what is open, the last one first; returns the names of those that did not close in time. Waits.

        What a manager raises at its end is logged, and the others are closed all the same.
        """
        with self._lock:
            self._closed = True
            left, self._in_order = self._in_order[::-1], []
        late = []
        for opened in left:
            reply = ReplyFuture()
            reply.driver = self._loop.driver
            if opened.place is None:
                self._loop.call(lambda opened=opened, reply=reply: _end(opened, reply))  # type: ignore[misc]
            else:
                ResourceCloser.start_on(opened.place).tell(CloseResource(manager=opened.manager, reply_to=reply))
            try:
                error = reply.get(timeout=CLOSE_TIMEOUT_S)
            except Exception:  # A time-out: its thread, or the loop, is held by something else.
                late.append(opened.ref.name)
            else:
                if error is not None:
                    logger.opt(exception=error).warning("closing the resource {!r} failed: {}", opened.ref.name, error)
        return late

    def _of(self, ref: Any) -> Opened:
        if not isinstance(ref, ResourceRef):
            raise TypeError(f"resource() takes the ResourceRef that system.resource() returned, got {ref!r}")
        if ref.index >= len(self._all) or self._all[ref.index].ref is not ref:
            raise RegistrationError(f"the resource {ref.name!r} belongs to another system")
        return self._all[ref.index]

    def _open(self, opened: Opened, manager: Any, place: Dispatcher) -> None:
        if not hasattr(type(manager), "__enter__") or not hasattr(type(manager), "__exit__"):
            if asyncio.iscoroutine(manager):
                manager.close()
            raise TypeError(
                f"the opener of the resource {opened.ref.name!r} must return a context manager or an async one, it "
                f"returned {type(manager).__name__}: decorate a generator function with @contextlib.contextmanager or "
                "@contextlib.asynccontextmanager"
            )
        value = type(manager).__enter__(manager)
        opened.manager, opened.value, opened.place = manager, value, place
        if not self._note(opened):
            type(manager).__exit__(manager, None, None, None)
            self._require_not_closed(opened)

    def _note(self, opened: Opened) -> bool:
        """Have it closed at the stop. False if that has passed: whoever opened it closes it."""
        with self._lock:
            if not self._closed:
                self._in_order.append(opened)
                opened.is_open = True
            return not self._closed

    def _require_not_closed(self, opened: Opened) -> None:
        if self._closed:
            raise NotRunning(f"the resource {opened.ref.name!r} cannot be used any more: the system has stopped")

    # Async ones --------------------------------------------------------------------------------------------------------

    async def _opened(self, opened: Opened) -> Any:
        """What an async resource opened. One task opens it for all who ask, and goes on if one of them is cancelled."""
        if opened.is_open:
            return opened.value
        if opened.opening is None:
            manager = opened.ref.opener() if opened.manager is None else opened.manager
            loop = asyncio.get_running_loop()
            opened.opening, opened.closing = loop.create_future(), loop.create_future()
            opened.task = loop.create_task(self._live(opened, manager, opened.opening, opened.closing))
        return await asyncio.shield(opened.opening)

    async def _live(
        self, opened: Opened, manager: Any, opening: asyncio.Future[Any], closing: asyncio.Future[Any]
    ) -> None:
        """From the opening to the closing, in one task: managers that own tasks of their own insist on that."""
        try:
            opened.value = await type(manager).__aenter__(manager)
        except BaseException as failure:
            opened.opening = opened.manager = None  # The next use makes a manager of its own.
            opening.set_exception(_as_exception(failure))
            opening.exception()  # Seen, though whoever asked may have been cancelled meanwhile.
            return
        reply = None
        if self._note(opened):
            opening.set_result(opened.value)
            with contextlib.suppress(asyncio.CancelledError):  # The loop ends and nobody has closed it.
                reply = await closing
        else:
            opening.set_exception(NotRunning(f"the system stopped while the resource {opened.ref.name!r} was opened"))
            opening.exception()
        error: BaseException | None = None
        try:
            await type(manager).__aexit__(manager, None, None, None)
        except BaseException as failure:
            error = failure
        if reply is not None:
            reply.set(error)


class ResourceCloser(Actor):
    """Closes one resource, on the dispatcher where it was opened."""

    receives: ClassVar[tuple[type, ...]] = (CloseResource,)

    def on_close_resource(self, message: CloseResource) -> None:
        error: BaseException | None = None
        try:
            type(message.manager).__exit__(message.manager, None, None, None)
        except BaseException as failure:
            error = failure
        message.reply_to.set(error)
        self.stop()


def _end(opened: Opened, reply: ReplyFuture) -> None:
    """Let the task of an async resource close it; on the loop."""
    closing = opened.closing
    if closing is None or closing.done():
        reply.set(None)
    else:
        closing.set_result(reply)


def _as_exception(error: BaseException) -> BaseException:
    if isinstance(error, asyncio.CancelledError):
        return SeqtorError("the system stopped while the resource was being opened")
    return error
