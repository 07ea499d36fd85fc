"""Effects under many seeds, on a virtual clock, across crashes: never before durable, at least once, answered once."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from pykka import ActorRegistry

from seqtor import Collection, EffectContext, Record, Retry, State, Supervisor, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.dispatchers.exploring import EXPLORERS
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.journal.contract import Group
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages import GetOpenWork, GetStats
from tests.other_processes import printed
from tests.seeds import seeds
from tests.simulation.trace import TracedDispatchers
from tests.simulation.worlds import in_simulation

ORDERS = 12
GIVES_UP = 99
POLICY = Retry(4, backoff=0.5)


class Line(Record):
    """What an effect is told: which order, the n-th of its effects, how often it fails, and whether it returns a trigger."""

    number: int
    index: int
    failures: int
    returns: bool


class Order(Trigger[int]):
    """Releases the effects that the plan has for it."""

    number: int


class Acknowledged(Trigger[None]):
    """What an effect returns; has an effect itself."""

    key: str
    again: bool


class Counting(MemoryBackend):
    """A journal that can be asked what is durable."""

    def __init__(self) -> None:
        super().__init__()
        self.through = 0

    def append(self, group: Group) -> None:
        super().append(group)
        self.through = max([self.through, *(row.seq for row in group.commits)])


class Outside:
    """The outside world, which outlives the processes: every try, and what must hold at each."""

    def __init__(self, backend: Counting | None) -> None:
        self.backend = backend
        self.tries: Counter[str] = Counter()
        self.payloads: dict[str, Line] = {}
        self.seqs: dict[str, int] = {}
        self.submitted = 0
        self.through = 0

    def check_ended(self, through: int) -> None:
        """Effects of commits up to a seq can only have ended if they were carried out, or often enough tried."""
        for key, line in self.payloads.items():
            if self.seqs[key] <= through:
                assert self.tries[key] >= min(line.failures + 1, POLICY.max_runs), f"{key} {line}"

    def arrive(self, context: EffectContext, line: Line) -> Trigger[Any] | None:
        if self.backend is not None:
            assert context.seq <= self.backend.through, "an effect of a commit that is not durable"
        assert self.payloads.setdefault(context.key, line) == line
        assert 1 <= context.attempt <= POLICY.max_runs
        self.tries[context.key] += 1
        self.seqs[context.key] = context.seq
        if self.tries[context.key] <= line.failures:
            raise ConnectionError(f"try {self.tries[context.key]}")
        return Acknowledged(key=context.key, again=line.index == 0) if line.returns else None


def plan_of(seed: int) -> list[list[Line]]:
    """Per order, its effects."""
    chance = random.Random(f"effects:{seed}")
    return [
        [
            Line(
                number=number,
                index=index,
                failures=chance.choice((0, 0, 1, 2, GIVES_UP)),
                returns=chance.random() < 0.5,
            )
            for index in range(chance.choice((0, 1, 1, 2, 3)))
        ]
        for number in range(ORDERS)
    ]


def desk(seed: int, outside: Outside, dispatchers: SimulatedDispatchers) -> Supervisor:
    """The system under test."""
    system = Supervisor(outside.backend, dispatchers=lambda settings: dispatchers)
    plan = plan_of(seed)
    lines = system.store("lines", Collection(Line))

    @system.effect("plain", retry=POLICY)
    def plain(context: EffectContext, line: Line) -> Trigger[Any] | None:
        return outside.arrive(context, line)

    @system.effect("later", retry=POLICY)
    async def later(context: EffectContext, line: Line) -> Trigger[Any] | None:
        await asyncio.sleep(0.1)
        return outside.arrive(context, line)

    @system.on(Order)
    def order(trigger: Order, tx: Transaction) -> int:
        for line in plan[trigger.number]:
            tx[lines][f"{line.number}.{line.index}"] = line
            tx.effect(later if line.index % 2 else plain, line)
        return len(tx[lines])

    @system.on(Acknowledged)
    def acknowledged(trigger: Acknowledged, tx: Transaction) -> None:
        tx[lines][trigger.key] = Line(number=0, index=0, failures=0, returns=False)
        if trigger.again:
            tx.effect(plain, Line(number=100, index=1, failures=1, returns=True))

    return system


def watermark(system: Supervisor) -> int:
    """`effects_through`, without a step."""
    running: Any = system._running
    return running._path.coordinator.answer(GetStats(reply_to=None)).effects_through  # type: ignore[no-any-return]


def abandon(system: Supervisor, backend: Counting, dispatchers: SimulatedDispatchers, registered: set[Any]) -> None:
    """The process is gone: nothing is stopped in order, the journal is as it was left."""
    backend.close()
    for ref in set(ActorRegistry.get_all()) - registered:
        ActorRegistry.unregister(ref)
    on_loop: Any = system._running._effects._workforce._tasks  # type: ignore[union-attr]
    for _ in range(2):  # What is on the loop is not left to the cycle collector.
        for task in [] if on_loop is None else list(on_loop._actor_weakref()._tasks):
            task.cancel()
        dispatchers.stop(0)


def rows(backend: Counting) -> Iterator[dict[str, Any]]:
    backend.open(write=False)
    for row in backend.commits(1, 1 << 40):
        yield json.loads(row.body)
    backend.close()


@pytest.mark.parametrize("crashes", [0, 1, 4])
@pytest.mark.parametrize("seed", seeds(10))
def test_effects_are_never_early_never_forgotten_and_answered_once(
    seed: int, crashes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_lives(seed, crashes, monkeypatch)


def play_lives(seed: int, deaths: int, patch: pytest.MonkeyPatch) -> None:
    """Release effects through so many deaths of the process."""
    chance = random.Random(f"crashes:{seed}:{deaths}")
    patch.setattr("seqtor.actors.journal.actor.CHECKPOINT_BYTES_MIN", chance.choice((300, 3000, 1 << 24)))
    patch.setattr("seqtor.actors.journal.actor.Journal._last_checkpoint_bytes", lambda self: 0)
    explorer = EXPLORERS[seed % len(EXPLORERS)]
    backend = Counting()
    outside = Outside(backend)
    for _ in range(deaths):
        registered = set(ActorRegistry.get_all())
        dispatchers = SimulatedDispatchers(chance.getrandbits(32), explorer=explorer)
        system = desk(seed, outside, dispatchers)
        live(system, dispatchers, outside, chance, steps_max=chance.randrange(5, 250))
        abandon(system, backend, dispatchers, registered)
    dispatchers = SimulatedDispatchers(chance.getrandbits(32), explorer=explorer)
    system = desk(seed, outside, dispatchers)
    live(system, dispatchers, outside, chance, steps_max=1 << 40)
    stats, letters = system.stats(), system.dead_letters()
    assert stats.effects_through == stats.durable_through == stats.committed_through
    system.stop()
    check(backend, outside, {letter.id for letter in letters}, retried_across=deaths > 0)


def live(
    system: Supervisor, dispatchers: SimulatedDispatchers, outside: Outside, chance: random.Random, steps_max: int
) -> None:
    """Hand in what is left of the plan, now and then, until there is nothing more to do or the steps are used up."""
    system.start()
    for _ in itertools.repeat(None, steps_max):
        if outside.submitted < ORDERS and chance.random() < 0.3:
            system.submit(Order(number=outside.submitted)).accepted().get()
            outside.submitted += 1
        through = watermark(system)
        assert through >= outside.through, "the watermark never goes back, a restart takes nothing back"
        outside.through = through
        outside.check_ended(through)
        if not dispatchers.step() and outside.submitted == ORDERS:
            return


def check(backend: Counting, outside: Outside, dead: set[str], *, retried_across: bool) -> None:
    """Hold the journal against what the outside world saw."""
    backend.open(write=False)
    journal_id = backend._journal_id
    backend.close()
    released, runs = {}, Counter[str]()
    for record in rows(backend):
        assert record["state"] == State.COMMITTED
        runs[record["run"]] += 1
        for index, effect in enumerate(record.get("effects", ())):
            released[f"{journal_id}-{record['seq']}-{index}"] = Line(**effect["payload"])
    assert set(outside.tries) == set(released), "carried out is what was committed, all of it"
    assert max(runs.values()) == 1, "what an effect returned runs once"
    for key, line in released.items():
        assert outside.payloads[key] == line
        succeeds = line.failures < POLICY.max_runs
        assert (key in dead) == (not succeeds), f"{key} {line}"
        assert (key in runs) == (succeeds and line.returns), f"{key} {line}"
        if not retried_across:
            assert outside.tries[key] == min(line.failures + 1, POLICY.max_runs)
        else:
            assert outside.tries[key] >= min(line.failures + 1, POLICY.max_runs)


@in_simulation
def test_a_checkpoint_knows_an_effect_s_end_and_what_it_returned_together_or_not_at_all(seed: int) -> None:
    """The journal is asked for its open work behind an effect's end, in one batch with it or in the next."""
    backend, dispatchers = Counting(), SimulatedDispatchers(seed)
    system = Supervisor(backend, dispatchers=lambda settings: dispatchers)
    found: list[Any] = []

    @system.effect("return")
    def give_back(context: EffectContext, payload: None) -> Trigger[Any]:
        return Acknowledged(key=context.key, again=False)

    system.on(Order)(lambda trigger, tx: tx.effect(give_back, None))
    system.on(Acknowledged)(lambda trigger, tx: None)
    with system:
        journal: Any = system._running.journal.ref.actor_inbox  # type: ignore[union-attr]
        put = journal.put

        class Behind:
            """The journal's mailbox, in which a question follows every end of an effect."""

            closed = False

            def tell(self, message: Any) -> None:
                reply = ReplyFuture()
                put(message)
                put(GetOpenWork(seq=1, reply_to=reply))
                found.append(reply)

        system._running._effects._actor._journal = Behind()  # type: ignore[assignment, union-attr]
        system.ask(Order(number=0))
        assert dispatchers.run_until(lambda: system._running._path.board.durable.seq == 2, None)  # type: ignore[union-attr]
        (work,) = [reply.get() for reply in found]
        is_in_it = work.entries_through == 1
        assert len(work.submissions) == is_in_it
        assert len(work.effects) == (not is_in_it)


