"""Schedules: what is kept of each, the triggers by which that changes, and the messages of their actor.

Owns the plan of a schedule as it is registered, its state, and the trigger types that carry both through the order. They
take a seq and a record like any other trigger, so what a schedule did is durable, replayed and verified like all else.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from seqtor.messages.message import message
from seqtor.messages.models import FrozenModel, Record
from seqtor.messages.triggers import Priority, Trigger

__all__ = [
    "LookAtSchedules",
    "Misfire",
    "MissedSlot",
    "Overlap",
    "ScheduleChanged",
    "ScheduleFired",
    "SchedulePaused",
    "SchedulePlan",
    "ScheduleRecord",
    "ScheduleRegistered",
    "ScheduleRemoved",
    "ScheduleResumed",
    "ScheduleState",
    "ScheduleTicked",
    "ScheduledRunEnded",
    "ScheduledTrigger",
    "SlotReached",
    "TickEnded",
]

Misfire = Literal["all", "latest", "earliest", "skip"]
Overlap = Literal["skip", "queue", "parallel"]


# What is kept --------------------------------------------------------------------------------------------------------


class SchedulePlan(FrozenModel):
    """When a schedule is due, and what becomes of slots that are missed or overlap: one of `cron`, `every` and `at`.

    Durations are seconds, moments POSIX seconds.
    """

    cron: str | None = None
    every: float | None = None
    at: float | None = None
    timezone: str = "UTC"
    start: float | None = None
    end: float | None = None
    jitter: float = 0.0
    misfire: Misfire = "latest"
    catch_up_max: int = 100
    overlap: Overlap = "skip"
    grace: float = 30.0


class ScheduledTrigger(FrozenModel):
    """What a schedule starts: a trigger as JSON text, and its priority if it has one of its own."""

    type: str
    version: int = 1
    payload_json: str
    priority: int | None = None


class MissedSlot(FrozenModel):
    """A slot that started nothing, and why: `late`, `overlap` (an earlier run had not ended), `queue` (it was full)."""

    slot: float
    why: str


class ScheduleState(Record):
    """One schedule, in the store `seqtor.schedules` under its name. Moments are POSIX seconds.

    `revision` counts its registrations; `anchor` is where its slots begin; `through` is the slot up to which all is decided.
    `gone`: the program did not register it when it was started last. `last` is the newest slot that was started;
    `under_way` are slots whose runs are not known to have ended, `queued` those that wait for them; `missed` the newest
    slots that started nothing, of `missed_count`. `catching_up`: more slots that are late are to come.
    """

    trigger: ScheduledTrigger
    plan: SchedulePlan
    revision: int = 1
    registered_at: float
    anchor: float
    through: float
    paused: bool = False
    gone: bool = False
    last: float | None = None
    started: int = 0
    under_way: tuple[float, ...] = ()
    queued: tuple[float, ...] = ()
    missed: tuple[MissedSlot, ...] = ()
    missed_count: int = 0
    catching_up: bool = False


class ScheduleRecord(NamedTuple):
    """What is known of one schedule. Moments are POSIX seconds.

    `trigger` is the name of its trigger's type, `when` says in words when it is due, `last` is the newest slot that was
    started and `next` the slot that follows, None if there is none or it starts nothing now. `paused`: by a verb; `gone`:
    the program does not register it any more. `under_way` are runs of it that have not ended (not counted with
    overlap="parallel"), `queued` slots that wait for them; `missed` are the newest slots that started nothing, of
    `missed_count`.
    """

    name: str
    trigger: str
    payload_json: str
    when: str
    plan: SchedulePlan
    paused: bool
    gone: bool
    registered_at: float
    last: float | None
    next: float | None
    started: int
    under_way: int
    queued: int
    missed_count: int
    missed: tuple[MissedSlot, ...]


# The triggers that change it -----------------------------------------------------------------------------------------


class ScheduleRegistered(Trigger[bool], name="seqtor.schedule_registered"):
    """The program registers a schedule; True if that changed anything.

    A new plan begins at the moment of its commit; a new trigger under the same plan does not move it.
    """

    schedule: str
    plan: SchedulePlan
    trigger: ScheduledTrigger


class SchedulePaused(Trigger[bool], name="seqtor.schedule_paused"):
    """The schedule starts nothing until it is resumed; `gone`: until the program registers it again. False without one."""

    schedule: str
    gone: bool = False


class ScheduleResumed(Trigger[bool], name="seqtor.schedule_resumed"):
    """The schedule goes on with its next slot; those of the pause are not missed. False without one."""

    schedule: str


class ScheduleRemoved(Trigger[bool], name="seqtor.schedule_removed"):
    """The schedule is not there any more; what it has started goes on. False without one."""

    schedule: str


class ScheduleTicked(Trigger[int], name="seqtor.schedule_ticked"):
    """Slots of a schedule are due; how many runs were started. A slot that is not behind the last one starts nothing.

    `slots` are those behind the last one, rising, of which the last `on_time` are on time; `more`: further ones are due.
    `ended` are slots whose runs have ended by now: what the schedule's actor has seen is a recorded input here.
    """

    priority: ClassVar[Priority | None] = Priority.HIGH
    schedule: str
    revision: int
    slots: tuple[float, ...] = ()
    on_time: int = 0
    more: bool = False
    ended: tuple[float, ...] = ()


class ScheduleFired(Trigger[bool], name="seqtor.schedule_fired"):
    """The schedule's trigger is started now, whatever its slots say, also in a pause. False without such a schedule."""

    schedule: str


class SlotReached(Trigger[None], name="seqtor.slot_reached"):
    """A slot of the schedule behind an `on_cron` condition has come; the record of its run is the fact."""

    schedule: str


# To the scheduler ----------------------------------------------------------------------------------------------------


@message
class LookAtSchedules:
    """From: scheduler, by a timer. To: scheduler. Answer: none; slots are due, or the clock is to be looked at.

    Twice: nothing is due any more.
    """


@message
class ScheduleChanged:
    """From: the edge, when a trigger that changes the schedule has ended. To: scheduler. Answer: none. Twice: harmless."""

    schedule: str


@message
class TickEnded:
    """From: the tick's submission, when it has ended. To: scheduler. Answer: none. Twice: the second is ignored."""

    schedule: str
    submission: object


@message
class ScheduledRunEnded:
    """From: a submission, when it has ended. To: scheduler. Answer: none; what is queued may begin. Twice: the same."""

    schedule: str
