"""Compaction with stores that write outside: what they have yet to write stays in the journal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import immutables
import pytest
from typer.testing import CliRunner

from seqtor import StoreUnavailable, Supervisor
from seqtor.actors import Checkpoint, Commit, SimulatedDispatchers
from seqtor.actors.journal.compaction import outside_through
from seqtor.actors.journal.contract import CheckpointInfo
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.cli.app import app
from seqtor.messages.journal import CheckpointDue
from tests.effect_programs import until
from tests.outside_programs import Box, Mirror, put_in, with_mirror

DAY_S = 86_400.0


class AwayBox(Box):
    """One that may be out of reach."""

    away = False


class AwayMirror(Mirror):
    """Makes checkpoints, and waits for an hour when its box is away."""

    _box: AwayBox

    def recover(self, checkpoint: Checkpoint | None) -> immutables.Map[str, Any]:
        return immutables.Map({} if checkpoint is None else json.loads(checkpoint.data))

    def checkpoint(self, state: immutables.Map[str, Any]) -> bytes:
        return json.dumps(dict(state)).encode()

    def persist(self, commits: Sequence[Commit]) -> None:
        if self._box.away:
            raise StoreUnavailable("away", retry_after=3600.0)
        super().persist(commits)


class Life:
    """One process of the program, in virtual time."""

    def __init__(self, backend: MemoryBackend, box: AwayBox, retain: float | None = None) -> None:
        self.backend = backend
        self.simulation = SimulatedDispatchers(1)
        settings = None if retain is None else {"retain": retain}
        self.system = Supervisor(backend, settings=settings, dispatchers=lambda _: self.simulation)
        with_mirror(self.system, box, AwayMirror)

    def put(self, **values: Any) -> None:
        put_in(self.system, **values)
        self.simulation.run_to_rest()

    def checkpoint(self) -> None:
        """Have a checkpoint made, as if the journal had grown, and what follows from it done."""
        self.system._running.journal.checkpointer_ref.tell(CheckpointDue())  # type: ignore[union-attr]
        self.simulation.run_to_rest()

    def days(self, count: float) -> None:
        self.simulation.clock.advance_to(self.simulation.clock.monotonic() + count * DAY_S)

    @property
    def kept(self) -> list[int]:
        return [row.seq for row in self.backend._commits]

    @property
    def checkpoints(self) -> Sequence[CheckpointInfo]:
        found: Sequence[CheckpointInfo] = self.system._running.history._checkpoints()  # type: ignore[union-attr]
        return found


def test_a_running_system_keeps_what_a_store_has_yet_to_write_outside() -> None:
    backend, box = MemoryBackend(), AwayBox()
    life = Life(backend, box, retain=DAY_S)
    with life.system:
        life.put(a=1, b=2, c=3)
        life.checkpoint()
        box.away = True
        life.put(a=4, b=5, c=6)
        life.checkpoint()
        life.days(3)
        life.put(d=7)
        life.checkpoint()
        assert life.kept == [4, 5, 6, 7], "without the store what ended three days ago, up to seq 6, would be gone"
        box.away = False
        life.simulation.run_for(2 * 3600.0)
        life.put(e=8)
        life.checkpoint()
        assert life.kept == [7, 8]
    assert box.values == {"a": 4, "b": 5, "c": 6, "d": 7, "e": 8}


@pytest.mark.parametrize("died", [False, True])
def test_a_checkpoint_says_what_is_not_outside_for_when_nothing_runs(died: bool) -> None:
    backend, box = MemoryBackend(), AwayBox()
    life = Life(backend, box)
    with life.system:
        life.put(a=1, b=2)
        assert outside_through(backend, life.checkpoints) == 0, "the only one is of the start"
        life.checkpoint()
        assert outside_through(backend, life.checkpoints) == 2
        box.away = True
        life.put(a=3, b=4)
        life.checkpoint()
        assert outside_through(backend, life.checkpoints) == 2
    if died:  # What is outside is lost, and is written anew from what the journal keeps.
        box.values, box.left, box.seq = {}, {}, 0
    box.away = False
    again = Life(backend, box)
    with again.system:
        again.simulation.run_to_rest()
        assert box.values == {"a": 3, "b": 4}
        again.put(c=5)
        again.checkpoint()
        assert outside_through(backend, again.checkpoints) == 5


def test_the_command_keeps_what_is_not_outside_of_a_journal_that_nobody_has_open(tmp_path: Path) -> None:
    journal, box = tmp_path / "desk.db", AwayBox()
    for puts in ({"a": 1, "b": 2}, {"a": 3, "b": 4}):
        system = Supervisor(journal)
        with_mirror(system, box, AwayMirror)
        with system:
            put_in(system, **puts)
            until(lambda: box.away or box.seq == 2)
        box.away = True

    def compact(before_seq: int) -> tuple[str, str]:
        command = ["journal", "compact", "--before-seq", str(before_seq), "--journal", str(journal)]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        return result.stdout, result.stderr

    stdout, stderr = compact(before_seq=5)
    assert stdout == "2 commits deleted; the history begins at seq 3\n"
    assert stderr == "seqtor: the stores that write outside have done so up to seq 2: what came later stays\n"
    box.away = False
    system = Supervisor(journal)
    with_mirror(system, box, AwayMirror)
    with system:
        until(lambda: box.seq == 4)
        put_in(system, c=5)
        until(lambda: box.seq == 5)
    assert box.values == {"a": 3, "b": 4, "c": 5}
    assert compact(before_seq=6) == ("3 commits deleted; the history begins at seq 6\n", "")


def test_a_journal_without_stores_that_write_outside_is_not_held_back() -> None:
    backend = MemoryBackend()
    simulation = SimulatedDispatchers(1)
    with Supervisor(backend, dispatchers=lambda _: simulation) as system:
        system.emit("a")
        checkpoints = system._running.history._checkpoints()  # type: ignore[union-attr]
        assert outside_through(backend, ()) == outside_through(backend, checkpoints) == float("inf")
