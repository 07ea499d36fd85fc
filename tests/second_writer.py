"""Somebody else who changes and makes rows of a table while a store writes it, and what must not be lost of that.

Owns which of its versions have to be in the journal: each that somebody else has overwritten, the last one, and each row
that it made. One that it has overwritten itself, in the statement that looked for it, was never anybody else's business.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from seqtor import OutsideEdit, Record, StoreRef, Supervisor, Table, Transaction, Trigger
from tests.programs import WAIT_S

__all__ = ["Row", "require_nothing_lost"]

VERSIONS = 40


class Row(Record):
    """A row. What the store writes is above 0, what the other one writes is below."""

    number: int = 0


class Put(Trigger[None]):
    """Writes the row that both write."""


class SecondWriter:
    """Writes `VERSIONS` versions of the row `both`, and every fourth time makes a row of its own.

    `other` is a connection that carries out each statement in a transaction of its own; `pace` has the store write.
    """

    def __init__(self, other: Any, pace: Callable[[], object]) -> None:
        self.required: set[tuple[str, int]] = set()
        self.overwritten = 0
        self._other = other
        self._pace = pace

    def work(self) -> None:
        rng = random.Random(3)
        before = 0
        for version in range(-1, -VERSIONS - 1, -1):
            replaced_own = self._execute(f"update row set number = {version} where key = 'both' and number = {before}")
            if not replaced_own:
                if before:
                    self.overwritten += 1
                    self.required.add(("both", before))
                assert self._execute(f"update row set number = {version} where key = 'both'") == 1
            if version % 4 == 0:
                self._execute(f"insert into row (key, number) values ('own{version}', {version})")
                self.required.add((f"own{version}", version))
            before = version
            for _ in range(rng.randrange(3)):
                self._pace()
            while version % 3 == 0 and self._is_there(version):
                self._pace()  # Until the store has gone on.
        self.required.add(("both", before))

    def _execute(self, statement: str) -> int:
        return int(self._other.execute(statement).rowcount)

    def _is_there(self, version: int) -> bool:
        return bool(self._other.execute("select number from row where key = 'both'").fetchone() == (version,))


def require_nothing_lost(url: str, other: Any) -> None:
    """Let both write at once, and look for each version in the journal."""
    system = Supervisor(settings={"threads": 2})
    rows: StoreRef[dict[str, Row]] = system.store("rows", Table(url, Row, look_every=0.02))  # type: ignore[arg-type]

    @system.on(Put)
    def put(trigger: Put, tx: Transaction) -> None:
        tx[rows]["both"] = Row(number=tx.seq)

    def pace() -> None:
        system.ask(Put(), timeout=WAIT_S)

    def adopted() -> set[tuple[str, int]]:
        edits = [run.trigger for run in system.runs(trigger=OutsideEdit, limit=None)]
        return {(edit.key, edit.content["number"]) for edit in edits if isinstance(edit, OutsideEdit) and edit.content}

    with system:
        pace()
        while other.execute("select number from row where key = 'both'").fetchone() is None:
            pace()
        writer = SecondWriter(other, pace)
        writer.work()
        for _ in range(200):
            if writer.required <= adopted():
                break
            pace()
        assert writer.required - adopted() == set()
        assert len(writer.required) > VERSIONS / 4, "it has written all"
        assert writer.overwritten >= VERSIONS // 3, "the store has written in between"
        held = dict(system.snapshot()[rows])
        assert {(key, row.number) for key, row in held.items() if key != "both"} <= writer.required
