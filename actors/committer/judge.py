"""The judge: resolves a commit whose stores run the user's code, on `pool` and under the run's deadline.

One judge actor per judgement, so that one that hangs holds up nobody but its run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from seqtor.actors.base import Actor
from seqtor.actors.dispatchers.contract import AttemptDispatcher
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.stores.deriving import Resolution, derive
from seqtor.messages.commits import CommitJudged, JudgeCommit
from seqtor.messages.errors import DeadlineExceeded, Rejected
from seqtor.messages.runs import State
from seqtor.messages.stores import StoreAccess

__all__ = ["Judge", "resolve_all"]


def resolve_all(
    stores: Sequence[StoreRef[Any]],
    accesses: Sequence[StoreAccess],
    states: Sequence[Any],
    around: Sequence[tuple[int, Any]] = (),
) -> tuple[State, tuple[Resolution, ...], BaseException | None]:
    """Resolve the writes of one run on the states as of seq - 1, and run the invariants: how it ends, and why.

    `stores` are all of them; `states` belong to `accesses`; `around` are the stores that follow from these, and their
    sources. Returns what changes: each access with the new state and the effective writes, derived stores behind the others.
    """
    resolved: list[Resolution] = []
    try:
        for access, state in zip(accesses, states, strict=True):
            ref = stores[access.store]
            spec = ref.spec
            new, writes = spec.resolve(state, access.writes)
            if writes:
                spec.check(new, writes, ref.name)
                spec.require_kept(new, writes)
                resolved.append((access, new, writes))
        if around and resolved:
            resolved += derive(stores, resolved, dict(around))
    except Rejected as rejection:
        return State.REJECTED, (), rejection
    except BaseException as failure:
        return State.FAILED, (), failure
    return State.COMMITTED, tuple(resolved), None


class Judge(Actor):
    """Folds writes, validates models and runs invariants for the run at the head."""

    receives: ClassVar[tuple[type, ...]] = (JudgeCommit,)

    def __init__(
        self, stores: Sequence[StoreRef[Any]], pool: AttemptDispatcher, committer: Mailbox, deadline_s: float
    ) -> None:
        super().__init__()
        self.actor_inbox.rank = 0  # type: ignore[attr-defined]  # The head waits for it: nothing goes before it.
        self._stores = stores
        self._pool = pool
        self._committer = committer
        self._deadline_s = deadline_s
        self._message: JudgeCommit

    def on_judge_commit(self, message: JudgeCommit) -> None:
        self._message = message
        self._pool.enter_handler(self, self._deadline_s)
        outcome, resolved, error = resolve_all(self._stores, message.accesses, message.states, message.around)
        self._pool.leave_handler()
        self._answer(outcome, resolved, error)
        del error  # Its traceback leads back to this frame.
        self.stop()

    @property
    def seq(self) -> int:
        """Whose commit it judges."""
        return self._message.seq

    @property
    def handler_name(self) -> str:
        """The trigger of that run."""
        return self._message.trigger

    def abandon(self) -> None:
        """The run was aborted; what comes is ignored by the committer."""

    def expire(self) -> None:
        """The deadline has passed; called from the watch's thread. A late answer is ignored by the committer."""
        error = DeadlineExceeded(
            f"the invariants or validators of the stores that seq {self._message.seq} writes ran longer than the run's "
            f"deadline of {self._deadline_s:g} s; nothing was written"
        )
        self._answer(State.DEADLINE, (), error)

    def _answer(self, outcome: State, resolved: tuple[Resolution, ...], error: BaseException | None) -> None:
        judged = self._message
        self._committer.tell(
            CommitJudged(
                seq=judged.seq, attempt=judged.attempt, outcome=outcome, resolved=resolved, error=error,
                epoch=judged.epoch,
            )
        )  # fmt: skip
