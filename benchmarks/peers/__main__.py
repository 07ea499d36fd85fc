"""`python -m benchmarks.peers`: the same durable work on seqtor, bare SQLite and other libraries; one JSON object each.

A round measures every contender once, each in a fresh process; figures are medians over the rounds. The other libraries
run in `.venv-peers`, which `make bench-peers` makes. Exits with 1 if a contender could not be measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import median, progress, rounded
from benchmarks.peers.contest import BATCH, Measured
from benchmarks.placement import place, placement

ROUNDS = 5
BUDGET_S = 60.0  # No round begins that would probably end later.
PEERS_PYTHON = Path(".venv-peers/bin/python")
TRANSACTIONS = f"{BATCH:,} in one transaction"
RUNS = "submit_many, each a run of its own"
WORKFLOWS = "start_workflow, each a workflow of its own"


class Entry(NamedTuple):
    """A contender: where its `Contest` is, the Python that has it, and what its burst is."""

    contest: str
    python: Path
    burst_is: str


ENTRIES = {
    "apsw": Entry("on_apsw:CONTEST", Path(sys.executable), TRANSACTIONS),
    "seqtor": Entry("on_seqtor:CONTEST", Path(sys.executable), RUNS),
    "zodb": Entry("on_zodb:CONTEST", PEERS_PYTHON, TRANSACTIONS),
    "eventsourcing": Entry("on_eventsourcing:CONTEST", PEERS_PYTHON, TRANSACTIONS),
    "dbos": Entry("on_dbos:AS_SHIPPED", PEERS_PYTHON, WORKFLOWS),
    "dbos_wal": Entry("on_dbos:WITH_WAL", PEERS_PYTHON, WORKFLOWS),
}


def main() -> int:
    place()
    if not PEERS_PYTHON.exists():
        progress(f"{PEERS_PYTHON} is missing: run `make bench-peers` in the root of the repository")
        return 2
    found: dict[str, list[Measured]] = {name: [] for name in ENTRIES}
    failed: set[str] = set()
    started = time.monotonic()
    for number in range(1, ROUNDS + 1):
        round_started = time.monotonic()
        for name, entry in ENTRIES.items():
            if name in failed:
                continue
            measured = _measure(entry)
            if measured is None:
                failed.add(name)
                continue
            found[name].append(measured)
            progress(f"round {number}: {name}: {measured['p50_us']:,.0f} µs, burst {measured['burst_per_s']:,.0f}/s")
        now = time.monotonic()
        if now - started + (now - round_started) > BUDGET_S:
            break
    bare_us = median([each["p50_us"] for each in found["apsw"]]) if found["apsw"] else None
    for name, rounds in found.items():
        if rounds:
            print(json.dumps(_line(name, rounds, bare_us), ensure_ascii=False), flush=True)
    return int(bool(failed))


def _measure(entry: Entry) -> Measured | None:
    """One round, on the disk of the working directory: elsewhere may be memory. None if it failed, which it says."""
    with tempfile.TemporaryDirectory(prefix="seqtor-bench-", dir=Path.cwd()) as folder:
        command = [str(entry.python), "-m", "benchmarks.peers.alone", f"benchmarks.peers.{entry.contest}", folder]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        progress(f"{entry.contest} failed with {done.returncode}")
        return None
    measured: Measured = json.loads(done.stdout)
    return measured


def _line(name: str, rounds: list[Measured], bare_us: float | None) -> dict[str, object]:
    value = median([each["p50_us"] for each in rounds])
    return {
        "contender": name,
        "release": rounds[0]["release"],
        "value": rounded(value),
        "unit": "µs p50",
        "ratio": None if bare_us is None else rounded(value / bare_us),
        "per_s": rounded(median([each["per_s"] for each in rounds])),
        "burst_per_s": rounded(median([each["burst_per_s"] for each in rounds])),
        "burst_is": ENTRIES[name].burst_is,
        "placement": placement(),
        "values": [rounded(each["p50_us"]) for each in rounds],
        "bursts_per_s": [rounded(each["burst_per_s"]) for each in rounds],
    }


if __name__ == "__main__":
    sys.exit(main())
