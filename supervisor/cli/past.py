"""`state`, `history`, `diff`: what the stores held.

Owns the looking back: in the journal, or, if a system runs on it, by asking that system. In a journal, collections and
documents are read without the program's code; for stores of the user's own it is needed (`--system`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import typer
from pydantic_core import from_json

from seqtor.actors.handlers import did_you_mean
from seqtor.actors.journal.contents import Contents
from seqtor.actors.journal.contract import Backend, Opened
from seqtor.actors.journal.history import KeptHistory, history_of
from seqtor.actors.journal.recovery import writes_by_store
from seqtor.actors.schedules.changes import STORE as SCHEDULES
from seqtor.actors.stores.contract import StoreRef
from seqtor.cli.options import (
    AsJson,
    JournalOption,
    SystemOption,
    backend_of,
    opened_journal,
    system_of,
    usage_error,
)
from seqtor.cli.output import Progress, compact, moment, note, say, say_json
from seqtor.cli.remote import running
from seqtor.snapshots import json_values

__all__ = ["diff", "history", "state"]

Values = dict[str, Any]
EVERY = 1000


class Shown(NamedTuple):
    """Stores after one seq, as JSON by key; `unread` are those for which the program's code is needed."""

    stores: dict[str, Values]
    unread: tuple[str, ...]


class Looking:
    """One look into a journal, with the program's code or without."""

    def __init__(self, backend: Backend, opened: Opened, system: str | None, journal: str | None) -> None:
        self._through = opened.commits_through
        self._refs: tuple[StoreRef[Any], ...] = ()
        if system is not None:
            program = system_of(system, journal)
            self._refs = tuple(program.stores.values())
            for ref in self._refs:
                ref.spec.prepare_for_journal(program._upcasts)
        self.kept: KeptHistory = history_of(backend, opened, self._refs)

    def at(self, seq: int) -> Shown:
        """All stores after a seq."""
        if seq < 0 or seq > self._through:
            raise LookupError(f"there is no seq {seq}: the journal holds seqs up to {self._through}")
        if self._refs:
            states = self.kept.states_at(seq)
            return Shown({ref.name: json_values(ref, states[ref.index]) for ref in self._refs}, ())
        contents = self._contents(seq)
        unread = tuple(name for name, store in contents.stores.items() if store.kind == "custom")
        return Shown(
            {
                name: each.values
                for name, each in contents.stores.items()
                if name not in unread and (each.values or name != SCHEDULES)  # Of schedules only if there are any.
            },
            unread,
        )

    def _contents(self, seq: int) -> Contents:
        base, sections = self.kept.base(seq)
        contents = Contents(base, sections, self.kept.place)
        with Progress("reading") as progress:
            for row in self.kept.rows(base + 1, seq):
                contents.fold(from_json(row.body))
                if row.seq % EVERY == 0:
                    progress(row.seq, seq)
        return contents

    def changes(self, store: str, key: str) -> Iterator[Values]:
        """What was written to a key, from the oldest that is kept on; first what it held before that."""
        before = self.kept.first - 1
        base, sections = self.kept.base(before)
        start = Contents(base, sections, self.kept.place).stores.get(store)
        known = start is not None
        if start is not None and key in start.values:
            yield {"seq": base, "time": None, "run": None, "trigger": None, "value": start.values[key]}
        with Progress("reading") as progress:
            for row in self.kept.rows(before + 1, self._through):
                record = from_json(row.body)
                for name, value, _ in writes_by_store(record).get(store, ()):
                    known = True
                    if name == key:
                        yield {
                            "seq": row.seq,
                            "time": record["ended_at"],
                            "run": record["run"],
                            "trigger": record["trigger"]["type"],
                            "value": value,
                        }
                if row.seq % EVERY == 0:
                    progress(row.seq, self._through)
        if not known and store not in self._known_later():
            raise usage_error(f"the journal knows no store {store!r}{did_you_mean(store, self._known_later())}")

    def _known_later(self) -> list[str]:
        base, sections = self.kept.base(self._through)
        return list(Contents(base, sections, self.kept.place).stores)


def _say_unread(unread: tuple[str, ...]) -> None:
    if unread:
        names = ", ".join(unread)
        note(f"seqtor: not shown: {names}. Reading a store of your own needs its code: --system MODULE:NAME")


