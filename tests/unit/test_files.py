"""`Files`: what a folder holds, whose version is in it at any moment, and what is refused."""

from __future__ import annotations

import datetime
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import pytest

from seqtor import (
    Files,
    HandlerFailed,
    OutsideEdit,
    RegistrationError,
    Rejected,
    State,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.stores.folder import Folder, FolderLocked, digest_of
from tests.programs import WAIT_S


class Save(Trigger[None]):
    """Writes a file, or deletes it."""

    key: str
    text: str | None = None
    raw: bytes | None = None


class Desk:
    """A system with a folder, on one thread."""

    def __init__(self, path: Path, journal: Any = None, **options: Any) -> None:
        self.path = path
        self.system = Supervisor(journal, dispatchers=lambda _: SimulatedDispatchers(1))
        self.files = self.system.store("files", Files(path, **{"look_every": None, **options}))
        self.system.on(Save)(self._save)

    def _save(self, trigger: Save, tx: Transaction) -> None:
        content = trigger.text if trigger.raw is None else trigger.raw
        if content is None:
            del tx[self.files][trigger.key]
        else:
            tx[self.files][trigger.key] = content

    def __enter__(self) -> Self:
        self.system.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.system.stop()

    def save(self, key: str, content: str | bytes | None) -> None:
        save = Save(key=key, raw=content) if isinstance(content, bytes) else Save(key=key, text=content)
        self.system.ask(save, timeout=WAIT_S)

    def settle(self) -> None:
        """Let everything happen that is ready."""
        for _ in range(3):
            self.system.ask(Save(key="settled", text=str(self.system.stats().current_seq)), timeout=WAIT_S)

    @property
    def content(self) -> dict[str, Any]:
        return dict(self.system.snapshot()[self.files])

    @property
    def edits(self) -> list[tuple[str, Any, State]]:
        runs = reversed(self.system.runs(trigger=OutsideEdit))
        return [(run.trigger.key, run.trigger.content, run.state) for run in runs]


def on_disk(path: Path) -> dict[str, bytes]:
    found = {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}
    return {key: content for key, content in found.items() if not key.startswith(".seqtor/")}


@pytest.fixture
def journal() -> MemoryBackend:
    return MemoryBackend("test")


# What is there -----------------------------------------------------------------------------------------------------------


def test_text_and_bytes_in_folders_come_and_go(tmp_path: Path, journal: Any) -> None:
    with Desk(tmp_path, journal) as desk:
        desk.save("notes.txt", "Grüße\r\n")
        desk.save("images/small/dot.png", b"\x89PNG\xff\x00")
        desk.save("gone", "x")
        desk.save("empty", "")
        desk.save("gone", None)
    expected = {"notes.txt": "Grüße\r\n".encode(), "images/small/dot.png": b"\x89PNG\xff\x00", "empty": b""}
    assert on_disk(tmp_path) == expected
    with Desk(tmp_path, journal) as again:
        assert again.content == {"notes.txt": "Grüße\r\n", "images/small/dot.png": b"\x89PNG\xff\x00", "empty": ""}
        assert again.edits == []
        old = again.system.snapshot(3)[again.files]
        assert old["gone"] == "x", "old versions by seq"
    assert on_disk(tmp_path) == expected


def test_without_a_journal_a_write_that_fails_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest has the seq of a group only with the next one: what is rebuilt knows less than was written."""
    plan, failures = Folder.plan, [OSError("the medium fails")]

    def failing(self: Folder, *args: Any) -> Any:
        if "b" in args[0] and failures:
            raise failures.pop()
        return plan(self, *args)

    monkeypatch.setattr(Folder, "plan", failing)
    with Desk(tmp_path) as desk:
        desk.save("gone", "x")
        desk.save("a", "1")
        desk.save("gone", None)
        desk.save("b", "2")
        desk.settle()
        driver: Any = desk.system._running
        driver._dispatchers.run_for(60)
        desk.save("a", "3")
        driver._dispatchers.run_for(60)
        assert not failures
        assert {"a": b"3", "b": b"2"}.items() <= on_disk(tmp_path).items()
        assert "gone" not in on_disk(tmp_path)
        assert desk.edits == []


def test_what_is_found_is_text_if_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a").write_bytes("ß".encode())
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    with Desk(tmp_path) as desk:
        assert desk.content == {"b": b"\xff\xfe", "deep/er/a": "ß"}


def test_only_whole_versions_are_ever_seen(tmp_path: Path, journal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens the file at any step of its replacement reads an old or a new version."""
    seen = set()
    for step in ("_write", "_exchange"):
        done = getattr(Folder, step)

        def watched(self: Folder, *args: Any, done: Any = done) -> Any:
            seen.add((tmp_path / "a").read_bytes())
            result = done(self, *args)
            seen.add((tmp_path / "a").read_bytes())
            return result

        monkeypatch.setattr(Folder, step, watched)
    (tmp_path / "a").write_bytes(b"0" * 100_000)
    with Desk(tmp_path, journal) as desk:
        desk.save("a", "1" * 50_000)
    assert seen == {b"0" * 100_000, b"1" * 50_000}


def test_a_write_that_does_not_read_back_is_not_put_in_place(
    tmp_path: Path, journal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failing = Folder._read_back, [2]

    def read_back(self: Folder, descriptor: int) -> bytes:
        if failing[0]:
            failing[0] -= 1
            return b"garbled"
        return read(self, descriptor)

    monkeypatch.setattr(Folder, "_read_back", read_back)
    with Desk(tmp_path, journal) as desk:
        desk.save("a", "good")
        desk.settle()
    with Desk(tmp_path, journal):
        assert on_disk(tmp_path)["a"] == b"good"
    assert failing == [0]


# Names -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("/etc/passwd", "is absolute"),
        ("../a", 'has an empty part, "." or ".."'),
        ("a/../../b", 'has an empty part, "." or ".."'),
        ("a//b", "has an empty part"),
        ("./a", "has an empty part"),
        ("a/", "has an empty part"),
        ("", "has an empty part"),
        ("a\0b", "has a NUL"),
        (".seqtor/manifest.db", "is the store's own"),
        ("x" * 256, "is too long"),
        ("/".join(["x" * 250] * 13), "is too long"),
        ("\udcff", "must be valid Unicode"),
    ],
)
def test_a_name_that_is_none_below_the_folder_is_refused(tmp_path: Path, key: str, why: str) -> None:
    class SaveAt(Trigger[None]): ...

    desk = Desk(tmp_path)

    @desk.system.on(SaveAt)
    def save(trigger: SaveAt, tx: Transaction) -> None:
        tx[desk.files][key] = "x"

    with desk:
        with pytest.raises(HandlerFailed, match=why) as caught:
            desk.system.ask(SaveAt(), timeout=WAIT_S)
        assert isinstance(caught.value.__cause__, ValueError)
    assert on_disk(tmp_path) == {}


