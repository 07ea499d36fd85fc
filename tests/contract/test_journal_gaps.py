"""What is recovered of commits that overtake lower seqs, and a row that is missing though others are gaps."""

from __future__ import annotations

import pytest

from seqtor.actors.journal.checking import check_journal
from seqtor.messages.errors import JournalCorrupted
from seqtor.testing.journals.overtaking import group, seqs_of
from tests.contract.journal_backends import BACKENDS, Reach
from tests.overtaking import Overtaking


@pytest.fixture(params=BACKENDS)
def reach(request: pytest.FixtureRequest) -> Reach:
    """How to reach this test's journal; there is none yet."""
    return BACKENDS[request.param](request)


def test_what_overtook_and_what_was_overtaken_is_recovered_and_goes_on(reach: Reach) -> None:
    world = Overtaking(reach())
    world.begin()
    for seqs in ([1, 3, 4], [6, 2], [8]):
        world.tell(seqs)
        world.flush()
    world.backend.close()
    world.backend = reach()
    recovery = world.begin()
    assert world.recovered(recovery) == world.expected({1, 2, 3, 4, 6, 8})
    info = world.checkpoint(4)
    assert info is not None
    while not world.backend.trim(info, 3):
        pass
    for seqs in ([7], [9, 5]):
        world.tell(seqs)
        world.flush()
        world.backend.close()
        world.backend = reach()
        recovery = world.begin()
        assert world.recovered(recovery) == world.expected(world.ended)
        assert check_journal(world.backend, recovery.opened).damage == ()
    world.backend.close()


def test_a_row_that_was_there_is_missing_though_others_are_gaps(request: pytest.FixtureRequest) -> None:
    reach = BACKENDS["sqlite"](request)
    backend = reach()
    backend.open()
    backend.append(group(1, 2, 4, 5, 6, late=(3,)))
    for seq, refused_at_open in ((5, True), (2, False)):
        backend._connection.execute(f"DELETE FROM commits WHERE seq = {seq}")  # type: ignore[attr-defined]
        backend.close()
        if refused_at_open:
            with pytest.raises(JournalCorrupted, match="its commits end at 4, but 5 were durable"):
                reach().open()
            restored = reach()
            restored._path.with_name("journal.db-owner").unlink()  # type: ignore[attr-defined]
            restored.open()
            restored.append(group(5))
            backend = restored
        else:
            again = reach()
            again.open()
            with pytest.raises(JournalCorrupted, match="seq 2 is missing"):
                seqs_of(again)
            again.close()
