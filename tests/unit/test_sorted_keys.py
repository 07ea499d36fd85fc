"""The sorted index of a collection's keys: an ordered set whose older versions never change."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqtor.actors.stores import sorted_keys
from seqtor.actors.stores.sorted_keys import SortedKeys, after_prefix

KEYS = st.text(alphabet=["a", "b", "z", "é", "\U0010ffff", "\x00"], max_size=3)
BOUNDS = st.none() | KEYS
STEPS = st.lists(st.tuples(st.sampled_from(["add", "discard"]), KEYS), max_size=40)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few keys fill several chunks."""
    monkeypatch.setattr(sorted_keys, "CHUNK_MAX", 4)


@given(st.sets(KEYS), STEPS)
def test_it_is_a_sorted_set_after_any_steps_and_so_is_every_older_version(
    first: set[str], steps: list[tuple[str, str]]
) -> None:
    keys, model = SortedKeys.of(first), set(first)
    versions = [(keys, sorted(model))]
    for verb, key in steps:
        if verb == "discard":
            keys = keys.discard(key)
            model.discard(key)
        elif key not in model:
            keys = keys.add(key)
            model.add(key)
        versions.append((keys, sorted(model)))
    for version, expected in versions:
        assert list(version) == expected
        assert version._lasts == tuple(chunk[-1] for chunk in version._chunks), "no chunk is empty"


@given(st.sets(KEYS), BOUNDS, BOUNDS)
def test_a_range_is_half_open_and_may_be_open_on_either_side(
    model: set[str], start: str | None, stop: str | None
) -> None:
    expected = [key for key in sorted(model) if (start is None or key >= start) and (stop is None or key < stop)]
    assert list(SortedKeys.of(model).between(start, stop)) == expected


@given(st.sets(KEYS), STEPS, BOUNDS, BOUNDS)
def test_a_range_is_the_same_however_the_keys_came(
    first: set[str], steps: list[tuple[str, str]], start: str | None, stop: str | None
) -> None:
    grown, model = SortedKeys(), set()
    for key in [*sorted(first, reverse=True), *(key for _, key in steps)]:
        if key not in model:
            grown = grown.add(key)
            model.add(key)
    for key in first:
        grown = grown.discard(key)
    model -= first
    assert list(grown.between(start, stop)) == list(SortedKeys.of(model).between(start, stop))


@given(KEYS, KEYS)
def test_a_prefix_is_a_range(prefix: str, key: str) -> None:
    after = after_prefix(prefix)
    assert key.startswith(prefix) == (key >= prefix and (after is None or key < after))


def test_no_string_comes_after_every_string_with_the_last_prefix() -> None:
    assert after_prefix("") is None
    assert after_prefix("\U0010ffff") is None
    assert after_prefix("a\U0010ffff") == "b"


def test_discarding_what_is_not_there_gives_the_same_version() -> None:
    keys = SortedKeys.of("bdf")
    for missing in "aceg":
        assert keys.discard(missing) is keys
    assert SortedKeys().discard("a").discard("b") is not None


def test_an_empty_set_has_no_keys_and_can_grow_again() -> None:
    keys = SortedKeys.of("abcdef")
    for key in "fabdec":
        keys = keys.discard(key)
    assert list(keys) == []
    assert list(keys.between("a", "z")) == []
    assert list(keys.add("m").add("a")) == ["a", "m"]


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_a_new_version_shares_all_chunks_but_the_one_that_changed(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_keys, "CHUNK_MAX", 32)
    names = [f"{number:05}" for number in range(2_000)]
    keys = SortedKeys()
    for name in names if order == "rising" else reversed(names):
        older, keys = keys, keys.add(name)
        before = {id(chunk) for chunk in older._chunks}
        copied = [chunk for chunk in keys._chunks if id(chunk) not in before]
        assert len(copied) <= 2, "a chunk that is full becomes two"
        assert sum(map(len, copied)) <= sorted_keys.CHUNK_MAX + 1
    assert len(keys._chunks) <= 2 * 2 * len(names) / sorted_keys.CHUNK_MAX, "chunks are at least half full on average"
    older, keys = keys, keys.discard("00777")
    assert sum(1 for chunk in keys._chunks if id(chunk) not in {id(c) for c in older._chunks}) == 1


def test_chunks_keep_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_keys, "CHUNK_MAX", 16)
    keys = SortedKeys.of(f"{number:05}" for number in range(0, 2_000, 2))
    for number in range(1, 2_000, 2):
        keys = keys.add(f"{number:05}")
    assert max(map(len, keys._chunks)) <= 16
    assert math.ceil(2_000 / 16) <= len(keys._chunks)
    assert list(keys) == [f"{number:05}" for number in range(2_000)]
