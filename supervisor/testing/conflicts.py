"""`force_conflict`: several runs that all execute before the first of them commits.

Owns the order of events in which that happens; the conflict itself is the runtime's own. One that conflicts with nothing but
itself is executed again as if it had.
"""

from __future__ import annotations

from typing import Any

from seqtor.actors.submissions import Submission
from seqtor.messages.commits import CommitRun
from seqtor.messages.runs import RunRecord, State
from seqtor.messages.triggers import Trigger
from seqtor.testing.running import SystemUnderTest
from seqtor.testing.settling import shown

__all__ = ["force_conflict"]

EXECUTE_S = 60.0


def force_conflict(desk: SystemUnderTest, *triggers: Trigger[Any]) -> list[RunRecord]:
    """Hand the triggers in, execute all of them on the same state, and let them end; returns their records, in order.

    So each of them that reads what one before it writes conflicts, and executes once more. Raises AssertionError if none
    does, saying what each has read and written. A single trigger executes twice, whatever it reads: what its handler does
    besides `tx` it does twice, too.
    """
    if not isinstance(desk, SystemUnderTest):
        raise TypeError(f"force_conflict() takes what seqtor_run(system) returned, got {desk!r}")
    if not triggers:
        raise TypeError("force_conflict() takes the triggers that are to conflict, one or more")
    desk.settle()
    running = desk._require_running()
    committer = running._path.committer_ref.actor_inbox
    with desk.dispatchers.holding(committer):
        submissions = [desk.submit(trigger) for trigger in triggers]
        intents = _execute_all(desk, committer, submissions)
        if len(triggers) == 1:
            for place, message in enumerate(committer._queue):
                if type(message) is CommitRun:
                    committer._queue[place] = message._replace(outcome=State.RUNNING, error=None, result=None)
    desk.settle()
    records = [desk.record(each.seq) for each in submissions if each.seq is not None]
    if not any(record.conflicts for record in records):
        raise AssertionError("\n".join(["there was no conflict", *_why_not(desk, submissions, intents)]))
    return records


def _execute_all(desk: SystemUnderTest, committer: Any, submissions: list[Submission[Any]]) -> dict[int, CommitRun]:
    """Let the handlers run; the intents that wait for the committer, by seq."""
    dispatchers = desk.dispatchers
    until = dispatchers.clock.monotonic() + EXECUTE_S
    dispatchers.run_to_rest()
    while True:
        intents = {each.seq: each for each in committer._queue if type(each) is CommitRun}
        if all(each.seq in intents for each in submissions) or not dispatchers.pass_time(until):
            return intents


def _why_not(desk: SystemUnderTest, submissions: list[Submission[Any]], intents: dict[int, CommitRun]) -> list[str]:
    names = [ref.name for ref in desk.stores.values()]
    lines = []
    for submission in submissions:
        seq = submission.seq
        intent = None if seq is None else intents.get(seq)
        told = f"  seq {seq}: {shown(submission.trigger)}"
        if intent is None:
            reason = (
                "it declares what it writes (writes=), so it waits for those before it and does not execute twice"
                if submission.footprint is not None
                else "its handler has not come to an end before the others ended"
            )
            lines.append(f"{told} was not executed beside the others: {reason}")
            continue
        read: list[str] = []
        written: list[str] = []
        for access in intent.accesses:
            name = names[access.store] if access.store < len(names) else "a store of the library"
            whole = ["*"] if access.whole or access.ranges else []
            read += [f"{name}[{key!r}]" for key in access.keys] + [f"{name} (all of it)" for _ in whole]
            written += dict.fromkeys(f"{name}[{write.key!r}]" for write in access.writes)
        error = "" if intent.error is None else f" ({intent.outcome.value}: {intent.error})"
        lines.append(
            f"{told} has read {', '.join(read) or 'nothing'} and written {', '.join(written) or 'nothing'}{error}"
        )
    return [*lines, "a run conflicts if it has read what one before it writes; increments do not read"]
