"""`journal verify`, `journal compact`, `journal export`: the journal itself, without the program's code."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from seqtor.actors.clock import SystemClock
from seqtor.actors.journal.chain import Chain, Links, checked_rows, hashes_ahead
from seqtor.actors.journal.checking import Damage, Findings, check_journal
from seqtor.actors.journal.compaction import ended_before, outside_through, up_to
from seqtor.actors.journal.contents import Contents
from seqtor.actors.journal.contract import Backend, CheckpointInfo, CommitRow, KeyRow, Opened
from seqtor.actors.journal.encoding import GENESIS, text
from seqtor.actors.journal.history import chain_from
from seqtor.actors.journal.recovery import OPEN_WORK, read_sections
from seqtor.cli.options import AsJson, ExitCode, JournalOption, backend_of, exit_codes, opened_journal, usage_error
from seqtor.cli.output import Progress, note, say, say_json
from seqtor.messages.errors import JournalCorrupted

__all__ = ["journal"]

TRIM_ROWS = 10_000
DAY_S = 86_400.0
EVERY = 1000

journal = typer.Typer(help="Check, compact and export a journal.", no_args_is_help=True, rich_markup_mode=None)


@journal.command()
def verify(journal: JournalOption = None, as_json: AsJson = False) -> None:
    """Read everything and say what is damaged first: the hash chain, records, entries, checkpoints."""
    with exit_codes():
        backend = backend_of(journal)
        try:
            with opened_journal(backend) as (_, opened), Progress("journal verify") as progress:
                findings = check_journal(backend, opened, progress)
        except JournalCorrupted as error:  # It does not even open.
            findings = Findings(0, 0, 0, 0, 0, (), 0, (Damage("the journal", str(error), error.seq),))
        if as_json:
            damage = [each._asdict() for each in findings.damage]
            say_json({"journal": backend.place, "intact": not damage, **findings._asdict(), "damage": damage})
        else:
            for each in findings.damage:
                say(f"damaged: {each.message}")
            say(_summary(findings))
        if findings.damage:
            raise typer.Exit(ExitCode.FOUND)


def _summary(findings: Findings) -> str:
    if not findings.commits_through and findings.damage:
        return "the journal cannot be opened; `seqtor journal export` saves the commits that can still be read"
    commits = f"commits {findings.commits_from} to {findings.commits_through}"
    if findings.commits_from > findings.commits_through:
        commits = f"no commits after seq {findings.commits_through}"
    if findings.ahead:
        commits += f" and {findings.ahead} behind, which have overtaken others"
    if findings.damage and findings.intact_through < findings.commits_through:
        commits += f" (intact up to {findings.intact_through})"
    return (
        f"{commits}; entries: {findings.entries}, idempotency keys: {findings.keys}, checkpoints: "
        f"{len(findings.checkpoints)}{'' if findings.damage else '; all intact'}"
    )


@journal.command()
def compact(
    keep_days: Annotated[
        float | None, typer.Option("--keep-days", metavar="DAYS", min=0, help="Give up what ended longer ago.")
    ] = None,
    before_seq: Annotated[
        int | None, typer.Option("--before-seq", metavar="N", min=1, help="Give up what came before this seq.")
    ] = None,
    journal: JournalOption = None,
    as_json: AsJson = False,
) -> None:
    """Delete old commits, as far as a checkpoint stands for them; every later state can still be brought back."""
    if (keep_days is None) == (before_seq is None):
        raise usage_error("say what to give up: --keep-days DAYS or --before-seq N")
    with exit_codes(), ExitStack() as stack:
        backend = backend_of(journal)
        with opened_journal(backend):  # Opening it for writing would create one.
            pass
        opened = backend.open(write=True)
        stack.callback(backend.close)
        through = outside_through(backend, opened.checkpoints)
        if through < opened.commits_through:
            note(f"seqtor: the stores that write outside have done so up to seq {through}: what came later stays")
        if keep_days is not None:
            found = ended_before(backend, opened.checkpoints, SystemClock.time() - keep_days * DAY_S, through)
        else:
            assert before_seq is not None
            found = up_to(backend, opened.checkpoints, int(min(before_seq - 1, through)), opened.commits_from)
        if found is None:
            _say_compacted(backend, opened.commits_from, 0, as_json)
            return
        if found.unkept:
            raise usage_error(
                f"nothing may be given up: {', '.join(found.unkept)} made no checkpoint (StoreActor.checkpoint returned "
                "None), so all commits are needed"
            )
        _trim(backend, opened, found.info)
        _say_compacted(backend, found.info.seq + 1, found.info.seq + 1 - opened.commits_from, as_json)


def _trim(backend: Backend, opened: Opened, info: CheckpointInfo) -> None:
    count = info.seq + 1 - opened.commits_from
    done = 0
    with Progress("journal compact") as progress:
        while not backend.trim(info, TRIM_ROWS):
            done = min(done + TRIM_ROWS, count)
            progress(done, count)


def _say_compacted(backend: Backend, commits_from: int, deleted: int, as_json: bool) -> None:
    if as_json:
        say_json({"journal": backend.place, "commits_from": commits_from, "deleted": deleted})
    elif deleted:
        say(f"{deleted} commits deleted; the history begins at seq {commits_from}")
    else:
        say(f"nothing to give up: there is no older checkpoint; the history begins at seq {commits_from}")


@journal.command()
def export(
    journal: JournalOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write there instead of to standard output.")
    ] = None,
) -> None:
    """Write the journal as JSON lines; of a damaged one everything before the damage, with exit code 1."""
    with exit_codes(), ExitStack() as stack:
        backend = backend_of(journal)
        target = sys.stdout if output is None else stack.enter_context(output.open("w", encoding="utf-8"))
        try:
            with opened_journal(backend) as (_, opened):
                Exporting(target, backend).all_of(opened)
        except JournalCorrupted as error:
            count = Exporting(target, backend).salvaged()
            note(
                f"seqtor: {error}\nseqtor: the journal could not be opened; {count} commits were saved past its checks"
            )
            raise typer.Exit(ExitCode.FOUND) from None


class Exporting:
    """Writes lines, in the order in which they can be read back."""

    def __init__(self, target: TextIO, backend: Backend) -> None:
        self._target = target
        self._backend = backend

    def all_of(self, opened: Opened) -> None:
        """A journal that opens: its base, its commits, entries and keys. Ends the command with 1 if something is damaged."""
        head = {"kind": "journal", "format": 1, "journal_id": opened.journal_id, "commits_from": opened.commits_from}
        self._line(json.dumps(head))
        damaged = [
            damage
            for lines in (self._base(opened), self._commits(opened), self._entries(opened), self._keys())
            if (damage := self._write(lines)) is not None
        ]
        for damage in damaged:
            note(f"seqtor: {damage}")
        if damaged:
            raise typer.Exit(ExitCode.FOUND)

    def salvaged(self) -> int:
        """A journal that does not open: the commits that can be read and follow each other. Returns their number."""
        from seqtor.actors.journal.sqlite import SqliteBackend
        from seqtor.actors.journal.sqlite_salvage import salvaged_commits

        count = 0
        if not isinstance(self._backend, SqliteBackend):
            return count
        place = self._backend.place
        ahead = hashes_ahead(salvaged_commits(place))
        chain: Chain | None = None
        for row in salvaged_commits(place):
            if chain is None:
                links = Links({0: GENESIS} if row.seq == 1 else {})
                chain = Chain(place, links, ahead.get, first=row.seq)
            try:
                chain.check(row)
            except JournalCorrupted:
                break
            self._line(_commit_line(row))
            count += 1
        return count

    def _write(self, lines: Iterator[str]) -> str | None:
        """Write lines as long as they can be read; returns what was wrong then."""
        try:
            for line in lines:
                self._line(line)
        except JournalCorrupted as error:
            return str(error)
        return None

    def _base(self, opened: Opened) -> Iterator[str]:
        """The checkpoint on which the oldest commit builds."""
        for info in opened.checkpoints:
            if info.seq == opened.commits_from - 1:
                sections = read_sections(self._backend, info.seq)
                stores: dict[str, Any] = {}
                for name, store in Contents(info.seq, sections, self._backend.place).stores.items():
                    data = sections.get(f"store:{name}")
                    if store.kind != "custom":
                        stores[name] = {"kind": store.kind, "version": store.version, "values": store.values}
                    elif data is not None:
                        stores[name] = {"kind": "custom", "base64": base64.b64encode(data).decode()}
                head = {"kind": "checkpoint", "seq": info.seq, "chain": info.chain.hex(), "stores": stores}
                yield f'{json.dumps(head)[:-1]}, "open": {sections[OPEN_WORK].decode()}}}'

    def _commits(self, opened: Opened) -> Iterator[str]:
        first, last = opened.commits_from, opened.commits_last
        chain = chain_from(self._backend, opened)
        with Progress("journal export") as progress:
            for row in checked_rows(self._backend, first, last, chain, opened.gaps):
                yield _commit_line(row)
                if row.seq % EVERY == 0:
                    progress(row.seq, last)

    def _entries(self, opened: Opened) -> Iterator[str]:
        for row in self._backend.entries(opened.entries_from, opened.entries_through):
            kind, ref = text(row.kind), text(row.ref)
            yield f'{{"kind": "entry", "pos": {row.pos}, "entry": {kind}, "ref": {ref}, "record": {row.body}}}'

    def _keys(self) -> Iterator[str]:
        return map(_key_line, self._backend.keys())

    def _line(self, line: str) -> None:
        self._target.write(f"{line}\n")


def _key_line(row: KeyRow) -> str:
    return json.dumps({"kind": "key", "key": row.key, "run": row.run, "digest": row.digest.hex(), "seq": row.seq})


def _commit_line(row: CommitRow) -> str:
    return f'{{"kind": "commit", "seq": {row.seq}, "chain": "{row.chain.hex()}", "record": {row.body}}}'
