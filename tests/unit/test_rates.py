"""`rate=`, and who is refused when the queue is full: what can wait waits, and others go on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pykka.messages import ProxyCall

from seqtor import Bundle, Overloaded, Priority, RegistrationError, State, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.rates import Bucket, Pace
from seqtor.actors.sequencer.actor import Sequencer
from seqtor.messages.runs import TokenDue
from tests.programs import WAIT_S, threaded

START_S = 1_700_000_000.0


class Slow(Trigger[float]):
    """Has a rate; answers when it had its seq."""

    number: int = 0


class Fast(Trigger[None]):
    """Has a higher one."""


class Other(Trigger[float]):
    """Has none."""


def make(
    rate: float = 10.0, backend: MemoryBackend | None = None, seed: int = 3, **settings: Any
) -> tuple[Supervisor, SimulatedDispatchers]:
    dispatchers = SimulatedDispatchers(seed)
    system = Supervisor(backend, dispatchers=lambda _: dispatchers, settings=settings)

    @system.on(Slow, rate=rate)
    def slow(trigger: Slow, tx: Transaction) -> float:
        return tx.now.timestamp() - START_S

    @system.on(Other)
    def other(trigger: Other, tx: Transaction) -> float:
        return tx.now.timestamp() - START_S

    return system, dispatchers


@pytest.mark.parametrize("rate", [0.5, 3, 10.0, 1_000.0])
def test_no_more_runs_begin_in_a_second_than_the_rate_says(rate: float) -> None:
    system, _ = make(rate)
    count = min(300, int(rate * 4) + 3)
    with system:
        times = [each.result(10_000) for each in [system.submit(Slow(number=number)) for number in range(count)]]
    assert times == sorted(times)
    burst = max(1.0, rate * 0.1)
    assert times[-1] == pytest.approx((count - burst) / rate, abs=2 / rate)
    for index, start in enumerate(times):
        assert sum(start <= each < start + 1 for each in times[index:]) <= rate + burst + 1


def test_others_go_before_those_that_have_used_up_their_rate() -> None:
    system, dispatchers = make(1.0)
    with system:
        slow = [system.submit(Slow(number=number), priority=Priority.URGENT) for number in range(3)]
        others = [system.submit(Other()) for _ in range(100)]
        dispatchers.run_to_rest()
        assert [each.result(0) for each in others] == [0.0] * 100
        stats = system.stats()
        assert (stats.queued, stats.state_counts[State.QUEUED]) == (2, 2)
        assert [each.result(60) for each in slow] == [0, pytest.approx(1), pytest.approx(2)]


def test_by_priority_then_event_also_among_those_with_a_rate() -> None:
    system, dispatchers = make(1.0)
    with system:
        first = system.submit(Slow())
        dispatchers.run_to_rest()
        low = system.submit(Slow(number=1), priority=Priority.LOW)
        normal = [system.submit(Slow(number=number)) for number in (2, 3)]
        high = system.submit(Slow(number=4), priority=Priority.HIGH)
        assert low.result(60) > 0
        assert [each.seq for each in (first, high, *normal, low)] == [1, 2, 3, 4, 5]


def test_a_cancelled_trigger_uses_no_token() -> None:
    system, dispatchers = make(1.0)
    with system:
        submissions = [system.submit(Slow(number=number)) for number in range(4)]
        dispatchers.run_to_rest()
        assert submissions[1].cancel()
        assert submissions[3].cancel()
        assert submissions[2].result(60) == pytest.approx(1)


def test_a_system_without_work_sets_no_timer_for_a_rate() -> None:
    system, dispatchers = make(1.0)
    with system:
        for number in range(2):
            system.submit(Slow(number=number)).result(60)
        dispatchers.run_to_rest()
        while dispatchers._pass_time():
            dispatchers.run_to_rest()
        assert dispatchers.clock.monotonic() < 5


@pytest.mark.parametrize("twice", [False, True])
def test_there_is_one_timer_however_often_an_earlier_token_is_waited_for(
    twice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, dispatchers = make(rate=0.5)
    due: list[float] = []
    on_token_due = Sequencer.on_token_due

    def noted(sequencer: Sequencer, message: TokenDue) -> None:
        due.append(dispatchers.clock.monotonic())
        on_token_due(sequencer, message)
        if twice and len(due) % 3 == 0:
            sequencer.tell_self(message)

    monkeypatch.setitem(Sequencer._methods, TokenDue, noted)

    @system.on(Fast, rate=10.0)
    def fast(trigger: Fast, tx: Transaction) -> None: ...

    with system:
        slow = [system.submit(Slow(number=number)) for number in range(40)]
        for _ in range(20):
            system.submit_many([Fast()] * 3)
            dispatchers.run_for(3.0)
        before = len(due)
        dispatchers.run_for(10.0)
        assert len(due) - before <= (5 + 1) * (2 if twice else 1), "one for each token"
        for each in slow:
            each.result(WAIT_S)


def test_a_crash_of_the_core_makes_no_burst() -> None:
    system, dispatchers = make(1.0)
    with system:
        submissions = [system.submit(Slow(number=number)) for number in range(5)]
        submissions[1].result(60)
        running: Any = system._running
        crash = ProxyCall(attr_path=("on_stop",), args=("one too many",), kwargs={})
        running._path.sequencer_ref.actor_inbox.put(crash)
        dispatchers.run_to_rest()
        assert system.stats().restarts == 1
        assert submissions[4].result(60) == pytest.approx(4)


def test_a_rate_on_real_threads_is_kept_by_a_timer() -> None:
    system = threaded(2)

    @system.on(Slow, rate=50)
    async def slow(trigger: Slow, tx: Transaction) -> float:
        return tx.now.timestamp()

    with system:
        times = [each.result(WAIT_S) for each in [system.submit(Slow(number=number)) for number in range(15)]]
    assert times[-1] - times[0] >= 10 / 50 - 0.001


def test_a_stop_lets_those_run_whose_rate_allows_it_within_the_grace() -> None:
    system, _ = make(1.0)
    system.start()
    submissions = [system.submit(Slow(number=number)) for number in range(3)]
    system.stop(10)
    assert [each.result(0) for each in submissions] == [0, pytest.approx(1), pytest.approx(2)]


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan"), "1", True])
def test_a_rate_that_cannot_be_meant_is_refused(rate: Any) -> None:
    for place in (Supervisor(), Bundle()):
        with pytest.raises(
            RegistrationError, match="rate= of the handler of Slow is how many runs may begin in a second"
        ):
            place.on(Slow, rate=rate)(lambda trigger, tx: 0.0)


@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=60), st.floats(0.1, 100))
def test_a_bucket_gives_what_its_rate_says(steps: list[tuple[float, bool]], rate: float) -> None:
    bucket, now, taken = Bucket(rate), 100.0, 0
    bucket.refill(now)
    for wait_s, exactly in steps:
        now += bucket.next_s if exactly else wait_s
        bucket.refill(now)
        assert not exactly or bucket.has_token
        if bucket.has_token:
            bucket.take()
            taken += 1
        assert taken <= (now - 100.0) * rate + max(1.0, rate * 0.1) + 0.001


def test_the_pace_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    assert pace.per_second(0, 0) is None
    for tick in range(40):
        pace.note(tick * 0.5, tick * 50)
    assert pace.per_second(20.0, 2_000) == pytest.approx(100)
    assert pace.per_second(40.0, 2_000) is None
    pace.note(50.0, 3)  # The next sequencer counts anew.
    assert pace.per_second(51.0, 5) == 2


def test_a_sequencer_that_counts_anew_is_not_held_against_the_one_before() -> None:
    pace = Pace()
    pace.note(0.0, 100)
    pace.note(0.5, 150)
    pace.note(1.0, 3)
    assert pace.per_second(2.0, 203) == pytest.approx(200)


def test_a_moment_that_has_passed_takes_no_token_back() -> None:
    bucket = Bucket(1.0)
    bucket.refill(10.0)
    bucket.refill(9.0)
    assert bucket.has_token


# Who is refused -----------------------------------------------------------------------------------------------------------


def submit_until_refused(system: Supervisor, priority: Priority) -> tuple[int, Overloaded]:
    for taken in range(1_000):
        try:
            system.tell(Other(), priority=priority)
        except Overloaded as refusal:
            return taken, refusal
    raise AssertionError("nothing was refused")


def test_low_is_refused_first_and_urgent_last() -> None:
    system, _ = make(max_queued=100)
    with system:
        counts = {}
        for priority in reversed(Priority):
            counts[priority], refusal = submit_until_refused(system, priority)
            share = {
                Priority.LOW: "LOW may fill 75",
                Priority.HIGH: "HIGH may fill 105",
                Priority.URGENT: "may fill 110",
            }
            assert share.get(priority, "max_queued is 100,") in str(refusal)
        assert counts == {Priority.LOW: 75, Priority.NORMAL: 25, Priority.HIGH: 5, Priority.URGENT: 5}
    assert system.stats().state_counts[State.COMMITTED] >= 110


def test_a_batch_counts_as_its_least_urgent() -> None:
    system, _ = make(max_queued=100)

    @system.on(Quiet)
    def quiet(trigger: Quiet, tx: Transaction) -> None:
        return None

    with system:
        system.submit_many([Other()] * 70)
        with pytest.raises(Overloaded, match="LOW may fill 75"):
            system.submit_many([Other(), Other(), Other(), Other(), Other(), Quiet()])
        system.submit_many([Other()] * 6)


class Quiet(Trigger[None]):
    """Can wait."""

    priority = Priority.LOW


def test_who_is_refused_is_told_when_to_come_back_by_the_pace_of_late() -> None:
    system, dispatchers = make(10.0, max_queued=20)
    with system:
        for number in range(20):
            system.tell(Slow(number=number))
        dispatchers.run_until(lambda: system.stats().queued <= 10, 60)
        for number in range(20 - system.stats().queued):
            system.tell(Slow(number=number))
        with pytest.raises(Overloaded) as caught:
            system.submit_many([Slow()] * 5)
        assert caught.value.retry_after == pytest.approx(0.5, rel=0.6)
