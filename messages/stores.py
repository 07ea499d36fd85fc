"""Messages and values between runs, committer and stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from seqtor.messages.message import message

__all__ = ["ApplyCommits", "BeginOutside", "Checkpoint", "Commit", "CommitIntent", "CommitsRead", "EditEnded",
           "PersistCommits", "StoreAccess", "StoreDue", "ValidateCommit", "ValidationDone", "Write"]  # fmt: skip


class Write(NamedTuple):
    """One change of one key. `op` is JSON or bytes for custom stores; the built-in stores use their own values."""

    key: str
    op: Any


class StoreAccess(NamedTuple):
    """What one attempt read and wants to write in one store: part of its intent.

    `keys` maps each key read (an absent one too) to the version the view named, or None for the snapshot's;
    `ranges` are half-open (start, stop), None meaning open; `whole` is a read of everything.
    """

    store: int
    keys: Mapping[str, int | None]
    ranges: tuple[tuple[str | None, str | None], ...]
    whole: bool
    writes: tuple[Write, ...]


class CommitIntent(NamedTuple):
    """The low-level form: "set `store`, read at `seq`, to `value`". Made by `tx.prepare_commit`."""

    store: str
    seq: int
    value: Any


class Checkpoint(NamedTuple):
    """A store's state as bytes, as of a seq."""

    seq: int
    data: bytes


class Commit(NamedTuple):
    """What a store learns of one commit: its seq, the keys read in this store, and the resulting writes.

    For `persist` the keys read are left out: the journal, from which a commit may come, does not keep them.
    """

    seq: int
    reads: tuple[str, ...]
    writes: tuple[Write, ...]


@message
class ApplyCommits:
    """From: committer. To: a store cell. Answer: none; the state after all commits through `seq`.

    Twice: the second is ignored, because its seq is not above the store's.
    """

    seq: int
    state: Any
    epoch: int


@message
class ValidateCommit:
    """From: committer. To: a store cell whose class overrides `validate`. Answer: `ValidationDone`.

    Twice: validates twice; the committer ignores the second answer.
    """

    store: int
    attempt: int
    old: Any
    new: Any
    commit: Commit
    epoch: int
    committer: Any


@message
class ValidationDone:
    """From: a store cell. To: committer. Answer: none. `error` is None, a `Rejected`, or what crashed the store.

    `unavailable_s` is how long to wait before the commit is offered again, if the store's medium is away (0: offer it
    now). Twice: the second is ignored, as is one from an older epoch.
    """

    store: int
    seq: int
    attempt: int
    epoch: int
    error: BaseException | None
    crashed: bool = False
    unavailable_s: float | None = None


@message
class PersistCommits:
    """From: coordinator. To: a store cell that writes outside. Answer: none.

    The store's commits that have become durable, in seq order; there are no others up to `through`. Twice: the second is
    ignored, because its seqs are not above those that the cell was told.
    """

    commits: tuple[Commit, ...]
    through: int


@message
class BeginOutside:
    """From: the system, at its start. To: a store cell that writes outside. Answer: the submissions of the
    edits that it found outside, when all that was durable is outside; at once if the medium is away.

    `submit` hands in an `OutsideEdit` or `seqtor.drift`; `alarm` tells another alarm, with its code and payload; `read`
    tells the journal to read (None: there is none).

    Twice: answered twice.
    """

    submit: Any
    alarm: Any
    read: Any
    reply_to: Any


@message
class CommitsRead:
    """From: journal. To: the store cell that asked for them. Answer: none; the store's commits up to `through`.

    `error` says why there are none. Twice: the second is ignored, because the store has gone on.
    """

    through: int
    commits: tuple[Commit, ...]
    error: BaseException | None = None


@message
class EditEnded:
    """From: the edge, when the run of an `OutsideEdit` is durable. To: the store cell that submitted it. Answer: none.

    Twice: the second is ignored.
    """

    key: str
    content_json: str


@message
class StoreDue:
    """From: a store cell, by itself or by a timer. To: the same. Answer: none; go on writing, or look for edits.

    `incarnation` is that of the instance that set the timer. `more` says that there is something new to write, and no timer
    has ended. Twice: harmless.
    """

    incarnation: int
    looks: bool = False
    more: bool = False
