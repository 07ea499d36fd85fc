"""The handlers of a system: which function does the work of which trigger type.

Owns the checks that fail at registration instead of at three in the night, and what must be known of a trigger type to
accept its instances.
"""

from __future__ import annotations

import datetime
import difflib
import inspect
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from seqtor.actors.coalescing import merging, require_coalesce
from seqtor.actors.footprints import FootprintOf
from seqtor.actors.journal.encoding import model_json
from seqtor.actors.processes.importable import is_in_process
from seqtor.actors.rates import require_rate
from seqtor.actors.retries import Retry
from seqtor.messages.errors import RegistrationError, Rejected, UnknownTrigger
from seqtor.messages.fidelity import comes_back
from seqtor.messages.immutability import mutable_in_type, mutable_in_value, needs_value_check
from seqtor.messages.triggers import Priority, Trigger

__all__ = [
    "IN_PROCESS",
    "ON_LOOP",
    "ON_POOL",
    "OUTSIDE",
    "Handler",
    "Handlers",
    "did_you_mean",
    "event_time_of",
    "is_by_completion",
    "make_handler",
    "require_kept",
    "require_payload",
    "require_priority",
    "require_serialisable",
    "require_trigger_type",
]

ARRIVAL, COMPLETION = "arrival", "completion"
PLAIN = frozenset({int, str, float, bool, type(None), bytes})


ON_POOL, ON_LOOP, IN_PROCESS, OUTSIDE = range(4)


class Handler:
    """A trigger type, the function that does its work, and its options."""

    __slots__ = (
        "by_completion",
        "coalesce",
        "comes_back",
        "deadline_s",
        "footprint",
        "function",
        "has_event_time",
        "is_async",
        "merge",
        "name",
        "number",
        "place",
        "priority",
        "rate",
        "retry",
        "trigger_type",
        "unknown_fields",
        "version",
    )  # fmt: skip

    def __init__(
        self,
        trigger_type: type[Trigger[Any]],
        function: Callable[[Any, Any], Any],
        *,
        priority: Priority | None,
        deadline_s: float,
        version: int = 1,
        retry: Retry | None = None,
        executor: str = "thread",
        by_completion: bool = False,
        rate: float | None = None,
        footprint: FootprintOf | None = None,
        coalesce: Callable[[Any], Any] | None = None,
        merge: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.retry = retry
        self.coalesce = coalesce
        self.merge = merge
        self.rate = rate
        self.footprint = footprint
        self.by_completion = by_completion  # Its runs get their seq when they have finished.
        self.trigger_type = trigger_type
        self.version = version
        self.function = function
        self.name = trigger_type.trigger_name
        self.number = 0
        self.is_async = any(
            inspect.iscoroutinefunction(callee)
            for callee in (function, inspect.unwrap(function), getattr(function, "__call__", None))  # noqa: B004
        )
        in_process = is_in_process(executor, function, trigger_type, is_async=self.is_async)
        self.place = IN_PROCESS if in_process else ON_LOOP if self.is_async else ON_POOL
        if by_completion:
            self.place = OUTSIDE
        if merge is not None:
            self.function = merging(function, merge, is_async=self.is_async)
        chosen = priority if priority is not None else trigger_type.priority
        self.priority = int(Priority.NORMAL if chosen is None else chosen)
        self.deadline_s = deadline_s
        self.has_event_time = "event_time" in trigger_type.model_fields or hasattr(trigger_type, "event_time")
        self.comes_back = comes_back(trigger_type)
        self.unknown_fields = tuple(
            name for name, field in trigger_type.model_fields.items() if needs_value_check(field.annotation)
        )


class Handlers:
    """All handlers of one system, by trigger type."""

    def __init__(self) -> None:
        self._by_type: dict[type, Handler] = {}
        self._by_name: dict[str, Handler] = {}
        self._lock = threading.Lock()
        self._defaults: set[type] = set()

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._by_type.values())

    def __contains__(self, trigger_type: object) -> bool:
        return trigger_type in self._by_type

    def add(self, handler: Handler) -> None:
        """Register; raises RegistrationError if the type, its name or its function will not do."""
        kind = handler.trigger_type
        if kind in self._defaults:
            self._defaults.remove(kind)
            handler.number = self._by_type[kind].number
            self._by_type[kind] = self._by_name[handler.name] = handler
            return
        if kind in self._by_type:
            raise RegistrationError(
                f"{kind.__name__} has the handler {_name(self._by_type[kind].function)} already, so "
                f"{_name(handler.function)} cannot be its handler too: one type, one handler. Make a second trigger "
                "type, or do both in one handler"
            )
        namesake = self._by_name.get(handler.name)
        if namesake is not None:
            raise RegistrationError(
                f"two trigger types are called {handler.name!r}: {_place(namesake.trigger_type)} and {_place(kind)}; "
                f'give one another name in its class statement: class {kind.__name__}(Trigger, name="...")'
            )
        _require_immutable(kind)
        handler.number = len(self._by_type)
        self._by_type[kind] = handler
        self._by_name[handler.name] = handler

    def add_default(self, handler: Handler) -> None:
        """Register a handler in whose place the program may register one of its own."""
        self.add(handler)
        self._defaults.add(handler.trigger_type)

    def add_once(self, handler: Handler) -> Handler:
        """Register a handler found while the system runs, unless another thread was faster; returns the one to use."""
        with self._lock:
            known = self._by_type.get(handler.trigger_type)
            if known is None:
                self.add(handler)
                known = handler
            return known

    def named(self, name: str) -> Handler:
        """The handler of the trigger type with this name. Raises KeyError."""
        return self._by_name[name]

    def find(self, name: str) -> Handler | None:
        """The handler of the trigger type with this name, or None."""
        return self._by_name.get(name)

    def of(self, trigger: Any) -> Handler:
        """The handler of a trigger. Raises UnknownTrigger, saying what is registered."""
        handler = self._by_type.get(type(trigger))
        if handler is not None:
            return handler
        if not isinstance(trigger, Trigger):
            hint = f": pass an instance, {trigger.__name__}(...)" if isinstance(trigger, type) else ""
            raise UnknownTrigger(f"a trigger is an instance of a Trigger subclass, got {trigger!r}{hint}")
        kind = type(trigger)
        raise UnknownTrigger(
            f"no handler is registered for {kind.__name__}: decorate one with @system.on({kind.__name__}), or give the "
            f"class a method execute(self, tx){did_you_mean(kind.__name__, self._by_name)}"
        )


