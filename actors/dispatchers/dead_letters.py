"""Where undeliverable messages are reported."""

from __future__ import annotations

from loguru import logger

from seqtor.messages.lifecycle import DeadLetter

__all__ = ["log_dead_letter"]


def log_dead_letter(letter: DeadLetter) -> None:
    """Log the letter, without the message's values."""
    logger.bind(actor=letter.recipient).warning(
        "message {} to {} was not delivered: {}", type(letter.message).__name__, letter.recipient, letter.reason
    )
