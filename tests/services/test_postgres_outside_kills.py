"""Kill -9 of a real process while it writes rows to a PostgreSQL server: afterwards journal, files and rows agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.outside_lives import forking, killed_at_any_time, live, require_agreement
from tests.seeds import scaled
from tests.services.postgres import table_url

KILLS = scaled(8)
MOMENTS = [f"{when} {step}" for step in ("_note", "_select", "write") for when in ("before", "behind")]


def test_files_rows_and_journal_agree_after_kills(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = table_url(request.addfinalizer)
    with forking() as zygote:
        killed = killed_at_any_time(zygote, tmp_path, KILLS, table=url)
        assert killed.seq > KILLS
        for moment in MOMENTS:
            told, was_killed = live(zygote, tmp_path, moment=moment, count=2, rounds=3, table=url)
            assert was_killed, moment
            (found,), _ = live(zygote, tmp_path, table=url)
            require_agreement(found, max([0, *[line["answered"] for line in told[1:]]]))
