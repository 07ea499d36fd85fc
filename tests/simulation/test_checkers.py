"""Each checker sees, by its name, the bugs that are planted for it, and nothing in a runtime without them."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seqtor import RegistrationError
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.testing import CHECKERS, run, watch
from seqtor.testing.simulating.playing import RAISED, STUCK
from seqtor.testing.simulating.searching import Program
from seqtor.testing.simulating.telling import told
from tests.seeds import seeds
from tests.simulation import watched
from tests.simulation.planted import PLANTS, Plant

ROOT = Path(__file__).parents[2]
HISTORIES_MAX = 150
HISTORIES = 30

BY_NAME = {plant.name: plant for plant in PLANTS}
ANSWERED_AT_ONCE = Plant(
    "callers are answered before their record is durable", Coordinator, "_end_all", "if answers_at_once:", "if True:"
)

SEEN = (
    ("serial order", BY_NAME["an overtaker is folded into the state without the others"], 0),
    ("serial order", BY_NAME["the overtaken are not folded into the newest state"], 0),
    ("reads", BY_NAME["only what was also written is validated"], 35),
    ("reads", BY_NAME["ranges are not validated"], 35),
    ("one record", ANSWERED_AT_ONCE, 0),
    ("durable answers", ANSWERED_AT_ONCE, 0),
    ("effects", BY_NAME["effects go out before their commit is durable"], 0),
    (STUCK, BY_NAME["the end of an effect is not recorded"], 0),
    ("one epoch", BY_NAME["an older epoch's intent is accepted"], 0),
    ("real time", ANSWERED_AT_ONCE, 25),
    (STUCK, BY_NAME["a run that stalled is not woken"], 0),
    (RAISED, BY_NAME["an accepted trigger gets no row"], 0),
)
"""Which checker sees which bug, and the seed to look from, so that it does not take long."""

program = functools.partial(Program, watched.make, watched.work, instead=watched.stand_ins, invariants=[watched.total])


@pytest.mark.parametrize("first", seeds(HISTORIES, HISTORIES))
def test_the_checkers_see_nothing_where_no_bug_is_planted_from(first: int) -> None:
    simulated = program()
    for seed in range(first, first + HISTORIES):
        assert simulated.simulate(seed).violations == ()


@pytest.mark.parametrize(("checker", "plant", "first"), SEEN, ids=[f"{each[0]}-{each[1].name}" for each in SEEN])
def test_the_checker_sees(checker: str, plant: Plant, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.into(monkeypatch)
    simulated = program()
    for seed in range(first, first + HISTORIES_MAX):
        if checker in {each.checker for each in simulated.simulate(seed).violations}:
            print(f"seen at seed {seed}")
            return
    pytest.fail(f"{checker!r} has not seen it in {HISTORIES_MAX} histories: {plant.name}")


def test_every_checker_sees_a_planted_bug() -> None:
    assert set(CHECKERS) <= {checker for checker, _, _ in SEEN}


def test_a_watch_begins_before_the_start_and_judges_what_it_has_seen() -> None:
    desk = run(watched.make())
    noted = watch(desk)
    with pytest.raises(RegistrationError, match="watch\\(\\) comes once"):
        watch(desk)
    with pytest.raises(RegistrationError, match="has not been started"):
        noted.violations()
    with desk:
        desk.submit_many([watched.Declared(key="a")] * 5)
        desk.settle()
        noted.check()
        with pytest.raises(LookupError, match="there is no checker 'order'; there are 'serial order'"):
            noted.violations("order")
        with pytest.raises(RegistrationError, match="runs already"):
            watch(desk)


@pytest.mark.parametrize("make_backend", [lambda: None, MemoryBackend], ids=["in-memory", "journaled"])
def test_a_system_on_real_threads_can_be_watched(make_backend: Callable[[], MemoryBackend | None]) -> None:
    system = watched.make()
    system._make_backend = make_backend
    noted = watch(system)
    with system:
        for _ in range(3):
            for submission in system.submit_many([watched.Declared(key=key) for key in "abcab"]):
                submission.result(10)
        system.snapshot()
        assert len(noted.evidence().ended) == 15
        noted.check()


def test_what_is_wrong_is_said_of_what_was_noted() -> None:
    """A run that was handed in behind an answer, with a lower seq: no planted bug does only that."""
    desk = run(watched.make())
    noted = watch(desk)
    with desk:
        first, second = [desk.submit(watched.Declared(key="a")) for _ in range(2)]
        desk.settle()
        later = desk.submit(watched.Declared(key="a"))
        desk.settle()
        assert noted.violations() == ()
        later.seq = 1
        (violation,) = noted.violations("real time")
        later.seq = 3
    assert violation.seq == 1
    assert "has seq 1, and was handed in when seq 2 had been answered" in violation.text
    assert (first.seq, second.seq) == (1, 2)


TELLS = """
import hashlib
from tests.simulation.test_checkers import told_histories
print(hashlib.sha256(told_histories().encode()).hexdigest())
"""


def told_histories() -> str:
    """Some histories, told in full: with chance, calls, effects, crashes and deaths."""
    simulated = program()
    return "\n".join(line for seed in range(6) for line in told(simulated.play(simulated.plan(seed))))


def test_a_history_is_told_byte_for_byte_the_same_in_every_process_whatever_its_hash_seed() -> None:
    here = told_histories()
    assert "dies" in here
    assert "crashes" in here
    hashes = {hashlib.sha256(here.encode()).hexdigest()}
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", TELLS],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        hashes.add(ran.stdout.strip())
    assert len(hashes) == 1
