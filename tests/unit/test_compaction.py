"""Compaction: the journal gives up what is older than was promised, and nothing else; no key is forgotten too early."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import immutables
import pytest

import seqtor.actors.journal.actor
from seqtor import (
    Access,
    JournalCorrupted,
    OutcomeUnknown,
    RegistrationError,
    StoreActor,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.compaction import ended_before, up_to
from seqtor.actors.journal.contract import KeyRow
from seqtor.actors.journal.keys import BoundKeys
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages.journal import CheckpointDue, TrimJournal
from tests.programs import WAIT_S, Deposit, Transfer, open_bank

DAY_S = 86_400.0


class Add(Trigger[int]):
    """Adds to a store of one's own."""

    amount: int = 1


IntMap = immutables.Map[str, int]


class Tally(StoreActor[IntMap, Any]):
    """A sum that makes no checkpoint: all of its commits are needed."""

    dispatcher = "core"
    keeps = False

    def recover(self, checkpoint: Any) -> IntMap:
        return immutables.Map({"sum": 100 if checkpoint is None else int(checkpoint.data)})

    def checkpoint(self, state: IntMap) -> bytes | None:
        return str(state["sum"]).encode() if self.keeps else None

    @staticmethod
    def fold(state: IntMap, writes: Any) -> IntMap:
        for write in writes:
            state = state.set(write.key, state[write.key] + write.op)
        return state

    @staticmethod
    def view(access: Access[IntMap]) -> Any:
        return access


class KeptTally(Tally):
    """The same with checkpoints."""

    keeps = True


class Bank:
    """A simulated bank with a journal in memory whose clock the test moves."""

    def __init__(
        self, backend: MemoryBackend, *, retain: float | None = None, tally: type[Tally] | None = None, **settings: Any
    ) -> None:
        self.backend = backend
        self.simulation = SimulatedDispatchers(1)
        self.simulation.clock._start_s += 100 * DAY_S * len(LIVES)  # Each life later than the one before.
        LIVES.append(None)
        settings = settings if retain is None else {"retain": retain, **settings}
        self.system = Supervisor(backend, settings=settings, dispatchers=lambda _: self.simulation)
        self.accounts = open_bank(self.system, alice=0)
        self.tally: Any = None
        if tally is not None:
            self.tally = self.system.store("tally", tally.spec())

            @self.system.on(Add)
            def add(trigger: Add, tx: Transaction) -> int:
                tx[self.tally].write("sum", trigger.amount)
                return trigger.amount

    def __enter__(self) -> Self:
        self.system.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.system.stop()

    def deposits(self, count: int) -> None:
        for _ in range(count):
            self.system.ask(Deposit(), timeout=WAIT_S)

    def days(self, count: float) -> None:
        self.simulation.clock.advance_to(self.simulation.clock.monotonic() + count * DAY_S)

    def checkpoint(self) -> None:
        """Have a checkpoint made, as if the journal had grown, and what follows from it done."""
        self.system._running.journal.checkpointer_ref.tell(CheckpointDue())  # type: ignore[union-attr]
        self.simulation.run_to_rest()

    def kept(self) -> tuple[list[int], list[int]]:
        """The seqs of the commits and of the checkpoints that are left."""
        return [row.seq for row in self.backend._commits], sorted(self.backend._checkpoints)


LIVES: list[None] = []


def test_without_retain_everything_is_kept() -> None:
    with Bank(MemoryBackend()) as bank:
        for _ in range(3):
            bank.deposits(2)
            bank.days(1000)
            bank.checkpoint()
        assert bank.kept() == ([1, 2, 3, 4, 5, 6], [0, 2, 4, 6])
        assert bank.system.snapshot(1)[bank.accounts]["alice"].balance == 1


