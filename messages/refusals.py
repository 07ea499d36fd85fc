"""Answers that say no: values between actors, never exceptions.

Each names its reason. The sender decides what a refusal means for it.
"""

from __future__ import annotations

from seqtor.messages.message import message

__all__ = ["DuplicateIntent", "MailboxFull", "StaleAttempt", "StaleEpoch"]


@message
class MailboxFull:
    """From: a bounded mailbox. To: whoever sent. Answer: none; the message was not taken. Twice: harmless."""

    recipient: str
    mailbox_depth_max: int


@message
class StaleEpoch:
    """From: the commit order. To: committer, which logs it and does not tell the run. Answer: none. Twice: harmless."""

    seq: int
    epoch: int
    epoch_current: int


@message
class StaleAttempt:
    """From: the commit order. To: committer, as `StaleEpoch`: the attempt is not the current one. Answer: none.

    `attempt_current` is None if the run has ended. Twice: harmless.
    """

    seq: int
    attempt: int
    attempt_current: int | None


@message
class DuplicateIntent:
    """From: the commit order. To: committer, as `StaleEpoch`: a second intent. Answer: none. Twice: harmless."""

    seq: int
    attempt: int
