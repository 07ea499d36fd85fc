"""`seqtor.testing.run`: a system's registrations in memory, on one thread, in virtual time."""

from __future__ import annotations

import asyncio
import datetime
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pykka
import pytest

from seqtor import (
    Access,
    ChildSpec,
    Collection,
    EffectContext,
    Facts,
    HandlerFailed,
    Record,
    Rejected,
    Retry,
    StoreActor,
    Supervisor,
    Transaction,
    Trigger,
    on_cron,
    on_event,
)
from seqtor.actors.dispatchers.simulated import NothingCanHappen
from seqtor.messages.stores import Checkpoint, Commit, Write
from seqtor.testing import Leaked, NotSettled, SeqtorRun, call, run, running


class Count(Record):
    n: int = 0


class Add(Trigger[int]):
    by: int = 1


class Sleep(Trigger[float]):
    seconds: float


class Flaky(Trigger[int]):
    until: int


class Tick(Trigger[None]): ...


class Hang(Trigger[None]): ...


class Later(Trigger[None]): ...


system = Supervisor("this/folder/is/not/there.db")
counts = system.store("counts", Collection(Count, initial={"x": Count(n=1)}))
outside: dict[str, list[Any]] = {"mail": [], "tries": []}


@system.on(Add)
def add(trigger: Add, tx: Transaction) -> int:
    n = tx[counts]["x"].n + trigger.by
    tx[counts]["x"] = Count(n=n)
    tx.emit("added", {"by": trigger.by})
    tx.effect(mail, n)
    return n


@system.on(Sleep, deadline=1000)
async def sleep(trigger: Sleep, tx: Transaction) -> float:
    await asyncio.sleep(trigger.seconds)
    return tx.now.timestamp()


@system.on(Flaky, retry=Retry(3, backoff=10, jitter=0))
def flaky(trigger: Flaky, tx: Transaction) -> int:
    outside["tries"].append(tx.now)
    if len(outside["tries"]) < trigger.until:
        raise ConnectionError("down")
    return len(outside["tries"])


@system.on(Tick)
def tick(trigger: Tick, tx: Transaction) -> None:
    tx[counts].increment("ticks", n=1)


@system.on(Hang, deadline=1000)
async def hang(trigger: Hang, tx: Transaction) -> None:
    await asyncio.get_running_loop().create_future()


@system.on(Later)
def later(trigger: Later, tx: Transaction) -> None:
    tx.submit(Add(by=7), delay=30)


@system.effect("mail", retry=Retry(2, backoff=5, jitter=0))
def mail(context: EffectContext, n: int) -> Trigger[Any] | None:
    outside["mail"].append(n)
    if n == 13 and context.attempt == 1:
        raise ConnectionError("down")
    return None


@system.when(on_event("added", {"by": 3}))
def add_more(facts: Facts) -> Trigger[Any]:
    return Add(by=100)


@system.when(on_cron("0 9 * * *", "Europe/Berlin"))
def every_morning(facts: Facts) -> Trigger[Any]:
    return Tick()


hourly = system.schedule(Tick(), every=3600, name="hourly")


@pytest.fixture(autouse=True)
def nothing_outside() -> None:
    for each in outside.values():
        each.clear()


def test_the_system_of_the_program_is_not_touched() -> None:
    for desk in (run(system), run(system)):
        with desk:
            assert desk.ask(Add(by=2)) == 3
            assert desk.snapshot()[counts]["x"] == Count(n=3)
        assert repr(desk) == "<Supervisor 'seqtor' stopped>"
    assert repr(system) == "<Supervisor 'seqtor' not started>"
    assert call(add, Add()).value == 2, "its stores are known to handlers that are called by themselves, too"


def test_two_systems_of_one_program_know_nothing_of_each_other() -> None:
    with run(system) as one, run(system, seed=1) as other:
        assert [one.ask(Add()), one.ask(Add()), other.ask(Add())] == [2, 3, 2]
        one.clock.advance(hours=1)
        assert one.clock.now - other.clock.now == datetime.timedelta(hours=1)