def test_a_checkpoint_lets_go_of_what_is_older_than_was_promised() -> None:
    with Bank(MemoryBackend(), retain=10 * DAY_S) as bank:
        bank.deposits(3)
        bank.checkpoint()
        bank.days(6)
        bank.deposits(3)
        bank.checkpoint()
        assert bank.kept()[0] == [1, 2, 3, 4, 5, 6], "nothing is older than ten days"
        bank.days(6)
        bank.deposits(1)
        bank.checkpoint()
        # The checkpoint at 3 is twelve days old, that at 6 six: from 3 on every state can be brought back.
        assert bank.kept() == ([4, 5, 6, 7], [3, 6, 7])
        assert [bank.system.snapshot(seq)[bank.accounts]["alice"].balance for seq in range(3, 8)] == [3, 4, 5, 6, 7]
        assert [record.seq for record in bank.system.commits()] == [7, 6, 5, 4]
        assert bank.system.verify().first == 4
        for ask in (lambda: bank.system.snapshot(2), lambda: bank.system.replay(3, 5)):
            with pytest.raises(LookupError, match=r"is not kept: .*"):
                ask()
        with pytest.raises(
            LookupError, match="the history of seq 2 is not kept: memory: was compacted up to seq 3"
        ) as error:
            bank.system.snapshot(2)
        assert "retain=" in str(error.value)
        bank.days(30)
        bank.checkpoint()
        assert bank.kept() == ([], [7]), "the newest checkpoint always stays"
        assert bank.system.snapshot(7)[bank.accounts]["alice"].balance == 7
        assert bank.system.snapshot()[bank.accounts]["alice"].balance == 7


def test_what_grew_old_while_nothing_ran_goes_at_the_next_start() -> None:
    backend = MemoryBackend()
    with Bank(backend, retain=DAY_S) as bank:
        bank.deposits(3)
    with Bank(backend, retain=DAY_S) as bank:  # A hundred days later.
        bank.simulation.run_to_rest()
        assert bank.kept() == ([], [3])
        bank.deposits(2)
        assert bank.system.snapshot(4)[bank.accounts]["alice"].balance == 4
        with pytest.raises(LookupError, match="was compacted up to seq 3"):
            bank.system.record(3)
    with Bank(backend) as bank:
        assert bank.system.snapshot()[bank.accounts]["alice"].balance == 5
        assert bank.system.verify().first == 4


def test_trimming_goes_in_pieces_between_groups_and_on_after_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seqtor.actors.journal.actor, "TRIM_ROWS", 2)
    backend = MemoryBackend()
    pieces: list[int] = []
    trim = MemoryBackend.trim

    def counted(self: MemoryBackend, info: Any, limit: int) -> bool:
        pieces.append(len(self._commits))
        return trim(self, info, limit)

    monkeypatch.setattr(MemoryBackend, "trim", counted)
    with Bank(backend, retain=DAY_S) as bank:
        bank.deposits(20)
        bank.days(2)
        bank.checkpoint()
        assert bank.kept() == ([], [20])
        assert len(pieces) >= 10
        assert all(before - after <= 2 for before, after in pairwise(pieces))
        bank.deposits(10)
        bank.days(2)
        info = bank.system._running.journal.checkpoints.take()  # type: ignore[union-attr]
    backend.open()
    trim(backend, info, 3)  # Cut short: seven commits are left that no promise covers.
    assert next(row.seq for row in backend._commits) > 21
    backend.close()
    with Bank(backend, retain=DAY_S) as bank:
        with pytest.raises(LookupError, match="was compacted up to seq 30"):
            bank.system.snapshot(28)
        bank.simulation.run_to_rest()
        assert bank.kept() == ([], [30])
        bank.deposits(1)
        assert bank.system.verify().executed == 1


def test_a_trimming_that_was_overtaken_by_a_later_one_is_dropped() -> None:
    backend = MemoryBackend()
    with Bank(backend) as bank:
        bank.deposits(2)
        bank.checkpoint()
        bank.deposits(2)
        bank.checkpoint()
        infos = bank.system._running.history._checkpoints()  # type: ignore[union-attr]
        journal = bank.system._running.journal.ref  # type: ignore[union-attr]
        journal.tell(TrimJournal(info=infos[2]))
        journal.tell(TrimJournal(info=infos[1]))
        bank.simulation.run_to_rest()
        assert bank.kept() == ([], [4])
        bank.deposits(1)


