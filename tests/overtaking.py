"""A journal that is told of runs which overtake each other, driven message by message, and what it should hold then.

There is no system around the journal's actor here: the test is the committer, the coordinator and the crash.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from seqtor import Supervisor
from seqtor.actors.dispatchers.contract import Cancellable
from seqtor.actors.journal.actor import Begun, Journal
from seqtor.actors.journal.checkpoints import Checkpoints
from seqtor.actors.journal.contract import Backend, CheckpointInfo
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.journal.open_runs import OpenRuns
from seqtor.actors.journal.recovery import Recovery
from seqtor.actors.publications import Publication
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.submissions import Intake, Submission
from seqtor.messages.commits import EndedRun
from seqtor.messages.journal import AppendIntake, RunsDurable
from seqtor.messages.runs import RunsEnded, State
from seqtor.messages.stores import Write
from tests.programs import Account, Deposit, open_bank

__all__ = ["Overtaking", "State_", "any_order", "balances"]

KEYS = "abcdefg"
State_ = dict[str, int]


class Mailbox:
    """Takes what the actor tells others, or passes on at once what others tell it."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.told: list[Any] = []
        self._journal = journal

    def tell(self, message: Any) -> None:
        if self._journal is None:
            self.told.append(message)
        else:
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(message).__name__).lower()
            getattr(self._journal, f"on_{name}")(message)


class NoTimers:
    """Nothing is called back; the test flushes when it likes."""

    def call_after(self, delay_s: float, callback: Any) -> Cancellable:
        return None  # type: ignore[return-value]


class Recovered(NamedTuple):
    """What a recovery came to, in plain values."""

    through: int
    state: State_
    overlay: list[tuple[int, State_]]
    sequenced: dict[int, tuple[str, float]]
    next_seq: int


def any_order(chance: random.Random, count: int, displacement: int) -> list[int]:
    """The seqs 1..count, each up to so many places late; most of them not at all."""
    late = [0.0, 0.0, 0.0, chance.random() * displacement, float(displacement)]
    return sorted(range(1, count + 1), key=lambda seq: (seq + chance.choice(late), seq))


def balances(state: Any) -> State_:
    """A collection's state as plain values."""
    return {key: state.entries[key].balance for key in state.keys}


