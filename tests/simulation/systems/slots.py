"""What schedules must have made of their slots: each of them decided once, and in its turn.

Owns a slow reading of cron lines and time zones, minute after minute, independent of the runtime's, and the state of each
schedule as the records of its ticks make it.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

from seqtor import CommitRecord, State
from seqtor.actors.schedules.calendar import jitter_of
from tests.simulation.systems.plan import Plan

__all__ = ["require_schedules", "slots_between"]

MINUTE_S, DAY_S = 60, 86_400
LATE_S = 30.0  # How late a slot may be without being missed, if its schedule says nothing else.
LOOK_S = 10.0  # How often the scheduler looks at the time of day.


@functools.lru_cache(maxsize=4096)
def cron_slots(line: str, zone: str, day: int) -> tuple[int, ...]:
    """The slots of a UTC day (days since 1970): what the clocks of the zone show, minute after minute."""
    minutes, hours = (_members(text, last) for text, last in zip(line.split(), (59, 23), strict=False))
    begin = day * DAY_S
    shown = [_shown(moment, zone) for moment in range(begin - DAY_S, begin + DAY_S, MINUTE_S)]
    found: dict[int, None] = {}
    newest = shown[0]  # What the clocks have shown latest.
    for moment, time in zip(range(begin - DAY_S, begin + DAY_S, MINUTE_S), shown, strict=True):
        if len(hours) == 24:
            due = time.minute in minutes
        else:  # Whatever the clocks have gone over since the minute before, once.
            due = any(each.hour in hours and each.minute in minutes for each in _between(newest, time))
            newest = max(newest, time)
        if due and moment >= begin:
            found[moment] = None
    return tuple(found)


def _between(newest: datetime.datetime, time: datetime.datetime) -> Iterator[datetime.datetime]:
    each = newest + datetime.timedelta(minutes=1)
    while each <= time:
        yield each
        each += datetime.timedelta(minutes=1)


def _shown(moment: int, zone: str) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(moment, ZoneInfo(zone)).replace(tzinfo=None)


def _members(text: str, last: int) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, end = span.partition("-")
        begin = 0 if first == "*" else int(first)
        found.update(range(begin, (int(end) if end else last if first == "*" else begin) + 1, int(step or 1)))
    return frozenset(found)


def slots_between(plan: dict[str, Any], anchor: float, after: float, until: float) -> list[float]:
    """The slots of a plan that began at `anchor`, in (after, until]."""
    if plan["every"] is not None:
        every = plan["every"]
        first = max(1, int((after - anchor) // every) - 1)
        found = (anchor + number * every for number in range(first, int((until - anchor) // every) + 2))
        return [slot for slot in found if after < slot <= until]
    days = range(int(after // DAY_S), int(until // DAY_S) + 1)
    return [
        float(slot) for day in days for slot in cron_slots(plan["cron"], plan["timezone"], day) if after < slot <= until
    ]


class Followed:
    """One schedule, as its records make it."""

    def __init__(self, name: str, plan: dict[str, Any], now: float) -> None:
        self.name, self.plan = name, plan
        self.anchor = self.through = now
        self.revision = 1
        self.paused = self.gone = self.catching_up = False
        self.queued: list[float] = []
        self.under_way: list[float] = []

    def register(self, plan: dict[str, Any], trigger: Any, before: Any, now: float) -> None:
        """Registered once more."""
        changed = self.gone or trigger != before or plan != self.plan
        self.gone = False
        if plan != self.plan:
            self.plan, self.anchor, self.through, self.queued = plan, now, now, []
            self.catching_up = False
        self.revision += changed

    def tick(self, record: CommitRecord, ended_before: set[tuple[str, float]]) -> None:
        """Hold what a tick came to against what must come of it."""
        given: Any = record.trigger.payload
        where = f"seq {record.seq}, {self.name} {self.plan}"
        started = [slot for _, slot in (each.scheduled for each in record.submitted if each.scheduled is not None)]  # type: ignore[misc]
        missed = _missed(record)
        for slot in given.get("ended", ()):
            assert (self.name, slot) in ended_before, f"{where}: the run of {slot} has not ended"
        self.under_way = [slot for slot in self.under_way if slot not in given.get("ended", ())]
        if self.paused or self.gone or given["revision"] != self.revision:
            assert (started, missed) == ([], {}), where
            return
        slots = [slot for slot in given.get("slots", ()) if slot > self.through]
        if slots:
            assert slots == slots_between(self.plan, self.anchor, self.through, slots[-1]), (
                f"{where}: a slot was skipped"
            )
            self._require_due(slots, record, given, where)
            self.through = slots[-1]
        self._overlap(slots, started, missed, where)
        self._misfire(slots, given, started, missed, where)
        self.catching_up = given.get("more", False)

    def _require_due(self, slots: list[float], record: CommitRecord, given: Any, where: str) -> None:
        now = record.submitted_at
        late = [now - (slot + jitter_of(self.name, slot, self.plan["jitter"])) for slot in slots]
        assert min(late) >= 0, f"{where}: before its time"
        if not given.get("more", False):
            grace = self.plan["grace"]
            on_time = sum(each <= grace for each in late)
            assert min(given.get("on_time", 0), len(slots)) == on_time, f"{where}: {on_time} slots are on time"

    def _overlap(self, slots: list[float], started: list[float], missed: dict[float, str], where: str) -> None:
        """Every slot is started, waits, or is missed; what waits goes in its order, one at a time."""
        overlap = self.plan["overlap"]
        known = [*self.queued, *slots]
        assert set(started) | set(missed) <= set(known), f"{where}: {started}, {missed} of {known}"
        assert not set(started) & set(missed), where
        left = [slot for slot in known if slot not in started and slot not in missed]
        if overlap == "parallel":
            assert not left, f"{where}: {left} are neither started nor missed"
            return
        assert len(started) <= (0 if self.under_way else 1), f"{where}: {started} beside {self.under_way}"
        assert not started or not left or started[0] < left[0], f"{where}: not in order"
        assert started or not left or self.under_way, f"{where}: {left} wait for nobody"
        if overlap == "skip" and (self.under_way or self.queued):
            assert set(slots) <= set(missed), where
        assert len(left) <= self.plan["catch_up_max"], where
        self.queued = left
        self.under_way += started

    def _misfire(
        self, slots: list[float], given: Any, started: list[float], missed: dict[float, str], where: str
    ) -> None:
        on_time = 0 if given.get("more", False) else min(given.get("on_time", 0), len(slots))
        late = slots[: len(slots) - on_time]
        made_up = [slot for slot in late if missed.get(slot) != "late"]
        policy = self.plan["misfire"]
        more = given.get("more", False)
        expected = {
            "all": [] if more else late[-self.plan["catch_up_max"] :],
            "latest": [] if more or on_time else late[-1:],
            "earliest": [] if self.catching_up else late[:1],
            "skip": [],
        }[policy]
        assert made_up == expected, f"{where}: made up for {made_up} instead of {expected}"
        assert all(missed.get(slot) != "late" for slot in slots[len(late) :]), where


def _missed(record: CommitRecord) -> dict[float, str]:
    """The slots that a tick has told to be missed, and why."""
    found: dict[float, str] = {}
    for each in record.submitted:
        payload: Any = each.trigger.payload
        if each.trigger.type == "seqtor.event" and payload["code"] == "seqtor.missed_slot":
            told = json.loads(payload["payload_json"])
            for slot in told["slots"]:
                at = datetime.datetime.fromisoformat(slot).timestamp()
                assert at not in found, f"{slot} is missed twice"
                found[at] = told["why"]
    return found


def require_schedules(
    plan: Plan, records: list[CommitRecord], finals: dict[str, CommitRecord], now: float
) -> Counter[str]:
    """Every slot of every schedule was decided once, in its order, when it was due; each that was started has run once."""
    followed: dict[str, Followed] = {}
    triggers: dict[str, Any] = {}
    started: Counter[tuple[str, float]] = Counter()
    ended: set[tuple[str, float]] = set()
    for record in records:
        kind = record.trigger.type
        given: Any = record.trigger.payload
        if record.scheduled is not None and record.retry_of is None:
            started[record.scheduled] += 1
        if record.scheduled is not None and record.state not in (State.RETRYING, State.DEFERRED):
            ended.add(record.scheduled)
        if not kind.startswith("seqtor.schedule_") or record.state is not State.COMMITTED:
            continue
        name, now_s = given["schedule"], _told(record.sequenced_at)
        known = followed.get(name)
        if kind == "seqtor.schedule_registered":
            if known is None:
                followed[name] = Followed(name, given["plan"], now_s)
            else:
                known.register(given["plan"], given["trigger"], triggers[name], now_s)
            triggers[name] = given["trigger"]
        elif known is not None:
            _change(known, kind, given, record, ended)
            if kind == "seqtor.schedule_removed":
                del followed[name]
    again = [each for each, count in started.items() if count > 1 and _is_slot(each, records)]
    assert not again, f"slots were started twice: {again}"
    for each in followed.values():
        _require_none_left(each, now, plan)
    return Counter({"slots": len(started)})


def _change(known: Followed, kind: str, given: Any, record: CommitRecord, ended: set[tuple[str, float]]) -> None:
    if kind == "seqtor.schedule_ticked":
        known.tick(record, ended)
        return
    if kind == "seqtor.schedule_fired":
        (started,) = [each.scheduled for each in record.submitted if each.scheduled is not None]
        assert started[0] == known.name
        assert abs(started[1] - record.sequenced_at) < 1e-5
        return
    known.revision += 1
    if kind == "seqtor.schedule_resumed":
        if known.paused:
            known.paused, known.through = False, max(known.through, _told(record.sequenced_at))
    elif given.get("gone", False):
        known.gone = True
    elif kind == "seqtor.schedule_paused":
        known.paused = True


def _told(at: float) -> float:
    """A time as a handler gets it: in microseconds."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).timestamp()


def _is_slot(scheduled: tuple[str, float], records: list[CommitRecord]) -> bool:
    """Whether it was no more than a slot: what `fire` starts may have the same time twice."""
    return not any(
        record.trigger.type == "seqtor.schedule_fired" and scheduled in [each.scheduled for each in record.submitted]
        for record in records
    )


def _require_none_left(each: Followed, now: float, plan: Plan) -> None:
    """Nothing is due that was not decided, but for what is due since a moment ago."""
    if each.paused or each.gone:
        return
    slack = LOOK_S + each.plan["jitter"]
    left = slots_between(each.plan, each.anchor, each.through, now - slack)
    assert not left, f"{each.name}: {left} were never decided"
