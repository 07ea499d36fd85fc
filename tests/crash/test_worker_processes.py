"""Programs with worker processes, started in all the ways in which programs are, interrupted, and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

PROGRAM = """
import os
import sys
from seqtor import Collection, Record, Rejected, Supervisor, Transaction, Trigger


class Account(Record):
    balance: int = 0


class Add(Trigger[int]):
    amount: int


class Spin(Trigger[int]):
    pass


class Refused(Exception):
    pass


system = Supervisor({journal})
accounts = system.store("accounts", Collection(Account, initial={{"a": Account(balance=1)}}))


def outside(amount: int) -> int:
    return amount


@system.on(Add, executor="process")
def add(trigger: Add, tx: Transaction) -> int:
    if trigger.amount < 0:
        raise Refused("negative")
    account = tx[accounts]["a"]
    tx[accounts]["a"] = account.replace(balance=account.balance + tx.call(outside, trigger.amount))
    return account.balance


@system.on(Spin, executor="process", deadline=300)
def spin(trigger: Spin, tx: Transaction) -> int:
    print(os.getpid(), flush=True)
    while True:
        pass


def main() -> None:
    with system:
        print(system.ask(Add(amount=2), timeout=60), system.ask(Add(amount=3), timeout=60))
        try:
            system.ask(Add(amount=-1), timeout=60)
        except Exception as error:
            print(type(error.__cause__) is Refused, error.__cause__)
        print(system.verify().executed)
        if "spin" in sys.argv:
            system.ask(Spin())


{end}
"""
GUARDED = 'if __name__ == "__main__":\n    main()\n'
SAYS = "1 3\nTrue negative\n3\n"


HEAD = """
from seqtor import HandlerFailed, Supervisor, Trigger

system = Supervisor(settings={"processes": 1})


"""
UNDER_GUARD = {
    "handler": HEAD
    + """
class Add(Trigger[int]):
    pass


if __name__ == "__main__":

    @system.on(Add, executor="process")
    def add(trigger, tx):
        return 1
""",
    "trigger": HEAD
    + """
def add(trigger, tx):
    return 1


if __name__ == "__main__":

    class Add(Trigger[int]):
        pass

    system.on(Add, executor="process")(add)
""",
}
STARTED = """
    with system:
        try:
            system.ask(Add(), timeout=60)
        except HandlerFailed as failed:
            print(failed)
        print(system.stats().processes_replaced, "replaced")
"""


def write(folder: Path, *, end: str = GUARDED, journal: str = "", name: str = "bank.py") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(PROGRAM.format(end=end, journal=journal), encoding="utf-8")
    return path


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=100, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_program_that_is_started_as_a_file(tmp_path: Path) -> None:
    done = run("-W", "error", write(tmp_path), cwd=tmp_path)
    assert (done.stdout, done.stderr) == (SAYS, "")


def test_a_program_that_is_started_from_another_folder(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    done = run(path, cwd=tmp_path / "elsewhere")
    assert (done.stdout, done.stderr) == (SAYS, "")


def test_a_program_that_is_started_as_a_module(tmp_path: Path) -> None:
    write(tmp_path, name="package/bank.py")
    done = run("-m", "package.bank", cwd=tmp_path)
    assert (done.stdout, done.stderr) == (SAYS, "")


def test_a_program_that_is_imported_by_a_command(tmp_path: Path) -> None:
    write(tmp_path)
    done = run("-c", "import bank; bank.main()", cwd=tmp_path)
    assert (done.stdout, done.stderr) == (SAYS, "")


def test_what_was_kept_by_the_file_that_was_started_is_replayed_by_a_program_that_imports_it(tmp_path: Path) -> None:
    write(tmp_path, journal='"bank.db"')
    assert run("bank.py", cwd=tmp_path).stderr == ""
    done = run("-c", "import bank; print(bank.system.verify().executed)", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("3\n", "")


@pytest.mark.parametrize("how", ["-c", "-"])
def test_handlers_that_are_typed_in_are_refused(how: str, tmp_path: Path) -> None:
    program = PROGRAM.format(end=GUARDED, journal="")
    done = subprocess.run(
        [sys.executable, how, *([program] if how == "-c" else [])], input=program if how == "-" else "", cwd=tmp_path,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert "there is no file from which a worker process could import it: put it into a module" in done.stderr


def test_handlers_in_the_main_module_of_a_package_are_refused(tmp_path: Path) -> None:
    write(tmp_path, name="package/__main__.py")
    done = run("-m", "package", cwd=tmp_path)
    assert "is defined in package.__main__, which worker processes do not execute" in done.stderr


@pytest.mark.parametrize("what", ["handler", "trigger"])
def test_what_is_defined_only_in_the_program_that_is_started_is_named_and_no_process_dies_of_it(
    what: str, tmp_path: Path
) -> None:
    path = tmp_path / "bank.py"
    path.write_text(UNDER_GUARD[what] + STARTED, encoding="utf-8")
    done = run("-W", "error", path, cwd=tmp_path)
    name = {"handler": "add", "trigger": "Add"}[what]
    assert f"a worker process has imported {path} and finds no {name} there: define it where importing" in done.stdout
    assert "and not under if __name__ == '__main__'" in done.stdout
    assert done.stdout.endswith("\n0 replaced\n")


def test_a_program_that_starts_whenever_it_is_imported_is_told_to_guard_its_start(tmp_path: Path) -> None:
    done = run(write(tmp_path, end="main()"), cwd=tmp_path)
    assert "a worker process could not import the program: RegistrationError" in done.stderr
    assert "put it into a function, or under if __name__ == '__main__':" in done.stderr
    assert done.returncode == 1


def spinning(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """A program in a process group of its own, whose worker process computes for ever; and that process."""
    # A shell has what it starts in the background ignore interrupts, and so does whatever that starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        program = subprocess.Popen(
            [sys.executable, write(folder), "spin"], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    assert program.stdout is not None
    for _ in SAYS.splitlines():
        program.stdout.readline()
    return program, int(program.stdout.readline())


def await_end(pid: int) -> None:
    """Wait until a process that is nobody's child here has ended."""
    give_up_at = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < give_up_at, "the worker process has outlived its system"
        os.sched_yield()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for processes in /proc")
def test_a_worker_process_ends_when_its_system_is_killed_in_the_middle_of_its_handler(tmp_path: Path) -> None:
    program, worker = spinning(tmp_path)
    program.kill()
    program.communicate()
    await_end(worker)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for processes in /proc")
def test_an_interrupt_from_the_terminal_is_the_programs_alone(tmp_path: Path) -> None:
    program, worker = spinning(tmp_path)
    os.killpg(program.pid, signal.SIGINT)
    # It waits for the run to end, as any stop does; a second one cuts that off.
    os.killpg(program.pid, signal.SIGINT)
    give_up_at = time.monotonic() + 60
    while program.poll() is None and time.monotonic() < give_up_at:
        os.killpg(program.pid, signal.SIGINT)
        try:
            program.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
    _, errors = program.communicate()
    await_end(worker)
    assert errors.count("KeyboardInterrupt\n") <= errors.count("During handling of the above") + 1, errors
    assert "in spin" not in errors, "the handler was not interrupted"
