"""The file of the control socket: where it is, who may use it, and what becomes of what others have left there."""

from __future__ import annotations

import multiprocessing
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from seqtor import NotRunning, RegistrationError, Supervisor, connect
from seqtor.control import place
from seqtor.control.place import Listening, control_path, socket_path
from tests.control_clients import Raw
from tests.programs import WAIT_S, Deposit, open_bank, simulated


def left_by_a_dead_process(path: Path) -> None:
    """A socket file that nobody listens on any more."""
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()


def bank(journal: Path, **settings: object) -> Supervisor:
    system = Supervisor(journal, settings={"threads": 2, **settings})
    open_bank(system, alice=100)
    return system


def test_the_socket_is_beside_the_journal_and_for_its_user_alone(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with bank(tmp_path / "bank.db") as system:
        assert system.control == tmp_path / "bank.db-control"
        assert system.control is not None
        status = system.control.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        with connect(tmp_path / "bank.db") as connection:
            assert connection.ask(Deposit(amount=5), timeout=WAIT_S) == 105
    assert system.control is None
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bank.db", "bank.db-owner"]
    assert set(threading.enumerate()) <= before


def test_the_socket_is_never_wider_than_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at wherever the file is, from the moment at which it is bound."""
    seen: list[tuple[int, int]] = []

    class Watched(socket.socket):
        def bind(self, address: str) -> None:  # type: ignore[override]
            super().bind(address)
            made = Path(address)
            seen.append((stat.S_IMODE(made.stat().st_mode), stat.S_IMODE(made.parent.stat().st_mode)))

    monkeypatch.setattr("seqtor.control.place.socket.socket", Watched)
    old = os.umask(0)
    try:
        listening = Listening(tmp_path / "s", owned=False)
    finally:
        os.umask(old)
    assert [folder for _, folder in seen] == [0o700], "nobody else gets to it before its mode is right"
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["s"]
    listening.withdraw()
    listening.socket.close()


def test_what_a_dead_process_has_left_is_replaced(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path / "bank.db-control")
    left_by_a_dead_process(tmp_path / "elsewhere")
    with bank(tmp_path / "bank.db"), connect(tmp_path / "bank.db") as connection:
        assert connection.stats().current_seq == 0
    with bank(tmp_path / "bank.db", control=str(tmp_path / "elsewhere")) as system:
        assert system.control == tmp_path / "elsewhere"
        with connect(tmp_path / "elsewhere") as connection:
            assert connection.stats().current_seq == 0


def test_the_socket_of_a_living_process_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    with bank(tmp_path / "one.db", control=str(path)), connect(path) as connection:
        with pytest.raises(RegistrationError, match="belongs to a running process"):
            bank(tmp_path / "two.db", control=str(path)).start()
        assert connection.ask(Deposit(amount=5), timeout=WAIT_S) == 105
        with connect(path) as another:
            assert another.ask(Deposit(amount=5), timeout=WAIT_S) == 110
    assert not path.exists()


def test_a_start_that_fails_at_the_socket_leaves_the_journal_free(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    before = set(threading.enumerate())
    with pytest.raises(RegistrationError, match="there is a file that is no socket"):
        bank(tmp_path / "bank.db", control=str(tmp_path / "file")).start()
    with pytest.raises(RegistrationError, match="No such file or directory"):
        bank(tmp_path / "bank.db", control=str(tmp_path / "no" / "folder")).start()
    assert (tmp_path / "file").read_text(encoding="utf-8") == "precious"
    assert set(threading.enumerate()) <= before
    with bank(tmp_path / "bank.db") as system:
        assert system.ask(Deposit(amount=5), timeout=WAIT_S) == 105


def test_a_socket_that_another_process_has_put_there_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with bank(tmp_path / "bank.db") as system:
        path = system.control
        assert path is not None
        path.unlink()
        left_by_a_dead_process(path)
    assert path.exists()


@pytest.mark.parametrize("name", ["bank.db", "b" * 200 + ".db"], ids=["short name", "long name"])
@pytest.mark.parametrize("folder", ["d", "d" * 120], ids=["short folder", "long folder"])
def test_paths_longer_than_an_address_work(tmp_path: Path, folder: str, name: str) -> None:
    journal = tmp_path / folder / name
    journal.parent.mkdir()
    with bank(journal) as system:
        assert system.control is not None
        assert system.control.parent == journal.parent
        with connect(journal) as connection:
            assert connection.ask(Deposit(amount=5), timeout=WAIT_S) == 105
        with connect(system.control) as connection:
            assert connection.ask(Deposit(amount=5), timeout=WAIT_S) == 110
    assert not list(journal.parent.glob("*control"))


def test_a_name_that_fits_no_address_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(RegistrationError, match="more than 76 bytes"):
        bank(tmp_path / "bank.db", control=str(tmp_path / ("c" * 80))).start()


def test_a_journal_that_is_named_through_a_link_has_the_same_socket(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "bank.db")
    with bank(tmp_path / "link.db") as system:
        assert system.control == tmp_path / "bank.db-control"
        with connect(f"sqlite:///{tmp_path}/link.db") as connection:
            assert connection.stats().current_seq == 0


def test_where_the_socket_is_can_be_said_and_it_can_be_left_out(tmp_path: Path) -> None:
    with (
        Supervisor(settings={"control": str(tmp_path / "memory")}) as system,
        connect(tmp_path / "memory") as connection,
    ):
        assert connection.stats().current_seq == 0
        assert system.control == tmp_path / "memory"
    with Supervisor() as system:
        assert system.control is None
    with bank(tmp_path / "bank.db", control="off") as system:
        assert system.control is None
    with simulated(journal=tmp_path / "simulated.db"):
        assert not list(tmp_path.glob("*control")), "a simulated system has one thread"


def test_connect_says_what_to_do_when_no_system_runs(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match=r"the file does not exist. Start the program"):
        connect(tmp_path / "bank.db")
    left_by_a_dead_process(tmp_path / "bank.db-control")
    with pytest.raises(NotRunning, match="the process that made the file has ended"):
        connect(tmp_path / "bank.db")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("memory:", "a system in memory has no file"),
        ("postgresql://host/bank", "PostgreSQL journal has no file"),
        ("http://host/bank", "pass a path"),
        ("", "takes the path"),
        (None, "takes the path"),
    ],
)
def test_what_names_no_socket_is_refused(target: object, says: str) -> None:
    with pytest.raises(RegistrationError, match=says):
        control_path(target)


def test_a_process_that_answers_nothing_is_given_up_on(tmp_path: Path) -> None:
    silent = Listening(tmp_path / "silent", owned=False)
    try:
        with pytest.raises(TimeoutError, match=r"has not answered within 0.05 s"):
            connect(tmp_path / "silent", timeout=0.05)
    finally:
        silent.withdraw()
        silent.socket.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_a_fork_keeps_no_connection_open(tmp_path: Path) -> None:
    """Or a client would wait for a dead system for as long as the child lives."""
    context = multiprocessing.get_context("fork")
    done = context.Event()
    child = context.Process(target=done.wait, args=(3 * WAIT_S,))
    with bank(tmp_path / "bank.db") as system:
        path = system.control
        assert path is not None
        client = Raw(path)
        child.start()
    try:
        assert client.read() is None, "the server has gone, and the child does not hold its end"
    finally:
        client.close()
        done.set()
        child.join()


def test_the_name_of_a_socket_is_the_same_in_every_process(tmp_path: Path) -> None:
    long = tmp_path / ("b" * 200)
    assert socket_path(long) == socket_path(long)
    assert socket_path(long) != socket_path(tmp_path / ("b" * 201))
    assert len(socket_path(long).name) <= place.NAME_BYTES_MAX
