"""When schedules are due: cron lines, intervals and moments, and what happens when the clocks are changed."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Iterator
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtor.actors.schedules import At, Cron, Every, jitter_of

UTC = datetime.UTC
ZONES = (
    "Europe/Berlin", "Europe/London", "Europe/Lisbon", "Europe/Chisinau", "America/New_York", "America/Los_Angeles",
    "America/St_Johns", "America/Havana", "America/Asuncion", "America/Santiago", "America/Sao_Paulo", "America/Nuuk",
    "Australia/Sydney", "Australia/Lord_Howe", "Pacific/Auckland", "Pacific/Chatham", "Asia/Beirut", "Asia/Gaza",
    "Africa/Casablanca", "Africa/Cairo",
)  # fmt: skip
FIRST, LAST = datetime.datetime(2020, 1, 1, tzinfo=UTC), datetime.datetime(2030, 1, 1, tzinfo=UTC)
LINES = (
    "30 2 * * *", "30 1 * * *", "0 0 * * *", "*/20 0-3 * * *", "0 */2 * * *", "30 23 * * *",
    "*/30 * * * *", "0 * * * *", "10 * * * sun",
)  # fmt: skip


def slots(line: str, zone: str, after: str, count: int) -> list[str]:
    """The next slots as the clocks of the zone show them."""
    place = ZoneInfo(zone)
    begin = datetime.datetime.fromisoformat(after).replace(tzinfo=place).timestamp()
    found = islice(Cron(line, zone).slots(begin), count)
    return [datetime.datetime.fromtimestamp(slot, place).isoformat(timespec="minutes") for slot in found]


# Cron lines -----------------------------------------------------------------------------------------------------------


def test_of_two_restricted_day_fields_one_is_enough() -> None:
    found = slots("0 16 */2 * sat", "UTC", "2023-05-02", 4)
    assert [slot[:10] for slot in found] == ["2023-05-03", "2023-05-05", "2023-05-06", "2023-05-07"]


def test_a_line_that_is_due_once_a_year_waits_for_the_next() -> None:
    assert slots("0 3 1 1 *", "UTC", "2026-06-15", 1) == ["2027-01-01T03:00+00:00"]


def test_a_leap_day_comes_every_four_years() -> None:
    assert slots("0 0 29 2 *", "UTC", "2026-01-01", 2) == ["2028-02-29T00:00+00:00", "2032-02-29T00:00+00:00"]


def test_a_sixth_field_is_for_seconds() -> None:
    begin = datetime.datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert [slot - begin for slot in islice(Cron("* * * * * */20").slots(begin), 4)] == [20, 40, 60, 80]


def test_a_slot_at_the_moment_itself_is_not_behind_it() -> None:
    begin = datetime.datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert next(Cron("* * * * *").slots(begin)) == begin + 60
    assert next(Cron("* * * * *").slots(begin - 0.001)) == begin
    assert next(Cron("* * * * *").slots(begin + 0.001)) == begin + 60


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("0 0 31 2 *", "there is no day 31 in February, which has at most 29 days"),
        ("0 0 31 4,6 *", "there is no day 31 in April or June, which has at most 30 days"),
        ("*/0 * * * *", "minute step must be 1-59, got 0"),
        ("*/90 * * * *", "minute step must be 1-59, got 90; for a longer interval give every="),
        ("60 * * * *", "minute must be 0-59, got 60"),
        ("61 * * * *", "minute must be 0-59, got 61"),
        ("* 24 * * *", "hour must be 0-23, got 24"),
        ("0 0 0 * *", "day of the month must be 1-31, got 0"),
        ("* * * foo *", "month must be 1-12 or jan-dec, got foo"),
        ("* * * * 8", "day of the week must be 0-7 or sun-sat, got 8"),
        ("* * * * * 60", "second must be 0-59, got 60"),
        ("* * * * * * *", "it has 7 fields, and a line has 5"),
        ("* * * *", "it has 4 fields"),
        ("", "it has 0 fields"),
        ("@dayly", "Of the names with @ there are @annually, @daily"),
        ("5-5 * * * *", "minute range 5-5 is one value: write 5"),
        ("*,5 * * * *", "minute '*,5' lists '*' beside others"),
        ("*-5 * * * *", "minute '*-5' is no range: write 0-5, or '*'"),
        ("50-10/5 * * * *", "minute range 50-10/5 runs over its end"),
        ("5- * * * *", "minute '5-' is none of '*', a value, a range"),
        ("h * * * *", "minute must be 0-59, got h"),
        ("0 0 15w * *", "day of the month must be 1-31, got 15w"),
        ("0 0 13 * fri#2", "beside the day of the month '13': make two schedules"),
        ("0 0 * * fri#2,mon", "lists 'fri#2' beside whole weekdays: make two schedules"),
        ("0 0 * * fri#6", "the number of a weekday in its month must be 1-5, got fri#6"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused_with_the_reason(line: str, why: str) -> None:
    with pytest.raises(ValueError, match="is not valid") as refused:
        Cron(line)
    assert str(refused.value).startswith(f"cron line {line!r} is not valid: ")
    assert why in str(refused.value)


def test_what_is_no_text_is_no_line() -> None:
    with pytest.raises(TypeError, match="a cron line is a text"):
        Cron(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("zone", "hint"),
    [("Europe/Berln", "'Europe/Berlin'"), ("berlin", "'Europe/Berlin'"), ("new york", "'America/New_York'"),
     ("europe/berlin ", "'Europe/Berlin'")],
)  # fmt: skip
def test_an_unknown_time_zone_is_refused_with_the_nearest(zone: str, hint: str) -> None:
    with pytest.raises(ValueError, match="did you mean") as refused:
        Cron("* * * * *", zone)
    assert str(refused.value) == f"there is no time zone {zone!r}; did you mean {hint}?"


@pytest.mark.parametrize("zone", ["", "../secret", "Europe"])
def test_what_names_no_time_zone_at_all_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        Cron("* * * * *", zone)


# Independent of the code: what a line matches, written from the description of crontab(5).

PARTS = {
    "minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 6),
}  # fmt: skip


def members(text: str, low: int, high: int) -> set[int]:
    found = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        begin = low if first == "*" else int(first)
        end = int(last) if last else high if first == "*" or step else begin
        inside = range(begin, end + 1) if begin <= end else [*range(begin, high + 1), *range(low, end + 1)]
        found |= set(inside[:: int(step or 1)])
    return found


class Plain:
    """A line of numbers."""

    def __init__(self, line: str) -> None:
        line = line.replace("sun", "0")
        named = dict(zip(PARTS, line.split(), strict=True))
        self.of = {name: members(text, *PARTS[name]) for name, text in named.items()}
        self.every = {name for name, span in PARTS.items() if len(self.of[name]) == span[1] - span[0] + 1}

    def has_day(self, day: datetime.date) -> bool:
        in_month, in_week = day.day in self.of["day"], day.isoweekday() % 7 in self.of["weekday"]
        both = "day" in self.every or "weekday" in self.every
        return day.month in self.of["month"] and ((in_month and in_week) if both else (in_month or in_week))

    def has(self, time: datetime.datetime) -> bool:
        return time.minute in self.of["minute"] and time.hour in self.of["hour"] and self.has_day(time)

    def times(self, after: datetime.datetime, days: int) -> Iterator[datetime.datetime]:
        for number in range(days):
            day = (after + datetime.timedelta(days=number)).replace(hour=0, minute=0)
            if self.has_day(day):
                for hour in sorted(self.of["hour"]):
                    for minute in sorted(self.of["minute"]):
                        time = day.replace(hour=hour, minute=minute)
                        if time > after:
                            yield time


def field(low: int, high: int) -> st.SearchStrategy[str]:
    value = st.integers(low, high)
    span = st.tuples(value, value).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: f"{pair[0]}-{pair[1]}")
    step = st.integers(1, min(high, 30) if low == 0 else high - low).map(lambda by: f"*/{by}")
    part = st.one_of(value.map(str), span, step)
    return st.one_of(st.just("*"), st.lists(part, min_size=1, max_size=3).map(",".join))


@settings(max_examples=int(30 * float(os.environ.get("SEQTOR_EXAMPLES", "1"))), deadline=None)
@given(st.tuples(*[field(*span) for span in PARTS.values()]), st.integers(0, 1_000_000))
def test_any_line_names_what_a_plain_reading_of_it_names(fields: tuple[str, ...], minutes: int) -> None:
    line = " ".join(fields)
    plain = Plain(line)
    after = datetime.datetime(2024, 1, 1, tzinfo=UTC).replace(tzinfo=None) + datetime.timedelta(minutes=minutes)
    expected = list(islice(plain.times(after, 800), 12))
    try:
        calendar = Cron(line)
    except ValueError:
        assert not list(islice(plain.times(after, 8 * 366), 1)), "it was refused and there are times"
        return
    begin = after.replace(tzinfo=UTC).timestamp()
    found = [
        datetime.datetime.fromtimestamp(slot, UTC).replace(tzinfo=None) for slot in islice(calendar.slots(begin), 12)
    ]
    assert found[: len(expected)] == expected


# When the clocks are changed --------------------------------------------------------------------------------------------


def test_half_past_two_in_berlin_is_due_once_when_the_clocks_skip_it() -> None:
    found = slots("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", 2)
    assert found == ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]


def test_half_past_one_in_new_york_is_due_once_when_the_clocks_show_it_twice() -> None:
    found = slots("30 1 * * *", "America/New_York", "2026-10-31T12:00", 2)
    assert found == ["2026-11-01T01:30-04:00", "2026-11-02T01:30-05:00"]


@pytest.mark.parametrize(
    ("zone", "after"), [("Europe/Berlin", "2026-03-28T22:00"), ("America/New_York", "2026-10-31T22:00"),
                        ("Australia/Lord_Howe", "2026-10-03T22:00"), ("Australia/Lord_Howe", "2026-04-04T22:00")],
)  # fmt: skip
def test_every_half_hour_keeps_its_spacing_when_the_clocks_are_changed(zone: str, after: str) -> None:
    begin = datetime.datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone)).timestamp()
    found = list(islice(Cron("*/30 * * * *", zone).slots(begin), 24))
    assert {later - earlier for earlier, later in pairwise(found)} == {1800}


def test_a_whole_day_that_a_zone_skips_is_made_up_for_once() -> None:
    found = slots("0 9,12 * * *", "Pacific/Apia", "2011-12-29T10:00", 3)
    assert found == ["2011-12-29T12:00-10:00", "2011-12-31T00:00+14:00", "2011-12-31T09:00+14:00"]


def changes(zone: ZoneInfo) -> list[int]:
    """Every moment of ten years at which the clocks of a zone are changed, found by looking at each week."""
    found = []
    step = 7 * 86_400

    def offset(at: float) -> datetime.timedelta | None:
        return datetime.datetime.fromtimestamp(at, zone).utcoffset()

    for begin in range(int(FIRST.timestamp()), int(LAST.timestamp()), step):
        if offset(begin) != offset(begin + step):
            low, high = begin, begin + step
            while high - low > 60:
                middle = (low + high) // 120 * 60
                low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
            found.append(high)
    return found


def expected_slots(plain: Plain, shown: dict[int, datetime.datetime]) -> list[int]:
    """What is due among the minutes of a window, by trying each: `shown` is what the clocks show at each moment."""
    if plain.of["hour"] == set(range(24)):
        return [moment for moment, time in shown.items() if plain.has(time)]
    first: dict[datetime.datetime, int] = {}
    for moment, time in shown.items():
        first.setdefault(time, moment)
    moments = list(shown)
    found = set()
    time, last = shown[moments[0]], max(shown.values())
    while time <= last:
        if plain.has(time):
            found.add(first[time] if time in first else next(moment for moment in moments if shown[moment] > time))
        time += datetime.timedelta(minutes=1)
    return sorted(found)


@pytest.mark.parametrize("name", ZONES)
def test_ten_years_of_changed_clocks_are_what_trying_every_minute_gives(name: str) -> None:
    zone = ZoneInfo(name)
    calendars = [(Plain(line), Cron(line, name)) for line in LINES]
    found = changes(zone)
    assert found or name == "America/Sao_Paulo"
    for change in found:
        minutes = range(change - 9000, change + 9000, 60)
        shown = {at: datetime.datetime.fromtimestamp(at, zone).replace(tzinfo=None) for at in minutes}
        for plain, calendar in calendars:
            got = []
            for slot in calendar.slots(minutes[0] - 1):
                if slot > minutes[-1]:
                    break
                got.append(slot)
            assert got == expected_slots(plain, shown), (name, calendar.line.text, change)
            middle = change + 1800.5  # From inside of the hour that comes twice, it is the same.
            behind = next(calendar.slots(middle))
            assert behind == next((slot for slot in got if slot > middle), behind)


# Intervals and moments -------------------------------------------------------------------------------------------------


def test_an_interval_begins_one_interval_behind_its_anchor() -> None:
    assert list(islice(Every(10, 100.0).slots(100.0), 3)) == [110, 120, 130]
    assert list(islice(Every(10, 100.0).slots(129.9), 2)) == [130, 140]
    assert list(islice(Every(10, 100.0).slots(130.0), 2)) == [140, 150]
    assert list(islice(Every(10, 100.0, inclusive=True).slots(99.0), 2)) == [100, 110]


@settings(max_examples=50)
@given(st.floats(0.001, 1e6), st.floats(1e9, 2e9), st.floats(0, 1e9))
def test_an_interval_has_the_same_slots_wherever_one_asks(every: float, anchor: float, ahead: float) -> None:
    calendar = Every(every, anchor)
    first, second = islice(calendar.slots(anchor + ahead), 2)
    assert anchor + ahead < first < second
    assert next(calendar.slots(first)) == second
    assert next(calendar.slots(math.nextafter(first, 0))) == first
    assert first - (anchor + ahead) <= every * 1.000001 + 1e-6


@pytest.mark.parametrize("every", [0, -1, math.inf, math.nan])
def test_an_interval_is_above_nothing(every: float) -> None:
    with pytest.raises(ValueError, match="every must be above 0 seconds"):
        Every(every, 0.0)


def test_a_moment_is_due_once() -> None:
    assert list(At(5.0).slots(4.0)) == [5.0]
    assert not list(At(5.0).slots(5.0))


def test_jitter_is_the_same_wherever_it_is_asked_and_within_its_bound() -> None:
    found = [jitter_of("close-books", float(slot), 30) for slot in range(200)]
    assert found == [jitter_of("close-books", float(slot), 30) for slot in range(200)]
    assert all(0 <= each <= 30 for each in found)
    assert len(set(found)) > 190
    assert jitter_of("close-books", 5.0, 0) == 0.0
    assert jitter_of("other", 5.0, 30) != jitter_of("close-books", 5.0, 30)