@in_simulation
def test_an_effect_that_ended_while_an_older_checkpoint_was_made_is_not_carried_out_again(seed: int) -> None:
    """The checkpoint is of a seq before the commit, and takes the entry that ended its effect into account."""
    backend, tries = Counting(), Counter[str]()

    def make() -> tuple[Supervisor, SimulatedDispatchers]:
        dispatchers = SimulatedDispatchers(seed)
        system = Supervisor(backend, dispatchers=lambda settings: dispatchers)

        @system.effect("count")
        def count(context: EffectContext, payload: None) -> Trigger[Any]:
            tries[context.key] += 1
            return Acknowledged(key=context.key, again=False)

        system.on(Order)(lambda trigger, tx: tx.effect(count, None))
        system.on(Acknowledged)(lambda trigger, tx: None)
        return system, dispatchers

    registered = set(ActorRegistry.get_all())
    system, dispatchers = make()
    system.start()
    running: Any = system._running
    before = running._path.board.durable
    system.ask(Order(number=0))
    while dispatchers.step():
        pass
    running.journal.checkpoints._durable = lambda: before
    running.journal.checkpoints.take(again=True)
    abandon(system, backend, dispatchers, registered)
    system, _ = make()
    with system:
        pass
    assert list(tries.values()) == [1]
    assert (system.stats().effects_through, system.stats().committed_through) == (2, 2)