def test_a_seed_gives_the_same_history_again() -> None:
    def history(seed: int) -> list[Any]:
        with run(system, seed=seed) as desk:
            desk.submit_many([Add()] * 20)
            desk.settle()
            return desk.runs(limit=None)

    assert history(1) == history(1)
    assert history(1) != history(2)


def test_settling_lets_runs_emissions_reactions_and_effects_end() -> None:
    with run(system) as desk:
        desk.submit(Add(by=3))
        assert outside["mail"] == []
        desk.settle()
        assert desk.snapshot()[counts]["x"].n == 104
        assert outside["mail"] == [4, 104]
        desk.settle()


def test_settling_lets_no_time_pass_that_nothing_needs() -> None:
    with run(system) as desk:
        before = desk.clock.now
        desk.submit(Add(by=3))
        desk.submit(Later())
        desk.settle()
        assert desk.clock.now == before
        assert not any(type(each.trigger) is Add and each.trigger.by == 7 for each in desk.runs())


def test_a_handler_that_waits_for_time_gets_it() -> None:
    with run(system) as desk:
        before = desk.clock.now
        desk.submit(Sleep(seconds=20))
        desk.settle()
        assert desk.clock.now - before == datetime.timedelta(seconds=20)
        assert desk.ask(Sleep(seconds=5)) == desk.clock.now.timestamp() - 5


def test_advancing_lets_delays_end_at_their_time() -> None:
    with run(system) as desk:
        delayed = desk.submit(Add(), delay=60)
        desk.clock.advance(59.9)
        assert not delayed.done
        desk.clock.advance(0.1)
        assert delayed.done
        desk.submit(Later())
        desk.clock.advance(datetime.timedelta(seconds=30))
        assert desk.runs(trigger=Add)[0].trigger == Add(by=7)


def test_advancing_lets_retries_and_tries_of_effects_happen() -> None:
    with run(system) as desk:
        run_of = desk.submit(Flaky(until=3))
        desk.settle()
        assert len(outside["tries"]) == 1
        desk.clock.advance(seconds=10)
        assert len(outside["tries"]) == 2
        desk.clock.advance(minutes=1)
        assert run_of.result() == 3
        desk.ask(Add(by=12))
        desk.settle()
        assert outside["mail"] == [13]
        desk.clock.advance(5)
        assert outside["mail"] == [13, 13]


def test_advancing_lets_schedules_and_ticks_of_reactions_happen() -> None:
    start = datetime.datetime(2026, 3, 28, 12, tzinfo=datetime.UTC)
    with run(system, now=start) as desk:
        assert desk.clock.now == start
        desk.clock.advance(hours=3)
        assert desk.snapshot()[counts]["ticks"].n == 3, "each at its time, and the last at the very end"
        desk.clock.advance_to(datetime.datetime(2026, 3, 29, 7, 30, tzinfo=datetime.UTC))
        mornings = [each for each in desk.runs(trigger=Tick) if each.caused_by and "hourly" not in each.caused_by[0]]
        assert desk.reactions()[0].started == 1, "at 9:00 in Berlin, which is 7:00 UTC since the night's change"
        assert mornings
        assert desk.schedule_named("hourly").last == datetime.datetime(2026, 3, 29, 7, tzinfo=datetime.UTC)


@pytest.mark.parametrize("seed", range(3))
def test_many_slots_of_a_second_are_as_many_ticks(seed: int) -> None:
    program = Supervisor()
    ticks = program.store("counts", Collection(Count))

    @program.on(Tick)
    def count(trigger: Tick, tx: Transaction) -> None:
        tx[ticks].increment("ticks", n=1)

    program.schedule(Tick(), every=1)
    with run(program, seed) as desk:
        for _ in range(10):
            desk.clock.advance(20)
        assert desk.snapshot()[ticks]["ticks"].n == 200


def test_time_does_not_go_back() -> None:
    with run(system) as desk:
        with pytest.raises(ValueError, match=r"advance\(\) takes a time that passes, got -1 s: time never goes back"):
            desk.clock.advance(-1)
        with pytest.raises(ValueError, match="takes an aware datetime"):
            desk.clock.advance_to(datetime.datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="now= takes an aware datetime"):
        run(system, now=datetime.datetime(2030, 1, 1))  # noqa: DTZ001