@pytest.mark.parametrize("content", [1, None, ["x"], "\udcff"])
def test_a_content_that_no_file_can_hold_is_refused(tmp_path: Path, content: Any) -> None:
    class SaveIt(Trigger[None]): ...

    desk = Desk(tmp_path)

    @desk.system.on(SaveIt)
    def save(trigger: SaveIt, tx: Transaction) -> None:
        tx[desk.files]["a"] = content

    with desk, pytest.raises(HandlerFailed) as caught:
        desk.system.ask(SaveIt(), timeout=WAIT_S)
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path, journal: Any) -> None:
    with Desk(tmp_path, journal) as desk:
        desk.save("a", "x")
        with pytest.raises(HandlerFailed, match="needs a folder where there is the file 'a'"):
            desk.save("a/b/c", "y")
        desk.save("d/e/f", "y")
        for key in ("d", "d/e"):
            with pytest.raises(HandlerFailed, match="is that of a folder, which holds 'd/e/f'"):
                desk.save(key, "z")
        desk.save("d/e/f", None)
        desk.save("d", "z")
        desk.save("a", None)
        desk.save("a/b", "w")
    assert on_disk(tmp_path) == {"d": b"z", "a/b": b"w"}


def test_two_runs_cannot_make_a_file_and_a_folder_of_one_name(tmp_path: Path, journal: Any) -> None:
    with Desk(tmp_path, journal) as desk:
        both = desk.system.submit_many([Save(key="a", text="x"), Save(key="a/b", text="y")])
        results = [each.exception_type for each in [_outcome(submission) for submission in both] if each is not None]
        assert len(results) == 1
    assert len(on_disk(tmp_path)) == 1


