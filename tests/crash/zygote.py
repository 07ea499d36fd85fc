"""A process that has imported everything and forks one that can be killed: `python -m tests.crash.zygote`.

Owns the forking: a fork takes milliseconds where a fresh interpreter takes a second. Commands come as JSON lines on
standard input; each is answered with one JSON line: what the child had acknowledged, and how it ended. The child is
killed with SIGKILL, by the zygote after so many acknowledgements, or by itself at a named moment.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from seqtor import Rejected
from seqtor.actors.journal import checkpoints
from seqtor.actors.journal.sqlite import SqliteBackend
from tests.crash.desk import make_system, planned

SUBMITTERS = 4
AHEAD = 12


def main() -> None:
    """Fork a child for every command."""
    for line in sys.stdin:
        command = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            status = 1
            try:
                work(command, partial(say, writer))
                status = 0
            except BaseException as error:
                os.write(writer, f"{json.dumps({'died': f'{type(error).__name__}: {error}'})}\n".encode())
            finally:
                os._exit(status)
        os.close(writer)
        told = watch(reader, pid, command.get("kill_after"))
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"told": told, "status": status}), flush=True)


def say(writer: int, text: str) -> None:
    """Tell the zygote something, in one piece."""
    os.write(writer, f"{text}\n".encode())


def watch(reader: int, pid: int, kill_after: int | None) -> list[Any]:
    """Read what the child tells, and kill it after so many lines."""
    told: list[Any] = []
    with os.fdopen(reader) as lines:
        if kill_after == 0:
            os.kill(pid, signal.SIGKILL)
        for line in lines:
            if not line.endswith("\n"):
                break  # Torn by the kill.
            told.append(json.loads(line))
            if kill_after is not None and len(told) == kill_after:
                os.kill(pid, signal.SIGKILL)
    return told


def work(command: dict[str, Any], tell: Callable[[str], object]) -> None:
    """Run the system under load until everything planned has been answered."""
    if command.get("die_at"):
        arm(*command["die_at"])
    if command.get("checkpoint_bytes"):
        from seqtor.actors.journal import actor

        actor.CHECKPOINT_BYTES_MIN = command["checkpoint_bytes"]
    system = make_system(command["journal"])
    with system:
        submitters = [
            threading.Thread(target=submit, args=(system, tell, submitter, *command["plan"][submitter]))
            for submitter in range(SUBMITTERS)
        ]
        for thread in submitters:
            thread.start()
        for thread in submitters:
            thread.join()
    tell(json.dumps({"stopped": True}))


def submit(system: Any, tell: Callable[[str], object], submitter: int, first: int, last: int) -> None:
    """Submit a part of the plan under its keys, a few at a time, and tell what was answered."""
    for start in range(first, last, AHEAD):
        numbers = range(start, min(start + AHEAD, last))
        waiting = [
            (number, system.submit(planned(submitter, number), idempotency_key=f"{submitter}:{number}"))
            for number in numbers
        ]
        number, submission = waiting[-1]
        submission.accepted().get()
        tell(json.dumps({"accepted": f"{submitter}:{number}"}))
        for number, submission in waiting:
            try:
                answer: Any = submission.result()
            except Rejected:
                answer = None
            tell(json.dumps({"key": f"{submitter}:{number}", "seq": submission.seq, "answer": answer}))


def arm(moment: str, count: int) -> None:
    """Have this process kill itself when it comes to a named moment for the n-th time."""
    left = [count]

    def come_to() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, name: str, before: bool) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if before:
                come_to()
                return original(*args, **kwargs)
            found = original(*args, **kwargs)
            come_to()
            return found

        setattr(owner, name, wrapped)

    owner, name, before = MOMENTS[moment]
    around(owner, name, before)


MOMENTS: dict[str, tuple[Any, str, bool]] = {
    "before a group is written": (SqliteBackend, "append", True),
    "after a group was written": (SqliteBackend, "append", False),
    "before a part of a checkpoint is written": (SqliteBackend, "add_checkpoint_part", True),
    "before a checkpoint is finished": (SqliteBackend, "finish_checkpoint", True),
    "after a checkpoint was finished": (SqliteBackend, "finish_checkpoint", False),
    "after the journal was opened": (SqliteBackend, "open", False),
    "before the journal is closed": (SqliteBackend, "close", True),
    "before a checkpoint is taken": (checkpoints.Checkpoints, "take", True),
}

if __name__ == "__main__":
    main()
