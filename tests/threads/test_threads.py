"""Whoever goes first, the mailbox and the dispatchers keep their promises; and whoever breaks one is found."""

from __future__ import annotations

import pytest

from tests.threads import elastics, mailboxes, pools
from tests.threads.exploring import World, explore
from tests.threads.planted import PLANTED, Planted


@pytest.mark.parametrize(
    "world", [*mailboxes.WORLDS, *pools.WORLDS, *elastics.WORLDS], ids=lambda world: world.__name__
)
def test_a_promise_holds_whichever_thread_goes_first(world: type[World]) -> None:
    found = explore(world)
    assert found is None, f"{world.__doc__}\n{found}"


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.plant.name)
def test_a_planted_bug_of_threads_is_found(planted: Planted) -> None:
    assert explore(planted.by, planted.plant) is not None