class _Failed:
    def __init__(self, error: Exception) -> None:
        self.exception_type = type(error)


def _outcome(submission: Any) -> _Failed | None:
    try:
        submission.result(WAIT_S)
    except HandlerFailed as error:
        return _Failed(error)
    return None


def test_links_are_not_followed(tmp_path: Path, journal: Any) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "secret").write_text("not ours")
    (folder / "file").symlink_to(elsewhere / "secret")
    (folder / "dir").symlink_to(elsewhere)
    with Desk(folder, journal) as desk:
        assert desk.content == {}, "what a link leads to is not in the folder"
        desk.save("dir/secret", "overwritten")
        desk.save("file", "ours")
        desk.settle()
        (folder / "dir").unlink()
    with Desk(folder, journal):
        assert on_disk(folder)["dir/secret"] == b"overwritten", "written when its place is free"
    assert (elsewhere / "secret").read_text() == "not ours"
    assert [each.name for each in elsewhere.iterdir()] == ["secret"]
    assert (folder / "file").read_text() == "ours"


# Others ------------------------------------------------------------------------------------------------------------------


def test_two_stores_cannot_have_one_folder(tmp_path: Path, journal: Any) -> None:
    with Desk(tmp_path, journal):
        other = Desk(tmp_path, MemoryBackend("other"))
        with pytest.raises(RegistrationError, match=r"is written by another process \(pid \d+\)") as caught:
            other.system.start()
        assert isinstance(caught.value.__cause__, FolderLocked)
    with Desk(tmp_path, MemoryBackend("third")) as third:
        third.save("a", "x")


