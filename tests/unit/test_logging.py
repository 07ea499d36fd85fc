"""`configure_logging`: what a line carries, as text and as JSON, and what it never shows."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

import seqtor.logs
from seqtor import HandlerFailed, RegistrationError, Rejected, Supervisor, Transaction, Trigger, configure_logging
from tests.programs import WAIT_S, Deposit, open_bank

KEYS = ("time", "level", "message", "logger", "seq", "attempt", "trigger", "actor")


def fail(secret: str) -> None:
    raise ValueError("wrong")


class Act(Trigger[None]):
    """Does as it is told."""

    how: str = "well"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    yield
    for handler in seqtor.logs.OURS:
        logger.remove(handler)
    seqtor.logs.OURS.clear()
    logger.disable("seqtor")
    pykka = logging.getLogger("pykka")
    for added in [each for each in pykka.handlers if isinstance(each, seqtor.logs._ToLoguru)]:
        pykka.removeHandler(added)
    pykka.propagate = True
    pykka.setLevel(logging.NOTSET)


def acting(journal: Any = None) -> Supervisor:
    """A system whose handlers log, fail, and reject."""
    system = Supervisor(journal, name="desk", settings={"threads": 2})

    @system.on(Act)
    def act(trigger: Act, tx: Transaction) -> None:
        secret = "hunter2"
        if trigger.how == "badly":
            fail(secret)
        if trigger.how == "not":
            raise Rejected("no {braces} <red>")
        logger.info("at work")

    return system


@pytest.fixture(autouse=True)
def no_lines_of_other_tests() -> None:
    """What is left of a simulated process that died says so when it is collected: before, and not in between."""
    gc.collect()


def lines_of(level: str, *ways: str, journal: Any = None) -> list[dict[str, Any]]:
    """The JSON lines of a system that is started, does these, and is stopped."""
    sink = io.StringIO()
    configure_logging(level, json=True, sink=sink)
    with acting(journal) as system:
        for how in ways:
            with contextlib.suppress(HandlerFailed, Rejected):
                system.ask(Act(how=how), timeout=WAIT_S)
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def test_json_lines_have_stable_keys() -> None:
    for line in lines_of("DEBUG", "well", "badly", "not"):
        assert tuple(line)[:8] == KEYS
        assert set(line) <= {*KEYS, "extra", "exception"}
        assert line["time"].endswith("+00:00")
        assert line["actor"] is not None or line["logger"].startswith("tests.")


def test_a_start_and_a_stop_have_a_line_and_a_run_that_commits_has_none(tmp_path: Path) -> None:
    told = [(line["level"], line["actor"], line["message"]) for line in lines_of("INFO", journal=tmp_path / "desk.db")]
    assert told == [("INFO", "system", "desk: started: epoch 1, seq 0"), ("INFO", "system", "desk: stopped at seq 0")]
    told = [(line["level"], line["actor"], line["message"]) for line in lines_of("INFO")]
    assert told[0][2] == "desk: started: everything is kept in memory"
    sink = io.StringIO()
    configure_logging("DEBUG", json=True, sink=sink)
    system = Supervisor()
    open_bank(system)
    with system:
        system.ask(Deposit(), timeout=WAIT_S)
    assert not [line for line in map(json.loads, sink.getvalue().splitlines()) if line["seq"] is not None]


def test_a_failed_run_is_a_warning_with_its_exception_and_a_rejection_is_not() -> None:
    (failed,) = [line for line in lines_of("INFO", "badly", "not") if line["seq"]]
    assert (failed["level"], failed["seq"], failed["attempt"], failed["trigger"]) == ("WARNING", 1, 1, "Act")
    assert failed["actor"] == "coordinator"
    assert failed["message"] == "Act at seq 1 ended: failed: wrong"
    assert (failed["exception"]["type"], failed["exception"]["message"]) == ("ValueError", "wrong")
    assert 'raise ValueError("wrong")' in failed["exception"]["traceback"]
    rejected = [line for line in lines_of("DEBUG", "not") if line["seq"]]
    assert [(line["level"], line["message"]) for line in rejected] == [
        ("DEBUG", "Act at seq 1 ended: rejected: no {braces} <red>")
    ]


def test_what_a_handler_logs_carries_its_run() -> None:
    (line,) = [line for line in lines_of("INFO", "well") if line["message"] == "at work"]
    assert (line["seq"], line["attempt"], line["trigger"], line["actor"]) == (1, 1, "Act", None)
    assert line["logger"] == __name__


@pytest.mark.parametrize("json_lines", [False, True])
def test_no_line_shows_values_of_variables(json_lines: bool) -> None:
    sink = io.StringIO()
    configure_logging("DEBUG", json=json_lines, sink=sink)
    with acting() as system, pytest.raises(HandlerFailed):
        system.ask(Act(how="badly"), timeout=WAIT_S)
    assert "ValueError" in sink.getvalue()
    assert "hunter2" not in sink.getvalue().replace('secret = "hunter2"', "").replace('secret = \\"hunter2\\"', "")
    assert "badly" not in sink.getvalue().replace('"badly"', "").replace('\\"badly\\"', "")


def test_text_lines_name_what_they_are_about() -> None:
    sink = io.StringIO()
    configure_logging(sink=sink)
    with acting() as system:
        with pytest.raises(HandlerFailed):
            system.ask(Act(how="badly"), timeout=WAIT_S)
        system.ask(Act(), timeout=WAIT_S)
    lines = sink.getvalue().splitlines()
    assert lines[0].endswith("INFO     desk: started: everything is kept in memory actor=system")
    failed = "Act at seq 1 ended: failed: wrong seq=1 attempt=1 trigger=Act actor=coordinator"
    assert any(line.endswith(failed) for line in lines)
    assert "ValueError: wrong" in lines
    assert any(line.endswith("INFO     at work seq=2 attempt=1 trigger=Act") for line in lines)


def test_what_pykka_logs_goes_the_same_way_and_only_that_way(caplog: pytest.LogCaptureFixture) -> None:
    sink = io.StringIO()
    configure_logging(json=True, sink=sink)
    configure_logging(json=True, sink=sink)
    try:
        raise OSError("disk")
    except OSError:
        logging.getLogger("pykka").exception("Unhandled exception in %s {}", "Journal")
    logging.getLogger("pykka").debug("too fine")
    (line,) = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert (line["level"], line["logger"], line["actor"]) == ("ERROR", "pykka", "pykka")
    assert line["message"] == "Unhandled exception in Journal {}"
    assert line["exception"]["type"] == "OSError"
    assert not caplog.records


def test_the_last_call_counts_and_the_programs_own_sinks_stay() -> None:
    own: list[str] = []
    first, second = io.StringIO(), io.StringIO()
    mine = logger.add(own.append, format="{message}")
    try:
        configure_logging(sink=first)
        configure_logging("WARNING", sink=second)
        logger.info("low")
        logger.warning("high")
    finally:
        logger.remove(mine)
    assert first.getvalue() == ""
    assert [line.split()[-1] for line in second.getvalue().splitlines()] == ["high"]
    assert own == ["low\n", "high\n"]


def test_what_cannot_be_said_in_json_is_said_as_well_as_it_can_be() -> None:
    sink = io.StringIO()
    configure_logging(json=True, sink=sink)
    loop: dict[str, Any] = {}
    loop["self"] = loop
    logger.bind(when=object(), count=float("nan"), some={1}).info("odd")
    logger.bind(loop=loop).info("odder \ud800")
    odd, odder = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert odd["extra"]["some"] == [1]
    assert odd["extra"]["count"] == "NaN"
    assert odd["extra"]["when"].startswith("<object")
    assert "loop" in odder["extra"]


@pytest.mark.parametrize("level", ["LOUD", "", 3])
def test_a_level_that_there_is_not_is_refused(level: Any) -> None:
    with pytest.raises(RegistrationError, match="level must be one of TRACE, DEBUG, INFO"):
        configure_logging(level)


def test_a_program_that_does_nothing_else_logs_to_standard_error() -> None:
    program = (
        "import seqtor\nseqtor.configure_logging('info')\n"
        "with seqtor.Supervisor(name='desk') as system:\n    print('running')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "running\n"
    assert [line.split("INFO")[1].strip() for line in done.stderr.splitlines()] == [
        "desk: started: everything is kept in memory actor=system",
        "desk: stopped at seq 0 actor=system",
    ]
