"""Executions of effects: one call of an effect function, on a thread or as a task of the loop.

Owns what the function gets and what becomes of what it returns or raises. Promises: user code runs here and never on the
core; whatever it does, exactly one `EffectExecuted` follows, unless the system stops first; every try of an effect has
the same key.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from pydantic_core import from_json

from seqtor.actors.base import Actor
from seqtor.actors.clock import Clock
from seqtor.actors.dispatchers.contract import Dispatcher, LoopDispatcher
from seqtor.actors.faults import fault
from seqtor.actors.footprints import declare
from seqtor.actors.journal.encoding import accepted_text, error_record, model_json
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.outbox import Prepare
from seqtor.actors.resources import ResourceRef, Resources
from seqtor.actors.submissions import Intake, Origin, Submission
from seqtor.messages.effects import EffectExecuted, ExecuteEffect, ReportFree, WorkerFree
from seqtor.messages.errors import SeqtorError
from seqtor.messages.events import ALARM
from seqtor.messages.records import AcceptedRecord, RecordedError
from seqtor.messages.triggers import Trigger

__all__ = ["EffectContext", "EffectTasks", "EffectWorker", "Workshop"]

ValueT = TypeVar("ValueT")


class EffectContext:
    """What an effect function gets beside its payload.

    `key` names this effect and is the same at every try, after a restart too: hand it to the other side, so that it can
    tell a repetition. `seq` is that of the commit, `attempt` counts the tries of this process from 1.
    """

    __slots__ = ("_find", "attempt", "key", "seq")

    def __init__(
        self, *, key: str, seq: int, attempt: int = 1, find: Callable[[ResourceRef[Any]], Any] | None = None
    ) -> None:
        self.key = key
        self.seq = seq
        self.attempt = attempt
        self._find = find

    def resource(self, ref: ResourceRef[ValueT]) -> ValueT:
        """What the resource opened, or an awaitable of it if it is an async one; opens it at the first use.

        Raises what its opener raises, TypeError for an async resource in a plain function.
        """
        if self._find is None:
            raise LookupError(f"this context has no resource {ref.name!r}: it was made without find=")
        return self._find(ref)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<EffectContext {self.key} attempt={self.attempt}>"


class Workshop:
    """What all executions of effects of one system share."""

    def __init__(
        self, journal_id: str, *, upcasts: Upcasts, resources: Resources, intake: Intake, prepare: Prepare, clock: Clock,
        watcher: Any = None,
    ) -> None:  # fmt: skip
        self._journal_id = journal_id
        self._upcasts = upcasts
        self._resources = resources
        self.intake = intake
        self._prepare = prepare
        self._clock = clock
        self._watcher = watcher

    def key(self, seq: int, index: int) -> str:
        """The key of an effect: the same in every process that has the journal."""
        return f"{self._journal_id}-{seq}-{index}"

    def _key_of(self, task: ExecuteEffect) -> str:
        """That of every try, also of those before it was given up and submitted again."""
        return task.effect.key or self.key(task.seq, task.index)

    def arguments(self, task: ExecuteEffect, place: Dispatcher) -> tuple[EffectContext, Any]:
        """What the function is called with."""
        key, is_async = self._key_of(task), task.function.is_async
        payload = task.function.payload_of(task.effect, self._upcasts, f"the effect {key} ({task.effect.name})")
        if self._watcher is not None:
            self._watcher.effect(task.seq, task.index)

        def find(ref: ResourceRef[Any]) -> Any:
            return self._resources.get(ref, place, is_async=is_async)

        return EffectContext(key=key, seq=task.seq, attempt=task.attempt, find=find), payload

    def accept(self, task: ExecuteEffect, returned: Any) -> tuple[Submission[Any] | None, AcceptedRecord | None]:
        """What the function returned, as a submission and its record. Raises what makes it no trigger to be accepted.

        Its run id follows from the effect's key: whichever try returns it, it is the same run.
        """
        if returned is None:
            return None, None
        if inspect.iscoroutine(returned):
            returned.close()
            raise TypeError(f"the effect {task.effect.name!r} returned a coroutine: declare it with async def")
        if not isinstance(returned, Trigger):
            raise TypeError(
                f"the effect {task.effect.name!r} returned a {type(returned).__name__}: return a Trigger, which is then "
                "submitted, or None"
            )
        trigger, handler, priority, own_time = self._prepare(returned, None)
        key, now = self._key_of(task), self._clock.time()
        event_time = now if own_time is None else own_time
        origin = Origin(id=f"{ALARM}{key}" if task.effect.alarm else key, cause=key)
        submission = Submission(self.intake, task.index + 1, trigger, handler, priority, event_time, now, origin)
        declare(submission)
        return submission, AcceptedRecord.model_validate_json(accepted_text(submission))


class EffectWorker(Actor):
    """Executes plain effect functions one after another, on a thread of its own."""

    receives: ClassVar[tuple[type, ...]] = (ExecuteEffect, ReportFree)

    def __init__(self, workshop: Workshop, effects: Mailbox) -> None:
        super().__init__()
        self._workshop = workshop
        self._effects = effects

    def on_execute_effect(self, message: ExecuteEffect) -> None:
        submission = accepted = None
        error: BaseException | None = None
        try:
            context, payload = self._workshop.arguments(message, self._dispatcher)  # type: ignore[arg-type]
            fault("effects.try.before")
            returned = message.function.function(context, payload)
            fault("effects.try.after")
            submission, accepted = self._workshop.accept(message, returned)
        except BaseException as failure:
            error = failure
        self._effects.tell(_executed(message, self.actor_urn, submission, accepted, error))
        del error  # Its traceback leads back to this frame.

    def on_report_free(self, _: ReportFree) -> None:
        self._effects.tell(WorkerFree(worker=self.actor_urn))


class EffectTasks(Actor):
    """Executes async effect functions as tasks of the loop, many at a time."""

    receives: ClassVar[tuple[type, ...]] = (ExecuteEffect,)

    def __init__(self, workshop: Workshop, effects: Mailbox, loop: LoopDispatcher) -> None:
        super().__init__()
        self._workshop = workshop
        self._effects = effects
        self._loop = loop
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._has_stopped = False

    def on_execute_effect(self, message: ExecuteEffect) -> None:
        self._loop.call(lambda: self._start_task(message))

    def _start_task(self, message: ExecuteEffect) -> None:
        if not self._has_stopped:
            task = asyncio.get_running_loop().create_task(self._execute(message))
            self._tasks[task] = None
            task.add_done_callback(lambda ended: self._tasks.pop(ended, None))

    async def _execute(self, message: ExecuteEffect) -> None:
        submission = accepted = None
        error: BaseException | None = None
        try:
            context, payload = self._workshop.arguments(message, self._loop)
            fault("effects.try.before")
            returned = await message.function.function(context, payload)
            fault("effects.try.after")
            submission, accepted = self._workshop.accept(message, returned)
        except asyncio.CancelledError as cancelled:
            if self._has_stopped:
                return  # Ours: the effect has not ended, and is resumed at the next start.
            error = SeqtorError(f"the effect {message.effect.name!r} was cancelled by something that it awaited")
            error.__cause__ = cancelled
        except BaseException as failure:
            error = failure
        self._effects.tell(_executed(message, self.actor_urn, submission, accepted, error))
        del error  # Its traceback leads back to this frame.

    def on_stop(self) -> None:
        """Cancel what still runs."""
        self._has_stopped = True
        for task in list(self._tasks):
            task.cancel()


def _executed(
    task: ExecuteEffect, worker: str, submission: Any, accepted: Any, error: BaseException | None
) -> EffectExecuted:
    return EffectExecuted(
        seq=task.seq,
        index=task.index,
        attempt=task.attempt,
        submission=submission,
        accepted=accepted,
        error=error,
        failure=None if error is None else _failure(error),
        worker=worker,
    )


def _failure(error: BaseException) -> RecordedError:
    """The exception as it is kept: whatever its class does when it is asked for a text, in a form that can be read back."""
    try:
        kept = error_record(error)
        from_json(model_json(kept))  # Raises for text that is no valid Unicode, such as some file names.
    except Exception:
        kept = RecordedError(type=f"{type(error).__module__}.{type(error).__qualname__}", message=_safe_text(error))
    return kept


def _safe_text(error: BaseException) -> str:
    try:
        return str(error).encode("utf-8", "backslashreplace").decode()
    except Exception:
        return "(the exception gives no text)"
