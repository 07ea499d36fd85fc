"""Messages and values between runs, committer and stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from seqtor.messages.message import message

__all__ = ["ApplyCommits", "Checkpoint", "Commit", "CommitIntent", "StoreAccess", "ValidateCommit", "ValidationDone",
           "Write"]  # fmt: skip


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
    """What a store learns of one commit: its seq, the keys read in this store, and the resulting writes."""

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
