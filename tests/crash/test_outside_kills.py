"""Kill -9 of a real process while its stores write outside: afterwards journal, state and outside agree."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.outside_lives import forking, killed_at_any_time, live, require_agreement
from tests.crash.outside_program import MOMENTS
from tests.seeds import scaled

KILLS = scaled(12)


@pytest.fixture(scope="module")
def zygote() -> Iterator[subprocess.Popen[str]]:
    """The process that forks those which are killed."""
    with forking() as process:
        yield process


def test_files_rows_and_journal_agree_after_kills_at_any_time(zygote: subprocess.Popen[str], tmp_path: Path) -> None:
    killed = killed_at_any_time(zygote, tmp_path, KILLS)
    assert killed.kills == KILLS
    assert killed.seq > KILLS


@pytest.mark.parametrize("moment", MOMENTS)
def test_files_rows_and_journal_agree_after_a_kill_at_each_step_of_a_write(
    zygote: subprocess.Popen[str], tmp_path: Path, moment: str
) -> None:
    for count in (1,) if moment.endswith("settle") else (1, 4):  # It settles at its stop, and seldom before.
        told, killed = live(zygote, tmp_path, moment=moment, count=count, rounds=40, seed=count)
        assert killed, "it came to this moment"
        answered = max([0, *[line["answered"] for line in told[1:]]])
        (found,), _ = live(zygote, tmp_path)
        require_agreement(found, answered)
