"""Ticks: what `on_cron` waits for.

Owns the condition, and the schedule behind it: one for each line and its options, whoever reacts to it. A slot of it is a
run that does nothing, and whose record is the fact. Promises: what cannot be meant is refused where it is written.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from typing import Any
from zlib import crc32

from seqtor.actors.journal.encoding import model_json
from seqtor.actors.reactor.reactions import Reaction
from seqtor.actors.schedules.plans import CATCH_UP_MAX, described, make_plan
from seqtor.messages.conditions import Condition, parts_of
from seqtor.messages.errors import RegistrationError
from seqtor.messages.events import OURS
from seqtor.messages.facts import TickFact
from seqtor.messages.schedules import Misfire, ScheduledTrigger, SchedulePlan, ScheduleRegistered, SlotReached

__all__ = ["on_cron", "schedules_of", "take_slot"]


def on_cron(
    line: str,
    timezone: str = "UTC",
    *,
    misfire: Misfire = "latest",
    catch_up_max: int = CATCH_UP_MAX,
    jitter: float | datetime.timedelta | None = None,
    start: datetime.datetime | None = None,
    end: datetime.datetime | None = None,
    grace: float | datetime.timedelta | None = None,
) -> Condition[TickFact]:
    """Every slot of a cron line, once, on the clocks of `timezone`: `facts.tick.scheduled_for` is the slot's own time.

    The line and the options are those of `system.schedule`. The first slot is the next one after the first start with it.
    """
    try:
        plan = make_plan(
            cron=line, timezone=timezone, misfire=misfire, catch_up_max=catch_up_max, overlap="parallel", jitter=jitter,
            start=start, end=end, grace=grace,
        )  # fmt: skip
    except ValueError as error:
        raise RegistrationError(f"on_cron({line!r}): {error}") from error
    return Condition("tick", _name_of(plan), plan=plan)


def _name_of(plan: SchedulePlan) -> str:
    """The name of the schedule behind it, which is the same for the same plan."""
    options = plan.model_dump_json(exclude={"cron", "timezone", "overlap"}, exclude_defaults=True)
    return f"{OURS}cron {described(plan)}{'' if options == '{}' else f' #{crc32(options.encode()):08x}'}"


def schedules_of(reactions: Iterable[Reaction]) -> Iterator[ScheduleRegistered]:
    """The schedules that reactions need."""
    for reaction in reactions:
        for condition in parts_of(reaction.condition):
            if condition.plan is not None:
                payload_json = model_json(SlotReached(schedule=condition.name))
                trigger = ScheduledTrigger(type=SlotReached.trigger_name, payload_json=payload_json)
                yield ScheduleRegistered(schedule=condition.name, plan=condition.plan, trigger=trigger)


def take_slot(trigger: SlotReached, tx: Any) -> None:
    """The handler of slots: their record is all there is to do."""
