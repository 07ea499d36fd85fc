"""`sequence="completion"`: work that takes long executes outside of the order and gets its seq when it is done."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from seqtor import (
    Access,
    Bundle,
    Cancelled,
    Collection,
    DeadlineExceeded,
    HandlerFailed,
    Record,
    RegistrationError,
    Rejected,
    Retry,
    State,
    StoreActor,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
)
from seqtor.actors import Checkpoint
from seqtor.actors.deferrals import DEFERRALS_MAX
from tests.programs import WAIT_S, Gate, simulated, threaded


class Number(Record):
    """What is in the collections."""

    n: int = 0


class Tick(Trigger[int | None]):
    """Counts a key up, at once."""

    key: str = "price"


class Consult(Trigger[Any]):
    """The agent's work; what it does is the test's."""

    key: str = "price"


class Desk:
    """A system with a price, what an agent decides, and how often it was asked what."""

    def __init__(self, system: Supervisor) -> None:
        self.system = system
        self.prices = system.store("prices", Collection(Number, initial={"price": Number()}))
        self.decisions = system.store("decisions", Collection(Number))
        self.asked: Counter[Any] = Counter()
        self.inputs: list[Any] = []
        self.seconds = 1.0

        @system.on(Tick)
        def tick(trigger: Tick, tx: Transaction) -> int | None:
            n = tx[self.prices].get(trigger.key, Number()).n + 1
            tx[self.prices][trigger.key] = Number(n=n)
            return tx.seq

    async def model(self, question: int) -> int:
        self.asked[question] += 1
        await asyncio.sleep(self.seconds)
        return question * 10

    def plain_model(self, question: int) -> int:
        self.asked[question] += 1
        return question * 10

    def price(self, tx: Transaction) -> int:
        return tx[self.prices]["price"].n

    def consult(self, **fields: Any) -> Submission[Any]:
        """Hand one in and let it come as far as it comes while time stands still; for simulated systems."""
        submission = self.system.submit(Consult(**fields))
        self.driver.run_to_rest()
        return submission

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.driver.run_until(lambda: False, seconds)

    @property
    def driver(self) -> Any:
        return self.system._running._dispatchers  # type: ignore[union-attr]

    def agent(self, work: Callable[..., Any], **options: Any) -> None:
        self.system.on(Consult, sequence="completion", **options)(work)


def make_desk(**options: Any) -> Desk:
    return Desk(simulated(1, **options))


def test_an_agent_whose_price_changes_200_times_a_second_commits_at_its_second_try() -> None:
    desk = make_desk()

    async def consult(trigger: Consult, tx: Transaction) -> Any:
        assert tx.seq is None
        answer = await tx.acall(desk.model, tx.peek(desk.prices)["price"].n)
        assert tx.seq is None
        tx[desk.decisions]["decision"] = Number(n=answer)
        return tx.attempt, answer, tx.changed(desk.prices, "price"), desk.price(tx)

    desk.agent(consult)
    with desk.system as system:
        submission = desk.consult()
        for _ in range(200):
            system.ask(Tick())
            desk.wait(0.005)
        result = submission.result()
        assert result[0] <= 2
        assert result[1:3] == (0, True)
        assert result[3] >= 199
        record = system.record(submission.seq)
    assert desk.asked == {0: 1}
    assert record is not None
    assert (record.state, record.seq) == (State.COMMITTED, submission.seq)


def test_on_real_threads_an_agent_beside_a_changing_price_commits_and_holds_up_nobody() -> None:
    desk = Desk(threaded())
    desk.seconds = 0.2

    async def consult(trigger: Consult, tx: Transaction) -> Any:
        answer = await tx.acall(desk.model, tx.peek(desk.prices)["price"].n)
        tx[desk.decisions][trigger.key] = Number(n=answer)
        return tx.attempt, desk.price(tx)

    desk.agent(consult)
    with desk.system as system:
        agents = [system.submit(Consult(key=str(number))) for number in range(10)]
        ticks = 0
        while not all(agent.done for agent in agents):
            seq = system.ask(Tick(), timeout=WAIT_S)
            ticks += 1
            assert seq is not None
        attempts = [agent.result(WAIT_S)[0] for agent in agents]
        assert system.verify().executed == ticks + 10
    assert ticks > 20, "the price went on while the agents thought"
    assert max(attempts) <= 3
    assert sum(desk.asked.values()) == 10


def test_a_plain_handler_outside_takes_no_slot_of_the_pool() -> None:
    desk, gate = Desk(threaded(threads=2)), Gate()

    def consult(trigger: Consult, tx: Transaction) -> int:
        gate.pass_through()
        tx[desk.decisions][trigger.key] = Number(n=1)
        return tx.attempt

    desk.agent(consult)
    with desk.system as system:
        agents = [system.submit(Consult(key=str(number))) for number in range(8)]
        gate.await_arrivals(8)
        assert [agent.state for agent in agents] == [State.RUNNING] * 8
        assert [agent.seq for agent in agents] == [None] * 8
        for number in range(100):
            assert system.ask(Tick(), timeout=WAIT_S) == number + 1
        stats = system.stats()
        assert (stats.outside, stats.in_flight, stats.state_counts[State.RUNNING]) == (8, 0, 8)
        gate.open()
        assert [agent.result(WAIT_S) for agent in agents] == [1] * 8
        assert system.stats().outside == 0


def test_what_it_did_not_read_may_change_and_it_commits_at_its_first_attempt() -> None:
    desk = make_desk()

    async def consult(trigger: Consult, tx: Transaction) -> Any:
        before = tx[desk.prices].get("quiet", Number()).n
        await tx.acall(desk.model, before)
        return tx.attempt, tx.peek(desk.prices)["price"].n

    desk.agent(consult)
    with desk.system as system:
        submission = desk.consult()
        for _ in range(50):
            system.ask(Tick())
        assert submission.result() == (1, 0)
        assert submission.seq == 51


def test_reads_older_than_all_that_is_remembered_hold_if_their_keys_do() -> None:
    desk = Desk(simulated(2, settings={"max_in_flight": 1}))  # So that 1,025 seqs are remembered.

    async def consult(trigger: Consult, tx: Transaction) -> Any:
        before = desk.price(tx) if trigger.key == "price" else tx[desk.prices].get(trigger.key)
        await tx.acall(desk.model, 1)
        return tx.attempt, before

    desk.agent(consult)
    with desk.system as system:
        system.ask(Tick())
        for key, attempts in (("quiet", 1), ("price", 2)):
            submission = desk.consult(key=key)
            for _ in range(1100):
                system.ask(Tick())
            assert submission.seq is None
            assert submission.result()[0] == attempts
            assert system.ask(Tick()) is not None


def test_what_is_executed_again_makes_no_call_and_sees_the_same_inputs() -> None:
    desk = make_desk()
    seen: list[Any] = []

    async def consult(trigger: Consult, tx: Transaction) -> int:
        inputs = (tx.now, tx.random.random(), tx.uuid4(), tx.peek(desk.prices)["price"].n, tx.seq)
        first = await tx.acall(desk.model, tx.peek(desk.prices)["price"].n)
        second = await tx.acall(desk.model, first + 1)
        seen.append((*inputs, first, second))
        return desk.price(tx)

    desk.agent(consult)
    with desk.system as system:
        submission = desk.consult()
        while not submission.done:
            system.ask(Tick())
            desk.wait(0.4)
        submission.result()
    assert desk.asked == {0: 1, 1: 1}
    assert len(set(seen)) == 1


def asks_about_what_it_reads(desk: Desk) -> Callable[..., Any]:
    async def consult(trigger: Consult, tx: Transaction) -> Any:
        desk.inputs.append((tx.peek(desk.prices)["price"].n, tx.now, tx.random.random(), tx.uuid4()))
        price = desk.price(tx)
        answer = await tx.acall(desk.model, price)
        tx[desk.decisions]["decision"] = Number(n=answer)
        return price

    return consult


def test_a_run_that_needs_another_answer_goes_on_outside_and_comes_back_with_a_new_seq() -> None:
    desk = make_desk()
    desk.agent(asks_about_what_it_reads(desk))
    with desk.system as system:
        submission = desk.consult()
        system.ask(Tick())
        assert submission.result() == 1
        assert (submission.seq, submission.state) == (3, State.COMMITTED)
        deferred = system.record(2)
        assert deferred is not None
        assert (deferred.state, deferred.attempts, deferred.id, deferred.durable) == (
            State.DEFERRED, 2, submission.id, True,
        )  # fmt: skip
        assert "not recorded" in str(deferred.error)
        assert "model" in str(deferred.error)
        counts = system.stats().state_counts
        assert counts == {State.COMMITTED: 2, State.DEFERRED: 1}
        report = system.verify()
        assert (report.executed, report.skipped) == (2, {"deferred": 1})
        with pytest.raises(LookupError, match="deferred"):
            system.abort(2, "too late")
        inputs = desk.inputs[:3]  # Outside, with the first seq, and outside again; then those of the replay.
        assert len(set(inputs)) == 1
    assert desk.asked == {0: 1, 1: 1}


def test_after_so_many_deferrals_it_ends_as_failed_and_says_what_to_change() -> None:
    desk = make_desk()
    desk.agent(asks_about_what_it_reads(desk))
    with desk.system as system:
        submission = desk.consult()
        while not submission.done:
            system.ask(Tick())
            desk.wait(0.4)
        with pytest.raises(HandlerFailed, match=r"deferred 5 times.*tx\.peek"):
            submission.result()
        assert system.stats().state_counts[State.DEFERRED] == DEFERRALS_MAX
        (letter,) = system.dead_letters()
        assert letter.seq == submission.seq
        assert system.verify().skipped == {"deferred": DEFERRALS_MAX + 1}
    assert max(desk.asked.values()) == 1


def test_a_retry_of_a_completion_run_is_one_too() -> None:
    desk = make_desk()

    async def consult(trigger: Consult, tx: Transaction) -> str:
        await tx.acall(desk.model, 1)
        if len(desk.asked) and desk.asked[1] < 3:
            raise ValueError("not yet")
        return str(tx.seq)

    desk.agent(consult, retry=Retry(3, backoff=0.01))
    with desk.system as system:
        submission = desk.consult()
        assert submission.result() == "None"
        assert [record.state for record in system.runs()] == [State.COMMITTED, State.RETRYING, State.RETRYING]


def test_a_rejection_from_a_stale_snapshot_is_a_conflict() -> None:
    desk = make_desk()

    async def consult(trigger: Consult, tx: Transaction) -> int:
        price = tx[desk.prices].get(trigger.key, Number()).n
        await tx.acall(desk.model, 0)
        if price == 0:
            raise Rejected("no price yet")
        return price

    desk.agent(consult)
    with desk.system as system:
        submission = desk.consult()
        system.ask(Tick())
        assert submission.result() == 1
        rejected = desk.consult(key="new")
        with pytest.raises(Rejected):
            rejected.result()


def test_past_its_deadline_a_run_outside_ends_with_a_seq() -> None:
    desk = make_desk()

    async def consult(trigger: Consult, tx: Transaction) -> int:
        price = desk.price(tx)
        if price == 0 or trigger.key == "late":
            await asyncio.sleep(60)
        return price

    desk.agent(consult, deadline=10)
    with desk.system as system:
        late = desk.consult(key="late")
        with pytest.raises(DeadlineExceeded, match="in run"):
            late.result()
        assert late.seq == 1
        stale = desk.consult()
        system.ask(Tick())
        assert stale.result() == 1, "it had read what has changed, so it is executed again with its seq"


def test_a_plain_handler_past_its_deadline_is_counted_as_stuck() -> None:
    desk, gate = Desk(threaded()), Gate()

    def consult(trigger: Consult, tx: Transaction) -> None:
        gate.pass_through()

    desk.agent(consult, deadline=0.05)
    with desk.system as system:
        with pytest.raises(DeadlineExceeded):
            system.ask(Consult(), timeout=WAIT_S)
        assert (system.stats().threads_stuck, system.stats().threads_replaced) == (1, 1)
        gate.open()
        assert system.ask(Tick(), timeout=WAIT_S) == 2


def test_agents_beyond_the_slots_wait_and_hold_up_nobody() -> None:
    desk = Desk(simulated(3, settings={"max_in_flight": 2}))

    async def consult(trigger: Consult, tx: Transaction) -> int:
        return await tx.acall(desk.model, int(trigger.key))

    desk.agent(consult)
    with desk.system as system:
        agents = [system.submit(Consult(key=str(number))) for number in range(5)]
        assert system.ask(Tick()) == 1
        stats = system.stats()
        assert (stats.outside, stats.queued, stats.in_flight) == (2, 3, 0)
        assert [agent.result() for agent in agents] == [0, 10, 20, 30, 40]


def test_a_stop_waits_for_agents_and_one_without_grace_answers_them() -> None:
    desk = make_desk()

    async def consult(trigger: Consult, tx: Transaction) -> int:
        return await tx.acall(desk.model, 7)

    desk.agent(consult)
    with desk.system:
        submission = desk.consult()
    assert submission.result() == 70

    second = make_desk()
    second.agent(consult)
    second.system.start()
    left = second.consult()
    second.system.ask(Tick())
    second.system.stop(grace=0.0)
    assert left.state is State.ABORTED


def test_an_abort_of_an_agent_with_a_seq_ends_it() -> None:
    desk = make_desk()
    reached = threading.Event()

    async def consult(trigger: Consult, tx: Transaction) -> int:
        price = desk.price(tx)
        if price:
            reached.set()
            await asyncio.sleep(5)
        else:
            await tx.acall(desk.model, 1)
        return price

    desk.agent(consult)
    with desk.system as system:
        submission = desk.consult()
        system.ask(Tick())
        desk.driver.run_until(reached.is_set, None)
        assert submission.seq == 2
        system.abort(2, "no")
        assert system.ask(Tick()) == 3
        assert submission.state is State.ABORTED


def test_an_agent_that_is_cancelled_outside_ends_what_executes_it_and_leaves_no_seq() -> None:
    desk = make_desk()
    left: list[str] = []

    async def consult(trigger: Consult, tx: Transaction) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            left.append(trigger.key)

    desk.agent(consult)
    with desk.system as system:
        submission = desk.consult()
        assert submission.cancel()
        assert submission.cancel()
        desk.driver.run_to_rest()
        assert left == ["price"]
        with pytest.raises(Cancelled):
            submission.result()
        assert system.stats().outside == 0
        assert system.ask(Tick()) == 1
        assert submission.seq is None


class Log(StoreActor[tuple[str, ...], Any]):
    """A store that does not say what it holds under a key."""

    dispatcher = "core"

    def recover(self, checkpoint: Checkpoint | None) -> tuple[str, ...]:
        return ()

    @staticmethod
    def fold(state: tuple[str, ...], writes: Any) -> tuple[str, ...]:
        return (*state, *[write.key for write in writes])

    @staticmethod
    def view(access: Access[tuple[str, ...]]) -> Access[tuple[str, ...]]:
        return access


class Note(Trigger[None]):
    """Writes a key of the log, and the price."""

    key: str


def test_changed_is_known_of_a_store_that_does_not_say_what_it_holds() -> None:
    desk = make_desk()
    log = desk.system.store("log", Log.spec())

    @desk.system.on(Note)
    def write(trigger: Note, tx: Transaction) -> None:
        tx[log].write(trigger.key, 1)
        tx[desk.prices]["price"] = Number(n=desk.price(tx) + 1)

    async def consult(trigger: Consult, tx: Transaction) -> Any:
        price = desk.price(tx)
        await tx.acall(desk.model, 1)
        return price, tx.changed(log, "a"), tx.changed(log, "b"), len(tx.peek(log).state)

    desk.agent(consult)
    with desk.system as system:
        system.ask(Note(key="b"))
        submission = desk.consult()
        system.ask(Note(key="a"))
        assert submission.result() == (2, True, False, 1)
        assert system.verify().executed == 3


def test_what_is_no_way_to_get_a_seq_is_refused_at_registration() -> None:
    system, bundle = Supervisor(), Bundle()
    wrong: Any = "later"
    for registrar in (system, bundle):
        with pytest.raises(RegistrationError, match=r'sequence=.*"arrival".*"completion".*\'later\''):

            @registrar.on(Consult, sequence=wrong)
            def consult(trigger: Consult, tx: Transaction) -> None:
                """Nothing."""


def test_a_bundle_carries_the_option_and_the_default_deadline_is_longer() -> None:
    bundle, system = Bundle(), Supervisor(settings={"deadline": 2})

    @bundle.on(Consult, sequence="completion")
    def consult(trigger: Consult, tx: Transaction) -> None:
        assert tx.seq is None

    system.include(bundle)
    (handler,) = [each for each in system._handlers if each.trigger_type is Consult]
    assert (handler.by_completion, handler.deadline_s) == (True, 300.0)
    with system:
        system.ask(Consult())


def test_a_pinned_snapshot_holds_nothing_that_was_published_since() -> None:
    desk = make_desk()

    async def consult(trigger: Consult, tx: Transaction) -> None:
        await tx.acall(desk.model, 1)

    desk.agent(consult)
    with desk.system as system:
        submission = desk.consult()
        system.ask(Tick())
        run: Any = submission.run
        assert run.pinned is run.first_snapshot
        assert run.pinned.next is None
        submission.result()
