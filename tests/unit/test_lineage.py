"""What followed from an event, as a tree: in the process, through `connect`, on the command line, from a stopped journal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from seqtor import (
    EffectContext,
    Facts,
    Retry,
    State,
    Supervisor,
    Transaction,
    Trigger,
    WouldDeadlock,
    connect,
    on_event,
    on_failure,
    on_result,
)
from seqtor.cli.app import app
from seqtor.messages.reactions import Lineage
from tests.programs import WAIT_S, simulated
from tests.services.postgres import until


class Fetch(Trigger[str], name="lineage.fetch"):
    """Started for each page of a feed; submits, and has an effect."""

    page: str


class Store(Trigger[None], name="lineage.store"):
    """Submitted."""


class Sent(Trigger[None], name="lineage.sent"):
    """Returned by an effect."""


class Index(Trigger[None], name="lineage.index"):
    """Fails once."""


class Repair(Trigger[None], name="lineage.repair"):
    """Started because of a failure, and of an event."""


def register(system: Supervisor) -> Supervisor:
    tries = []

    @system.effect("send")
    def send(context: EffectContext, page: str) -> Sent:
        return Sent()

    @system.on(Fetch)
    def fetch(trigger: Fetch, tx: Transaction) -> str:
        if trigger.page == "b":
            raise ValueError("no such page")
        tx.submit(Store())
        tx.effect(send, trigger.page)
        return trigger.page

    @system.on(Index, retry=Retry(2, backoff=0.001))
    def index(trigger: Index, tx: Transaction) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("busy")

    for kind in (Store, Sent, Repair):
        system.on(kind)(lambda trigger, tx: None)
    feed, allowed, failed = on_event("feed"), on_event("allowed"), on_failure(Fetch)

    @system.when(feed)
    def fan_out(facts: Facts) -> list[Fetch]:
        return [Fetch(page=page) for page in facts.event.payload]

    @system.when(on_result(Fetch, where="a"))
    def indexed(facts: Facts) -> Index:
        return Index()

    @system.when((failed & allowed).correlate(lambda fact: 0))
    def repair(facts: Facts) -> Repair:
        return Repair()

    return system


def happen(system: Supervisor) -> None:
    system.emit("feed", ["a", "b"])
    system.emit("allowed")
    system.emit("nobody", {"waits": "for it"})


def shape(node: Lineage) -> Any:
    """The tree by the names alone."""
    name = node.code or (node.trigger or "?").rpartition(".")[2]
    return (name, str(node.state), [shape(each) for each in node.followed]) if node.followed else (name, node.state)


WHOLE = (
    "feed",
    "committed",
    [
        (
            "fetch",
            "committed",
            [
                ("store", "committed"),
                ("index", "retrying", [("index", "committed")]),
                ("sent", "committed"),
            ],
        ),
        ("fetch", "failed", [("repair", "committed")]),
    ],
)


def test_the_tree_has_all_that_followed_through_reactions_submissions_retries_and_effects() -> None:
    with register(simulated(3)) as system:
        happen(system)
        system._running._dispatchers.driver.run_until(lambda: False, 5.0)  # type: ignore[union-attr]
        [nobody, allowed, feed] = system.events()
        tree = system.lineage(feed.seq)
        assert shape(tree) == WHOLE
        assert (tree.run, tree.seq, tree.state, tree.caused_by) == (feed.id, feed.seq, State.COMMITTED, ())
        assert {each.run for each in tree.followed} == set(feed.started)
        assert shape(system.lineage(nobody.seq)) == ("nobody", "committed")
        [repaired] = tree.followed[1].followed
        assert set(repaired.caused_by) == {f"{tree.followed[1].run}/failure", allowed.id}, (
            "it is below one of its causes"
        )
        assert shape(system.lineage(allowed.seq)) == ("allowed", "committed", [("repair", "committed")])
        with pytest.raises(LookupError, match="there is no record of seq 999"):
            system.lineage(999)
        with pytest.raises(TypeError, match="takes a seq"):
            system.lineage("1")  # type: ignore[arg-type]


def test_what_has_no_record_yet_is_in_the_tree_by_its_run_id() -> None:
    system = simulated(0)
    system.on(Store)(lambda trigger, tx: None)

    class Later(Trigger[None]):
        """Submits what is to wait."""

    @system.on(Later)
    def later(trigger: Later, tx: Transaction) -> None:
        tx.submit(Store(), delay=3600)

    with system:
        system.ask(Later(), timeout=WAIT_S)
        [waits] = system.lineage(1).followed
        assert (waits.seq, waits.trigger, waits.run) == (None, None, system.record(1).causes[0])
        system.stop(0)


def test_a_handler_cannot_ask_for_it() -> None:
    system = simulated(0)

    @system.on(Store)
    def store(trigger: Store, tx: Transaction) -> None:
        with pytest.raises(WouldDeadlock):
            system.lineage(1)

    with system:
        system.ask(Store(), timeout=WAIT_S)


# From other processes, and from a stopped journal ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal in which all of it has happened, in an earlier process."""
    path = tmp_path_factory.mktemp("lineage") / "feed.db"
    with register(Supervisor(path)) as system:
        happen(system)
        until(lambda: system.events(code="feed") and shape(system.lineage(1)) == WHOLE, "all of it has happened")
    return path


