"""What the journal keeps of runs that overtake and are overtaken, and that a journal with such records is not taken for
another."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from seqtor.actors.journal import actor
from seqtor.actors.journal.chain import Break, Chain, Links, links_after
from seqtor.actors.journal.checking import check_journal
from seqtor.actors.journal.contract import EntryRow
from seqtor.actors.journal.encoding import GENESIS
from seqtor.actors.journal.held import HeldRuns
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.journal.recovery import Recovery, entry_record
from seqtor.messages.errors import JournalCorrupted
from seqtor.messages.journal import GetOpenWork
from seqtor.messages.records import SequencedRecord
from seqtor.messages.runs import RunsEnded, State
from seqtor.messages.stores import Write
from tests.overtaking import Overtaking, any_order, balances
from tests.programs import Account


@pytest.fixture
def world() -> Overtaking:
    world = Overtaking()
    world.begin()
    return world


def entries_of(world: Overtaking) -> list[tuple[str, str]]:
    return [(row.kind, row.ref) for row in world.backend.entries(1, 1000)]


def written(world: Overtaking, *groups: list[int]) -> Overtaking:
    for group in groups:
        world.tell(group)
        world.flush()
    return world


# What is written -------------------------------------------------------------------------------------------------------


def test_the_group_that_overtakes_holds_the_trigger_and_the_seq_of_each_run_that_it_overtakes(
    world: Overtaking,
) -> None:
    written(world, [1, 4])
    assert entries_of(world) == [
        ("accepted", "test-2"), ("accepted", "test-3"), ("sequenced", "test-2"), ("sequenced", "test-3"),
    ]  # fmt: skip
    record = entry_record(list(world.backend.entries(1, 9))[2], "here")
    assert record == SequencedRecord(run="test-2", seq=2, sequenced_at=1002.0)


def test_a_run_is_bound_to_its_seq_once_however_many_overtake_it(world: Overtaking) -> None:
    written(world, [2], [3], [4, 5])
    assert entries_of(world) == [("accepted", "test-1"), ("sequenced", "test-1")]


def test_a_run_that_is_overtaken_and_ends_in_the_same_group_needs_no_entry(world: Overtaking) -> None:
    world.tell([2])
    world.tell([1, 3])
    world.flush()
    assert entries_of(world) == []
    assert [row.seq for row in world.backend.commits(1, 9)] == [1, 2, 3]


def test_a_run_whose_trigger_is_on_disk_is_not_accepted_twice(world: Overtaking) -> None:
    world.submission(1)
    world.journal._intake_due = True
    world.flush()
    written(world, [2])
    assert entries_of(world) == [("accepted", "test-1"), ("sequenced", "test-1")]


def test_the_triggers_of_all_overtaken_runs_are_written_however_many_wait_for_their_rows(world: Overtaking) -> None:
    for seq in range(1, 200):
        world.submission(seq)
    written(world, [1, 150])
    assert {ref for kind, ref in entries_of(world) if kind == "accepted"} >= {f"test-{seq}" for seq in range(2, 150)}
    left = world.crashed()
    assert len(Recovery(left, left.open()).sequenced) == 148


def test_a_run_that_has_ended_is_not_bound_any_more(world: Overtaking) -> None:
    written(world, [2], [1], [3])
    assert world.journal._open.sequenced == {}


def test_what_is_durable_is_told_by_seq_and_by_number(world: Overtaking) -> None:
    written(world, [1, 3], [4], [2], [5])
    assert [(told.through, told.count) for told in world.durable] == [(1, 2), (1, 3), (4, 4), (5, 5)]


def test_what_is_told_twice_is_written_once(world: Overtaking) -> None:
    message = world.tell([1, 3])
    world.journal.on_runs_ended(message)
    world.flush()
    world.journal.on_runs_ended(message)
    world.flush()
    late = world.tell([2])
    world.flush()
    world.journal.on_runs_ended(late)
    world.flush()
    assert world.journal.durable_count == 3


def test_a_gap_that_nobody_was_named_for_is_never_written(world: Overtaking) -> None:
    message = world.message([1, 4])
    with pytest.raises(AssertionError, match="commits leave no gap in seq but those that come later"):
        world.journal.on_runs_ended(RunsEnded(runs=message.runs, ended_at=1.0, overtaken=message.overtaken[:1]))
    with pytest.raises(AssertionError, match="gap"):
        world.journal.on_runs_ended(RunsEnded(runs=message.runs, ended_at=1.0))
    world.flush()
    assert list(world.crashed().open().gaps) == []


def test_an_actor_that_is_started_anew_finds_out_by_itself_what_is_overtaken(world: Overtaking) -> None:
    message = world.tell([1, 5])
    late = world.tell([3])
    world.restart([RunsEnded(runs=(run,), ended_at=1.0) for each in (message, late) for run in each.runs])
    assert {ref for kind, ref in entries_of(world) if kind == "sequenced"} == {"test-2", "test-4"}
    assert [(told.through, told.count) for told in world.durable] == [(0, 0), (1, 3)]
    left = world.crashed()
    recovery = Recovery(left, left.open())
    assert sorted(recovery.sequenced) == [2, 4]


# Recovery --------------------------------------------------------------------------------------------------------------


def test_the_next_seq_is_above_all_that_have_ended(world: Overtaking) -> None:
    written(world, [1, 2, 9])
    left = world.crashed()
    recovery = Recovery(left, left.open())
    assert (recovery.through, recovery.next_seq, recovery.tip) == (2, 10, 9)
    assert sorted(recovery.sequenced) == [3, 4, 5, 6, 7, 8]
    assert recovery.now == 1009.0


def test_a_checkpoint_keeps_what_binds_the_overtaken_runs_when_their_entries_are_trimmed(world: Overtaking) -> None:
    written(world, [1, 2, 4, 6])
    info = world.checkpoint(2)
    assert info is not None
    assert world.backend.trim(info, 1000)
    left = world.crashed()
    recovery = Recovery(left, left.open())
    assert list(left.entries(1, 99)) == []
    assert {seq: record.run for seq, record in recovery.sequenced.items()} == {3: "test-3", 5: "test-5"}
    assert sorted(recovery.accepted) == ["test-3", "test-5"]
    world.backend = left
    world.begin(recovery)
    written(world, [5, 3, 7])
    left = world.crashed()
    assert world.recovered(Recovery(left, left.open())) == world.expected(set(range(1, 8)))


def test_a_checkpoint_of_a_seq_that_is_long_past_is_refused(monkeypatch: pytest.MonkeyPatch, world: Overtaking) -> None:
    monkeypatch.setattr(actor, "BREAKS_MAX", 8)
    for seq in range(1, 100, 2):
        written(world, [seq + 1, seq])
    assert len(world.journal._breaks) < 30
    assert world.checkpoint(99) is not None
    with pytest.raises(RuntimeError, match="no checkpoint can be made at seq 3 any more"):
        world.checkpoint(3)
    left = world.crashed()
    assert check_journal(left, left.open()).damage == ()


def test_a_checkpoint_of_a_seq_that_has_not_ended_is_never_made(world: Overtaking) -> None:
    written(world, [1, 3])
    with pytest.raises(AssertionError, match="stands for all seqs up to its own"):
        world.journal.on_get_open_work(GetOpenWork(seq=3, reply_to=None))


# Damage ----------------------------------------------------------------------------------------------------------------


def swap(left: MemoryBackend, one: int, other: int) -> None:
    """Two records change their places."""
    rows = {row.seq: row for row in [*left._commits, *left._above.values()]}
    for seq, row in ((one, rows[other]), (other, rows[one])):
        put(left, row._replace(seq=seq))


def put(left: MemoryBackend, row: object) -> None:
    seq = row.seq  # type: ignore[attr-defined]
    if seq in left._above:
        left._above[seq] = row  # type: ignore[assignment]
    else:
        left._commits[seq - 1] = row  # type: ignore[call-overload]


def lose(left: MemoryBackend, seq: int) -> None:
    """A record that was there is a gap now."""
    rows = {row.seq: row for row in [*left._commits, *left._above.values()]}
    del rows[seq]
    left._commits, left._above, left._reached = (
        [],
        {},
        left._reached._replace(through=seq - 1, gaps=left._reached.gaps | {seq}),
    )
    left._append_out_of_order(list(rows.values()))
    left._reached = left._reached._replace(through=len(left._commits))


def without(left: MemoryBackend, kind: str, ref: str) -> None:
    """An entry says something else."""
    for index, row in enumerate(left._entries):
        if (row.kind, row.ref) == (kind, ref):
            left._entries[index] = EntryRow(
                row.pos, "sequenced", "x", '{"format":1,"run":"x","seq":1,"sequenced_at":1.0}'
            )


DAMAGES: dict[str, tuple[Callable[[MemoryBackend], None], str, int]] = {
    "two records in order": (lambda left: swap(left, 1, 2), "the record of seq 1", 1),
    "two records that have overtaken": (lambda left: swap(left, 6, 7), "the record of seq 6", 6),
    "one that has overtaken and one that has not": (lambda left: swap(left, 3, 7), "the record of seq 3", 3),
    "the late one and the one it follows": (lambda left: swap(left, 4, 9), "the record of seq 4", 4),
    "a lost record that others follow": (lambda left: lose(left, 2), "the record of seq 3", 3),
    "a lost record that has overtaken": (lambda left: lose(left, 7), "the record of seq 8", 8),
    "the late one": (lambda left: lose(left, 4), "the record of seq 10", 10),
    "an entry that binds a seq": (lambda left: without(left, "sequenced", "test-5"), "seq 5 has no record", 5),
    "the trigger of an overtaken run": (lambda left: without(left, "accepted", "test-5"), "seq 5 has no record", 5),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_journal_with_overtaking_that_is_not_whole_is_refused_with_the_place(world: Overtaking, damage: str) -> None:
    written(world, [1, 2, 3], [6, 7, 8, 9], [4], [10])
    left = world.crashed()
    harm, text, seq = DAMAGES[damage]
    harm(left)
    opened = left.open()
    with pytest.raises(JournalCorrupted, match=text) as refused:
        Recovery(left, opened)
    assert refused.value.seq == seq
    if (
        damage != "the trigger of an overtaken run"
    ):  # Of which verification does not know whether another entry holds it.
        assert check_journal(left, opened).damage[0].seq == seq


def test_a_record_that_two_others_follow_is_refused(world: Overtaking) -> None:
    written(world, [1, 2, 3])
    left = world.crashed()
    other = Overtaking(left)
    recovery = Recovery(left, left.open())
    other.runs, other.ended = world.runs, {1, 2, 3}
    other.begin(recovery)
    other.journal._previous, other.journal._chain = 1, left._commits[0].chain  # A fork.
    written(other, [4])
    forked = other.crashed()
    with pytest.raises(
        JournalCorrupted, match=r"the record of seq 4.*follows seq 1, which is missing or is followed by"
    ):
        Recovery(forked, forked.open())


def test_records_that_end_in_two_places_are_no_chain() -> None:
    checks = Chain("here", Links({0: GENESIS, 3: b"three"}), lambda _: None)
    with pytest.raises(JournalCorrupted, match=r"not one chain: nothing follows those of the seqs \[0, 3\]"):
        _ = checks.tip
    assert Chain("here", Links({3: b"three"}), lambda _: None).tip == (3, b"three")


# The order -------------------------------------------------------------------------------------------------------------


def test_what_follows_a_seq_is_one_hash_as_long_as_nothing_overtakes() -> None:
    assert links_after(5, 5, b"five", [], lambda _: b"never") == Links({5: b"five"})
    assert links_after(3, 5, b"five", [], lambda seq: b"%d" % seq) == Links({3: b"3"})


def test_what_follows_a_seq_is_every_place_where_the_order_crosses_it() -> None:
    # 1 2 4 5 3 6 8 7
    breaks = [
        Break(2, 4, b"two"),
        Break(5, 3, b"five"),
        Break(3, 6, b"three"),
        Break(6, 8, b"six"),
        Break(8, 7, b"eight"),
    ]
    assert links_after(2, 7, b"seven", breaks, lambda _: b"") == Links({2: b"two"})
    assert links_after(3, 7, b"seven", breaks, lambda _: b"") == Links({2: b"two", 3: b"three"}, (5,))
    assert links_after(4, 7, b"seven", breaks, lambda seq: b"at %d" % seq) == Links({4: b"at 4", 3: b"three"}, (5,))
    assert links_after(6, 7, b"seven", breaks, lambda _: b"") == Links({6: b"six"})
    assert links_after(7, 7, b"seven", breaks, lambda _: b"") == Links({6: b"six", 7: b"seven"}, (8,))


# In memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_system_in_memory_holds_runs_in_seq_order_whatever_the_order_in_which_they_end(
    world: Overtaking, seed: int
) -> None:
    chance = random.Random(seed)
    empty = world.stores[0].spec.build().recover(None)
    held = HeldRuns(world.stores, (empty,), 50)
    order = any_order(chance, 3000, chance.choice([0, 5, 200]))
    ended: set[int] = set()
    through = 0
    while order:
        size = chance.choice([1, 3, 100])
        now, order = order[:size], order[size:]
        message = world.message(now)
        ended.update(now)
        while through + 1 in ended:
            through += 1
        writes = [Write(key, Account(balance=each)) for key, each in world.state_after(range(1, through + 1)).items()]
        for _ in range(2):  # The second time it is ignored.
            held.keep(message, (world.stores[0].spec.fold(empty, writes),))
        for run in message.runs:
            run.submission.settle(State.COMMITTED, None)
            run.submission.attempts, run.submission.handler_s, run.submission.conflicts = 1, 0.0, ()
            run.submission.error = None
        assert held.last == through
    seq = chance.randint(max(held.first, 2900), 3000)
    assert balances(held.states_at(seq)[0]) == world.state_after(range(1, seq + 1))
    assert [row.seq for row in held.rows(seq, 3000)] == list(range(seq, 3001))
