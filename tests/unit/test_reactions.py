"""Reactions: what has happened starts what its conditions say, once, whatever else goes wrong."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from loguru import logger

from seqtor import (
    Collection,
    EffectContext,
    Facts,
    HandlerFailed,
    Record,
    RegistrationError,
    Rejected,
    Retry,
    State,
    Supervisor,
    Transaction,
    Trigger,
    on_effect_failure,
    on_event,
    on_failure,
    on_result,
    on_status,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.memory import MemoryBackend
from tests.programs import WAIT_S, simulated, threaded
from tests.simulation.crashes import Crash, Crashes, crashing
from tests.simulation.systems.faults import SetClock

SEEDS = range(3)


class Note(Trigger[str]):
    """Writes down what a reaction has said."""

    text: str


class Work(Trigger[int]):
    """Ends in the way that it says."""

    number: int = 0
    how: str = "commit"


class Entry(Record):
    """How often something was noted."""

    count: int = 0


class World:
    """A system whose runs are noted in a store."""

    def __init__(self, system: Supervisor) -> None:
        self.system = system
        self.notes = notes = system.store("notes", Collection(Entry))

        @system.on(Note)
        def note(trigger: Note, tx: Transaction) -> str:
            tx[notes].increment(trigger.text, count=1)
            return trigger.text

        @system.on(Work)
        def work(trigger: Work, tx: Transaction) -> int:
            if trigger.how == "reject":
                raise Rejected("no")
            if trigger.how == "fail":
                raise ConnectionError(f"number {trigger.number}")
            if trigger.how == "emit":
                tx.emit("inside", {"number": trigger.number})
            return trigger.number

    def noted(self) -> dict[str, int]:
        """What was noted, once everything has come to rest."""
        driver: Any = self.system._running._dispatchers.driver  # type: ignore[union-attr]
        driver.run_to_rest()
        return {key: entry.count for key, entry in self.system.snapshot()[self.notes].items()}


@pytest.fixture(params=SEEDS)
def world(request: pytest.FixtureRequest) -> World:
    return World(simulated(request.param))


def failing(world: World, number: int = 0) -> None:
    with pytest.raises(HandlerFailed):
        world.system.ask(Work(number=number, how="fail"), timeout=WAIT_S)


# Which facts ---------------------------------------------------------------------------------------------------------


def test_five_matching_events_before_anything_ran_are_five_runs_with_five_payloads(world: World) -> None:
    tick = on_event("tick")

    @world.system.when(tick)
    def react(facts: Facts) -> Note:
        return Note(text=str(facts[tick].payload))

    with world.system as system:
        ids = [system.emit("tick", number) for number in range(5)]
        assert world.noted() == {str(number): 1 for number in range(5)}
        causes = {run.caused_by for run in system.runs(trigger=Note)}
        assert causes == {(each,) for each in ids}, "each run names its own event"


def test_three_failures_with_the_same_exception_type_are_three_compensations(world: World) -> None:
    @world.system.when(on_failure(Work, OSError))
    def compensate(facts: Facts) -> Note:
        assert facts.failure.exception_type == "ConnectionError", "a subclass counts"
        return Note(text=facts.failure.message)

    with world.system:
        for number in range(3):
            failing(world, number)
        assert world.noted() == {f"number {number}": 1 for number in range(3)}


def test_an_or_of_which_both_sides_are_true_is_two_runs_each_naming_its_fact(world: World) -> None:
    a, b = on_event("a"), on_event("b")

    @world.system.when(a | b)
    def react(facts: Facts) -> Note:
        assert facts.get(a) is None or facts.get(b) is None
        with pytest.raises(LookupError, match="no fact met"):
            facts[b if facts.get(b) is None else a]
        return Note(text=facts.event.code)

    with world.system as system:
        ids = {system.emit("a"), system.emit("b")}
        assert world.noted() == {"a": 1, "b": 1}
        assert {run.caused_by for run in system.runs(trigger=Note)} == {(each,) for each in ids}


def test_left_right_right_is_one_run_with_exactly_the_first_two_facts(world: World) -> None:
    left, right = on_event("L"), on_event("R")

    @world.system.when((left & right).correlate(lambda fact: 0))
    def react(facts: Facts) -> Note:
        return Note(text=f"{facts[left].payload}+{facts[right].payload}")

    with world.system as system:
        for code, payload in (("L", 1), ("R", 2), ("R", 3)):
            system.emit(code, payload)
            world.noted()
        assert world.noted() == {"1+2": 1}
        [state] = system.reactions()
        [half_met] = state.half_met
        assert (state.started, half_met.waits_for) == (1, ("event L",))
        assert [len(facts) for facts in half_met.facts] == [0, 1]


def test_status_and_result_of_the_same_run_three_results_of_which_two_match_are_two_runs(world: World) -> None:
    status, result = on_status(Work, State.COMMITTED), on_result(Work, where=lambda number: number > 1)

    @world.system.when(status & result)
    def react(facts: Facts) -> Note:
        assert facts[status].trigger.number == facts[result].result, "they are of the same run"
        return Note(text=str(facts[result].result))

    with world.system as system:
        for number in (1, 2, 3):
            system.ask(Work(number=number), timeout=WAIT_S)
        assert world.noted() == {"2": 1, "3": 1}


def test_an_event_of_one_reaction_and_of_an_unfinished_composite_fires_once_also_ten_minutes_later(
    world: World,
) -> None:
    used, missing = on_event("used"), on_event("missing")

    @world.system.when(used)
    def first(facts: Facts) -> Note:
        return Note(text="first")

    @world.system.when((used & missing).correlate(lambda fact: 0))
    def second(facts: Facts) -> Note:
        return Note(text="second")

    with world.system as system:
        system.emit("used")
        assert world.noted() == {"first": 1}
        system.ask(Work(), timeout=WAIT_S)
        waiting = system.submit(Work(), delay=600)
        waiting.result(1000)
        assert world.noted() == {"first": 1}


def test_a_window_puts_together_only_what_is_close_enough(world: World) -> None:
    a, b = on_event("a"), on_event("b")

    @world.system.when((a & b).correlate(lambda fact: fact.payload).within(60))
    def react(facts: Facts) -> Note:
        return Note(text=str(facts[a].payload))

    with world.system as system:
        system.emit("a", "late")
        system.emit("a", "soon")
        world.noted()
        system.emit("b", "soon")
        system.submit(Work(), delay=61).result(1000)
        system.emit("b", "late")
        assert world.noted() == {"soon": 1}


def test_filters_are_values_mappings_and_predicates(world: World) -> None:
    system = world.system
    system.when(on_event("e", where=3), name="value")(lambda facts: Note(text="value"))
    system.when(on_event("e", where={"a": 1}), name="items")(lambda facts: Note(text="items"))
    system.when(on_event("e", where=lambda payload: payload is None), name="predicate")(lambda facts: Note(text="none"))
    system.when(on_status(Work, "rejected", where={"number": 7}), name="status")(lambda facts: Note(text="rejected 7"))
    system.when(on_result(Work, 5, trigger={"how": "commit"}), name="result")(lambda facts: Note(text="result 5"))
    with system:
        for payload in (3, 4, {"a": 1, "b": 2}, {"a": 2}, [1], None):
            system.emit("e", payload)
        for number in (5, 6):
            system.ask(Work(number=number), timeout=WAIT_S)
        for number in (7, 8):
            with pytest.raises(Rejected):
                system.ask(Work(number=number, how="reject"), timeout=WAIT_S)
        assert world.noted() == {"value": 1, "items": 1, "none": 1, "rejected 7": 1, "result 5": 1}


def test_a_failure_fires_only_when_no_retry_follows_and_not_for_a_rejection() -> None:
    world = World(simulated(0))
    system = world.system

    class Flaky(Trigger[None]):
        how: str

    @system.on(Flaky, retry=Retry(3, backoff=0.01))
    def flaky(trigger: Flaky, tx: Transaction) -> None:
        raise Rejected("no") if trigger.how == "reject" else ValueError("flaky")

    system.when(on_failure(Flaky))(lambda facts: Note(text="given up"))
    system.when(on_status(Flaky, [State.RETRYING, State.FAILED]))(lambda facts: Note(text=facts.status.state))
    with system:
        for how in ("fail", "reject"):
            with pytest.raises((HandlerFailed, Rejected)):
                system.ask(Flaky(how=how), timeout=WAIT_S)
        assert world.noted() == {"given up": 1, "failed": 1, "retrying": 2}


def test_an_effect_that_is_given_up_can_be_reacted_to(world: World) -> None:
    system = world.system

    @system.effect("break", retry=Retry(2, backoff=0.01))
    def fails(context: EffectContext, payload: Note) -> None:
        raise OSError("no paper")

    class Print(Trigger[None]):
        pass

    @system.on(Print)
    def on_print(trigger: Print, tx: Transaction) -> None:
        tx.effect(fails, Note(text="x"))

    @system.when(on_effect_failure(fails))
    def react(facts: Facts) -> Note:
        return Note(text=f"{facts.effect_failure.effect}: {facts.effect_failure.message}")

    with system:
        system.ask(Print(), timeout=WAIT_S)
        system.submit(Work(), delay=5).result(WAIT_S)
        assert world.noted() == {"break: no paper": 1}


def test_a_cancelled_trigger_is_a_status(world: World) -> None:
    world.system.when(on_status(Work, State.CANCELLED))(
        lambda facts: Note(text=f"cancelled {facts.status.trigger.number}")
    )
    with world.system as system:
        assert system.submit(Work(number=4), delay=60).cancel()
        assert world.noted() == {"cancelled 4": 1}


# What goes wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken", [lambda payload: 1 / 0, lambda payload: "yes", lambda payload: (_ for _ in ()).throw(SystemExit())]
)
def test_a_predicate_that_raises_or_returns_no_bool_is_recorded_and_harms_nobody(broken: Callable[[Any], Any]) -> None:
    world = World(simulated(0))
    system = world.system
    system.when(on_event("e", where=broken), name="broken")(lambda facts: Note(text="broken"))
    system.when(on_event("e"), name="fine")(lambda facts: Note(text="fine"))
    system.when(on_event("seqtor.reaction_failed"), name="alarm")(
        lambda facts: Note(text=f"alarm: {facts.event.payload['reaction']}")
    )
    with system:
        event = system.emit("e")
        assert world.noted() == {"fine": 1, "alarm: broken": 1}
        states = {state.name: state for state in system.reactions()}
        assert (states["broken"].failed, states["broken"].started, states["fine"].failed) == (1, 0, 0)
        assert event in str(states["broken"].last_failure)


def test_a_function_that_raises_or_returns_nonsense_starts_nothing_and_the_others_go_on(world: World) -> None:
    system = world.system
    calls: Counter[str] = Counter()

    def raising(facts: Facts) -> Note:
        calls["raising"] += 1
        raise ValueError("no")

    system.when(on_event("e"), name="raises", retry=Retry(3, backoff=0))(raising)
    system.when(on_event("e"), name="nonsense")(lambda facts: [Note(text="x"), 5])  # type: ignore[type-var]
    system.when(on_event("e"), name="many")(lambda facts: (Note(text=text) for text in "ab"))
    system.when(on_event("e"), name="none")(lambda facts: None)
    with system:
        system.emit("e")
        assert world.noted() == {"a": 1, "b": 1}
        assert {state.name: state.failed for state in system.reactions()} == {
            "raises": 1, "nonsense": 1, "many": 0, "none": 0,
        }  # fmt: skip
        assert calls["raising"] == 3


def test_a_function_that_hangs_fails_alone_and_the_rest_goes_on() -> None:
    import threading

    system = threaded(2, deadline=0.2)
    world, release = World(system), threading.Event()

    @system.when(on_event("e"))
    def hangs(facts: Facts) -> Note:
        release.wait(WAIT_S)
        return Note(text="hung")

    ended = threading.Event()
    system.when(on_event("e"), name="fine")(lambda facts: Note(text="fine"))
    try:
        with system:
            system.emit("e")
            driver = threading.Event()
            for _ in range(int(WAIT_S * 50)):
                if system.snapshot()[world.notes].get("fine") is not None:
                    ended.set()
                    break
                driver.wait(0.02)
            assert ended.is_set()
            assert {state.name: state.failed for state in system.reactions()} == {"hangs": 1, "fine": 0}
    finally:
        release.set()


def test_the_same_event_key_twice_is_one_run(world: World) -> None:
    world.system.when(on_event("e"))(lambda facts: Note(text="once"))
    with world.system as system:
        assert system.emit("e", 1, idempotency_key="k") == system.emit("e", 1, idempotency_key="k")
        assert world.noted() == {"once": 1}


# What can be asked ---------------------------------------------------------------------------------------------------


def test_two_reactions_on_one_event_are_two_runs_and_the_event_names_them(world: World) -> None:
    system = world.system
    system.when(on_event("inside"), name="one")(lambda facts: Note(text=f"one {facts.event.payload['number']}"))
    system.when(on_event("inside"), name="two")(lambda facts: Note(text=f"two {facts.event.payload['number']}"))
    with system:
        system.ask(Work(number=3, how="emit"), timeout=WAIT_S)
        system.emit("nobody", "waits")
        assert world.noted() == {"one 3": 1, "two 3": 1}
        nobody, inside = system.events()
        assert (nobody.code, nobody.payload, nobody.emitter, nobody.matched) == ("nobody", "waits", None, ())
        assert inside.matched == ("one", "two")
        assert set(inside.started) == {run.id for run in system.runs(trigger=Note)}
        [emitter] = [run.id for run in system.runs(trigger=Work)]
        assert inside.emitter == emitter
        assert set(system.record(inside.seq).causes) == set(inside.started)
        assert [event.code for event in system.events(matched=False)] == ["nobody"]
        assert [event.code for event in system.events(started=True)] == ["inside"]
        assert system.events(code="inside", after=inside.seq) == []


# Registration --------------------------------------------------------------------------------------------------------


def test_a_condition_is_neither_true_nor_false() -> None:
    one, other = on_event("one"), on_event("other")
    for each in (one, one | other, one & other):
        with pytest.raises(TypeError, match=r"write a & b for both, a \| b for either"):
            bool(each)


def test_what_cannot_be_meant_is_refused_when_it_is_written() -> None:
    a, b = on_event("a"), on_event("b")
    system = Supervisor()
    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: on_status(Work, "comitted"), "did you mean 'committed'"),
        (lambda: on_status(Work, State.RUNNING), "has no record"),
        (lambda: on_status(Work, []), "needs a status"),
        (lambda: on_failure(Work, Rejected), "a rejection is a status"),
        (lambda: on_event(""), "non-empty"),
        (lambda: on_event("seqtor.reaction_faild"), "did you mean 'seqtor.reaction_failed'"),
        (lambda: on_event("seqtor.mine"), "seqtor has no event 'seqtor.mine', its own are seqtor.dead_letter, "),
        (
            lambda: (on_event("a") | on_event("b")).within(5),
            r"within\(\) is for facts that are put together, with an `&`",
        ),
        (lambda: (on_event("a") | on_event("b")).correlate(str), r"\(a & b\).correlate\(...\) \| c"),
        (lambda: on_event("a").within(5), r"\(event a\) is met by one"),
        (lambda: on_event("a", where=lambda: True), "called with the payload"),
        (lambda: on_effect_failure(print), "registered with @system.effect"),
        (lambda: a & cast("Any", 3), "joins two conditions"),
        (lambda: system.when(a & b)(lambda facts: None), "correlate"),
        (lambda: system.when(a)(lambda: None), "called with the facts"),  # type: ignore[type-var]
        (lambda: (a & b).within(0), "above 0"),
        (lambda: (a & b).correlate(lambda fact: 0) & a, "put correlate"),
        (lambda: system.when(a, retry=Retry(2))(lambda facts: None), "backoff=0"),
        (lambda: system.when(a, name="seqtor.x")(lambda facts: None), "seqtor's own"),
    ]
    for make, says in refused:
        with pytest.raises(RegistrationError, match=says):
            make()
    system.when(on_result(Work))(lambda facts: None)
    with pytest.raises(RegistrationError, match="no handler is registered for Work"):
        system.start()


# Crashes -------------------------------------------------------------------------------------------------------------

FILES = ("reactor/actor.py", "reactor/matcher.py", "coordinator.py", "journal/actor.py")


def open_world(seed: int, backend: Any) -> World:
    system = Supervisor(
        backend,
        settings={"restart_intensity": 1_000_000},
        dispatchers=lambda loaded: SimulatedDispatchers(seed),
    )
    world = World(system)
    a, b = on_event("a"), on_event("b")
    system.when(a, name="single")(lambda facts: Note(text=f"a {facts.event.payload}"))
    system.when((a & b).correlate(lambda fact: fact.payload % 3), name="both")(
        lambda facts: Note(text=f"both {facts[a].payload} {facts[b].payload}")
    )
    system.when(on_failure(Work), name="failed")(lambda facts: Note(text=facts.failure.message))
    return world


def expected(events: list[tuple[str, int]], failures: int) -> dict[str, int]:
    """What brute force says of the same facts."""
    found: Counter[str] = Counter(f"number {number}" for number in range(failures))
    waiting: dict[int, list[tuple[str, int]]] = {}
    for code, number in events:
        if code == "a":
            found[f"a {number}"] += 1
        queue = waiting.setdefault(number % 3, [])
        if queue and queue[0][0] != code:
            other = queue.pop(0)
            left, right = sorted([(code, number), other])
            found[f"both {left[1]} {right[1]}"] += 1
        else:
            queue.append((code, number))
    return dict(found)


@pytest.mark.parametrize("seed", range(int(12 * float(os.environ.get("SEQTOR_EXAMPLES", "1")))))
@pytest.mark.parametrize("journaled", [False, True], ids=["memory", "journal"])
def test_whichever_actor_crashes_at_any_line_everything_is_matched_exactly_once(
    seed: int, journaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqtor.actors.coordinator import Coordinator
    from seqtor.actors.journal.actor import Journal
    from seqtor.actors.reactor.actor import Reactor
    from seqtor.actors.reactor.matcher import Matcher

    chance = random.Random(seed)
    world = open_world(seed, MemoryBackend() if journaled else None)
    kinds = [Reactor, Reactor, Matcher, Coordinator, *([Journal] if journaled else [])]
    with crashing(monkeypatch) as crashes, world.system as system:
        events: list[tuple[str, int]] = []
        failures = 0
        for number in range(6):
            plan(crashes, chance, kinds)
            for _ in range(chance.randrange(1, 4)):
                event = (chance.choice("ab"), len(events))
                events.append(event)
                system.emit(*event)
            with pytest.raises(HandlerFailed):
                system.ask(Work(number=number, how="fail"), timeout=WAIT_S)
            failures += 1
            world.noted()
        crashes.kind = None
        order = sorted(system.events(limit=None), key=lambda event: event.seq)
        assert world.noted() == expected([(event.code, event.payload) for event in order], failures)


def plan(crashes: Crashes, chance: random.Random, kinds: list[Any]) -> None:
    kind = chance.choice(kinds)
    crashes.plan(kind, FILES, chance.randrange(60), None, Crash)


@pytest.mark.parametrize("seed", range(int(12 * float(os.environ.get("SEQTOR_EXAMPLES", "1")))))
def test_a_process_that_dies_between_fact_and_run_at_any_point_runs_each_exactly_once(seed: int) -> None:
    chance = random.Random(seed)
    backend = DyingBackend()
    emitted = []
    for life in range(6):
        backend.dies_after = chance.randrange(1, 14) if life < 5 else None
        world = open_world(seed + life, backend)
        try:
            with world.system as system:
                if life < 5:
                    for number in range(4):
                        key = f"{life}.{number}"
                        emitted.append((key, chance.choice("ab"), len(emitted)))
                        system.emit(emitted[-1][1], emitted[-1][2], idempotency_key=key)
                        if chance.random() < 0.5:
                            driver: Any = system._running._dispatchers.driver  # type: ignore[union-attr]
                            driver.run_to_rest()
                    world.noted()
                else:
                    noted = world.noted()
                    order = sorted(system.events(limit=None), key=lambda event: event.seq)
                    expect = expected([(event.code, event.payload) for event in order], 0)
                    assert noted == expect
        except Exception:
            if not backend.died:
                raise
        backend.live_again()


class Gathered(Trigger[int]):
    """Becomes one with others that wait."""

    number: int


@pytest.mark.parametrize("retried", [False, True])
@pytest.mark.parametrize("groups", range(1, 9))
def test_statuses_of_coalesced_triggers_are_facts_also_when_the_process_dies(groups: int, *, retried: bool) -> None:
    backend = DyingBackend()

    def opened() -> World:
        world = World(Supervisor(backend, dispatchers=lambda _: SimulatedDispatchers(groups)))

        @world.system.on(Gathered, coalesce=lambda trigger: "all", retry=Retry(2, backoff=1.0, jitter=0.0))
        def gathered(trigger: Gathered, tx: Transaction) -> int:
            if retried and "failed" not in tx[world.notes]:
                tries.append(1)
                if len(tries) == 1:
                    raise OSError("the first time")
            return trigger.number

        @world.system.when(on_status(Gathered, State.COALESCED))
        def after(facts: Facts) -> Note:
            return Note(text=f"coalesced {facts.status.trigger.number}")

        return world

    tries: list[int] = []
    backend.dies_after = groups
    try:
        with opened().system as system:
            system.submit_many([Gathered(number=number) for number in range(3)])
            driver: Any = system._running._dispatchers.driver  # type: ignore[union-attr]
            driver.run_until(lambda: False, 10.0)
    except Exception:
        if not backend.died:
            raise
    backend.live_again()
    with opened().system as system:
        driver = system._running._dispatchers.driver  # type: ignore[union-attr]
        driver.run_until(lambda: False, 10.0)
        absorbed = [run for record in system.commits(limit=None) for run in record.coalesced]
        notes = [run.caused_by for run in system.runs(trigger=Note, limit=None)]
        assert sorted(notes) == sorted((f"{run}/coalesced",) for run in absorbed)


class DyingBackend(MemoryBackend):
    """A journal whose process is killed before it writes one of its groups: nothing of it is written then."""

    def __init__(self) -> None:
        super().__init__()
        self.dies_after: int | None = None
        self.died = False

    def append(self, group: Any) -> None:
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                self.died = True
                raise OSError("the process was killed")
        super().append(group)

    def live_again(self) -> None:
        """Another process opens what is there."""
        self.died = False
        self.dies_after = None
        self.close()


def test_a_new_reaction_does_not_look_at_what_was_before_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with World(Supervisor(path)).system as system:
        system.emit("old", 1)
    first = World(Supervisor(path))
    first.system.when(on_event("old"))(lambda facts: Note(text="reacted"))
    with first.system as system:
        system.emit("old", 2)
    with World(Supervisor(path)).system as system:
        assert [event.payload for event in system.events()] == [2, 1]
        assert len(system.runs(trigger=Note)) == 1


@pytest.mark.parametrize("restarts", [False, True])
def test_windows_are_measured_by_the_same_time_through_a_restart(*, restarts: bool) -> None:
    """By the newest of the facts that meet a composite: another one's counts no more than the clock that is set back."""
    backend, clock = MemoryBackend(), SetClock()

    def opened() -> tuple[World, SimulatedDispatchers]:
        dispatchers = SimulatedDispatchers(0)
        dispatchers.clock = clock
        world = World(Supervisor(backend, dispatchers=lambda _: dispatchers))
        a, b = on_event("a"), on_event("b")
        both = (a & b).correlate(lambda fact: fact.payload).within(60)
        world.system.when(both, name="both")(lambda facts: Note(text=str(facts[a].payload)))
        world.system.when(on_event("other"), name="other")(lambda _: None)
        return world, dispatchers

    world, dispatchers = opened()
    world.system.start()
    emitted = (("a", "late", 50), ("a", "soon", 50), ("a", "now", 0), ("b", "now", 900), ("other", 0, 0))
    for code, payload, then_s in emitted:
        world.system.emit(code, payload)
        world.noted()
        dispatchers.run_for(then_s)
    if restarts:
        world.system.stop()
        world, dispatchers = opened()
        world.system.start()
    clock.set_by(-1000)
    world.system.emit("b", "late")
    world.system.emit("b", "soon")
    assert world.noted() == {"now": 1, "soon": 1}
    world.system.stop()


def test_half_met_composites_of_a_reaction_that_is_gone_are_kept_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"

    def opened(*, with_reaction: bool) -> World:
        world = World(Supervisor(path))
        if with_reaction:
            condition = (on_event("a") & on_event("b")).correlate(lambda fact: 0)
            world.system.when(condition, name="both")(lambda facts: Note(text="both"))
        return world

    with opened(with_reaction=True).system as system:
        system.emit("a")
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(line.record["message"]), level="WARNING")
    logger.enable("seqtor")
    try:
        with opened(with_reaction=False).system as system:
            [state] = system.reactions()
            assert (state.name, state.known, len(state.half_met)) == ("both", False, 1)
    finally:
        logger.disable("seqtor")
        logger.remove(sink)
    [told] = [line for line in lines if "half-met" in line]
    assert "does not register, or not with the same condition: 'both' (1); they stay as they are" in told
    world = opened(with_reaction=True)
    with world.system as system:
        system.emit("b")
    with opened(with_reaction=True).system as system:
        assert [run.trigger for run in system.runs(trigger=Note)] == [Note(text="both")]
        assert system.events(code="b")[0].started == (system.runs(trigger=Note)[0].id,)
