"""The life of a run with `sequence="completion"`, from its first attempt to its seq.

```
accepted -- RunsBegun --> outside -- SequenceRun --> sequenced -- RunsEnded --> ended
                             ^  |                        |
          the run actor crashed-+                        +-- ended as `deferred`: outside again, later under a new seq
```
*Outside* the run has no seq: its attempt executes on a pinned snapshot, and nothing in the order waits for it. *Sequenced*
it is a run like any other; its intent waits for its turn, a conflict makes it execute again with that seq.
"""

from __future__ import annotations

from typing import Any

from seqtor.messages.message import message

__all__ = ["CommitOutside", "RunSequenced", "RunsBegun", "SequenceRun", "WithdrawRun"]


@message
class RunsBegun:
    """From: sequencer. To: coordinator, which spawns a run actor without a seq for each. Answer: none.

    `begun_at` is POSIX seconds, and their `tx.now`, unless they have one from an earlier attempt. Twice: the second run
    actor of a submission takes the place of the first, whose intent is then refused.
    """

    submissions: tuple[Any, ...]
    begun_at: float


@message
class SequenceRun:
    """From: a run actor outside of the order, or the coordinator in its place. To: sequencer. Answer: none.

    `intent` is the `CommitRun` of its finished attempt, without a seq. The sequencer gives it the next one at once, tells
    the coordinator (`RunSequenced`) and then the committer (`CommitOutside`). Twice: the second is refused, as is one of a
    run actor that was replaced.
    """

    intent: Any


@message
class RunSequenced:
    """From: sequencer. To: coordinator. Answer: none. Twice: a seq that is known already is a broken invariant.

    A run that executed outside has its seq since `sequenced_at` (POSIX seconds); its `tx.now` stays what it was.
    """

    seq: int
    submission: Any
    sequenced_at: float


@message
class CommitOutside:
    """From: sequencer. To: committer. Answer: as `CommitRun`, which `intent` is, with its seq now.

    `pinned` is the publication that the attempt read, which may be older than what the committer remembers of writes.
    Twice: refused, `DuplicateIntent` or `StaleAttempt`.
    """

    intent: Any
    pinned: Any


@message
class WithdrawRun:
    """From: who ends a run before it has a seq (a cancellation). To: coordinator. Answer: none.

    What executes the run outside is abandoned and its slot freed; the sender sees to its outcome. Twice: the second is
    ignored, as is one for a run that has its seq.
    """

    submission: Any
