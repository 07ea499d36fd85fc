"""A program whose stores write outside, forked to be killed: `python -m tests.crash.outside_program`.

A process that has imported everything forks one for every command (JSON lines on standard input); the child tells what it
found at its start and what was answered, and is killed with SIGKILL, after so many lines or at a named moment. A sum of the
rows follows from them, as a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from seqtor import Derived, Files, OutsideEdit, Record, Supervisor, Table, Transaction, Trigger
from seqtor.actors.stores import export
from seqtor.actors.stores.folder import Folder
from seqtor.actors.stores.table_rows import Rows
from tests.crash.zygote import say, watch

__all__ = ["MOMENTS", "on_disk"]

KEYS = ("a", "b", "deep/c", "deep/er/d")
AHEAD = 20
STEPS = {
    "plan": Folder, "put": Folder, "sync": Folder, "settle": Folder, "_exchange": Folder, "_write": Folder,
    "_read_back": Folder, "prepare": Folder,
    "_note": Rows, "_select": Rows, "write": Rows, "write_atomically": export, "sync_folder": export,
}  # fmt: skip
MOMENTS = [f"{when} {step}" for step in STEPS for when in ("before", "behind")]


class Row(Record):
    """What the table keeps of a file."""

    number: int = 0


class Total(Record):
    """The sum of all rows."""

    count: int = 0
    sum: int = 0


def total(rows: Mapping[str, Row]) -> Total:
    """What follows from the rows."""
    return Total(count=len(rows), sum=sum(row.number for row in rows.values()))


class Save(Trigger[str]):
    """Writes two files with the same number, or deletes them."""

    one: str
    other: str
    deletes: bool = False


def make_system(journal: str, folder: str, table: str) -> Supervisor:
    """The program."""
    system = Supervisor(journal, settings={"threads": 2})
    files = system.store("files", Files(folder, look_every=None))
    rows = system.store("rows", Table(table, Row))
    system.store("total", Derived(Total, [rows], rebuild=total, reconcile=None, export=export_of(folder)))

    @system.on(Save)
    def save(trigger: Save, tx: Transaction) -> str:
        content = f"{tx.seq} " * 100
        for key in {trigger.one, trigger.other}:
            if trigger.deletes:
                tx[files].pop(key, None)
                tx[rows].pop(key, None)
            else:
                tx[files][key] = content
                tx[rows][key] = Row(number=tx.seq)
        return "" if trigger.deletes else content

    return system


def on_disk(folder: Path) -> dict[str, str]:
    """What is in the folder."""
    found = {str(each.relative_to(folder)): each for each in folder.rglob("*") if each.is_file()}
    return {key: each.read_text() for key, each in sorted(found.items()) if not key.startswith(".seqtor/")}


def export_of(folder: str) -> Path:
    """Where the sum is."""
    return Path(f"{folder}.exported") / "total.json"


def in_table(table: str) -> dict[str, int]:
    """What is in the table."""
    query = "select key, number from row order by key"
    if table.startswith("postgresql:"):
        with psycopg.connect(table) as connection:
            return dict(connection.execute(query).fetchall())
    with contextlib.closing(sqlite3.connect(table.removeprefix("sqlite:///"))) as database:
        return dict(database.execute(query))


def as_of(system: Supervisor, content: str, seq: int) -> int | None:
    """The newest seq up to `seq` of which an exported file is; None if it is of none."""
    for each in range(seq, -1, -1):
        if system.snapshot(each)[system.stores["total"]].value.model_dump() == json.loads(content):
            return each
    return None


def work(command: dict[str, Any], tell: Callable[[str], object]) -> None:
    """Tell what was found, then write until killed, or until so much is written."""
    if command["moment"]:
        arm(command["moment"], command["count"])
    table = command["table"] or f"sqlite:///{command['folder']}.db"
    system = make_system(command["journal"], command["folder"], table)
    exported = export_of(command["folder"])
    left = exported.read_text() if exported.exists() else None
    rng = random.Random(command["seed"])
    with system:
        snapshot = system.snapshot()
        edits = [getattr(run.trigger, "key", "") for run in system.runs(trigger=OutsideEdit)]
        files = dict(snapshot[system.stores["files"]])
        rows = {key: row.number for key, row in snapshot[system.stores["rows"]].items()}
        place = Path(command["folder"])
        found = {"files": files, "disk": on_disk(place), "rows": rows, "table": in_table(table)}
        found["total"] = snapshot[system.stores["total"]].value.model_dump()
        found["exported"] = {each.name: json.loads(each.read_text()) for each in exported.parent.iterdir()}
        found["was_exported"] = left is not None
        found["left"] = None if left is None else as_of(system, left, snapshot.seq)
        tell(json.dumps({"seq": snapshot.seq, "edits": edits, **found}))
        for _ in range(command["rounds"]):
            saves = [
                Save(one=rng.choice(KEYS), other=rng.choice(KEYS), deletes=rng.random() < 0.2) for _ in range(AHEAD)
            ]
            for submission in system.submit_many(saves):
                submission.result()
                tell(json.dumps({"answered": submission.seq}))


def arm(moment: str, count: int) -> None:
    """Have this process kill itself at a moment, when it comes there for the n-th time."""
    when, _, name = moment.partition(" ")
    owner = STEPS[name]
    original = getattr(owner, name)
    left = [count]

    def armed(*args: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, armed)


def main() -> None:
    """Fork a child for every command."""
    for line in sys.stdin:
        command = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            status = 1
            try:
                work(command, partial(say, writer))
                status = 0
            except BaseException as error:
                say(writer, json.dumps({"died": f"{type(error).__name__}: {error}"}))
            finally:
                os._exit(status)
        os.close(writer)
        told = watch(reader, pid, command["kill_after"])
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"told": told, "status": status}), flush=True)


if __name__ == "__main__":
    main()