# Keys -------------------------------------------------------------------------------------------------------------------


def test_a_key_is_kept_as_long_as_the_outcome_of_its_run() -> None:
    backend = MemoryBackend()
    with Bank(backend, retain=10 * DAY_S) as bank:
        bank.system.ask(Deposit(), idempotency_key="old", timeout=WAIT_S)
        bank.checkpoint()
        bank.days(8)
        bank.system.ask(Deposit(), idempotency_key="young", timeout=WAIT_S)
        bank.days(4)
        bank.deposits(1)
        bank.checkpoint()
        assert bank.kept()[0] == [2, 3]
        assert bank.system.ask(Deposit(), idempotency_key="young", timeout=WAIT_S) == 2
    assert set(backend._keys) == {"young"}
    with Bank(backend) as bank:
        assert bank.system.ask(Deposit(), idempotency_key="young", timeout=WAIT_S) == 2
        assert bank.system.ask(Deposit(), idempotency_key="old", timeout=WAIT_S) == 4, "forgotten: it runs once more"
        assert bank.system.ask(Deposit(), idempotency_key="old", timeout=WAIT_S) == 4
    with Bank(backend, retain=DAY_S) as bank:  # Both are old now, and go while the system runs.
        bank.simulation.run_to_rest()
        assert bank.system.ask(Deposit(), idempotency_key="young", timeout=WAIT_S) == 5
        assert bank.system.ask(Deposit(), idempotency_key="old", timeout=WAIT_S) == 6


def test_a_key_whose_commit_is_gone_and_whose_row_is_not_counts_for_nothing() -> None:
    backend = MemoryBackend()
    with Bank(backend) as bank:
        bank.system.ask(Deposit(), idempotency_key="k", timeout=WAIT_S)
        bank.deposits(2)
        info = bank.system._running.journal.checkpoints.take()  # type: ignore[union-attr]
    backend.open()
    backend.trim(info, 2)  # Cut short before the keys.
    assert "k" in backend._keys
    backend.close()
    with Bank(backend) as bank:
        assert bank.system.ask(Deposit(), idempotency_key="k", timeout=WAIT_S) == 4


def test_who_asks_for_an_outcome_that_is_being_deleted_is_told() -> None:
    backend = MemoryBackend()
    with Bank(backend) as bank:
        bank.system.ask(Deposit(), idempotency_key="k", timeout=WAIT_S)
    with Bank(backend) as bank:
        del backend._commits[0]
        backend._commits_trimmed = 1
        with pytest.raises(OutcomeUnknown, match=r"the outcome of run .* \(seq 1\), under the key 'k', cannot be read"):
            bank.system.ask(Deposit(), idempotency_key="k", timeout=WAIT_S)


def test_keys_that_have_not_ended_are_never_forgotten() -> None:
    keys = BoundKeys([KeyRow("ended", "r1", b"", 3), KeyRow("later", "r2", b"", 4), KeyRow("open", "r3", b"", None)])
    keys.forget(3)
    keys.forget(1)
    assert set(keys._rows) == {"later", "open"}


# Stores without checkpoints ---------------------------------------------------------------------------------------------


def run(bank: Bank, count: int) -> None:
    for _ in range(count):
        bank.system.ask(Add(), timeout=WAIT_S)


def sums(bank: Bank, *seqs: int) -> list[int]:
    return [bank.system.snapshot(seq)[bank.tally].state["sum"] for seq in seqs]