def make_handler(
    trigger_type: Any,
    function: Any,
    *,
    priority: Priority | None = None,
    deadline_s: float = 10.0,
    version: int = 1,
    retry: Retry | None = None,
    executor: str = "thread",
    sequence: str = ARRIVAL,
    rate: float | None = None,
    footprint: FootprintOf | None = None,
    coalesce: Callable[[Any], Any] | None = None,
    merge: Callable[[Any, Any], Any] | None = None,
) -> Handler:
    """Check and make a handler; raises RegistrationError that says what to change."""
    require_trigger_type(trigger_type)
    if not callable(function):
        raise RegistrationError(f"the handler of {trigger_type.__name__} must be a function, got {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise RegistrationError(f"the handler {_name(function)} is a generator: return the result instead of yielding")
    signature = None
    try:
        signature = inspect.signature(function)
        signature.bind(None, None)
    except TypeError:
        raise RegistrationError(
            f"the handler {_name(function)} takes {signature}, but it is called with (trigger, tx): "
            f"def {getattr(function, '__name__', 'handler')}(trigger: {trigger_type.__name__}, tx: Transaction)"
        ) from None
    except ValueError:
        pass  # A callable without a signature that Python can read (a builtin): its call will tell.
    if "priority" in trigger_type.model_fields:
        raise RegistrationError(
            f"{trigger_type.__name__}.priority is a field, and the priority is a class attribute: write it without an "
            "annotation, priority = Priority.HIGH, or give the field another name"
        )
    for place, given in ((f"{trigger_type.__name__}.priority", trigger_type.priority), ("priority", priority)):
        if given is not None:
            require_priority(given, RegistrationError, place)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise RegistrationError(
            f"version of the handler of {trigger_type.__name__} must be an int from 1, got {version!r}"
        )
    _require_retry(retry, trigger_type)
    by_completion = is_by_completion(sequence, trigger_type)
    if by_completion and executor == "process":
        raise RegistrationError(
            f'the handler of {trigger_type.__name__} has sequence="completion" and executor="process", which do not go '
            "together: an agent waits most of the time; let it call what computes, in a process of its own, with tx.call"
        )
    if coalesce is not None or merge is not None:
        name, in_process = trigger_type.__name__, executor == "process"
        require_coalesce(coalesce, merge, name, by_completion=by_completion, in_process=in_process)
    if merge is not None and footprint is not None:
        raise RegistrationError(
            f"the handler of {trigger_type.__name__} has merge= and writes=, which do not go together: what is declared for "
            "each of the merged triggers says nothing of what they are merged to"
        )
    return Handler(
        trigger_type, function, priority=priority, deadline_s=deadline_s, version=version,
        retry=None if retry is None or retry.max_runs == 1 else retry, executor=executor, by_completion=by_completion,
        rate=require_rate(rate, trigger_type.__name__), footprint=footprint, coalesce=coalesce, merge=merge,
    )  # fmt: skip


def is_by_completion(sequence: Any, trigger_type: Any) -> bool:
    """Whether runs get their seq when their work is done; raises RegistrationError for what is no way to get one."""
    if sequence not in (ARRIVAL, COMPLETION):
        name = getattr(trigger_type, "__name__", trigger_type)
        raise RegistrationError(
            f'sequence= of the handler of {name} must be "{ARRIVAL}" (a seq before it executes, the default) or '
            f'"{COMPLETION}" (a seq when its work is done: agents and other long work), got {sequence!r}'
        )
    return bool(sequence == COMPLETION)


def _require_retry(retry: Any, trigger_type: type[Trigger[Any]]) -> None:
    """Raise RegistrationError unless it is a policy that a handler can have."""
    if retry is None:
        return
    if not isinstance(retry, Retry):
        raise RegistrationError(f"retry= of the handler of {trigger_type.__name__} takes a Retry(...), got {retry!r}")
    never = [kind.__name__ for kind in retry.on if issubclass(kind, Rejected)]
    if never:
        raise RegistrationError(
            f"Retry(on=...) of the handler of {trigger_type.__name__} names {', '.join(never)}: a rejection is an answer, "
            "and is never retried; raise another exception for what may go well later"
        )


def require_trigger_type(trigger_type: Any) -> None:
    """Raise RegistrationError unless it is a subclass of Trigger."""
    if not (isinstance(trigger_type, type) and issubclass(trigger_type, Trigger)) or trigger_type is Trigger:
        raise RegistrationError(
            f"on() takes a subclass of Trigger, got {trigger_type!r}: write @system.on(MyTrigger) above the handler"
        )


def event_time_of(trigger: Any) -> float | None:
    """The trigger's event time as POSIX seconds, or None. Raises TypeError for a value that is no moment."""
    value = trigger.event_time
    if value is None:
        return None
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise TypeError(
                f"{trigger.trigger_name}.event_time is {value!r} without a time zone: give it one, for example "
                "value.replace(tzinfo=timezone.utc)"
            )
        return value.timestamp()
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise TypeError(f"{trigger.trigger_name}.event_time must be an aware datetime or POSIX seconds, got {value!r}")


def require_priority(value: Any, error: type[Exception], place: str = "priority") -> Priority:
    """The priority that a value stands for; raises `error` for one that stands for none."""
    try:
        return Priority(value)
    except ValueError:
        names = ", ".join(f"Priority.{member.name}" for member in Priority)
        raise error(f"{place} must be one of {names}, got {value!r}") from None


def require_payload(trigger: Any, handler: Handler) -> None:
    """Raise TypeError if a field whose type says too little holds something mutable or unserialisable."""
    for name in handler.unknown_fields:
        value = getattr(trigger, name)
        found = mutable_in_value(value, f"{handler.name}.{name}")
        if found is not None:
            raise TypeError(f"a trigger is immutable, but {found}")
        require_serialisable(value, f"{handler.name}.{name}")


def require_kept(trigger: Any, handler: Handler) -> None:
    """Raise TypeError unless the journal would give the trigger back as it is."""
    kind = handler.trigger_type
    try:
        kept = kind.model_validate_json(model_json(trigger), by_alias=False, by_name=True)
    except Exception as error:
        raise TypeError(f"the journal cannot keep {trigger!r}: {error}") from error
    if kept != trigger:
        raise TypeError(
            f"the journal would give {trigger!r} back as {kept!r}: give the fields of {kind.__name__} types that JSON tells "
            "apart"
        )


def require_serialisable(value: Any, what: str) -> None:
    """Raise TypeError unless pydantic can serialise the value."""
    if type(value) in PLAIN:
        return
    if isinstance(value, Iterator):
        raise TypeError(f"{what} is a {type(value).__name__}, which can be read only once: return a list or a tuple")
    try:
        to_json(value, bytes_mode="base64", inf_nan_mode="strings")
    except (PydanticSerializationError, ValueError) as error:
        raise TypeError(
            f"{what} is a {type(value).__name__} that cannot be serialised ({error}): use plain values, pydantic models "
            "or dataclasses"
        ) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _require_immutable(kind: type[Trigger[Any]]) -> None:
    """Raise RegistrationError if instances of the type can be changed in place."""
    for option, value, usual in (("frozen", False, True), ("extra", "allow", "forbid")):
        if kind.model_config.get(option) == value:
            raise RegistrationError(
                f"a trigger is immutable, but {kind.__name__} has {option}={value!r} in its model_config: use {usual!r}"
            )
    for name, field in kind.model_fields.items():
        found = mutable_in_type(field.annotation, f"{kind.__name__}.{name}")
        if found is not None:
            raise RegistrationError(f"a trigger is immutable, but {found}")


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _place(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
