"""Schedules: when they are due, what a tick starts, and who gives it."""

from __future__ import annotations

from seqtor.actors.schedules.calendar import At, Calendar, Cron, Every, jitter_of

__all__ = ["At", "Calendar", "Cron", "Every", "jitter_of"]
