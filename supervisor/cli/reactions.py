"""`reactions`: what a running system reacts to, and which composites wait for more facts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from seqtor.cli.options import AsJson, JournalOption, SystemOption
from seqtor.cli.output import moment, say_json, say_lines
from seqtor.cli.remote import connected

__all__ = ["reactions"]


def reactions(
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, help="So many half-met composites of each.")
    ] = 20,
    journal: JournalOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """List the reactions, newest first: what they have started since the start, and what waits for more facts."""
    with connected(journal, system) as connection:
        found = connection.query("reactions", limit=limit)
        if as_json:
            say_json({"reactions": found})
        else:
            say_lines((line for each in found for line in _lines(each)), "the program registers no reaction")


def _lines(reaction: dict[str, Any]) -> Iterator[str]:
    failed = f", {reaction['failed']} failed" if reaction["failed"] else ""
    counts = f"{reaction['started']} started{failed}" if reaction["known"] else "the program does not register it"
    yield f"{reaction['name']}  {reaction['condition']}  {counts}"
    if reaction["last_failure"] is not None:
        yield f"  failed last: {reaction['last_failure']}"
    for waiting in reaction["half_met"]:
        key = f"key {waiting['key']}  " if waiting["key"] else ""
        facts = ", ".join(fact for part in waiting["facts"] for fact in part)
        missing = f", waits for {' and '.join(waiting['waits_for'])}" if waiting["waits_for"] else ""
        yield f"  half met  {key}since {moment(waiting['since'])}: has {facts}{missing}"
