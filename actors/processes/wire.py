"""What a system and its worker processes say to each other, and how values cross.

Owns the frames. Both ends are processes of one program on one machine, joined by a socket that only they have, so values
cross as pickles; nothing of it ever reaches a journal.

    system                         worker process
    Preparation            →       imports the program
                           ←       Ready | Broken                    (Broken: it ends)
    Job                    →       executes the handler
                           ←       Question                          (one at a time)
    Answer                 →                                         (exactly one for each)
                           ←       Finished
    None                   →       closes what it has opened, and ends

The system never sends but in answer, or when the worker rests: so nothing is ever in flight both ways. A worker whose socket
ends, ends itself, wherever its handler is.
"""

from __future__ import annotations

import contextlib
import pickle
import traceback
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from seqtor.actors.journal.encoding import module_of
from seqtor.actors.processes.importable import FunctionName
from seqtor.messages.errors import RecordedFailure

__all__ = ["OVER", "RAISED", "VALUE", "Answer", "Broken", "Finished", "Job", "Link", "PackedError", "Preparation",
           "Question", "Ready", "WorkerDied", "not_portable", "packed", "unpacked"]  # fmt: skip

VALUE, RAISED, OVER = range(3)
CAUSES_MAX = 8


class WorkerDied(BaseException):
    """A worker process has ended in the middle of something; no Exception, because it is no answer of what it was at."""


class Preparation(NamedTuple):
    """What a worker process needs before its first job. `main` is for `multiprocessing.spawn.prepare`."""

    main: dict[str, Any]
    names: tuple[FunctionName, ...]  # Of the handlers and their trigger types.
    stores: tuple[tuple[str, str], ...]  # Name and class.
    resources: tuple[str, ...]


class Ready(NamedTuple):
    """The program is imported."""


class Broken(NamedTuple):
    """The program cannot be imported, and why."""

    error: PackedError


class Job(NamedTuple):
    """One attempt: what its handler and its `tx` know from the start."""

    function: FunctionName
    trigger: Any
    seq: int
    attempt: int
    run_id: str
    sequenced_at: float
    snapshot_seq: int
    first_snapshot_seq: int
    scheduled: tuple[str, float] | None = None


class Question(NamedTuple):
    """What the handler's `tx` asks of the attempt; `name` is that of a method of `Answering`."""

    name: str
    arguments: tuple[Any, ...]


class Answer(NamedTuple):
    """`kind` VALUE: `value` is the answer; RAISED: it is a PackedError to raise; OVER: the attempt is over."""

    kind: int
    value: Any


class Finished(NamedTuple):
    """The handler has returned. `reads` are (store, keys, ranges, whole); `rest` pickles (writes, result, error).

    `rest` by itself, so that what cannot be read here fails the run and not the connection.
    """

    outcome: str
    reads: tuple[tuple[int, dict[str, int | None], tuple[tuple[str | None, str | None], ...], bool], ...]
    rest: bytes


class Link:
    """One end of the socket; used by one thread."""

    def __init__(self, fd: int) -> None:
        self._connection: Connection[Any, Any] = Connection(fd)

    def send(self, frame: Any) -> None:
        """Send a frame. Raises WorkerDied if the other end is gone, and what pickling raises: then nothing was sent."""
        raw = pickle.dumps(frame, protocol=5)
        try:
            self._connection.send_bytes(raw)
        except OSError:
            raise WorkerDied from None

    def receive(self) -> Any:
        """Wait for a frame. Raises WorkerDied if the other end is gone, and what unpickling raises."""
        try:
            raw = self._connection.recv_bytes()
        except (EOFError, OSError):
            raise WorkerDied from None
        return pickle.loads(raw)

    def fileno(self) -> int:
        """The socket."""
        return self._connection.fileno()

    def close(self) -> None:
        """Let the other end know that this one is gone."""
        self._connection.close()


def not_portable(what: str, error: BaseException) -> TypeError:
    """What is raised for a value that pickle cannot take across."""
    return TypeError(
        f"{what} cannot cross between the system and its worker process ({type(error).__name__}: {error}): use plain "
        'values, and classes that are defined at the top level of a module, or executor="thread"'
    )


