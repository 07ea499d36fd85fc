"""The dispatchers that have threads: pool and core, event loop, dedicated, elastic.

Threads are held and released by events; deadlines pass on a virtual clock. No test waits for time to go by.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pykka import ActorRegistry

from seqtor.actors.base import Actor
from seqtor.actors.clock import SystemClock, VirtualClock
from seqtor.actors.dispatchers import ElasticDispatcher, ThreadedDispatchers
from seqtor.actors.dispatchers.dedicated import Dedicated
from seqtor.actors.dispatchers.loop import Loop
from seqtor.actors.dispatchers.pool import Core, Pool
from seqtor.actors.dispatchers.standalone import standalone_dispatcher
from seqtor.actors.dispatchers.timers import ThreadTimers
from tests.stages import PATIENCE_S, ManualTimers, Work

HEAD = 1
LATER = 10  # A seq above the head's.


class Attempt:
    """An attempt whose deadline can pass."""

    seq = 1
    handler_name = "Hang"

    def __init__(self) -> None:
        self.expired = threading.Event()

    def expire(self) -> None:
        self.expired.set()

    def abandon(self) -> None:
        """Nothing here is aborted."""


class Hanging(Work):
    """Hangs in a handler until it is released, as a run does."""

    def __init__(self, rank: int, pool: Any, released: threading.Event, deadline_s: float) -> None:
        super().__init__(rank, self._handle)
        self.attempt = Attempt()
        self.entered = threading.Event()
        self.in_time: bool | None = None
        self._pool = pool
        self._released = released
        self._deadline_s = deadline_s

    def _handle(self) -> None:
        self._pool.enter_handler(self.attempt, self._deadline_s)
        self.entered.set()
        self._released.wait()
        self.in_time = self._pool.leave_handler()


class House:
    """A pool with its core on a virtual clock, and the work that holds its threads."""

    def __init__(self, slots: int, core: Core | None = None) -> None:
        self.head_seq = HEAD
        self.clock = VirtualClock()
        self.timers = ManualTimers(self.clock)
        self.core: Any = core or Core()
        self.pool: Any = Pool(self.core, slots, self.clock, self.timers, "test")
        self.released = threading.Event()
        self.pool.start(lambda: self.head_seq)

    def hang(self, rank: int, *, deadline_s: float = 1e9) -> Hanging:
        """Make one thread hang in a handler, until `released`."""
        work = Hanging(rank, self.pool, self.released, deadline_s)
        self.pool.ready(work)
        return work

    def stop(self) -> list[str]:
        self.released.set()
        stuck: list[str] = self.pool.stop(PATIENCE_S)
        return stuck


@pytest.fixture
def open_house() -> Iterator[Callable[[int], House]]:
    houses: list[House] = []

    def build(slots: int) -> House:
        houses.append(House(slots))
        return houses[-1]

    yield build
    for house in houses:
        assert house.stop() == []


def happens(event: threading.Event) -> bool:
    return event.wait(PATIENCE_S)


def nothing() -> None:
    pass


# Pool ----------------------------------------------------------------------------------------------------------------


def test_one_slot_is_kept_for_the_head(open_house: Callable[[int], House]) -> None:
    house = open_house(4)
    assert all(happens(house.hang(LATER + number).entered) for number in range(3))
    waits = Work(LATER + 3, nothing)
    house.pool.ready(waits)
    head = Work(HEAD, nothing)
    house.pool.ready(head)
    assert happens(head.done), "the head executes although higher seqs hold all other slots"
    again = Work(HEAD, nothing)
    house.pool.ready(again)
    assert happens(again.done)
    assert not waits.started.is_set(), "the last slot is the head's alone"
    house.released.set()
    assert happens(waits.done)


def test_a_run_takes_the_last_slot_when_it_has_become_the_head(open_house: Callable[[int], House]) -> None:
    house = open_house(2)
    assert happens(house.hang(LATER).entered)
    next_head = Work(HEAD + 1, nothing)
    house.pool.ready(next_head)

    def commit_the_head() -> None:
        assert not next_head.started.is_set()
        house.head_seq += 1

    house.core.ready(Work(0, commit_the_head))
    assert happens(next_head.done), "whoever moves the head looks for work that may be taken now"


def test_a_single_slot_is_the_heads(open_house: Callable[[int], House]) -> None:
    house = open_house(1)
    later = Work(LATER, nothing)
    house.pool.ready(later)
    head = Work(HEAD, nothing)
    house.pool.ready(head)
    assert happens(head.done)
    assert not later.started.is_set()
    house.core.ready(Work(0, lambda: setattr(house, "head_seq", LATER)))
    assert happens(later.done)


def test_the_lowest_seq_goes_first(open_house: Callable[[int], House]) -> None:
    house = open_house(1)
    house.head_seq = LATER
    assert happens(house.hang(HEAD).entered)
    order: list[int] = []
    works = [Work(rank, lambda rank=rank: order.append(rank)) for rank in (7, 3, 9, 5)]  # type: ignore[misc]
    for work in works:
        house.pool.ready(work)
    house.released.set()
    assert all(happens(work.done) for work in works)
    assert order == [3, 5, 7, 9]


def test_the_core_is_driven_when_every_slot_hangs(open_house: Callable[[int], House]) -> None:
    house = open_house(3)
    house.head_seq = LATER
    assert all(happens(house.hang(HEAD).entered) for _ in range(3))
    for _ in range(20):
        work = Work(0, nothing)
        house.core.ready(work)
        assert happens(work.done)


def test_a_callback_after_the_stretch_comes_though_every_slot_hangs(open_house: Callable[[int], House]) -> None:
    house = open_house(2)
    house.head_seq = LATER
    assert all(happens(house.hang(HEAD).entered) for _ in range(2))
    called = threading.Event()
    house.core.ready(Work(0, lambda: house.core.after_stretch(called.set)))
    assert happens(called)


def test_the_core_runs_one_mailbox_at_a_time_in_order(open_house: Callable[[int], House]) -> None:
    house = open_house(4)
    running: list[int] = []
    order: list[int] = []
    overlaps: list[int] = []

    def note(number: int) -> None:
        overlaps.extend(running)
        running.append(number)
        order.append(number)
        house.pool.ready(Work(HEAD, nothing))  # Others are awake meanwhile.
        running.remove(number)

    works = [Work(0, lambda number=number: note(number)) for number in range(2_000)]  # type: ignore[misc]
    for work in works:
        house.core.ready(work)
    assert happens(works[-1].done)
    assert order == list(range(2_000))
    assert not overlaps


def test_a_thread_stuck_past_its_deadline_is_replaced(open_house: Callable[[int], House]) -> None:
    house = open_house(1)
    stuck = house.hang(HEAD, deadline_s=10)
    assert happens(stuck.entered)
    waits = Work(HEAD, nothing)
    house.pool.ready(waits)
    house.timers.advance(9)
    assert not stuck.attempt.expired.is_set()
    assert not waits.started.is_set()
    house.timers.advance(1)
    assert happens(stuck.attempt.expired), "the attempt is told"
    assert happens(waits.done), "a new thread has the slot"
    assert house.pool.replaced == 1
    house.released.set()
    assert happens(stuck.done)
    assert stuck.in_time is False, "the late return takes no slot away from the thread that replaced it"
    works = [house.hang(HEAD) for _ in range(3)]
    assert all(happens(work.done) for work in works)


def test_a_handler_that_returns_in_time_is_left_alone(open_house: Callable[[int], House]) -> None:
    house = open_house(2)
    work = house.hang(HEAD, deadline_s=10)
    house.released.set()
    assert happens(work.done)
    house.timers.advance(100)
    assert work.in_time is True
    assert not work.attempt.expired.is_set()
    assert house.pool.replaced == 0


def test_each_deadline_is_watched_whatever_the_order_in_which_they_pass(open_house: Callable[[int], House]) -> None:
    house = open_house(3)
    house.head_seq = LATER
    works = {deadline_s: house.hang(HEAD, deadline_s=deadline_s) for deadline_s in (30, 10, 20)}
    assert all(happens(work.entered) for work in works.values())
    for moment in (10, 20, 30):
        house.timers.advance(10)
        expired = {deadline_s for deadline_s, work in works.items() if work.attempt.expired.is_set()}
        assert expired == {deadline_s for deadline_s in works if deadline_s <= moment}
    assert house.pool.replaced == 3


def test_every_slot_can_be_stuck_and_replaced_again_and_again(open_house: Callable[[int], House]) -> None:
    house = open_house(2)
    house.head_seq = LATER
    for generation in range(1, 6):
        stuck = [house.hang(HEAD, deadline_s=10) for _ in range(2)]
        assert all(happens(work.entered) for work in stuck)
        house.timers.advance(10)
        assert all(work.attempt.expired.is_set() for work in stuck)
        assert house.pool.replaced == 2 * generation
    house.pool.ready(work := Work(HEAD, nothing))
    assert happens(work.done)


def test_the_stop_names_the_threads_that_do_not_end() -> None:
    house = House(2)
    names: list[str] = []
    hanging = Work(HEAD, lambda: names.append(threading.current_thread().name) or (house.released.wait() and None))
    house.pool.ready(hanging)
    assert happens(hanging.started)
    while len(stuck := house.pool.stop(timeout_s=0)) > 1:
        pass  # The other threads are on their way.
    assert stuck == names
    assert house.stop() == [], "released, it ends"


def test_no_wake_up_is_lost_under_load(open_house: Callable[[int], House]) -> None:
    house = open_house(4)
    house.head_seq = LATER
    producers, each = 8, 1_500
    done = threading.Semaphore(0)

    def produce(number: int) -> None:
        for sent in range(each):
            work = Work((number + sent) % LATER, done.release)
            (house.core if (number + sent) % 3 else house.pool).ready(work)

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(producers)]
    for thread in threads:
        thread.start()
    for _ in range(producers * each):
        assert done.acquire(timeout=PATIENCE_S), "work waits and no thread takes it"
    for thread in threads:
        thread.join()


def test_no_wake_up_is_lost_when_the_threads_fall_asleep_between_two_pieces_of_work(
    open_house: Callable[[int], House],
) -> None:
    house = open_house(2)
    house.head_seq = LATER
    done = threading.Semaphore(0)

    def hand_over() -> None:
        house.core.ready(Work(0, done.release))

    for number in range(3_000):
        if number % 2:
            house.pool.ready(Work(HEAD, hand_over))  # As a run: executes, then tells the core.
        else:
            house.core.ready(Work(0, lambda: house.pool.ready(Work(HEAD, hand_over))))
        assert done.acquire(timeout=PATIENCE_S), f"work {number} waits and no thread takes it"


class LastMoment(Core):
    """A core for which work comes in the very moment in which a thread has found none and is about to fall asleep."""

    def __init__(self) -> None:
        super().__init__()
        self.at_the_last_moment: list[Callable[[], None]] = []

    def has_work(self) -> bool:
        found = super().has_work()
        if not found and self.at_the_last_moment and not self.pool._lock.locked():
            self.at_the_last_moment.pop()()
        return found


@pytest.mark.parametrize("where", ["core", "pool"])
def test_work_that_comes_as_the_last_thread_falls_asleep_is_not_left_behind(where: str) -> None:
    house = House(1, core=LastMoment())
    dispatcher = house.core if where == "core" else house.pool
    for _ in range(200):
        late = Work(HEAD, nothing)
        house.core.at_the_last_moment.append(lambda late=late: dispatcher.ready(late))
        house.pool.ready(Work(HEAD, nothing))  # Wakes one thread, which will find nothing more.
        assert happens(late.done)
    assert house.stop() == []


def test_callbacks_after_the_stretch_are_work_of_the_core() -> None:
    core: Any = Core()
    core.pool = None
    called: list[str] = []
    core.after_stretch(lambda: called.append("told"))
    assert core.drive(stretch_ended=False)
    assert called == [], "not before the stretch has ended"
    assert core.has_work(), "no thread falls asleep over it"
    assert core.drive(stretch_ended=True)
    assert called == ["told"]
    assert not core.has_work()


def test_a_single_slot_does_the_work_of_many_producers(open_house: Callable[[int], House]) -> None:
    house = open_house(1)
    done = threading.Semaphore(0)
    together = threading.Barrier(4)

    def produce() -> None:
        together.wait()
        for _ in range(500):
            house.pool.ready(Work(HEAD, lambda: house.core.ready(Work(0, done.release))))

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(2_000):
        assert done.acquire(timeout=PATIENCE_S)
    for thread in threads:
        thread.join()


def test_coroutines_are_refused_by_the_pool_and_functions_by_the_loop(open_house: Callable[[int], House]) -> None:
    house = open_house(1)
    coroutine = asyncio.sleep(0)
    with pytest.raises(NotImplementedError, match="loop"):
        house.pool.start_coroutine(coroutine, Attempt(), 1.0)
    coroutine.close()
    loop = Loop("test", ManualTimers(VirtualClock()))
    with pytest.raises(NotImplementedError, match="pool"):
        loop.enter_handler(Attempt(), 1.0)
    assert loop.stop(PATIENCE_S) == []


# Loop ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[Loop]:
    timers = ThreadTimers(SystemClock(), "test")
    timers.start()
    made = Loop("test", timers)
    made.start()
    yield made
    assert made.stop(PATIENCE_S) == []
    assert timers.stop(PATIENCE_S) == []


def on_loop(loop: Any, does: Callable[[], None]) -> Work:
    work = Work(0, does)
    loop.ready(work)
    return work


def test_the_loop_holds_thousands_of_coroutines_at_a_time(loop: Loop) -> None:
    count = 5_000
    waiting = 0
    all_wait, all_done = threading.Event(), threading.Event()
    threads: set[int] = set()
    gate: list[asyncio.Event] = []
    done = 0

    async def handle() -> None:
        nonlocal waiting, done
        waiting += 1
        if waiting == count:
            all_wait.set()
        await gate[0].wait()
        threads.add(threading.get_ident())
        done += 1
        if done == count:
            all_done.set()

    on_loop(loop, lambda: gate.append(asyncio.Event()))
    for _ in range(count):
        on_loop(loop, lambda: loop.start_coroutine(handle(), Attempt(), 1e6) and None)
    assert happens(all_wait), "each waits and none has ended"
    assert done == 0
    on_loop(loop, gate[0].set)
    assert happens(all_done)
    assert len(threads) == 1


def test_the_loop_tells_an_attempt_that_its_deadline_has_passed(loop: Loop) -> None:
    late, ended = Attempt(), Attempt()
    tasks: list[Any] = []

    async def hang() -> None:
        await asyncio.Event().wait()

    async def end() -> None:
        pass

    on_loop(loop, lambda: tasks.append(loop.start_coroutine(hang(), late, 0.0)))
    on_loop(loop, lambda: tasks.append(loop.start_coroutine(end(), ended, 1e6)))
    assert happens(late.expired)
    assert not ended.expired.is_set()


def test_a_coroutine_that_blocks_the_loop_does_not_hold_up_its_deadline(loop: Loop) -> None:
    late, released = Attempt(), threading.Event()

    async def block() -> None:
        released.wait(PATIENCE_S)

    on_loop(loop, lambda: loop.start_coroutine(block(), late, 0.0) and None)
    try:
        assert happens(late.expired), "though the loop's thread is taken"
    finally:
        released.set()


def test_an_actor_that_never_rests_does_not_keep_the_loop_from_its_coroutines(loop: Loop) -> None:
    woken = threading.Event()

    class Restless(Actor):
        def on_receive(self, message: Any) -> None:
            if not woken.is_set():
                self.tell_self(message)

    Restless.start_on(loop).tell("again")

    async def handle() -> None:
        await asyncio.sleep(0)
        woken.set()

    on_loop(loop, lambda: loop.start_coroutine(handle(), Attempt(), 1e6) and None)
    assert happens(woken)


def test_what_becomes_ready_on_the_loops_own_thread_runs_too(loop: Any) -> None:
    second = Work(0, nothing)
    first = on_loop(loop, lambda: loop.ready(second))
    assert happens(first.done)
    assert happens(second.done)


def test_no_wake_up_of_the_loop_is_lost(loop: Loop) -> None:
    done = threading.Semaphore(0)
    producers, each = 6, 1_000

    def produce() -> None:
        for _ in range(each):
            on_loop(loop, done.release)

    threads = [threading.Thread(target=produce) for _ in range(producers)]
    for thread in threads:
        thread.start()
    for _ in range(producers * each):
        assert done.acquire(timeout=PATIENCE_S)
    for thread in threads:
        thread.join()


def test_the_stop_of_the_loop_cancels_what_still_runs() -> None:
    loop = Loop("test", ManualTimers(VirtualClock()))
    loop.start()
    begun, cancelled = threading.Event(), threading.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    on_loop(loop, lambda: loop.start_coroutine(hang(), Attempt(), 1e6) and None)
    assert happens(begun)
    assert loop.stop(PATIENCE_S) == []
    assert cancelled.is_set()


# Dedicated and elastic -----------------------------------------------------------------------------------------------


def test_a_dedicated_dispatcher_does_everything_in_order_on_one_thread_of_its_own() -> None:
    dispatcher: Any = Dedicated("medium")
    done: list[tuple[int, str]] = []
    for number in range(200):
        dispatcher.ready(Work(0, lambda number=number: done.append((number, threading.current_thread().name))))  # type: ignore[misc]
    assert dispatcher.stop(PATIENCE_S) == [], "it ends after what was ready"
    assert done == [(number, "medium") for number in range(200)]


def test_the_stop_of_a_dedicated_dispatcher_names_the_thread_that_does_not_end() -> None:
    dispatcher: Any = Dedicated("medium")
    release = threading.Event()
    dispatcher.ready(work := Work(0, lambda: release.wait() and None))
    assert happens(work.started)
    assert dispatcher.stop(timeout_s=0) == ["medium"]
    release.set()
    assert dispatcher.stop(PATIENCE_S) == []


def test_an_actor_that_blocks_stops_no_other_on_the_elastic_dispatcher() -> None:
    dispatcher: Any = ElasticDispatcher("test")
    release = threading.Event()
    blocked = [Work(0, lambda: release.wait() and None) for _ in range(50)]
    for work in blocked:
        dispatcher.ready(work)
    assert all(happens(work.started) for work in blocked)
    for _ in range(20):
        dispatcher.ready(free := Work(0, nothing))
        assert happens(free.done)
    release.set()
    assert all(happens(work.done) for work in blocked)


def test_actors_on_the_elastic_dispatcher_may_wait_for_each_other() -> None:
    class Chain(Actor):
        def on_receive(self, message: int) -> int:
            return 0 if message == 0 else 1 + Chain.start().ask(message - 1)  # type: ignore[no-any-return]

    assert Chain.start().ask(40, timeout=PATIENCE_S) == 40
    assert [ref.stop() for ref in ActorRegistry.get_by_class(Chain)] == [True] * 41


def test_no_wake_up_of_the_elastic_dispatcher_is_lost() -> None:
    dispatcher: Any = ElasticDispatcher("test", idle_s=0.0)  # Idle threads leave while work comes in.
    done = threading.Semaphore(0)

    def produce() -> None:
        for _ in range(400):
            dispatcher.ready(Work(0, done.release))

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(4 * 400):
        assert done.acquire(timeout=PATIENCE_S)
    for thread in threads:
        thread.join()


def test_an_idle_thread_of_the_elastic_dispatcher_leaves_unless_it_is_to_stay_and_the_stop_ends_those_that_can() -> (
    None
):
    release = threading.Event()
    passing: Any = ElasticDispatcher("passing", idle_s=0.0)
    passing.ready(Work(0, lambda: release.wait() and None))
    [left] = passing._threads
    release.set()
    left.join(PATIENCE_S)
    assert not left.is_alive()
    assert not passing._threads

    staying: Any = ElasticDispatcher("staying", idle_s=None)
    staying.ready(idle := Work(0, nothing))
    assert happens(idle.done)
    release.clear()
    staying.ready(hung := Work(0, lambda: release.wait() and None))
    staying.ready(Work(0, nothing))
    assert happens(hung.started)
    assert {name for name in staying.stop(timeout_s=0) if name.startswith("staying-")}
    release.set()
    assert staying.stop(PATIENCE_S) == []


def test_the_standalone_dispatcher_is_one_for_the_process() -> None:
    assert standalone_dispatcher() is standalone_dispatcher()


# The set of a system -------------------------------------------------------------------------------------------------


def test_a_system_starts_all_dispatchers_and_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    dispatchers: Any = ThreadedDispatchers(threads=3, name="desk")
    dispatchers.start(lambda: HEAD)
    medium = dispatchers.dedicated("medium")
    works = [Work(HEAD, nothing) for _ in range(4)]
    for dispatcher, work in zip((dispatchers.core, dispatchers.pool, dispatchers.loop, medium), works, strict=True):
        dispatcher.ready(work)
    fired = threading.Event()
    dispatchers.timers.call_after(0, fired.set)
    assert all(happens(work.done) for work in works)
    assert happens(fired)
    assert all(thread.name.startswith("desk-") for thread in set(threading.enumerate()) - before)
    assert dispatchers.stop(PATIENCE_S) == []
    assert not set(threading.enumerate()) - before


def test_entropy_differs() -> None:
    dispatchers = ThreadedDispatchers(threads=1)
    assert dispatchers.entropy() != dispatchers.entropy()
    assert dispatchers.loop.stop(PATIENCE_S) == []
