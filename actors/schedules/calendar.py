"""When a schedule is due: its slots, as moments.

Owns time zones and what happens when the clocks are changed. Pure: reads no clock. A slot is a moment, POSIX seconds.
Promises: slots rise; the same plan and anchor give the same slots, whoever asks and from wherever; a time that the clocks
skip is due once, at the first moment behind the gap; one that they show twice is due once, the first time. A line that names
the same minutes of every hour is due whenever the clocks show such a time, so that its spacing is kept.
"""

from __future__ import annotations

import datetime
import difflib
import math
import random
import zoneinfo
from collections.abc import Iterator
from functools import lru_cache
from itertools import dropwhile
from typing import Protocol

from seqtor.actors.schedules.cron import CronLine

__all__ = ["FIRST", "LAST", "At", "Calendar", "Cron", "Every", "jitter_of", "zone_of"]

Zone = zoneinfo.ZoneInfo
DAY_S = 86_400
UTC = "UTC"
FIRST = datetime.datetime.min.replace(tzinfo=datetime.UTC).timestamp()  # Where the calendar begins and ends.
LAST = datetime.datetime.max.replace(tzinfo=datetime.UTC, microsecond=0).timestamp()


class Calendar(Protocol):
    """What is due, and when."""

    def slots(self, after: float) -> Iterator[float]:
        """The slots behind a moment, rising; POSIX seconds."""
        ...


class Cron:
    """What a cron line names on the clocks of a time zone. Raises ValueError that says what is wrong with either."""

    __slots__ = ("_zone", "line", "timezone")

    def __init__(self, line: str, timezone: str = UTC) -> None:
        self.line = _line(line) if isinstance(line, str) else CronLine(line)
        self._zone = zone_of(timezone)
        self.timezone = timezone

    def slots(self, after: float) -> Iterator[float]:
        """The slots behind a moment, rising; POSIX seconds."""
        found: Iterator[float]
        if self.timezone == UTC:
            found = (_posix(time) for time in self.line.after(_naive(after, 0)))
        else:
            found = self._shown(after) if self.line.keeps_spacing else self._once(after)
        # They look from the second before: a moment has finer parts than a time of a wall clock.
        return dropwhile(lambda slot: slot <= after, found)

    def _once(self, after: float) -> Iterator[float]:
        """Each time of the wall clock once."""
        zone, last = self._zone, after
        for time in self.line.after(_naive(after, _offset(after, zone))):
            moment = _moment(time, zone)
            if moment > last:  # Else another time of the same gap, or the clocks show it for the second time.
                last = moment
                yield moment

    def _shown(self, after: float) -> Iterator[float]:
        """Whenever the clocks show a time that the line names."""
        zone = self._zone
        offset = _offset(after, zone)
        begin = _naive(after, offset)
        while True:
            for time in self.line.after(begin):
                moment = _posix(time) - offset
                change = _first_change(after, moment, offset, zone)
                if change is not None:  # Before this one: go on from there, by the new clocks.
                    after, offset = change, _offset(change, zone)
                    begin = _naive(after, offset) - datetime.timedelta(microseconds=1)
                    break
                after = moment
                yield moment
            else:
                return


class Every:
    """Every so many seconds behind an anchor, or (`inclusive`) from it on."""

    __slots__ = ("anchor", "first", "seconds")

    def __init__(self, seconds: float, anchor: float, *, inclusive: bool = False) -> None:
        if not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"every must be above 0 seconds, got {seconds!r}")
        self.seconds = seconds
        self.anchor = anchor
        self.first = 0 if inclusive else 1

    def slots(self, after: float) -> Iterator[float]:
        """The slots behind a moment, rising; POSIX seconds."""
        number = max(self.first, math.floor((after - self.anchor) / self.seconds) - 1)
        while (slot := self.anchor + number * self.seconds) <= LAST:
            if slot > after:
                yield slot
            number += 1


class At:
    """One moment."""

    __slots__ = ("moment",)

    def __init__(self, moment: float) -> None:
        self.moment = moment

    def slots(self, after: float) -> Iterator[float]:
        """The moment, if it is behind `after`."""
        if self.moment > after:
            yield self.moment


@lru_cache(maxsize=1024)
def _line(line: str) -> CronLine:
    """A line, parsed once: parsing takes ten times as long as finding a slot."""
    return CronLine(line)


def jitter_of(name: str, slot: float, longest_s: float) -> float:
    """How much later than its slot a schedule begins: from 0 to `longest_s`, the same wherever it is asked."""
    return random.Random(f"{name}:{slot!r}").random() * longest_s if longest_s else 0.0


# Time zones ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def zone_of(name: str) -> Zone:
    """The time zone of this name. Raises ValueError, with the nearest name that there is."""
    if not isinstance(name, str):
        raise TypeError(f"timezone is a name such as 'Europe/Berlin', got {name!r}")
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        known = {zone.lower(): zone for zone in zoneinfo.available_timezones()}
        by_city = {zone.rpartition("/")[2].lower(): zone for zone in known.values()}
        asked = name.lower().replace(" ", "_")
        near = difflib.get_close_matches(asked, known, n=1) or difflib.get_close_matches(asked, by_city, n=1)
        hint = f"; did you mean {known.get(near[0]) or by_city[near[0]]!r}?" if near else ""
        raise ValueError(f"there is no time zone {name!r}{hint}") from error


def _posix(time: datetime.datetime) -> float:
    """A naive time as if it were UTC."""
    return time.replace(tzinfo=datetime.UTC).timestamp()


def _naive(moment: float, offset_s: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(math.floor(moment + offset_s), datetime.UTC).replace(tzinfo=None)


def _offset(moment: float, zone: Zone) -> float:
    """How far the clocks are ahead of UTC at a moment, in seconds."""
    offset = datetime.datetime.fromtimestamp(moment, zone).utcoffset()
    assert offset is not None
    return offset.total_seconds()


def _moment(time: datetime.datetime, zone: Zone) -> float:
    """When the clocks show a time: the first moment if twice, that behind the gap if never."""
    moment = time.replace(tzinfo=zone).timestamp()
    before = time.replace(tzinfo=zone).utcoffset()
    behind = time.replace(tzinfo=zone, fold=1).utcoffset()
    assert before is not None
    assert behind is not None
    if behind <= before:  # They are set back, or not changed.
        return moment
    change = _first_change(_posix(time) - behind.total_seconds(), moment, before.total_seconds(), zone)
    return moment if change is None else change


def _first_change(after: float, until: float, offset_s: float, zone: Zone) -> float | None:
    """The first moment in (after, until] at which the clocks are not `offset_s` ahead of UTC; None without one."""
    low = high = after
    while low < until:  # Days: there are zones whose clocks are back after a month.
        high = min(low + DAY_S, until)
        if _offset(high, zone) != offset_s:
            break
        low = high
    else:
        return None
    last, change = math.floor(low), math.ceil(high)  # Clocks are changed at whole seconds.
    while change - last > 1:
        middle = (last + change) // 2
        if _offset(middle, zone) == offset_s:
            last = middle
        else:
            change = middle
    return float(change)