# Errors ---------------------------------------------------------------------------------------------------------------


class PackedError(NamedTuple):
    """An exception with what pickle leaves out: its cause, and its traceback as text.

    `whole` pickles the exception; empty if that does not come back as it is: then `kind` pickles its class, or the nearest
    base of it that can be imported, and `attributes` those that can be. `arguments` pickles its arguments; None if they come
    with the whole.
    """

    module: str
    qualname: str
    message: str
    whole: bytes
    kind: bytes
    arguments: tuple[bytes, ...] | None
    attributes: dict[str, bytes]
    cause: PackedError | None
    context: PackedError | None
    suppresses_context: bool
    traceback: str


def packed(error: BaseException, depth: int = 0) -> PackedError:
    """The exception, ready to cross; always possible."""
    whole, kind = b"", b""
    arguments: tuple[bytes, ...] | None = tuple([_pickled(each) or _pickled(_text(each)) or b"" for each in error.args])
    attributes: dict[str, bytes] = {}
    with contextlib.suppress(Exception):
        tried = pickle.dumps(error, protocol=5)
        again = pickle.loads(tried)
        if type(again) is type(error) and str(again) == str(error):
            whole = tried
            if repr(again.args) == repr(error.args):  # Some classes keep what they were made from, if that was pickle.
                arguments = None
    if not whole:
        kind = next(raw for each in type(error).__mro__ if (raw := _pickled(each)) is not None)
        attributes = {name: raw for name, value in vars(error).items() if (raw := _pickled(value)) is not None}
    cause = context = None
    if depth < CAUSES_MAX:
        cause = None if error.__cause__ is None else packed(error.__cause__, depth + 1)
        if error.__context__ is not None and error.__context__ is not error.__cause__:
            context = packed(error.__context__, depth + 1)
    lines = "" if depth or error.__traceback__ is None else "".join(traceback.format_exception(error))
    return PackedError(
        module_of(type(error)), type(error).__qualname__, _text(error), whole, kind, arguments, attributes, cause, context,
        error.__suppress_context__, lines,
    )  # fmt: skip


def unpacked(kept: PackedError, *, noted: bool = False) -> BaseException:
    """The exception as itself, or of a class that stands for its own; `RecordedFailure` if none can. `noted`: with its
    traceback.
    """
    error = _made(kept)
    error.__cause__ = None if kept.cause is None else unpacked(kept.cause)
    error.__context__ = None if kept.context is None else unpacked(kept.context)
    error.__suppress_context__ = kept.suppresses_context
    if noted and kept.traceback:
        error.add_note(f"in its worker process:\n{kept.traceback.rstrip()}")
    return error


def _made(kept: PackedError) -> BaseException:
    try:
        arguments = () if kept.arguments is None else tuple([pickle.loads(each) for each in kept.arguments])
        error: BaseException
        if kept.whole:
            error = pickle.loads(kept.whole)
        else:
            kind = pickle.loads(kept.kind)
            if (module_of(kind), kind.__qualname__) != (kept.module, kept.qualname):
                kind = _stand_in(kind, kept.module, kept.qualname)
            error = kind.__new__(kind, *arguments)
            vars(error).update({name: pickle.loads(each) for name, each in kept.attributes.items()})
        if kept.arguments is not None:
            error.args = arguments
        return error
    except Exception:
        return RecordedFailure(f"{kept.module}.{kept.qualname}", kept.message)


@lru_cache(maxsize=256)
def _stand_in(base: type[BaseException], module: str, qualname: str) -> type[BaseException]:
    """A class of the name of one that cannot be imported: what looks at bases, such as `Retry.on`, sees no difference."""
    return type(qualname.rpartition(".")[2], (base,), {"__module__": module, "__qualname__": qualname})


def _pickled(value: Any) -> bytes | None:
    try:
        raw = pickle.dumps(value, protocol=5)
        pickle.loads(raw)
    except Exception:
        return None
    return raw


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return "?"
