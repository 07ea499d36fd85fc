"""The commit whose turn it is, while a judge or its stores are asked about it.

Owns what is asked, of whom, and when the answers are enough. Pure: `Decisions` says whom to ask. Users' code
(deltas, models, invariants, `validate`) runs off the core; what comes back is a `Verdict`. Promises: at most one commit is
asked about; answers about another one, or that come twice, change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from seqtor.actors.committer.decisions import Decisions
from seqtor.actors.committer.states import States
from seqtor.actors.invariants import require
from seqtor.actors.stores.contract import StoreSpec
from seqtor.actors.stores.deriving import Resolution, Sources
from seqtor.messages.commits import CommitJudged, CommitRun, JudgeCommit
from seqtor.messages.errors import Rejected, RunCrashed
from seqtor.messages.runs import State
from seqtor.messages.stores import Commit, StoreAccess, Write

__all__ = ["CRASHES_MAX", "Turn", "Verdict"]

CRASHES_MAX = 3


class Verdict(NamedTuple):
    """How a run ends that has been asked about: with these writes, or with an error."""

    intent: CommitRun
    state: State
    resolved: Sequence[Resolution] = ()
    error: BaseException | None = None


class Turn:
    """Whose turn it is, and who has yet to answer. `out` gives the decisions to add to."""

    def __init__(
        self,
        states: States,
        specs: Sequence[StoreSpec[Any]],
        sources: Sources,
        epoch: int,
        out: Callable[[], Decisions],
    ) -> None:
        self._states = states
        self._specs = specs
        self._sources = sources
        self._epoch = epoch
        self._out = out
        self.intent: CommitRun | None = None
        self.asked: set[int] = set()  # The stores that have yet to agree.
        self._resolved: Sequence[Resolution] = ()
        self._crashes = 0  # Of its judge.

    def _is_of(self, seq: int, attempt: int) -> bool:
        intent = self.intent
        return intent is not None and (intent.seq, intent.attempt) == (seq, attempt)

    def drop(self, seq: int) -> None:
        """A run ends otherwise: nothing is asked about it any more."""
        if self.intent is not None and self.intent.seq == seq:
            self._clear()

    def _clear(self) -> CommitRun:
        require(self.intent is not None, "a verdict is about a commit whose turn it is")
        intent: CommitRun = self.intent  # type: ignore[assignment]
        self.intent, self._resolved = None, ()
        self.asked.clear()
        return intent

    # The judge ---------------------------------------------------------------------------------------------------------

    def judge(self, intent: CommitRun) -> None:
        """Have the writes of a run resolved by a judge."""
        self.intent = intent
        self._crashes = 0
        self._ask_judge(intent)

    def _ask_judge(self, intent: CommitRun) -> None:
        below = self._states.as_of(intent.seq)
        accesses = tuple(access for access in intent.accesses if access.writes)
        needed = self._sources.needed([access.store for access in accesses])
        self._out().judge = JudgeCommit(
            seq=intent.seq, attempt=intent.attempt, trigger=intent.submission.handler.name, accesses=accesses,
            states=tuple(below[access.store] for access in accesses),
            around=tuple([(store, below[store]) for store in needed]),
            deadline_s=intent.deadline_s, epoch=self._epoch,
        )  # fmt: skip

    def judge_crashed(self, seq: int, attempt: int, error: BaseException) -> Verdict | None:
        """The judge crashed: judge again, or end the run as failed. Not ours if something else is judged."""
        if not self._is_of(seq, attempt) or self.asked:
            return None
        self._crashes += 1
        if self._crashes < CRASHES_MAX:
            self._ask_judge(self.intent)  # type: ignore[arg-type]
            return None
        crash = RunCrashed(f"its judge crashed {self._crashes} times, at last with {type(error).__name__}: {error}")
        crash.__cause__ = error
        return Verdict(self._clear(), State.FAILED, error=crash)

    def judged(self, answer: CommitJudged) -> Verdict | None:
        """The judge has resolved the writes, or says how the run ends."""
        if not self._is_of(answer.seq, answer.attempt) or self.asked:
            return None
        if answer.outcome is State.COMMITTED and any(
            self._specs[each.store].validates for each, _, _ in answer.resolved
        ):
            self.ask_stores(self.intent, answer.resolved)  # type: ignore[arg-type]
            return None
        return Verdict(self._clear(), answer.outcome, answer.resolved, answer.error)

    # The stores --------------------------------------------------------------------------------------------------------

    def ask_stores(self, intent: CommitRun, resolved: Sequence[Resolution]) -> None:
        """Have the stores that validate look at what a run is about to commit."""
        self.intent, self._resolved = intent, resolved
        for access, state, writes in resolved:
            if self._specs[access.store].validates:
                self.asked.add(access.store)
                self._ask_store(intent, access, state, writes)

    def _ask_store(self, intent: CommitRun, access: StoreAccess, state: Any, writes: Sequence[Write]) -> None:
        old = self._states.as_of(intent.seq)[access.store]
        commit = Commit(intent.seq, tuple(access.keys), tuple(writes))
        self._out().validate.append((access.store, intent.attempt, old, state, commit))

    def ask_store_again(self, store: int, seq: int, attempt: int) -> None:
        """A store may have lost the question: it is asked once more, if its answer is still waited for."""
        if self._is_of(seq, attempt):
            for access, state, writes in self._resolved:
                if access.store == store:
                    self._ask_store(self.intent, access, state, writes)  # type: ignore[arg-type]

    def awaits(self, store: int) -> tuple[int, int] | None:
        """The seq and attempt of the commit that waits for this store to agree, if one does."""
        intent = self.intent
        return None if intent is None or store not in self.asked else (intent.seq, intent.attempt)

    def validated(self, store: int, seq: int, attempt: int, error: BaseException | None) -> Verdict | None:
        """A store has agreed, or refused for good."""
        if not self._is_of(seq, attempt) or store not in self.asked:
            return None
        out = self._out()
        # It was restarted, and to be asked once more, just when its answer came. After a refusal nobody needs to be asked.
        out.validate = [] if error is not None else [each for each in out.validate if each[0] != store]
        self.asked.discard(store)
        if error is not None:
            state = State.REJECTED if isinstance(error, Rejected) else State.FAILED
            return Verdict(self._clear(), state, error=error)
        if self.asked:
            return None
        resolved = self._resolved
        return Verdict(self._clear(), State.COMMITTED, resolved)
