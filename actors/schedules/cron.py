"""Cron lines: which times of a wall clock they name.

Owns croniter; nothing else imports it. A line has five fields (minute, hour, day of the month, month, day of the week), or a
sixth for seconds, at the end. A time matches if all fields do, but that of two restricted day fields one is enough; a field
that names all of its values restricts nothing. Pure:
no clock, no time zone. Promises: a line that can never match, or in which something is not what it looks like, is refused
with what is wrong; equal lines name equal times, whoever asks.
"""

from __future__ import annotations

import calendar
import copy
import datetime
import re
from collections.abc import Iterator
from typing import NamedTuple

from croniter import CroniterBadDateError, CroniterError, croniter

__all__ = ["CronLine"]


class Field(NamedTuple):
    """One field of a line: what it is called, and its least and greatest value."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


MONTHS = tuple(name.lower() for name in calendar.month_abbr[1:])
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MINUTE = Field("minute", 0, 59)
HOUR = Field("hour", 0, 23)
DAY = Field("day of the month", 1, 31)
MONTH = Field("month", 1, 12, MONTHS)
WEEKDAY = Field("day of the week", 0, 7, WEEKDAYS)
SECOND = Field("second", 0, 59)
FIELDS = (MINUTE, HOUR, DAY, MONTH, WEEKDAY, SECOND)
ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
ANY_TIME = datetime.datetime(2024, 1, 1)  # noqa: DTZ001  # Of a wall clock.
LONGEST_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\w+))?", re.ASCII)
NTH = re.compile(r"(?P<day>\w+)#(?P<nth>\d+)", re.ASCII)
LAST = re.compile(r"l(?P<day>\d)", re.ASCII)


class CronLine:
    """A line. Raises ValueError that says what is wrong with it, TypeError for what is no text."""

    __slots__ = ("_given", "_parsed", "fields", "text")

    def __init__(self, line: str) -> None:
        if not isinstance(line, str):
            raise TypeError(f"a cron line is a text such as '0 3 * * *', got {line!r}")
        self._given = line
        fields = tuple(ALIASES.get(line.strip().lower(), line).lower().split())
        if len(fields) not in (5, 6):
            raise self._wrong(
                f"it has {len(fields)} fields, and a line has 5: minute, hour, day of the month, month, day of the week; "
                "or 6, with the second at the end" + _near_alias(fields)
            )
        self.fields = fields
        self.text = " ".join(fields)
        for field, text in zip(FIELDS, fields, strict=False):
            self._check(field, text)
        self._require_possible()
        try:
            plain = " ".join(
                [*fields[:2], _unless_all(fields[2], 2), fields[3], _unless_all(fields[4], 4), *fields[5:]]
            )
            self._parsed = croniter(plain, ANY_TIME, ret_type=datetime.datetime)
            next(self.after(ANY_TIME))
        except (CroniterError, StopIteration) as error:
            raise self._wrong(str(error) or "it names no time") from error

    @property
    def keeps_spacing(self) -> bool:
        """Whether it names the same minutes of every hour: an interval, which goes on when the clocks are changed."""
        return self.fields[1] in ("*", "*/1", "0-23")

    def after(self, time: datetime.datetime) -> Iterator[datetime.datetime]:
        """The times of a wall clock (naive) behind `time`, that is naive too, rising."""
        found = copy.copy(self._parsed)  # It keeps where it is; what it has parsed is not changed by that.
        found.set_current(time)
        try:
            while True:
                yield found.get_next(datetime.datetime)
        except (CroniterBadDateError, OverflowError):
            return  # The calendar ends.

    def _wrong(self, why: str) -> ValueError:
        return ValueError(f"cron line {self._given!r} is not valid: {why}")

    # Fields ----------------------------------------------------------------------------------------------------------

    def _check(self, field: Field, text: str) -> None:
        parts = text.split(",")
        for part in parts:
            if part == "?" and field in (DAY, WEEKDAY) and len(parts) == 1:
                continue
            if part == "*" and len(parts) > 1:
                raise self._wrong(
                    f"{field.name} {text!r} lists '*' beside others, which says every {field.name}: leave one"
                )
            if field is DAY and part == "l":
                continue
            if field is WEEKDAY and self._is_nth(part):
                continue
            self._check_part(field, part)

    def _check_part(self, field: Field, part: str) -> None:
        match = PART.fullmatch(part)
        if match is None:
            raise self._wrong(f"{field.name} {part!r} is none of '*', a value, a range such as 1-5, a step such as */2")
        first, last, step = match["first"], match["last"], match["step"]
        if first == "*" and last is not None:
            raise self._wrong(f"{field.name} {part!r} is no range: write {field.low}-{last}, or '*'")
        low = field.low if first == "*" else self._value(field, first)
        if last is not None:
            high = self._value(field, last)
            if low == high:
                raise self._wrong(f"{field.name} range {first}-{last} is one value: write {first}")
            if low > high and step is not None:
                raise self._wrong(
                    f"{field.name} range {part} runs over its end, where steps are not clear: list the values"
                )
        if step is not None:
            self._check_step(field, step)

    def _check_step(self, field: Field, step: str) -> None:
        longest = field.high if field.low == 0 else field.high - field.low
        longest = 6 if field is WEEKDAY else longest
        if not step.isdecimal() or not 1 <= int(step) <= longest:
            hint = "" if step == "0" or not step.isdecimal() else "; for a longer interval give every="
            raise self._wrong(f"{field.name} step must be 1-{longest}, got {step}{hint}")

    def _value(self, field: Field, text: str) -> int:
        if text.isdecimal():
            value = int(text)
            if field.low <= value <= field.high:
                return value
        elif text in field.names:
            return field.names.index(text) + (1 if field is MONTH else 0)
        named = f" or {field.names[0]}-{field.names[-1]}" if field.names else ""
        raise self._wrong(f"{field.name} must be {field.low}-{field.high}{named}, got {text}")

    def _is_nth(self, part: str) -> bool:
        """Whether it is such as `fri#2` or `l5`, the second or the last Friday of a month."""
        nth = NTH.fullmatch(part)
        last = LAST.fullmatch(part)
        if nth is None and last is None:
            return False
        if nth is not None and not 1 <= int(nth["nth"]) <= 5:
            raise self._wrong(f"the number of a weekday in its month must be 1-5, got {part}")
        self._value(WEEKDAY, (nth or last)["day"])  # type: ignore[index]
        if self.fields[2] not in ("*", "?"):
            raise self._wrong(
                f"{part!r} is a weekday of the month, beside the day of the month {self.fields[2]!r}: make two schedules"
            )
        if not all(NTH.fullmatch(other) or LAST.fullmatch(other) for other in self.fields[4].split(",")):
            raise self._wrong(
                f"day of the week {self.fields[4]!r} lists {part!r} beside whole weekdays: make two schedules"
            )
        return True

    def _require_possible(self) -> None:
        """There is a month with such a day; the day of the week alone always comes."""
        day, month, weekday = self.fields[2], self.fields[3], self.fields[4]
        if "l" in day.split(",") or weekday not in ("*", "?"):
            return
        least = min(_lows(day, DAY))
        named = croniter.expand(f"0 0 1 {month} *")[0][3]
        months = [*range(1, 13)] if named == ["*"] else [int(number) for number in named]
        longest = max(LONGEST_MONTHS[number - 1] for number in months)
        if least > longest:
            those = " or ".join(calendar.month_name[number] for number in months)
            raise self._wrong(f"there is no day {least} in {those}, which has at most {longest} days")


def _unless_all(text: str, index: int) -> str:
    """A day field, or `*` if it names all of its values: croniter takes the two for different, and not always."""
    alone = ["0", "0", "*", "*", "*"]
    alone[index] = text
    return "*" if croniter.expand(" ".join(alone))[0][index] == ["*"] else text


def _lows(text: str, field: Field) -> Iterator[int]:
    """The least value of each part of a day field; a range that runs over its end begins anew at the least."""
    for part in text.split(","):
        first, _, last = part.partition("/")[0].partition("-")
        if first in ("*", "?") or (last and int(last) < int(first)):
            yield field.low
        else:
            yield int(first)


def _near_alias(fields: tuple[str, ...]) -> str:
    if len(fields) == 1 and fields[0].startswith("@"):
        return f". Of the names with @ there are {', '.join(sorted(ALIASES))}"
    return ""
