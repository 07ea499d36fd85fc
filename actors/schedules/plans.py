"""The plan of a schedule: made from what programs pass, and turned into its calendar.

Owns the checks of what `system.schedule` takes. Pure. Promises: what cannot be meant is refused with what to change; a
plan and its anchor give the same slots in every process.
"""

from __future__ import annotations

import datetime
import math
import typing
from collections.abc import Iterator
from typing import Any

from seqtor.actors.handlers import require_priority
from seqtor.actors.journal.encoding import model_json
from seqtor.actors.schedules.calendar import FIRST, LAST, At, Calendar, Cron, Every, zone_of
from seqtor.messages.errors import RegistrationError
from seqtor.messages.events import OURS
from seqtor.messages.schedules import Misfire, Overlap, ScheduledTrigger, SchedulePlan, ScheduleRegistered
from seqtor.messages.triggers import Trigger

__all__ = [
    "CATCH_UP_MAX",
    "Bounded",
    "calendar_of",
    "described",
    "first_slot",
    "make_plan",
    "make_registered",
]

CATCH_UP_MAX = 100
CATCH_UP_LIMIT = 10_000
EVERY_MIN_S = 0.1  # Each slot costs two commits.


class Bounded:
    """The slots of a calendar between the start and the end of a schedule."""

    __slots__ = ("_calendar", "_end", "_start")

    def __init__(self, calendar: Calendar, start: float | None, end: float | None) -> None:
        self._calendar = calendar
        self._start = -math.inf if start is None else start
        self._end = math.inf if end is None else end

    def slots(self, after: float) -> Iterator[float]:
        """The slots behind a moment, rising; POSIX seconds."""
        if after < self._start:
            after = self._start - 1.0  # One at the start itself counts.
        for slot in self._calendar.slots(after):
            if slot > self._end:
                return
            if slot >= self._start:
                yield slot


def calendar_of(plan: SchedulePlan, anchor: float) -> Bounded:
    """When a schedule is due that began at `anchor`."""
    calendar: Calendar
    if plan.cron is not None:
        calendar = Cron(plan.cron, plan.timezone)
    elif plan.every is not None:
        begin = anchor if plan.start is None else plan.start
        calendar = Every(plan.every, begin, inclusive=plan.start is not None)
    else:
        assert plan.at is not None
        calendar = At(plan.at)
    return Bounded(calendar, plan.start, plan.end)


def described(plan: SchedulePlan) -> str:
    """When it is due, for people."""
    if plan.cron is not None:
        return plan.cron if plan.timezone == "UTC" else f"{plan.cron} {plan.timezone}"
    if plan.every is not None:
        return f"every {plan.every:g} s"
    assert plan.at is not None
    return f"at {_shown(plan.at)}"


def first_slot(plan: SchedulePlan, now: float) -> float | None:
    """The first slot of a schedule that is registered now; None if it would never be due."""
    return next(calendar_of(plan, now).slots(now), None)


def make_registered(trigger: Any, name: Any, priority: Any, options: dict[str, Any]) -> ScheduleRegistered:
    """Check what a program registers as a schedule. Raises RegistrationError that says what to change."""
    if not isinstance(trigger, Trigger):
        hint = f": pass an instance, {trigger.__name__}(...)" if isinstance(trigger, type) else ""
        raise RegistrationError(f"schedule() takes a trigger, got {trigger!r}{hint}")
    if name is not None and (not isinstance(name, str) or not name):
        raise RegistrationError(f"a schedule's name is a non-empty string, got {name!r}")
    if name is not None and name.startswith(OURS):
        raise RegistrationError(f"the names that begin with {OURS!r} are seqtor's own: call {name!r} otherwise")
    try:
        plan = make_plan(**options)
    except ValueError as error:
        called = f"of {trigger.trigger_name}" if name is None else repr(name)
        raise RegistrationError(f"schedule {called}: {error}") from error
    kept = ScheduledTrigger(
        type=trigger.trigger_name, version=trigger.trigger_version, payload_json=model_json(trigger),
        priority=None if priority is None else int(require_priority(priority, RegistrationError)),
    )  # fmt: skip
    return ScheduleRegistered(schedule=name or f"{trigger.trigger_name} {described(plan)}", plan=plan, trigger=kept)