class Overtaking:
    """Runs of one system, of which each writes what follows from its seq; told to a journal in any order."""

    def __init__(self, backend: Backend | None = None) -> None:
        self.system = Supervisor()
        self.accounts = open_bank(self.system)
        self.stores: Sequence[StoreRef[Any]] = tuple(self.system._stores.refs)
        self.handler = next(each for each in self.system._handlers if each.name == "Deposit")
        self.intake = Intake("test", None, lambda submission, future: None)
        self.backend = MemoryBackend() if backend is None else backend
        self.runs: dict[int, Submission[Any]] = {}
        self.ended: set[int] = set()  # Told.
        self.journal: Journal
        self.durable: list[RunsDurable] = []

    # The life of a run ---------------------------------------------------------------------------------------------------

    def submission(self, seq: int) -> Submission[Any]:
        """The run that has this seq, accepted now if it was not before."""
        if seq not in self.runs:
            run = Submission(self.intake, seq, Deposit(amount=seq), self.handler, 2, float(seq), float(seq))
            run.seq, run.sequenced_at = seq, 1000.0 + seq
            self.runs[seq] = run
            self.journal.on_append_intake(AppendIntake(submissions=(run,)))
        return self.runs[seq]

    @staticmethod
    def writes_of(seq: int) -> State_:
        return {KEYS[seq % len(KEYS)]: seq, KEYS[seq * 3 % len(KEYS)]: -seq}

    def state_after(self, seqs: Sequence[int]) -> State_:
        """The oracle: these runs one after another."""
        state: State_ = {}
        for seq in sorted(seqs):
            state |= self.writes_of(seq)
        return state

    def _ended_run(self, seq: int) -> EndedRun:
        writes = tuple(Write(key, Account(balance=balance)) for key, balance in self.writes_of(seq).items())
        return EndedRun(
            submission=self.submission(seq), seq=seq, attempts=1, state=State.COMMITTED, result=None, error=None,
            conflicts=(), handler_s=0.0, snapshot_seq=0, first_snapshot_seq=0, accesses=None, writes=((0, writes),),
            released=None,
        )  # fmt: skip

    def message(self, seqs: Sequence[int]) -> RunsEnded:
        """What the committer tells of these runs, which end now."""
        self.ended.update(seqs)
        last = max(self.ended)
        late = tuple([(seq, self.submission(seq)) for seq in range(1, last) if seq not in self.ended])
        return RunsEnded(runs=tuple(map(self._ended_run, seqs)), ended_at=5000.0, overtaken=late)

    # The journal ---------------------------------------------------------------------------------------------------------

    def begin(self, recovery: Recovery | None = None) -> Recovery:
        """Start the journal's actor on what is there."""
        recovery = Recovery(self.backend, self.backend.open()) if recovery is None else recovery
        self._wire(Journal(self.backend, self.begun(recovery), self.stores, NoTimers()))
        return recovery

    def begun(self, recovery: Recovery) -> Begun:
        left = [self.runs[int(record.run.rpartition("-")[2])] for record in recovery.open_accepted()]
        open_runs = OpenRuns(left, sequenced=recovery.sequenced.values())
        return Begun.with_work(recovery, open_runs)

    def restart(self, told: Sequence[RunsEnded]) -> None:
        """The actor crashes, and is started anew: told again what it may not have written."""
        live = list(self.runs.values())

        def again() -> Begun:
            self.backend.close()
            return self.begun(Recovery(self.backend, self.backend.open()))

        journal = Journal(self.backend, again, self.stores, NoTimers(), told, live)
        self._wire(journal)
        journal.on_start()

    def _wire(self, journal: Journal) -> None:
        self.journal = journal
        mailbox = Mailbox()
        journal.coordinator = mailbox  # type: ignore[assignment]
        self.durable = mailbox.told

    def tell(self, seqs: Sequence[int]) -> RunsEnded:
        """Some runs end."""
        message = self.message(seqs)
        self.journal.on_runs_ended(message)
        return message

    def flush(self) -> None:
        """A group is written."""
        self.journal.on_batch_end()

    def checkpoint(self, seq: int) -> CheckpointInfo | None:
        """Make a checkpoint, of a seq up to which all is durable."""
        state = self.stores[0].spec.build().recover(None)
        writes = [
            Write(key, Account(balance=each)) for key, each in sorted(self.state_after(range(1, seq + 1)).items())
        ]
        publication = Publication(0, seq, (self.stores[0].spec.fold(state, writes),), {})
        mailbox: Any = Mailbox(self.journal)
        return Checkpoints(mailbox, self.stores, (mailbox,), lambda: publication, lambda: 1.0, None, None).take()

    # What a crash leaves -------------------------------------------------------------------------------------------------

    def crashed(self) -> MemoryBackend:
        """The journal as a process would find it that starts now."""
        assert isinstance(self.backend, MemoryBackend)
        left = copy.deepcopy(self.backend)
        left.close()
        return left

    def recovered(self, recovery: Recovery) -> Recovered:
        """What was recovered, in plain values."""
        (state,) = recovery.states(self.stores, [self.stores[0].spec.build().recover(recovery.checkpoint("accounts"))])
        overlay = [
            (seq, {key: value["balance"] for key, value, _ in by_store["accounts"]})
            for seq, by_store in recovery.overlay
        ]
        sequenced = {seq: (record.run, record.sequenced_at) for seq, record in recovery.sequenced.items()}
        return Recovered(recovery.through, balances(state), overlay, sequenced, recovery.next_seq)

    def expected(self, written: set[int]) -> Recovered:
        """What must be recovered when the records of these seqs are on disk."""
        through = next(seq for seq in range(1, len(written) + 2) if seq not in written) - 1
        last = max(written, default=0)
        return Recovered(
            through,
            self.state_after(range(1, through + 1)),
            [(seq, self.writes_of(seq)) for seq in sorted(written) if seq > through],
            {seq: (self.runs[seq].id, 1000.0 + seq) for seq in range(through + 1, last) if seq not in written},
            last + 1,
        )
