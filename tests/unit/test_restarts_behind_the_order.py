"""Restarts behind the commit order, of the journal's actor and the effects': nothing is told twice or left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from seqtor import EffectContext, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.effects import Effects
from seqtor.actors.journal.actor import Journal
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages.effects import CarryOut
from seqtor.messages.journal import AppendEntry, AppendIntake
from seqtor.messages.records import EffectRecord
from seqtor.messages.runs import RunsEnded
from tests.programs import Account, Accounts, Deposit, open_bank

SECONDS = 60


class Boom(Exception):
    """What goes wrong in these tests."""


class Place(Trigger[None]):
    """Has an effect."""

    number: int = 1


class Placed(Trigger[int]):
    """What the effect returns: at which try."""

    tries: int


def opened() -> tuple[Supervisor, SimulatedDispatchers, MemoryBackend, Accounts]:
    backend, dispatchers = MemoryBackend(), SimulatedDispatchers(0)
    system = Supervisor(backend, dispatchers=lambda _: dispatchers)
    return system, dispatchers, backend, open_bank(system)


def let_pass(dispatchers: SimulatedDispatchers, seconds: float) -> None:
    until = dispatchers.clock.monotonic() + seconds
    dispatchers.run_until(lambda: dispatchers.clock.monotonic() >= until, seconds)
    dispatchers.run_to_rest()


def with_effect(system: Supervisor, accounts: Accounts, place: Any) -> None:
    @system.on(Place)
    def on_place(trigger: Place, tx: Transaction) -> None:
        tx[accounts][f"order {trigger.number}"] = Account()
        tx.effect(place, trigger)

    @system.on(Placed)
    def on_placed(trigger: Placed, tx: Transaction) -> int:
        tx[accounts]["placed"] = Account(balance=trigger.tries)
        return trigger.tries


def test_what_an_effect_does_on_the_loop_is_cancelled_when_the_effects_actor_is_restarted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the new instance would begin it beside the old one's try."""
    system, dispatchers, _, accounts = opened()
    begun: list[int] = []
    cancelled: list[int] = []
    ended: list[int] = []

    @system.effect("place")
    async def place(context: EffectContext, order: Place) -> None:
        begun.append(order.number)
        try:
            await asyncio.sleep(SECONDS)
        except asyncio.CancelledError:
            cancelled.append(order.number)
            raise
        ended.append(order.number)

    with_effect(system, accounts, place)
    with system:
        system.ask(Place(number=1))
        while not begun:
            dispatchers.step()
        carry_out, crashes = Effects._methods[CarryOut], []

        def crash_once(self: Any, message: Any) -> Any:
            if not crashes:
                crashes.append(1)
                raise Boom
            return carry_out(self, message)

        monkeypatch.setitem(Effects._methods, CarryOut, crash_once)
        system.ask(Place(number=2))
        while len(begun) < 3:
            dispatchers.step()
        dispatchers.run_to_rest()
        assert (crashes, cancelled, ended) == ([1], [1], [])
        let_pass(dispatchers, 2 * SECONDS)
        assert sorted(ended) == [1, 2], "each effect was carried out to its end once"


def test_all_that_had_ended_and_was_not_settled_is_told_to_a_journal_that_is_restarted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The journal had taken three messages and written none; the coordinator had not come to them either."""
    system, dispatchers, _, accounts = opened()
    with system:
        running: Any = system._running
        ledger = running._ledger
        with monkeypatch.context() as late:
            late.setitem(Coordinator._methods, RunsEnded, lambda self, message: None)
            late.setattr(Journal, "on_batch_end", lambda self: None)
            deposits = []
            for count in range(1, 4):
                deposits.append(system.submit(Deposit()))
                while len(ledger.unsettled) < count or len(running.journal.actor._runs) < count:
                    dispatchers.step()
        [group] = [each for each in running._root.groups if each.name == "the journal"]
        for ref in group.refs:
            ref.suspend()
        group.restart(None)
        assert [deposit.result() for deposit in deposits] == [1, 2, 3]
        assert [record.seq for record in system.commits()] == [3, 2, 1]
        assert system.snapshot()[accounts]["alice"].balance == 3


def test_the_end_of_an_effect_that_waits_for_a_journal_that_crashes_is_not_written_beside_the_next_one() -> None:
    """The effects' actor begins the effect anew; what is recorded must be what the try returned that counted."""
    system, dispatchers, backend, accounts = opened()
    tries: list[int] = []

    @system.effect("place")
    def place(context: EffectContext, order: Place) -> Placed:
        tries.append(order.number)
        return Placed(tries=len(tries))

    with_effect(system, accounts, place)
    with system:
        system.ask(Place())
        inbox: Any = system._running.journal.ref.actor_inbox  # type: ignore[union-attr]
        while not any(is_end_of_effect(message) for message in inbox._queue):
            dispatchers.step()
        inbox.put_first(AppendIntake(submissions=None))  # type: ignore[arg-type]
        let_pass(dispatchers, SECONDS)
        assert system.tree()["journal"].restarts == 1
        assert len(tries) == 2
        [entry] = [row for row in backend._entries if row.kind == "effect"]
        assert '"payload":{"tries":2}' in entry.body
        assert system.snapshot()[accounts]["placed"].balance == 2


def is_end_of_effect(message: Any) -> bool:
    return isinstance(message, AppendEntry) and isinstance(message.record, EffectRecord)