@pytest.fixture(params=["runs", "stopped"])
def place(request: pytest.FixtureRequest, journal: Path) -> Iterator[Path]:
    """The journal of a system that runs, or that has stopped."""
    if request.param == "stopped":
        yield journal
    else:
        with register(Supervisor(journal)):
            yield journal


def seqtor(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_events_are_listed_newest_first_with_what_they_met(place: Path) -> None:
    where = ("--journal", str(place))
    nobody, allowed, feed = seqtor("events", "list", *where).splitlines()
    assert nobody.endswith('nobody {"waits":"for it"}  from outside  no reaction  0 runs started')
    assert allowed.endswith("allowed null  from outside  repair  1 run started")
    assert feed.endswith('feed ["a","b"]  from outside  fan_out  2 runs started')
    for options, codes in (
        (("--code", "feed"), ["feed"]),
        (("--unmatched",), ["nobody"]),
        (("--started", "--limit", "1"), ["allowed"]),
        (("--idle",), ["nobody"]),
        (("--after", "1"), ["nobody", "allowed"]),
    ):
        found = json.loads(seqtor("events", "list", "--json", *options, *where))["events"]
        assert [event["code"] for event in found] == codes, options


def test_one_event_is_shown_with_its_tree(place: Path) -> None:
    where = ("--journal", str(place))
    lines = seqtor("events", "show", "1", *where).splitlines()
    assert lines[0].startswith('seq 1  event "feed"  committed  ')
    assert len(lines) == 8
    assert sum(line.startswith(("├─ seq", "└─ seq")) for line in lines) == 2
    tree = json.loads(seqtor("events", "show", "1", "--json", *where))
    assert [each["trigger"] for each in tree["followed"]] == ["lineage.fetch", "lineage.fetch"]
    assert tree["followed"][1]["followed"][0]["trigger"] == "lineage.repair"
    causes = json.loads(seqtor("runs", "show", "1", "--json", *where))["causes"]
    assert causes == [each["run"] for each in tree["followed"]], "also when another process has started them"
    missing = CliRunner().invoke(app, ["events", "show", "999", *where])
    assert missing.exit_code == 2
    assert "there is no record of seq 999" in missing.stderr


def test_a_connected_process_asks_for_events_reactions_and_lineage(journal: Path, tmp_path: Path) -> None:
    copy = tmp_path / journal.name
    for file in filter(Path.is_file, journal.parent.glob(f"{journal.name}*")):
        shutil.copy(file, tmp_path)
    with register(Supervisor(copy)) as system, connect(copy, timeout=WAIT_S) as connection:
        assert connection.events() == system.events()
        assert connection.events(started=False) == system.events(started=False)
        assert connection.events(code="feed", matched=True, after=0, limit=5) == system.events(code="feed")
        assert connection.lineage(1) == system.lineage(1)
        assert shape(connection.lineage(1)) == WHOLE
        assert connection.reactions() == system.reactions()
        assert [each.name for each in connection.reactions()] == ["repair", "indexed", "fan_out"]
        connection.emit("allowed", "again")
        until(lambda: connection.reactions()[0].half_met, "the event waits in a composite")
        [event] = system.events(limit=1)
        assert event.payload == "again"
        [half_met] = connection.reactions()[0].half_met
        assert half_met.facts == ((), (event.id,))
        with pytest.raises(ValueError, match="seqtor's own"):
            connection.emit("seqtor.mine")
