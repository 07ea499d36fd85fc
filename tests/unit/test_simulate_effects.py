"""`simulate` plays programs whose effects fail: their next tries come in virtual time, and are no bug."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from seqtor import EffectContext, Retry, Supervisor, Transaction, Trigger
from seqtor.actors.effects.actor import Effects, Stage
from seqtor.testing.simulating.playing import Played
from seqtor.testing.simulating.searching import Program
from seqtor.testing.simulating.telling import told

SEEDS = 4
TRIGGERS = 8
TRIES = 3
MANY = 50


class Order(Trigger[None]):
    symbol: str


def work(source: random.Random) -> Iterator[Order]:
    while True:
        yield Order(symbol=source.choice("ab"))


def shop(retry: Retry, place: Callable[[EffectContext], None]) -> Callable[[], Supervisor]:
    def make() -> Supervisor:
        system = Supervisor()

        @system.effect("place", retry=retry)
        def placed(context: EffectContext, symbol: str) -> None:
            place(context)

        @system.on(Order)
        def order(trigger: Order, tx: Transaction) -> None:
            tx.effect(placed, trigger.symbol)

        return system

    return make


def played(retry: Retry, place: Callable[[EffectContext], None]) -> Iterator[Played]:
    program = Program(shop(retry, place), work, triggers=TRIGGERS)
    for seed in range(SEEDS):
        yield program.play(program.plan(seed)._replace(faults=()))


def refuse(_: EffectContext) -> None:
    raise ConnectionError("the exchange is away")


@pytest.mark.parametrize("backoff", [1, 60])
def test_an_effect_that_fails_once_is_tried_again_in_virtual_time(backoff: int) -> None:
    begun: list[tuple[int, int]] = []

    def place(context: EffectContext) -> None:
        begun.append((context.seq, context.attempt))
        if context.attempt == 1:
            raise ConnectionError("the exchange is away")

    for history in played(Retry(5, backoff=backoff, jitter=0), place):
        assert history.violations == ()
        assert sorted(begun) == [(seq, attempt) for seq in sorted(history.evidence.ended) for attempt in (1, 2)]
        begun.clear()


def test_an_effect_that_fails_for_ever_is_a_dead_letter_and_nothing_is_found() -> None:
    for history in played(Retry(TRIES, backoff=30, jitter=0), refuse):
        assert history.violations == ()
        assert len(history.evidence.effects) == TRIGGERS
        lines = list(told(history))
        assert lines.count("   seq 1: effect 0 (place) is carried out") == TRIES
        assert all(len(begun) == TRIES for begun in history.evidence.effects.values())


def test_an_effect_that_is_still_to_be_tried_again_when_the_history_ends_is_no_bug() -> None:
    for history in played(Retry(MANY, backoff=86_400, backoff_max=86_400, jitter=0), refuse):
        assert history.violations == ()
        assert all(1 <= len(begun) < MANY for begun in history.evidence.effects.values())


def test_an_effect_that_waits_without_a_time_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(self: Effects, opened: Any, failure: Any) -> None:
        opened.stage = Stage.WAITING

    monkeypatch.setattr(Effects, "_wait", wait)
    history = next(played(Retry(5, backoff=1, jitter=0), refuse))
    assert [each.checker for each in history.violations] == ["effects"] * TRIGGERS
    assert "its end is not recorded" in history.violations[0].text


def test_what_crashes_and_dies_does_not_matter_to_effects_that_fail_once() -> None:
    def place(context: EffectContext) -> None:
        if context.attempt == 1:
            refuse(context)

    program = Program(shop(Retry(5, backoff=60, jitter=0), place), work, triggers=TRIGGERS)
    simulated = [program.simulate(seed) for seed in range(3 * SEEDS)]
    assert [each.violations for each in simulated if each.violations] == []
    assert any(each.crashes for each in simulated)
    assert any(each.processes > 1 for each in simulated)
