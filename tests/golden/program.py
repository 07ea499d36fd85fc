"""The program whose journal is kept as the golden file of a format: it writes every kind of record.

`python -m tests.golden.program FILE` writes one, for a new format; the files of released formats are never written again.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import immutables

from seqtor import (
    Collection,
    Document,
    EffectContext,
    HandlerFailed,
    Record,
    Rejected,
    Retry,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.contract import CommitRow, EntryRow, Group, KeyRow
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.stores import Access, Checkpoint, StoreActor, Write

__all__ = ["dump", "load", "make_system", "run"]


JOURNAL_ID = "0" * 32


class Item(Record, version=2):
    """A stored model with a version."""

    count: int = 0
    text: str = ""
    data: bytes = b""


class Totals(Record):
    """A document."""

    items: int = 0
    ratio: float = 0.5


class Add(Trigger[int], version=3):
    """Adds an item; may be refused, fail, or ask outside."""

    key: str
    how: str = "add"


class Seen(Trigger[None]):
    """Submitted by others."""

    key: str


class Notes(StoreActor[immutables.Map[str, Any], "NotesView"]):
    """A store of one's own, with bytes and nested JSON in it."""

    dispatcher = "core"

    def recover(self, checkpoint: Checkpoint | None) -> immutables.Map[str, Any]:
        return immutables.Map({} if checkpoint is None else json.loads(checkpoint.data))

    @staticmethod
    def fold(state: immutables.Map[str, Any], writes: Sequence[Write]) -> immutables.Map[str, Any]:
        for key, op in writes:
            state = state.set(key, op)
        return state

    @staticmethod
    def view(access: Access[immutables.Map[str, Any]]) -> NotesView:
        return NotesView(access)


class NotesView:
    """Writes notes."""

    def __init__(self, access: Access[immutables.Map[str, Any]]) -> None:
        self._access = access

    def put(self, key: str, op: Any) -> None:
        self._access.write(key, op)

    def all(self) -> dict[str, Any]:
        return dict(self._access.state)


def quote(key: str) -> tuple[int, str]:
    """Called outside."""
    if key == "none":
        raise LookupError("no quote for none")
    return len(key), key


def make_system(backend: MemoryBackend, seed: int = 1) -> Supervisor:
    """The system that writes all of it."""
    system = Supervisor(backend, dispatchers=lambda settings: SimulatedDispatchers(seed, interleaving=0.0))
    items = system.store("items", Collection(Item, initial={"first": Item(count=1, data=b"\x00\xff")}))
    totals = system.store("totals", Document(Totals))
    notes = system.store("notes", Notes.spec())

    @system.effect("print", retry=Retry(2, backoff=1.0, jitter=0.0))
    def print_item(context: EffectContext, item: Item) -> Seen | None:
        if item.text == "bad":
            raise OSError("no paper")
        return Seen(key=context.key.rpartition("-")[2])

    @system.on(Add, retry=Retry(2, backoff=1.0, jitter=0.0, on=LookupError))
    def add(trigger: Add, tx: Transaction) -> int:
        if trigger.how == "reject":
            raise Rejected("not wanted", "unwanted", key=trigger.key)
        if trigger.how == "fail":
            raise ValueError(f"cannot add {trigger.key}")
        if trigger.how == "flaky":
            if not any(note.startswith("seen") for note in tx[notes].all()):
                raise LookupError("nothing was seen yet")
            tx[notes].put("flaky", b"done")
            return 2
        item = tx[items].get(trigger.key, Item())
        text = ""
        if trigger.how == "call":
            text = tx.call(quote, trigger.key)[1]
            try:
                tx.call(quote, "none")
            except LookupError:
                text += "!"
        tx[items][trigger.key] = item = Item(count=item.count + 1, text=text or trigger.how)
        tx[totals].update(items=len(tx[items]))
        tx[totals].increment(ratio=0.25)
        if trigger.how in ("effect", "bad"):
            tx.effect(print_item, item)
        if trigger.how == "submit":
            tx.submit(Seen(key=trigger.key), idempotency_key=f"seen {trigger.key}")
            tx.emit("added", {"key": trigger.key, "\u00e9": [1, 2.5, None]})
        tx[notes].put(trigger.key, {"at": tx.now.isoformat(), "raw": b"\x00\xff", "$dollar": [True]})
        return item.count

    @system.on(Seen)
    async def see(trigger: Seen, tx: Transaction) -> None:
        tx[notes].put(f"seen {trigger.key}", b"yes")

    return system


def run(backend: MemoryBackend) -> None:
    """Execute one of everything."""
    with make_system(backend) as system:
        hows = ["add", "add", "call", "reject", "fail", "submit", "effect", "bad", "flaky"]
        submissions = [
            system.submit(Add(key="k\u00e9y" if number % 2 else "key", how=how), idempotency_key=f"{number}")
            for number, how in enumerate(hows)
        ]
        for submission in submissions:
            try:
                submission.result(60.0)
            except (Rejected, HandlerFailed):
                continue
        dispatchers: Any = system._running._dispatchers  # type: ignore[union-attr]
        dispatchers.run_until(lambda: sum(row.kind == "effect" for row in backend._entries) == 2, None)
        for letter in system.dead_letters():
            with contextlib.suppress(HandlerFailed):
                system.resubmit(letter).result(60.0)
        dispatchers.run_until(lambda: sum(row.kind == "effect" for row in backend._entries) == 3, None)


def dump(backend: MemoryBackend) -> Iterable[str]:
    """The rows of a journal as JSON lines."""
    opened = backend.open(write=False)
    for commit in backend.commits(1, opened.commits_through):
        yield json.dumps({"commit": commit.seq, "body": commit.body, "chain": commit.chain.hex()})
    for entry in backend.entries(1, opened.entries_through):
        yield json.dumps({"entry": entry.pos, "kind": entry.kind, "ref": entry.ref, "body": entry.body})
    for key in sorted(backend.keys()):
        yield json.dumps({"key": key.key, "run": key.run, "digest": key.digest.hex(), "seq": key.seq})
    for info in opened.checkpoints[:1]:  # That of the first start; the others repeat it with more in it.
        for part in backend.checkpoint_parts(info.seq):
            yield json.dumps({"checkpoint": info.seq, "section": part.section, "data": part.data.decode()})
    backend.close()


def load(lines: Iterable[str]) -> MemoryBackend:
    """A journal with these rows, without the checkpoint."""
    backend = MemoryBackend()
    backend._journal_id = JOURNAL_ID
    backend.open()
    rows = [json.loads(line) for line in lines]
    backend.append(
        Group(
            commits=[
                CommitRow(row["commit"], row["body"], bytes.fromhex(row["chain"])) for row in rows if "commit" in row
            ],
            entries=[EntryRow(row["entry"], row["kind"], row["ref"], row["body"]) for row in rows if "entry" in row],
            keys=[
                KeyRow(row["key"], row["run"], bytes.fromhex(row["digest"]), row["seq"]) for row in rows if "key" in row
            ],
        )
    )
    backend.close()
    return backend


def fresh() -> MemoryBackend:
    """A journal written now."""
    backend = MemoryBackend()
    backend._journal_id = JOURNAL_ID
    run(backend)
    return backend


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(dump(fresh())) + "\n", encoding="utf-8")