def test_what_does_not_settle_says_who_waits_for_whom() -> None:
    with run(system) as desk:
        hanging, behind = desk.submit_many([Hang(), Add()])
        desk.submit(Add(), delay=90)
        with pytest.raises(NotSettled) as failed:
            desk.settle(timeout=10)
        head, *lines, advice = str(failed.value).splitlines()
        assert head == "'seqtor' has not settled within 10 s of virtual time:"
        assert lines[:2] == [
            f"  seq {hanging.seq}: Hang() executes (attempt 1), for 10 s; its deadline is 1000 s",
            f"  seq {behind.seq}: Add(by=1) has executed and waits to end until seq {hanging.seq} (Hang) has ended",
        ]
        assert lines[2:] == ["  (not waited for: 1 delayed triggers or retries, the next is due in 80 s)"]
        assert advice.startswith("Let more time pass with settle(timeout=...) if it needs that")
        assert hanging.seq is not None
        desk.abort(hanging.seq, "the test is over")


def test_an_effect_that_does_not_end_is_named() -> None:
    program = Supervisor()

    @program.on(Tick)
    def handler(trigger: Tick, tx: Transaction) -> None:
        tx.effect(wait, 5)

    @program.effect("wait")
    async def wait(context: EffectContext, seconds: int) -> None:
        await asyncio.sleep(1000)

    with run(program) as desk:
        desk.submit(Tick())
        with pytest.raises(NotSettled, match=r"the effect 'wait' of seq 1 is running \(try 1\), payload 5\n"):
            desk.settle()
        desk.clock.advance(1000)


def test_a_rate_that_lets_runs_wait_is_named() -> None:
    program = Supervisor()
    program.on(Tick, rate=0.01)(lambda trigger, tx: None)
    with run(program) as desk:
        desk.submit_many([Tick(), Tick()])
        with pytest.raises(NotSettled, match=r"Tick\(\) waits for a seq; rate=0\.01 runs a second may begin"):
            desk.settle()
        desk.settle(timeout=100)


def test_a_wait_that_cannot_end_says_who_waits_for_whom() -> None:
    program = Supervisor()
    program.on(Hang, sequence="completion", deadline=10)(hang)
    with run(program) as desk, desk.dispatchers.holding(desk._require_running()._path.committer_ref.actor_inbox):
        with pytest.raises(NothingCanHappen) as stuck:
            desk.ask(Hang())
        assert stuck.value.__notes__ == [
            "who waits for whom:\n  seq 1: Hang() executes (attempt 1), for 10 s; its deadline is 10 s"
        ]


def test_a_test_that_fails_is_told_of_its_own_failure() -> None:
    with pytest.raises(ZeroDivisionError), run(system) as desk:
        print(desk.submit(Hang()), 1 / 0)
    assert repr(desk) == "<Supervisor 'seqtor' stopped>"


def test_work_that_does_not_end_fails_the_test() -> None:
    with pytest.raises(NotSettled, match=r"has not settled within 30 s"), run(system) as desk:
        desk.submit(Hang())
    assert repr(desk) == "<Supervisor 'seqtor' stopped>"


def test_a_thread_that_is_left_is_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "THREAD_END_S", 0.05)
    go_on = threading.Event()
    program = Supervisor()

    @program.on(Tick)
    def handler(trigger: Tick, tx: Transaction) -> None:
        threading.Thread(target=go_on.wait, name="left-behind").start()

    try:
        with (
            pytest.raises(
                Leaked, match=r"the test of 'seqtor' has left behind: the thread 'left-behind'\. End them where"
            ),
            run(program) as desk,
        ):
            desk.ask(Tick())
    finally:
        go_on.set()


def test_a_thread_that_ends_is_no_leak() -> None:
    go_on = threading.Event()
    program = Supervisor()

    @program.on(Tick)
    def handler(trigger: Tick, tx: Transaction) -> None:
        threading.Thread(target=go_on.wait).start()

    with run(program) as desk:
        desk.ask(Tick())
        go_on.set()