def test_a_folder_of_another_process_is_refused_with_its_pid_or_waited_for(tmp_path: Path, journal: Any) -> None:
    (tmp_path / ".seqtor").mkdir()
    holds = (
        "import fcntl, os, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX);"
        "print(os.getpid(), file=file, flush=True); print('held', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", holds, str(tmp_path / ".seqtor" / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RegistrationError, match=rf"written by another process \(pid {other.pid}\)"):
            Desk(tmp_path, journal).system.start()
        desk = Desk(tmp_path, journal, lock_timeout=WAIT_S)
        starting = threading.Thread(target=desk.system.start)
        starting.start()
        print(file=other.stdin, flush=True)
        starting.join(WAIT_S)
    try:
        desk.save("a", "x")
    finally:
        desk.system.stop()
    assert on_disk(tmp_path) == {"a": b"x"}


SYSTEM = """
import sys
from seqtor import Files, Supervisor
system = Supervisor()
system.store("files", Files(sys.argv[1]))
with system:
    print("started", flush=True)
    sys.stdin.readline()
"""


def test_of_two_systems_in_two_processes_the_second_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SYSTEM, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "started\n"
        with pytest.raises(RegistrationError) as caught:
            Desk(tmp_path).system.start()
        assert str(caught.value).startswith(
            f"store 'files' could not begin: FolderLocked: the folder {tmp_path} is written by another process (pid "
            f"{first.pid})"
        )
        first.kill()  # It leaves the file of the lock, but not the lock.
        first.communicate(timeout=WAIT_S)
    with Desk(tmp_path) as desk:
        desk.save("a", "x")
    assert on_disk(tmp_path) == {"a": b"x"}


def test_a_second_writer_loses_nothing_while_the_store_writes(tmp_path: Path) -> None:
    """Each of its versions gets a seq, or was replaced by itself; none is overwritten unseen."""
    system = Supervisor(settings={"threads": 2})
    files = system.store("files", Files(tmp_path, look_every=0.01))
    written: list[str] = []
    stop = threading.Event()

    @system.on(Save)
    def save(trigger: Save, tx: Transaction) -> None:
        tx[files][trigger.key] = f"ours {tx.seq}"

    def edit() -> None:
        for number in range(30):
            theirs = f"theirs {number}"
            beside = tmp_path.parent / "beside"
            beside.write_text(theirs)
            beside.rename(tmp_path / "a")  # As editors do.
            written.append(theirs)
            while (tmp_path / "a").read_text() == theirs and not adopted(theirs) and not stop.is_set():
                system.submit(Save(key="a")).result(WAIT_S)

    def adopted(theirs: str) -> bool:
        edits = [run.trigger for run in system.runs(trigger=OutsideEdit, limit=None)]
        return any(isinstance(edit, OutsideEdit) and edit.content == theirs for edit in edits)

    with system:
        editor = threading.Thread(target=edit)
        editor.start()
        editor.join(WAIT_S * 3)
        stop.set()
        assert not editor.is_alive()
        deadline = [0] * 200
        while deadline and not all(map(adopted, written)):
            deadline.pop()
            system.submit(Save(key="b")).result(WAIT_S)
        assert all(map(adopted, written))


def test_a_version_that_comes_at_the_moment_of_the_exchange_is_not_lost(
    tmp_path: Path, journal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, late = Folder._exchange, ["theirs"]

    def exchange_late(self: Folder, aside: Path, place: Path) -> bool:
        if place.name == "a" and late and place.exists():
            place.write_text(late.pop())
        return exchange(self, aside, place)

    with Desk(tmp_path, journal) as desk:
        desk.save("a", "first")
        desk.settle()
        monkeypatch.setattr(Folder, "_exchange", exchange_late)
        desk.save("a", "second")
        desk.settle()
        assert desk.edits == [("a", "theirs", State.COMMITTED)]
        assert desk.content["a"] == "theirs"
    assert on_disk(tmp_path)["a"] == b"theirs"
    assert list((tmp_path / ".seqtor" / "aside").iterdir()) == []


def test_a_version_that_was_swapped_out_at_a_crash_is_found(tmp_path: Path, journal: Any) -> None:
    with Desk(tmp_path, journal) as desk:
        desk.save("a", "ours")
    named = digest_of(b"a").hex()
    (tmp_path / ".seqtor" / "aside" / f"{named}.1-1").write_text("theirs")
    (tmp_path / ".seqtor" / "aside" / f"{named}.1-2").write_text("ours")
    (tmp_path / ".seqtor" / "aside" / f"{named}.1-3").write_text("ours")  # The same version twice.
    (tmp_path / ".seqtor" / "new" / f"{named}.1-3").write_text("half a ver")
    with Desk(tmp_path, journal) as again:
        assert again.edits == [("a", "theirs", State.COMMITTED)]
        again.settle()
    assert on_disk(tmp_path)["a"] == b"theirs"
    assert [*(tmp_path / ".seqtor" / "aside").iterdir(), *(tmp_path / ".seqtor" / "new").iterdir()] == []


def test_a_version_that_has_no_place_is_no_edit_later(tmp_path: Path, journal: Any) -> None:
    """It was whole, and aside, when its place was found to be taken."""
    with Desk(tmp_path, journal) as desk:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "theirs").write_text("x")
        desk.save("d", "ours")
        desk.save("e", "another, so that the plan is no longer that of d")
        desk.settle()
    assert list((tmp_path / ".seqtor" / "aside").iterdir()) == []
    with Desk(tmp_path, journal) as again:
        again.settle()
        assert again.edits == [("d/theirs", "x", State.REJECTED)], "a file cannot be where the store has one"
        assert again.content["d"] == "ours"


def test_a_crash_behind_the_exchange_is_no_edit(tmp_path: Path, journal: Any) -> None:
    """The manifest says the old version, the folder holds the newest of three."""
    with Desk(tmp_path, journal) as desk:
        desk.save("a", "0")
        desk.settle()
        folder = desk.files.spec.args[1]
        saved = (folder.path / ".seqtor" / "manifest.db").read_bytes()
        assert saved
        left = folder.left["a"]
    for content in ("1", "2", "3"):
        with Desk(tmp_path, journal) as desk:
            desk.save("a", content)
    forged = Folder(tmp_path, 0)
    forged.open(_journal_id(journal))
    forged._unsaved = {"a": left}
    forged.plan({"a": digest_of(b"3")}, left.seq)
    forged.close()
    with Desk(tmp_path, journal) as again:
        assert again.edits == []
        assert again.content["a"] == "3"
    assert on_disk(tmp_path)["a"] == b"3"


def _journal_id(journal: MemoryBackend) -> str:
    opened = journal.open(write=False)
    journal.close()
    return opened.journal_id


def test_an_edit_that_is_refused_is_replaced_by_what_the_store_holds(tmp_path: Path, journal: Any) -> None:
    class Refusing(Desk):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)

            @self.system.on(OutsideEdit)
            def refuse(trigger: OutsideEdit, tx: Transaction) -> None:
                raise Rejected("hands off")

    with Refusing(tmp_path, journal) as desk:
        desk.save("a", "ours")
    (tmp_path / "a").write_text("theirs")
    (tmp_path / "b").write_text("theirs too")
    with Refusing(tmp_path, journal) as again:
        again.settle()
        assert sorted(again.edits) == [("a", "theirs", State.REJECTED), ("b", "theirs too", State.REJECTED)]
    assert on_disk(tmp_path)["a"] == b"ours"
    assert "b" not in on_disk(tmp_path)


