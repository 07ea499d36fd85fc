"""Waiting triggers that become one run: who belongs together, and who stands in the queue for them.

Owns the groups of one queue, by handler and key. Pure; not thread-safe. Promises: the place of a group is the best of its
members' (priority, then event time), so one that is joined for ever is not put off for ever; of its members the newest by
event time, then by arrival, goes on for all.
"""

from __future__ import annotations

from typing import Any

from seqtor.actors.submissions import Submission

__all__ = ["Group", "Groups"]


class Group:
    """Triggers that become one; `lead` is the one whose entry is in the queue."""

    __slots__ = ("lead", "members")

    def __init__(self, first: Submission[Any]) -> None:
        self.lead = first
        self.members = [first]

    def best(self) -> Submission[Any]:
        """The member with the best place."""
        return min(self.members, key=_place)

    def newest_last(self) -> list[Submission[Any]]:
        """The members by event time, then arrival."""
        return sorted(self.members, key=lambda each: each.event_time)


class Groups:
    """The groups of one queue."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Any, str], Group] = {}

    def of(self, submission: Submission[Any]) -> Group | None:
        """The group that the submission is in."""
        group = self._groups.get(_key(submission)) if _coalesces(submission) else None
        return group if group is not None and submission in group.members else None

    def join(self, submission: Submission[Any]) -> Group | None:
        """Put a submission into its group; returns that if there are others in it."""
        key = _key(submission)
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = Group(submission)
            return None
        group.members.append(submission)
        return group

    def leave(self, group: Group, submission: Submission[Any]) -> None:
        """Take a submission out of its group."""
        group.members.remove(submission)
        if not group.members:
            del self._groups[_key(submission)]

    def take(self, lead: Submission[Any]) -> tuple[Submission[Any], int]:
        """Let a group be one: returns who goes on for all, and how many there were."""
        group = self._groups.pop(_key(lead))
        *others, newest = group.newest_last()
        if others:
            newest.priority = lead.priority
            newest.absorb(others)
        return newest, len(group.members)


def _coalesces(submission: Submission[Any]) -> bool:
    return submission.origin is not None and submission.origin.coalesce is not None


def _key(submission: Submission[Any]) -> tuple[Any, str]:
    origin = submission.origin
    assert origin is not None
    assert origin.coalesce is not None
    return submission.handler, origin.coalesce


def _place(submission: Submission[Any]) -> tuple[int, float]:
    return submission.priority, submission.event_time