def make_plan(
    *,
    cron: Any = None,
    every: Any = None,
    at: Any = None,
    timezone: Any = "UTC",
    misfire: Any = "latest",
    catch_up_max: Any = CATCH_UP_MAX,
    overlap: Any = "skip",
    jitter: Any = None,
    start: Any = None,
    end: Any = None,
    grace: Any = None,
) -> SchedulePlan:
    """Check the options and make a plan. Raises ValueError that says what to change."""
    given = {name: value for name, value in (("cron", cron), ("every", every), ("at", at)) if value is not None}
    if len(given) != 1:
        which = " and ".join(f"{name}={value!r}" for name, value in given.items()) or "none of cron=, every= and at="
        raise ValueError(f"it says {which}: give one of the three, or make several schedules")
    _require_one_of("misfire", misfire, typing.get_args(Misfire))
    _require_one_of("overlap", overlap, typing.get_args(Overlap))
    if isinstance(catch_up_max, bool) or not isinstance(catch_up_max, int) or not 1 <= catch_up_max <= CATCH_UP_LIMIT:
        raise ValueError(f"catch_up_max must be an int from 1 to {CATCH_UP_LIMIT}, got {catch_up_max!r}")
    zone = timezone.key if hasattr(timezone, "key") else timezone
    try:
        zone_of(zone)
        line = None if cron is None else Cron(cron, zone).line.text
    except TypeError as error:
        raise ValueError(str(error)) from error
    every_s = None if every is None else _seconds("every", every)
    if every_s is not None and every_s < EVERY_MIN_S:
        raise ValueError(
            f"every must be at least {EVERY_MIN_S:g} seconds, got {every!r}: what is to happen more often is better a loop "
            "of the program"
        )
    start_at, end_at = _moment("start", start), _moment("end", end)
    if start_at is not None and end_at is not None and end_at < start_at:
        raise ValueError(f"it ends ({end}) before it starts ({start})")
    options = {} if grace is None else {"grace": _seconds("grace", grace)}
    plan = SchedulePlan(
        cron=line, every=every_s, at=_moment("at", at), timezone=zone, misfire=misfire, catch_up_max=catch_up_max,
        overlap=overlap, jitter=0.0 if jitter is None else _seconds("jitter", jitter), start=start_at, end=end_at, **options,
    )  # fmt: skip
    _require_a_slot(plan)
    return plan


def _require_a_slot(plan: SchedulePlan) -> None:
    """Raise ValueError for a plan that is never due, whenever it is registered."""
    begin = plan.start if plan.at is None else plan.at
    if begin is None and plan.end is not None:
        return  # That depends on when it is registered.
    if first_slot(plan, 0.0 if begin is None else begin - 1.0) is None:
        bounds = [f"{name}={_shown(at)}" for name, at in (("start", plan.start), ("end", plan.end)) if at is not None]
        raise ValueError(f"{described(plan)} is never due{' with ' if bounds else ''}{' and '.join(bounds)}")


def _require_one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _seconds(name: str, value: Any) -> float:
    found = value.total_seconds() if isinstance(value, datetime.timedelta) else value
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found) or found < 0:
        raise ValueError(f"{name} must be seconds (a number, 0 or more) or a timedelta, got {value!r}")
    return float(found)


def _moment(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, datetime.datetime) or value.utcoffset() is None:
        raise ValueError(
            f"{name} is a moment, an aware datetime, got {value!r}: give it a time zone, for example "
            "value.replace(tzinfo=ZoneInfo('Europe/Berlin'))"
        )
    moment = value.timestamp()
    if not FIRST <= moment <= LAST:
        raise ValueError(f"{name} is beyond the calendar in UTC, got {value!r}")
    return moment


def _shown(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat()
