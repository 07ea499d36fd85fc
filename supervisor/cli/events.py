"""`events list|show`: what has happened and what followed, of a running system or of a journal that nobody has open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Annotated, Any

import typer

from seqtor.actors.journal.contract import Opened
from seqtor.actors.journal.history import KeptHistory, history_of
from seqtor.actors.reactor.deciding import Link
from seqtor.cli.options import AsJson, JournalOption, SystemOption, backend_of, opened_journal
from seqtor.cli.output import compact, moment, say, say_json, say_lines
from seqtor.cli.remote import running
from seqtor.control.values import as_json as plain
from seqtor.lineage import kept_links, lineage
from seqtor.queries import events as kept_events

__all__ = ["events"]

events = typer.Typer(
    help="Look at events, and at what followed from them.", no_args_is_help=True, rich_markup_mode=None
)
ALL = 100_000


@events.command("list")
def list_events(
    code: Annotated[str | None, typer.Option("--code", metavar="CODE", help="Only those of this code.")] = None,
    matched: Annotated[
        bool | None, typer.Option("--matched/--unmatched", help="Only those that have met a reaction, or none.")
    ] = None,
    started: Annotated[
        bool | None, typer.Option("--started/--idle", help="Only those that have started a run, or none.")
    ] = None,
    after: Annotated[int, typer.Option("--after", metavar="SEQ", min=0, help="Only those behind this seq.")] = 0,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, max=ALL)] = 20,
    journal: JournalOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """List events, newest first, with the reactions that they have met and how many runs these have started."""
    with running(journal, system) as connection:
        if connection is not None:
            found = connection.query("events", code=code, matched=matched, started=started, after=after, limit=limit)
        else:
            with _kept(journal, system) as (history, opened, link_of):
                wanted = (
                    event
                    for event in kept_events(history, after, opened.commits_through, link_of)
                    if code in (None, event.code)
                    and matched in (None, bool(event.matched))
                    and started in (None, bool(event.started))
                )
                found = plain(list(islice(wanted, limit)))
        if as_json:
            say_json({"events": found})
            return
        say_lines(map(_line, found), "there is no such event")


@events.command()
def show(
    seq: Annotated[int, typer.Argument(metavar="SEQ", help="The seq of an event, or of any other run.")],
    journal: JournalOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """Show as a tree what followed from the event at a seq: the runs that it has started, and what these have caused."""
    with running(journal, system) as connection:
        if connection is not None:
            found = connection.query("lineage", seq=seq)
        else:
            with _kept(journal, system) as (history, opened, link_of):
                found = plain(lineage(history, seq, opened.commits_through, link_of))
        if as_json:
            say_json(found)
            return
        for line in _tree(found):
            say(line)


@contextmanager
def _kept(
    journal: str | None, system: str | None
) -> Iterator[tuple[KeptHistory, Opened, Callable[[str], Link | None]]]:
    """A journal that nobody has open: its history, and what became of facts."""
    with opened_journal(backend_of(journal, system)) as (backend, opened):
        links = kept_links(backend, opened.entries_from, opened.entries_through)
        yield history_of(backend, opened, ()), opened, links.get


def _line(event: dict[str, Any]) -> str:
    emitter = "from outside" if event["emitter"] is None else f"by {event['emitter']}"
    met = ", ".join(event["matched"]) or "no reaction"
    started = len(event["started"])
    return (
        f"seq {event['seq']}  {moment(event['time'])}  {event['code']} {event['payload_json']}  {emitter}  {met}  "
        f"{started} run{'' if started == 1 else 's'} started"
    )


def _tree(node: dict[str, Any], first: str = "", others: str = "") -> Iterator[str]:
    yield first + _node(node)
    followed = node["followed"]
    for number, each in enumerate(followed, 1):
        is_last = number == len(followed)
        yield from _tree(each, others + ("└─ " if is_last else "├─ "), others + ("   " if is_last else "│  "))


def _node(node: dict[str, Any]) -> str:
    if node["seq"] is None:
        return f"{node['run']}  has no seq"
    name = node["trigger"] if node["code"] is None else f"event {compact(node['code'])}"
    caused = f"  of {', '.join(node['caused_by'])}" if node["caused_by"] else ""
    return f"seq {node['seq']}  {name}  {node['state']}  {node['run']}{caused}"