def test_edits_are_found_while_it_runs(tmp_path: Path, journal: Any) -> None:
    with Desk(tmp_path, journal, look_every=datetime.timedelta(seconds=5)) as desk:
        desk.save("a", "ours")
        (tmp_path / "b").write_text("theirs")
        desk.system.submit(Save(key="later", text="x"), delay=6).result(WAIT_S)
        desk.settle()
        assert desk.edits == [("b", "theirs", State.COMMITTED)]


def test_an_edit_that_cannot_be_beside_the_other_files_is_refused(tmp_path: Path, journal: Any) -> None:
    desk = Desk(tmp_path, journal, invariants=[lambda files: "bad" not in files])
    (tmp_path / "bad").write_text("x")
    (tmp_path / "good").write_text("y")
    with desk:
        assert desk.content == {"good": "y"}
        assert {state for key, _, state in desk.edits if key == "bad"} == {State.REJECTED}
        with pytest.raises(Rejected, match="invariant"):
            desk.save("bad", "z")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"path": ""}, "takes the path of a folder"),
        ({"path": 5}, "takes the path of a folder"),
        ({"lock_timeout": -1}, "lock_timeout must be seconds"),
        ({"look_every": 0}, "look_every must be above 0"),
        ({"look_every": "1"}, "look_every must be seconds"),
        ({"invariants": [5]}, "invariant"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(RegistrationError, match=why):
        Files(**{"path": tmp_path, **options})


def test_a_machine_where_files_cannot_change_places_has_everything_but_files(tmp_path: Path) -> None:
    program = (
        "import ctypes, sys\nctypes.CDLL = lambda *_, **__: object()\n"
        "from seqtor import Collection, Files, Record, RegistrationError, Supervisor\n"
        "class Note(Record):\n    text: str = ''\n"
        "def system(spec):\n    made = Supervisor()\n    made.store('notes', spec)\n    return made\n"
        "system(Collection(Note)).start().stop()\n"
        "try:\n    system(Files(sys.argv[1])).start()\n"
        "except RegistrationError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "notes")], capture_output=True, text=True, check=True
    )
    assert "store 'notes' could not begin" in done.stdout
    assert "Files needs renameat2" in done.stdout
