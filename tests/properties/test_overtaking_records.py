"""Records in any order with bounded displacement, killed between any two groups: what is recovered is what was written.

Held against the runs executed one after another in seq order.
"""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from seqtor.actors.journal.checking import check_journal
from seqtor.actors.journal.history import history_of
from seqtor.actors.journal.recovery import Recovery
from seqtor.messages.runs import RunsEnded
from tests.overtaking import Overtaking, any_order, balances

SEEDS = st.integers(0, 1 << 32)
COUNTS = st.integers(1, 60)
DISPLACEMENTS = st.sampled_from([0, 1, 3, 10, 100])


def require_recovered(world: Overtaking) -> None:
    """A process that starts now finds what was written, and verification finds nothing wrong."""
    left = world.crashed()
    recovery = Recovery(left, left.open())
    written = {row.seq for row in left.commits(1, 1 << 40)} | set(range(1, recovery.opened.commits_from))
    assert world.recovered(recovery) == world.expected(written)
    assert {record.run for record in recovery.open_accepted()} >= {record.run for record in recovery.sequenced.values()}
    findings = check_journal(left, recovery.opened)
    assert findings.damage == ()
    assert findings.commits_through + findings.ahead == len(written)
    durable = world.durable[-1] if world.durable else None
    if durable is not None:
        assert (durable.through, durable.count) == (recovery.through, len(written))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, count=COUNTS, displacement=DISPLACEMENTS)
def test_whatever_groups_are_on_disk_give_the_serial_state_and_what_overtook(
    seed: int, count: int, displacement: int
) -> None:
    chance = random.Random(seed)
    world = Overtaking()
    world.begin()
    order = any_order(chance, count, displacement)
    require_recovered(world)
    while order:
        size = chance.choice([1, 1, 2, 5, 20])
        now, order = order[:size], order[size:]
        world.tell(now)
        if chance.random() < 0.6:
            world.flush()
            require_recovered(world)
    world.flush()
    require_recovered(world)
    assert world.journal.durable_through == world.journal.durable_count == count


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, count=COUNTS, displacement=DISPLACEMENTS)
def test_a_process_goes_on_where_another_was_killed_with_checkpoints_and_trimming_between(
    seed: int, count: int, displacement: int
) -> None:
    chance = random.Random(seed)
    world = Overtaking()
    world.begin()
    order = any_order(chance, count, displacement)
    while order:
        size = chance.choice([1, 2, 5])
        now, order = order[:size], order[size:]
        world.tell(now)
        world.flush()
        deed = chance.random()
        if deed < 0.25:
            # Of any seq that was durable lately, as far as no other checkpoint is later.
            newest = max((info.seq for info in world.journal.checkpoints), default=0)
            info = world.checkpoint(chance.randint(newest, world.journal.durable_through))
            if info is not None and chance.random() < 0.5:
                world.backend.trim(info, chance.choice([1, 3, 1000]))
        elif deed < 0.5:
            world.backend = world.crashed()
            world.begin()
        require_recovered(world)
    assert world.journal.durable_count == count
    opened = world.crashed().open()
    assert (opened.commits_through, opened.gaps) == (count, ())


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, count=COUNTS, displacement=DISPLACEMENTS)
def test_an_actor_that_is_started_anew_writes_what_is_missing_and_binds_what_it_overtakes(
    seed: int, count: int, displacement: int
) -> None:
    chance = random.Random(seed)
    world = Overtaking()
    world.begin()
    order = any_order(chance, count, displacement)
    told = []
    while order:
        size = chance.choice([1, 2, 5])
        now, order = order[:size], order[size:]
        told.append(world.tell(now))
        if chance.random() < 0.5:
            world.flush()
        if chance.random() < 0.3:
            # Run by run, as the ledger keeps them: what each has overtaken is not said.
            world.restart([RunsEnded(runs=(run,), ended_at=5000.0) for message in told for run in message.runs])
            require_recovered(world)
    world.flush()
    require_recovered(world)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, count=st.integers(2, 60), displacement=DISPLACEMENTS)
def test_states_and_records_of_earlier_seqs_are_read_in_seq_order(seed: int, count: int, displacement: int) -> None:
    chance = random.Random(seed)
    world = Overtaking()
    world.begin()
    order = any_order(chance, count, displacement)
    while order:
        world.tell(order[:7])
        order = order[7:]
        world.flush()
        if chance.random() < 0.3:
            newest = max((info.seq for info in world.journal.checkpoints), default=0)
            if world.journal.durable_through > newest:
                world.checkpoint(chance.randint(newest + 1, world.journal.durable_through))
    left = world.crashed()
    history = history_of(left, left.open(), world.stores)
    for _ in range(5):
        seq = chance.randint(0, count)
        assert balances(history.states_at(seq)[0]) == world.state_after(range(1, seq + 1))
        first = chance.randint(1, count)
        last = chance.randint(first, count)
        assert [row.seq for row in history.rows(first, last)] == list(range(first, last + 1))