# Time -----------------------------------------------------------------------------------------------------------------


def times_of(retry: Retry, seed: int = 0) -> list[float]:
    """When an effect that always fails is tried, in seconds from its first try."""
    dispatchers = SimulatedDispatchers(seed)
    system = Supervisor(dispatchers=lambda settings: dispatchers)
    moments: list[float] = []

    @system.effect("fail", retry=retry)
    def fail(context: EffectContext, payload: None) -> None:
        moments.append(dispatchers.clock.monotonic())
        raise ConnectionError("away")

    system.on(Order)(lambda trigger, tx: tx.effect(fail, None))
    with system:
        system.ask(Order(number=0))
        while dispatchers.step():
            pass
        assert len(system.dead_letters()) == 1
    return [moment - moments[0] for moment in moments]


def test_the_wait_between_tries_doubles_up_to_its_limit() -> None:
    assert times_of(Retry(7, backoff=2, backoff_max=20, jitter=0)) == [0, 2, 6, 14, 30, 50, 70]


def test_the_part_of_a_wait_that_is_left_to_chance_follows_from_the_seed() -> None:
    moments = [times_of(Retry(4, backoff=10, jitter=0.5), seed) for seed in range(20)]
    assert moments == [times_of(Retry(4, backoff=10, jitter=0.5), seed) for seed in range(20)]
    firsts = sorted(each[1] for each in moments)
    assert 5 <= firsts[0] < 6.5 < 8.5 < firsts[-1] <= 10


def test_nobody_waits_for_a_try_that_is_an_hour_away() -> None:
    dispatchers = SimulatedDispatchers(3)
    system = Supervisor(dispatchers=lambda settings: dispatchers)
    tries: list[int] = []

    @system.effect("fail", retry=Retry(5, backoff=3600, backoff_max=36000, jitter=0))
    def fail(context: EffectContext, payload: None) -> None:
        tries.append(context.attempt)
        raise ConnectionError("away")

    system.on(Order)(lambda trigger, tx: tx.effect(fail, None))
    with system:
        started = dispatchers.clock.monotonic()
        system.ask(Order(number=0))
        system.stop()
        assert dispatchers.clock.monotonic() - started < 1
    assert tries == [1]


# Determinism ----------------------------------------------------------------------------------------------------------


def traced(seed: int) -> list[str]:
    """Everything that happens in a system with effects, in memory."""
    dispatchers = TracedDispatchers(seed, 4)
    outside = Outside(None)
    system = desk(seed, outside, dispatchers)
    with system:
        for submission in [system.submit(Order(number=number)) for number in range(ORDERS)]:
            submission.result()
        while dispatchers.step():
            pass
        dispatchers.trace += [repr(outside.tries), repr(system.dead_letters()), repr(system.stats())]
    return [*dispatchers.trace, str(dispatchers.entropy())]


def test_the_same_seed_gives_the_same_trace_in_every_process_whatever_its_hash_seed() -> None:
    program = (
        "import hashlib\nfrom tests.simulation.test_effects import traced\n"
        "for seed in range(5): print(hashlib.sha256('\\n'.join(traced(seed)).encode()).hexdigest())"
    )
    expected = [hashlib.sha256("\n".join(traced(seed)).encode()).hexdigest() for seed in range(5)]
    assert len(set(expected)) == 5
    for hash_seed in ("1", "2"):
        assert printed(hash_seed, "-c", program).split() == expected