def test_a_task_that_is_left_is_a_leak() -> None:
    program = Supervisor()

    async def forgotten() -> None:
        await asyncio.get_running_loop().create_future()

    @program.on(Tick)
    async def handler(trigger: Tick, tx: Transaction) -> None:
        tasks.append(asyncio.get_running_loop().create_task(forgotten(), name="forgotten"))

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(Leaked, match=r"the task 'forgotten' \(.*forgotten\)"), run(program) as desk:
        desk.ask(Tick())


def test_an_actor_that_is_left_is_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "THREAD_END_S", 0.05)

    class Forgotten(pykka.ThreadingActor):
        use_daemon_thread = True

    program = Supervisor()
    refs: list[Any] = []
    program.on(Tick)(lambda trigger, tx: refs.append(Forgotten.start()))
    with pytest.raises(Leaked, match=r"the actor Forgotten \(urn:uuid:"), run(program) as desk:
        desk.ask(Tick())
    refs[0].stop()


def test_supervised_actors_of_the_program_run_beside_the_system() -> None:
    class Echo(pykka.ThreadingActor):
        def on_receive(self, message: Any) -> Any:
            return message

    program = Supervisor()
    program.supervise(ChildSpec("echo", Echo))
    with run(program) as desk:
        assert "echo" in str(desk.tree())


class Lines(StoreActor[tuple[str, ...], Any]):
    """A store that writes to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def recover(self, checkpoint: Checkpoint | None) -> tuple[str, ...]:
        return ()

    def persisted(self) -> int | None:
        self._path.touch()
        return 0

    def persist(self, commits: Sequence[Commit]) -> None:
        self._path.write_text(repr(commits), encoding="utf-8")

    @staticmethod
    def fold(state: tuple[str, ...], writes: Sequence[Write]) -> tuple[str, ...]:
        return (*state, *[str(write.op) for write in writes])

    @staticmethod
    def view(access: Access[tuple[str, ...]]) -> Access[tuple[str, ...]]:
        return access


def test_a_store_that_writes_outside_does_not(tmp_path: Path) -> None:
    program = Supervisor()
    lines = program.store("lines", Lines.spec(tmp_path / "lines"))

    @program.on(Tick)
    def handler(trigger: Tick, tx: Transaction) -> None:
        tx[lines].write("line", "a")

    with run(program) as desk:
        desk.ask(Tick())
        assert desk.snapshot()[lines].state == ("a",)
        desk.clock.advance(hours=1)
    assert list(tmp_path.iterdir()) == []
    with program:
        program.ask(Tick())
    assert (tmp_path / "lines").read_text(encoding="utf-8").count("Commit(") == 1


def test_errors_are_those_of_a_system() -> None:
    program = Supervisor()

    @program.on(Add)
    def handler(trigger: Add, tx: Transaction) -> int:
        raise Rejected("no") if trigger.by else KeyError("x")

    with run(program) as desk:
        with pytest.raises(Rejected):
            desk.ask(Add())
        with pytest.raises(HandlerFailed):
            desk.ask(Add(by=0))


def test_it_is_no_asynchronous_context_manager() -> None:
    async def program() -> None:
        async with run(system):
            pass

    with pytest.raises(TypeError, match="runs on the thread of its test: write `with`, not `async with`"):
        asyncio.run(program())


def test_a_submission_can_be_awaited() -> None:
    async def program() -> int:
        with run(system) as desk:
            return await desk.submit(Add())

    assert asyncio.run(program()) == 2


def test_what_is_not_a_system_is_refused() -> None:
    with pytest.raises(TypeError, match=r"run\(\) takes the Supervisor that the program registers everything with"):
        run("system")  # type: ignore[arg-type]


def test_what_a_test_has_not_stopped_is_stopped_at_its_end() -> None:
    runs = SeqtorRun()
    desk = runs(system)
    desk.start()
    runs.stop_all()
    assert repr(desk) == "<Supervisor 'seqtor' stopped>"