@pytest.mark.parametrize("tally", [Tally, KeptTally])
def test_a_store_without_checkpoints_is_folded_from_the_beginning(tally: type[Tally]) -> None:
    backend = MemoryBackend()
    with Bank(backend, tally=tally) as bank:
        run(bank, 3)
        bank.checkpoint()
        run(bank, 2)
        assert sums(bank, 0, 1, 3, 4, 5) == [100, 101, 103, 104, 105]
    with Bank(backend, tally=tally) as bank:
        assert bank.system.snapshot()[bank.tally].state["sum"] == 105
        run(bank, 1)
        assert sums(bank, 0, 1, 3, 4, 6) == [100, 101, 103, 104, 106]
        assert bank.system.verify(workers=2).executed == 6
    with Bank(backend, tally=tally) as bank:
        assert bank.system.snapshot()[bank.tally].state["sum"] == 106


def test_nothing_is_given_up_that_a_store_without_checkpoints_needs() -> None:
    from loguru import logger

    backend = MemoryBackend()
    told: list[str] = []
    logger.enable("seqtor")
    sink = logger.add(lambda line: told.append(str(line)), level="WARNING", format="{message}")
    try:
        with Bank(backend, retain=DAY_S, tally=Tally) as bank:
            for _ in range(3):
                run(bank, 2)
                bank.days(9)
                bank.checkpoint()
            assert bank.kept() == ([1, 2, 3, 4, 5, 6], [0, 2, 4, 6])
    finally:
        logger.remove(sink)
        logger.disable("seqtor")
    assert [line for line in told if "not compacted although retain= is set: tally made no checkpoint" in line]
    assert len([line for line in told if "not compacted" in line]) == 1, "said once"
    with Bank(backend, tally=Tally) as bank:
        assert bank.system.snapshot()[bank.tally].state["sum"] == 106


def test_a_store_that_stops_making_checkpoints_refuses_a_compacted_journal() -> None:
    backend = MemoryBackend()
    with Bank(backend, tally=KeptTally, retain=DAY_S) as bank:
        run(bank, 3)
        bank.days(2)
        bank.checkpoint()
        assert bank.kept() == ([], [3])
        run(bank, 1)
    with Bank(backend, tally=Tally) as bank:  # Reads the checkpoint, and makes one without it at the stop.
        run(bank, 1)
    with pytest.raises(JournalCorrupted, match="store 'tally' made no checkpoint"), Bank(backend, tally=Tally):
        """It cannot start: the sum of the first commits is nowhere."""


def test_the_checkpoint_is_chosen_by_when_its_seq_ended_or_by_its_seq() -> None:
    backend = MemoryBackend()
    with Bank(backend) as bank:
        start = bank.simulation.clock.time()
        for _ in range(3):
            bank.deposits(2)
            bank.checkpoint()
            bank.days(1)
        infos = bank.system._running.history._checkpoints()  # type: ignore[union-attr]
        assert [info.seq for info in infos] == [0, 2, 4, 6]

        def by_age(days: float) -> int | None:
            found = ended_before(backend, infos, start + days * DAY_S)
            return found and found.info.seq

        def by_seq(seq: int, commits_from: int = 1) -> int | None:
            found = up_to(backend, infos, seq, commits_from)
            return found and found.info.seq

        assert [by_age(days) for days in (0, 0.5, 1.5, 2.5, 9)] == [None, 2, 4, 6, 6]
        assert [by_seq(seq) for seq in (0, 1, 2, 3, 5, 6, 99)] == [None, None, 2, 2, 4, 6, 6]
        assert by_seq(3, commits_from=3) is None, "that is where it begins already"


# Settings ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-1, "soon", float("inf")])
def test_retain_is_a_duration(wrong: Any) -> None:
    with pytest.raises(RegistrationError, match="retain"):
        Supervisor(settings={"retain": wrong})


def test_a_journal_in_a_file_is_compacted_too(tmp_path: Path) -> None:
    for life in range(2):
        system = Supervisor(tmp_path / "bank.db", settings={"retain": 0.0})
        open_bank(system, alice=10)
        with system:
            for _ in range(5):
                system.ask(Transfer(source="alice", target="bob", amount=1), timeout=WAIT_S)
        assert [record.seq for record in system.commits()] == list(range(5 * life + 5, 5 * life, -1))
        assert system.verify().executed == 5
