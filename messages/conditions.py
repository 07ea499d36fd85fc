"""Conditions: what has to happen for a reaction to run, as immutable data.

Owns their shapes, their operators, and every check that can be made when they are written. Whether a fact meets one is
decided in `actors/reactor`; the users' functions in here (`where`, `correlate`) are called there, never on the core.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from seqtor.messages.errors import RegistrationError, Rejected
from seqtor.messages.events import ALARM_CODES, OURS
from seqtor.messages.facts import (
    EffectFailureFact,
    EventFact,
    FactT_co,
    FailureFact,
    ResultFact,
    StatusFact,
)
from seqtor.messages.runs import State
from seqtor.messages.schedules import SchedulePlan
from seqtor.messages.triggers import Trigger

__all__ = [
    "ANYTHING",
    "AllOf",
    "AnyCondition",
    "AnyOf",
    "Condition",
    "Where",
    "name_effect",
    "on_effect_failure",
    "on_event",
    "on_failure",
    "on_result",
    "on_status",
    "parts_of",
]

ResultT = TypeVar("ResultT")
TriggerT = TypeVar("TriggerT", bound=Trigger[Any])
EFFECT_NAME = "__seqtor_effect__"
CALLED = {"result": "result of", "failure": "failure of", "effect": "failure of the effect", "tick": "tick of"}
RECORDED = tuple(state for state in State if state not in (State.QUEUED, State.RUNNING, State.DEFERRED))


class Where(NamedTuple):
    """A filter: `kind` is "any", "value" (equal), "items" (pairs that must be equal) or "predicate" (a function)."""

    kind: str
    content: Any = None


ANYTHING = Where("any")


class Condition(NamedTuple, Generic[FactT_co]):
    """One kind of fact, and which of them: `name` is the code, or the name of the trigger, the effect or the schedule.

    `where` filters the payload of an event, the result of a result, else the trigger; `trigger` the trigger of a result.
    `plan` is when ticks are due. `a & b` is met by both, `a | b` by each.
    """

    kind: str
    name: str
    trigger_type: type[Trigger[Any]] | None = None
    states: frozenset[State] = frozenset()
    exceptions: tuple[type[BaseException], ...] = ()
    where: Where = ANYTHING
    trigger: Where = ANYTHING
    plan: SchedulePlan | None = None

    def __bool__(self) -> bool:
        return _no_truth_value()

    def __and__(self, other: AnyCondition) -> AllOf:
        return _all_of(self, other)

    def __or__(self, other: AnyCondition) -> AnyOf:
        return _any_of(self, other)

    def correlate(self, key_function: Callable[[Any], Any]) -> NoReturn:
        """There is nothing to put together. Raises RegistrationError."""
        _no_composite("correlate", self)

    def within(self, duration: float | datetime.timedelta) -> NoReturn:
        """There is nothing to put together. Raises RegistrationError."""
        _no_composite("within", self)

    def __str__(self) -> str:
        filters = [each for each in (self.where, self.trigger) if each.kind != "any"]
        more = " where ..." if filters else ""
        if self.kind == "status":
            return f"{self.name} {' or '.join(sorted(self.states))}{more}"
        return f"{CALLED.get(self.kind, self.kind)} {self.name}{more}"


class AllOf(NamedTuple):
    """Met by one fact for each of its parts, with the same correlation key; it consumes what it used.

    `key` is the function that gives the key (None: the run), `within_s` how far apart the facts may be.
    """

    parts: tuple[Any, ...]
    key: Callable[[Any], Any] | None = None
    within_s: float | None = None

    def __bool__(self) -> bool:
        return _no_truth_value()

    def __and__(self, other: AnyCondition) -> AllOf:
        return _all_of(self, other)

    def __or__(self, other: AnyCondition) -> AnyOf:
        return _any_of(self, other)

    def correlate(self, key_function: Callable[[Any], Any]) -> AllOf:
        """Put together facts for which the function, called with each fact, gives the same key.

        The key is a str, an int, a bool, or a tuple of these; a fact for which it is None takes no part.
        """
        _require_callable(key_function, "correlate()", "a fact")
        return self._replace(key=key_function)

    def within(self, duration: float | datetime.timedelta) -> AllOf:
        """Put together only facts whose times are at most so far apart (seconds or a timedelta)."""
        seconds = duration.total_seconds() if isinstance(duration, datetime.timedelta) else duration
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not (0 < seconds < math.inf):
            raise RegistrationError(f"within() takes seconds above 0 or a timedelta, got {duration!r}")
        return self._replace(within_s=float(seconds))

    def __str__(self) -> str:
        return " & ".join(f"({each})" if isinstance(each, AnyOf) else str(each) for each in self.parts)


class AnyOf(NamedTuple):
    """Met by each fact that meets one of its parts: a run for each of them."""

    parts: tuple[Any, ...]

    def __bool__(self) -> bool:
        return _no_truth_value()

    def __and__(self, other: AnyCondition) -> AllOf:
        return _all_of(self, other)

    def __or__(self, other: AnyCondition) -> AnyOf:
        return _any_of(self, other)

    def correlate(self, key_function: Callable[[Any], Any]) -> NoReturn:
        """There is nothing to put together. Raises RegistrationError."""
        _no_composite("correlate", self)

    def within(self, duration: float | datetime.timedelta) -> NoReturn:
        """There is nothing to put together. Raises RegistrationError."""
        _no_composite("within", self)

    def __str__(self) -> str:
        return " | ".join(f"({each})" if isinstance(each, AllOf) else str(each) for each in self.parts)


AnyCondition = Condition[Any] | AllOf | AnyOf


def _no_truth_value() -> NoReturn:
    """Raised where `a and b` would silently be `b`."""
    raise TypeError("a condition is neither true nor false: write a & b for both, a | b for either")


def _no_composite(verb: str, condition: Any) -> NoReturn:
    raise RegistrationError(
        f"{verb}() is for facts that are put together, with an `&`, and ({condition}) is met by one: (a & b).{verb}(...), "
        f"and of an `|` for each side that has one, (a & b).{verb}(...) | c"
    )


def _all_of(left: Any, right: Any) -> AllOf:
    _require_condition(right, "&")
    parts: list[Any] = []
    for side in (left, right):
        if isinstance(side, AllOf):
            if side.key is not None or side.within_s is not None:
                raise RegistrationError(
                    "put correlate() and within() last, around all parts: ((a & b) & c).correlate(...).within(...); inside "
                    "of another `&` they would have a meaning of their own"
                )
            parts += side.parts
        else:
            if isinstance(side, AnyOf) and any(isinstance(each, AllOf) for each in side.parts):
                raise RegistrationError(
                    "an `&` inside of an `|` inside of an `&` is not supported: write the alternatives out, "
                    "(a & b & d) | (c & d), or decorate the function twice"
                )
            parts.append(side)
    return AllOf(tuple(parts))


def _any_of(left: Any, right: Any) -> AnyOf:
    _require_condition(right, "|")
    parts: list[Any] = []
    for side in (left, right):
        parts += side.parts if isinstance(side, AnyOf) else (side,)
    return AnyOf(tuple(parts))


def _require_condition(value: Any, operator: str) -> None:
    if not isinstance(value, (Condition, AllOf, AnyOf)):
        raise RegistrationError(f"`{operator}` joins two conditions, such as on_event('code'), got {value!r}")


def parts_of(condition: Any) -> Iterable[Condition[Any]]:
    """The single conditions that it is made of, from left to right."""
    if isinstance(condition, Condition):
        yield condition
    else:
        for part in condition.parts:
            yield from parts_of(part)


# Making them ---------------------------------------------------------------------------------------------------------


def on_event(code: str, where: Any = ANYTHING) -> Condition[EventFact]:
    """Every event of this code: one run for each.

    `where` is a value that the payload must equal, a mapping whose items it must have, or a predicate over it.
    """
    if not isinstance(code, str) or not code:
        raise RegistrationError(f"on_event() takes the code of an event (a non-empty string), got {code!r}")
    if code.startswith(OURS) and code not in ALARM_CODES:
        near = difflib.get_close_matches(code, ALARM_CODES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RegistrationError(f"seqtor has no event {code!r}, its own are {', '.join(sorted(ALARM_CODES))}{hint}")
    return Condition("event", code, where=_where(where, "on_event(where=)", "the payload"))


def on_status(
    trigger_type: type[TriggerT], statuses: State | str | Iterable[State | str], where: Any = ANYTHING
) -> Condition[StatusFact[TriggerT]]:
    """Every trigger of this type that has ended as one of the statuses: members or values of `State`.

    `where` filters by the trigger: a trigger that it must equal, a mapping of fields, or a predicate.
    """
    _require_type(trigger_type, "on_status")
    each = (statuses,) if isinstance(statuses, str) or not isinstance(statuses, Iterable) else tuple(statuses)
    if not each:
        raise RegistrationError(f"on_status({trigger_type.__name__}, ...) needs a status, such as State.REJECTED")
    states = frozenset(_state(one) for one in each)
    return Condition(
        "status",
        trigger_type.trigger_name,
        trigger_type,
        states,
        where=_where(where, "on_status(where=)", "the trigger"),
    )


def on_result(
    trigger_type: type[Trigger[ResultT]], where: Any = ANYTHING, *, trigger: Any = ANYTHING
) -> Condition[ResultFact[ResultT]]:
    """Every run of this type that has committed; `where` filters by its result, `trigger` by its trigger."""
    _require_type(trigger_type, "on_result")
    return Condition(
        "result", trigger_type.trigger_name, trigger_type, where=_where(where, "on_result(where=)", "the result"),
        trigger=_where(trigger, "on_result(trigger=)", "the trigger"),
    )  # fmt: skip


def on_failure(
    trigger_type: type[TriggerT], *exception_types: type[BaseException], where: Any = ANYTHING
) -> Condition[FailureFact[TriggerT]]:
    """Every run of this type that has failed, or passed its deadline, with no retry to follow.

    With exception types, those that raised an instance of one of them. Not `Rejected`: that is a status.
    """
    _require_type(trigger_type, "on_failure")
    for kind in exception_types:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise RegistrationError(f"on_failure() takes classes of exceptions behind the trigger type, got {kind!r}")
        if issubclass(kind, Rejected):
            raise RegistrationError(
                f"on_failure() never fires for {kind.__name__}: a rejection is a status, "
                f"on_status({trigger_type.__name__}, State.REJECTED)"
            )
    return Condition(
        "failure", trigger_type.trigger_name, trigger_type, exceptions=exception_types,
        where=_where(where, "on_failure(where=)", "the trigger"),
    )  # fmt: skip


def on_effect_failure(function: Callable[..., Any]) -> Condition[EffectFailureFact]:
    """Every effect of this function, which was registered with `@system.effect(...)`, that was given up."""
    name = getattr(function, EFFECT_NAME, None)
    if name is None:
        raise RegistrationError(
            f"on_effect_failure() takes a function that was registered with @system.effect(...) before, got {function!r}"
        )
    return Condition("effect", name)


def name_effect(function: Any, name: str) -> None:
    """Note under which name a function is registered as an effect."""
    with contextlib.suppress(AttributeError):  # Of what takes no attributes, `on_effect_failure` says so.
        setattr(function, EFFECT_NAME, name)


def _where(value: Any, option: str, what: str) -> Where:
    if value is ANYTHING or isinstance(value, Where):
        return value
    if callable(value):
        _require_callable(value, option, what)
        return Where("predicate", value)
    if isinstance(value, Mapping):
        return Where("items", tuple(value.items()))
    return Where("value", value)


def _require_callable(function: Any, option: str, what: str) -> None:
    if not callable(function) or isinstance(function, type):
        raise RegistrationError(f"{option} takes a function that is called with {what}, got {function!r}")
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        raise RegistrationError(f"{option} takes a plain function, not a coroutine function: {function!r}")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise RegistrationError(f"{option}: the function is called with {what} alone ({error})") from None
    except ValueError:
        pass  # A callable without a signature that Python can read: its call will tell.


def _require_type(trigger_type: Any, verb: str) -> None:
    if not (isinstance(trigger_type, type) and issubclass(trigger_type, Trigger)) or trigger_type is Trigger:
        raise RegistrationError(f"{verb}() takes a subclass of Trigger, got {trigger_type!r}")


def _state(value: Any) -> State:
    try:
        state = State(value)
    except ValueError:
        near = difflib.get_close_matches(str(value).lower(), list(State), n=1)
        hint = f"; did you mean {str(near[0])!r}?" if near else ""
        raise RegistrationError(f"{value!r} is no status, use one of {', '.join(RECORDED)}{hint}") from None
    if state not in RECORDED:
        raise RegistrationError(
            f"{state.value!r} is on the way to an end and has no record, so nothing can react to it: use one of "
            f"{', '.join(RECORDED)}"
        )
    return state
