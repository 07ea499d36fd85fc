"""The suite of stores that write outside: what every store promises, and what is outside, across restarts and edits.

Subclass `OutsideStoreContract` instead of `StoreContract`, and say how a place is made, what is in it, and how somebody else
edits it.
"""

from __future__ import annotations

from typing import Any

import pytest

from seqtor import OutsideEdit, State, Supervisor
from seqtor.actors import SimulatedDispatchers, StoreSpec
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.testing.stores import KEYS, WAIT_S, Stage, StoreContract

__all__ = ["OutsideStoreContract"]


class OutsideStoreContract(StoreContract):
    """What every store promises that writes outside. A place holds integers under the keys."""

    def make_place(self) -> Any:
        """An empty place outside."""
        raise NotImplementedError

    def make_spec_at(self, place: Any) -> StoreSpec[Any]:
        """A fresh recipe of the store at this place."""
        raise NotImplementedError

    def found(self, place: Any) -> dict[str, int]:
        """What is there."""
        raise NotImplementedError

    def edit(self, place: Any, key: str, value: int | None) -> None:
        """Change it as somebody else would; None deletes the key."""
        raise NotImplementedError

    def filled_place(self) -> Any:
        """A place in which "a", "b" and "c" are 0."""
        place = self.make_place()
        for key in KEYS:
            self.edit(place, key, 0)
        return place

    def make_spec(self) -> StoreSpec[Any]:
        return self.make_spec_at(self.filled_place())

    def stage_at(self, place: Any, journal: Any = None, kind: str = "simulated") -> Stage:
        """A system with the store at this place."""
        if kind == "simulated":
            system = Supervisor(journal, dispatchers=lambda _: SimulatedDispatchers(7))
        else:
            system = Supervisor(journal, settings={"threads": 2})
        return Stage(system, self.make_spec_at(place))

    @pytest.fixture(params=["simulated", "threads"])
    def kind(self, request: pytest.FixtureRequest) -> str:
        """On which dispatchers a system runs."""
        return str(request.param)

    # What is outside -------------------------------------------------------------------------------------------------

    def test_what_was_found_outside_is_journaled(self, kind: str) -> None:
        place, journal = self.filled_place(), MemoryBackend("tested")
        with self.stage_at(place, journal, kind).opened() as stage:
            assert self.content(stage) == dict.fromkeys(KEYS, 0)
            assert stage.first_seq == len(stage.system.runs(trigger=OutsideEdit)) == len(KEYS)
        for key in KEYS:
            self.edit(place, key, None)  # What is not there is not needed to know what was there.
        with self.stage_at(self.make_place(), journal, kind).opened() as stage:
            assert self.content(stage) == dict.fromkeys(KEYS, 0)

    def test_what_was_committed_is_outside_after_the_stop(self, kind: str) -> None:
        place, journal = self.filled_place(), MemoryBackend("tested")
        with self.stage_at(place, journal, kind).opened() as stage:
            for submission in stage.submit(*[self.increment(KEYS[number % 3]) for number in range(30)]):
                submission.result(WAIT_S)
            assert self.content(stage) == dict.fromkeys(KEYS, 10)
        assert self.found(place) == dict.fromkeys(KEYS, 10)

    def test_a_restart_changes_nothing(self, kind: str) -> None:
        place, journal = self.filled_place(), MemoryBackend("tested")
        with self.stage_at(place, journal, kind).opened() as stage:
            stage.do(self.put("a", 5))
        for _ in range(2):
            with self.stage_at(place, journal, kind).opened() as stage:
                assert self.content(stage) == {"a": 5, "b": 0, "c": 0}
                assert stage.first_seq == len(KEYS) + 1, "nothing was taken for an edit"
            assert self.found(place) == {"a": 5, "b": 0, "c": 0}

    def test_an_empty_place_is_filled_from_the_journal(self, kind: str) -> None:
        journal = MemoryBackend("tested")
        with self.stage_at(self.filled_place(), journal, kind).opened() as stage:
            stage.do(self.put("a", 5))
        place = self.make_place()
        with self.stage_at(place, journal, kind).opened() as stage:
            assert self.found(place) == self.content(stage) == {"a": 5, "b": 0, "c": 0}

    def test_what_failed_or_was_rejected_is_not_outside(self, kind: str) -> None:
        place = self.filled_place()

        def fail(tx: Any, view: Any) -> None:
            self.write(view, "a", 5)
            raise ValueError("wrong")

        with self.stage_at(place, MemoryBackend("tested"), kind).opened() as stage:
            (failed,) = stage.submit(fail)
            with pytest.raises(Exception, match="wrong"):
                failed.result(WAIT_S)
        assert self.found(place) == dict.fromkeys(KEYS, 0)

    # Edits by others -------------------------------------------------------------------------------------------------

    def test_edits_while_nothing_runs_are_adopted_at_the_start(self, kind: str) -> None:
        place, journal = self.filled_place(), MemoryBackend("tested")
        with self.stage_at(place, journal, kind).opened() as stage:
            stage.do(self.put("a", 5))
        self.edit(place, "a", 7)
        self.edit(place, "b", None)
        with self.stage_at(place, journal, kind).opened() as stage:
            assert self.content(stage) == {"a": 7, "c": 0}
            before = stage.system.snapshot(len(KEYS) + 1)
            assert self.content(stage, before) == {"a": 5, "b": 0, "c": 0}, "what they supersede is kept"
        assert self.found(place) == {"a": 7, "c": 0}

    def test_an_edit_is_not_overwritten_before_it_has_a_seq(self, kind: str) -> None:
        place, journal = self.filled_place(), MemoryBackend("tested")
        with self.stage_at(place, journal, kind).opened() as stage:
            self.edit(place, "a", 7)
            stage.do(self.put("a", 5))
        with self.stage_at(place, journal, kind).opened() as stage:  # The stop may have come before the edit's run.
            edits = [run for run in stage.system.runs(trigger=OutsideEdit) if run.seq > len(KEYS)]
            assert len(edits) == 1
            assert edits[0].state is State.COMMITTED
            assert self.content(stage) == {"a": 7, "b": 0, "c": 0}
        assert self.found(place) == {"a": 7, "b": 0, "c": 0}
