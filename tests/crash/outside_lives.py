"""Lives of a program whose stores write outside, each ended by kill -9: `make kills`.

Owns what has to hold behind each: files, rows, the exported sum and the journal agree, nothing that was answered is missing,
no file is torn, and nothing of the store's own was taken for somebody's edit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Killed", "forking", "killed_at_any_time", "live", "require_agreement"]

ROOT = Path(__file__).parents[2]
LINES_MAX, ROUNDS = 60, 20


class Killed(NamedTuple):
    """Lives that were killed, and what they had answered: how many saves, and the highest seq of them."""

    kills: int
    answers: int
    seq: int


@contextmanager
def forking() -> Iterator[subprocess.Popen[str]]:
    """The process that forks those which are killed."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-m", "tests.crash.outside_program"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


def live(zygote: subprocess.Popen[str], path: Path, **command: Any) -> tuple[list[dict[str, Any]], bool]:
    """One life; what it told, and whether it was killed."""
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    command = {"moment": "", "count": 0, "kill_after": None, "rounds": 0, "seed": 0, "table": None, **command}
    print(
        json.dumps({"journal": str(path / "desk.db"), "folder": str(path / "files"), **command}),
        file=zygote.stdin, flush=True,
    )  # fmt: skip
    answer = json.loads(zygote.stdout.readline())
    assert answer["status"] in (0, signal.SIGKILL), answer["told"]
    assert not [line for line in answer["told"] if "died" in line], answer["told"]
    return list(answer["told"]), answer["status"] == signal.SIGKILL


def require_agreement(found: dict[str, Any], answered: int) -> None:
    """What a start found is what the journal says, nothing answered is missing, and nothing was taken for an edit."""
    assert found["files"] == found["disk"]
    assert found["rows"] == found["table"]
    assert found["rows"] == {key: int(content.split()[0]) for key, content in found["files"].items()}
    assert found["edits"] == []
    assert found["seq"] >= answered
    numbers = {key: int(content.split()[0]) for key, content in found["files"].items()}
    assert all(content == f"{numbers[key]} " * 100 for key, content in found["files"].items()), "no file is torn"
    assert found["total"] == {"count": len(found["rows"]), "sum": sum(found["rows"].values())}
    assert found["exported"] == {"total.json": found["total"]}, "as it is, and nothing is left beside it"
    assert found["left"] is None or found["left"] <= found["seq"]
    assert found["left"] is not None or not found["was_exported"], "what a kill leaves is whole, and of a durable seq"


def killed_at_any_time(
    zygote: subprocess.Popen[str], path: Path, kills: int, *, seed: int = 7, table: str | None = None
) -> Killed:
    """Kill so many lives, each behind a random number of answers, and look behind each."""
    rng = random.Random(seed)
    done = answers = answered = number = 0
    while done < kills:
        number += 1
        assert number < 2 * kills + 10, "most lives end by themselves"
        told, killed = live(
            zygote, path, kill_after=rng.randint(2, LINES_MAX), rounds=ROUNDS, seed=seed + number, table=table
        )
        done += killed
        if told:
            require_agreement(told[0], answered)
            answers += len(told) - 1
            answered = max([answered, *[line["answered"] for line in told[1:]]])
    (found,), _ = live(zygote, path, table=table)
    require_agreement(found, answered)
    return Killed(done, answers, answered)


def main() -> None:
    """Kill, on SQLite and with `--postgres` also on a server, and say how often."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.outside_lives")
    parser.add_argument("--kills", type=int, default=200, help="of each kind (default: 200)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--postgres", action="store_true", help="rows in PostgreSQL, too: tests/services/postgres.py")
    options = parser.parse_args()
    with ExitStack() as stack:
        tables: dict[str, str | None] = {"SQLite": None}
        if options.postgres:
            from tests.services.postgres import table_url

            tables["PostgreSQL"] = table_url(stack.callback)
        zygote = stack.enter_context(forking())
        for name, table in tables.items():
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seqtor-kills-", dir=Path.cwd())))
            start = time.monotonic()
            killed = killed_at_any_time(zygote, path, options.kills, seed=options.seed, table=table)
            print(
                f"rows in {name}, seed {options.seed}: {killed.kills} processes killed in {time.monotonic() - start:.0f} s, "
                f"{killed.answers} saves answered, seq {killed.seq}: files, rows, the exported sum and the journal agree",
                flush=True,
            )


if __name__ == "__main__":
    main()