def state(
    store: Annotated[str | None, typer.Argument(metavar="[STORE]", help="Only this store.")] = None,
    seq: Annotated[
        int | None, typer.Option("--seq", metavar="N", help="After this seq; without it, the newest.")
    ] = None,
    journal: JournalOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """Show what the stores held after a seq."""
    with running(journal, system) as connection:
        if connection is not None:
            found = connection.state(store, seq)
            shown, seq = Shown(found["stores"], tuple(found["unread"])), found["seq"]
        else:
            shown, seq = _kept_state(store, seq, journal, system)
        _say_unread(shown.unread)
        if as_json:
            say_json({"seq": seq, "stores": shown.stores, "unread": list(shown.unread)})
            return
        for name, values in shown.stores.items():
            for key, value in values.items():
                say(f"{name}[{key!r}] = {compact(value)}")


def _kept_state(store: str | None, seq: int | None, journal: str | None, system: str | None) -> tuple[Shown, int]:
    """From the journal, if no system runs on it."""
    with opened_journal(backend_of(journal, system)) as (backend, opened):
        seq = opened.commits_through if seq is None else seq
        shown = Looking(backend, opened, system, journal).at(seq)
        if store is not None:
            if store in shown.unread:
                raise usage_error(f"{store} is a store of the program's own, read with its code: --system MODULE:NAME")
            if store not in shown.stores:
                raise usage_error(f"there is no store {store!r} at seq {seq}{did_you_mean(store, shown.stores)}")
            shown = Shown({store: shown.stores[store]}, ())
        return shown, seq


def history(
    store: Annotated[str, typer.Argument(metavar="STORE")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key of a collection, or a field of a document.")],
    journal: JournalOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """Show every change of one key: the seq, when, by which trigger, and the value."""
    with running(journal, system) as connection:
        if connection is not None:
            found = connection.history(store, key)
        else:
            with opened_journal(backend_of(journal, system)) as (backend, opened):
                found = list(Looking(backend, opened, None, None).changes(store, key))
        if as_json:
            say_json({"store": store, "key": key, "changes": found})
            return
        for change in found:
            when = "initially" if change["time"] is None else moment(change["time"])
            say(f"seq {change['seq']}  {when}  {change['trigger'] or '-'}  {compact(change['value'])}")
        if not found:
            note(f"seqtor: {store}[{key!r}] never had a value, as far as the journal goes back")


def diff(
    first: Annotated[int, typer.Argument(metavar="A", help="A seq.")],
    second: Annotated[int, typer.Argument(metavar="B", help="Another seq.")],
    journal: JournalOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """Show what differs between the stores after seq A and after seq B."""
    with running(journal, system) as connection:
        if connection is not None:
            before, after = (Shown(connection.state(None, seq)["stores"], ()) for seq in (first, second))
        else:
            with opened_journal(backend_of(journal, system)) as (backend, opened):
                looking = Looking(backend, opened, system, journal)
                before, after = looking.at(first), looking.at(second)
        _say_unread(tuple(dict.fromkeys((*before.unread, *after.unread))))
        changes = list(_changes(before.stores, after.stores))
        if as_json:
            say_json({"from": first, "to": second, "changes": changes})
            return
        for change in changes:
            place = f"{change['store']}[{change['key']!r}]"
            if "before" not in change:
                say(f"+ {place} = {compact(change['after'])}")
            elif "after" not in change:
                say(f"- {place} = {compact(change['before'])}")
            else:
                say(f"~ {place} = {compact(change['before'])} -> {compact(change['after'])}")


def _changes(before: Mapping[str, Values], after: Mapping[str, Values]) -> Iterator[Values]:
    for store in dict.fromkeys((*before, *after)):
        old, new = before.get(store, {}), after.get(store, {})
        for key in sorted(old.keys() | new.keys()):
            if key not in old:
                yield {"store": store, "key": key, "after": new[key]}
            elif key not in new:
                yield {"store": store, "key": key, "before": old[key]}
            elif old[key] != new[key]:
                yield {"store": store, "key": key, "before": old[key], "after": new[key]}
