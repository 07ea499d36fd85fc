"""`schedules list|next|pause|resume|fire|remove`: the schedules of a running system, from the command line.

What only looks, `list` and `next`, reads the journal if no system runs on it.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from seqtor.actors.clock import SystemClock
from seqtor.actors.handlers import did_you_mean
from seqtor.actors.journal.recovery import Recovery
from seqtor.actors.schedules.changes import STORE
from seqtor.cli.options import AsJson, JournalOption, SystemOption, backend_of, opened_journal
from seqtor.cli.output import moment, say, say_json, say_lines
from seqtor.cli.past import Looking
from seqtor.cli.remote import connected, running
from seqtor.control.values import as_json as plain
from seqtor.messages.schedules import ScheduleRecord, ScheduleState
from seqtor.queries import next_slots as slots_of
from seqtor.queries import schedule_records

__all__ = ["schedules"]

schedules = typer.Typer(help="Look at schedules, pause and fire them.", no_args_is_help=True, rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name of a schedule: seqtor schedules list")]
ALL = 100_000


@schedules.command("list")
def list_schedules(journal: JournalOption = None, system: SystemOption = None, as_json: AsJson = False) -> None:
    """List the schedules, newest first: when each is due next, and what it has started and missed."""
    with running(journal, system) as connection:
        if connection is not None:
            found = connection.schedules(ALL)
        else:
            found = [record for record, _ in schedule_records(_kept(journal, system), SystemClock().time(), None)]
        if as_json:
            say_json({"schedules": plain(found)})
            return
        say_lines(map(_line, found), "there is no schedule")


@schedules.command("next")
def next_slots(
    name: NameArgument,
    count: Annotated[int, typer.Option("--count", metavar="N", min=0, max=1000)] = 5,
    journal: JournalOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """Say when a schedule is due next."""
    with running(journal, system) as connection:
        if connection is not None:
            slots = [slot.timestamp() for slot in connection.schedule_named(name).next(count)]
        else:
            states = _kept(journal, system)
            if name not in states:
                raise LookupError(f"there is no schedule {name!r}{did_you_mean(name, states)}")
            slots = slots_of(states[name], SystemClock().time(), count)
        if as_json:
            say_json({"schedule": name, "next": slots})
            return
        say_lines(map(moment, slots), f"no slot of {name} follows: it is paused, or has had its last")


@schedules.command()
def pause(
    name: NameArgument, journal: JournalOption = None, system: SystemOption = None, as_json: AsJson = False
) -> None:
    """Let a schedule start nothing until it is resumed, also across restarts."""
    with connected(journal, system) as connection:
        connection.schedule_named(name).pause()
        _say_done({"paused": name}, f"{name} is paused", as_json)


@schedules.command()
def resume(
    name: NameArgument, journal: JournalOption = None, system: SystemOption = None, as_json: AsJson = False
) -> None:
    """Let a schedule go on with its next slot."""
    with connected(journal, system) as connection:
        connection.schedule_named(name).resume()
        _say_done({"resumed": name}, f"{name} goes on", as_json)


@schedules.command()
def fire(
    name: NameArgument, journal: JournalOption = None, system: SystemOption = None, as_json: AsJson = False
) -> None:
    """Start the trigger of a schedule now, and print the id of the run."""
    with connected(journal, system) as connection:
        run = connection.schedule_named(name).fire()
        _say_done({"run": run}, run, as_json)


@schedules.command()
def remove(
    name: NameArgument, journal: JournalOption = None, system: SystemOption = None, as_json: AsJson = False
) -> None:
    """Forget a schedule; a program that registers it at its next start has it again."""
    with connected(journal, system) as connection:
        connection.schedule_named(name).remove()
        _say_done({"removed": name}, f"{name} is removed", as_json)


def _kept(journal: str | None, system: str | None) -> dict[str, ScheduleState]:
    """The schedules that a journal holds; what has ended of what they have started is not under way."""
    with opened_journal(backend_of(journal, system)) as (backend, opened):
        stores = Looking(backend, opened, None, None).at(opened.commits_through).stores
        open_slots = {record.scheduled for record in Recovery(backend, opened).accepted.values()}
    states = {name: ScheduleState.model_validate(kept) for name, kept in stores.get(STORE, {}).items()}
    return {
        name: state.replace(under_way=tuple(slot for slot in state.under_way if (name, slot) in open_slots))
        for name, state in states.items()
    }


def _say_done(value: dict[str, Any], text: str, as_json: bool) -> None:
    say_json(value) if as_json else say(text)


def _line(each: ScheduleRecord) -> str:
    if each.gone:
        following = "not registered any more"
    elif each.paused:
        following = "paused"
    else:
        following = "no slot follows" if each.next is None else f"next {moment(each.next)}"
    last = "never started" if each.last is None else f"last {moment(each.last)}"
    left = f"{each.started} started, {each.missed_count} missed"
    if each.under_way or each.queued:
        left += f", {each.under_way} under way, {each.queued} queued"
    return f"{each.name}  {each.trigger}  {each.when}  {following}  {last}  {left}"
