"""Alarms: what goes wrong in seqtor is an event that can be reacted to, and no alarm raises another."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import pytest

from seqtor import (
    ChildSpec,
    Collection,
    EffectContext,
    Facts,
    HandlerFailed,
    Record,
    Retry,
    Supervisor,
    Transaction,
    Trigger,
    on_event,
    on_result,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.base import Actor
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.reactor.alarms import DEAD_LETTER, REACTION_FAILED, RESTARTED
from seqtor.actors.schedules.changes import MISSED_SLOT
from seqtor.actors.stores.suspension import STORE_RESUMED, STORE_SUSPENDED
from seqtor.messages import RunsSequenced
from seqtor.messages.derived import DRIFT, GUARD
from seqtor.messages.events import ALARM_CODES, make_alarm
from tests.programs import WAIT_S


class Note(Trigger[str]):
    """Writes down what a reaction has said."""

    text: str


class Fail(Trigger[None]):
    """Fails."""

    text: str = "as told"


class Entry(Record):
    """How often something was noted."""

    count: int = 0


class Watch:
    """A system on one thread whose runs are noted in a store."""

    def __init__(self, seed: int = 0, backend: MemoryBackend | None = None) -> None:
        self.dispatchers = SimulatedDispatchers(seed)
        self.system = system = Supervisor(backend, dispatchers=lambda _: self.dispatchers)
        self.notes = notes = system.store("notes", Collection(Entry))

        @system.on(Note)
        def note(trigger: Note, tx: Transaction) -> str:
            tx[notes].increment(trigger.text, count=1)
            return trigger.text

        @system.on(Fail)
        def fail(trigger: Fail, tx: Transaction) -> None:
            raise ConnectionError(trigger.text)

    def noted(self) -> dict[str, int]:
        """What was noted, once everything has come to rest and a minute has passed."""
        self.dispatchers.run_until(lambda: False, 60.0)
        return {key: entry.count for key, entry in self.system.snapshot()[self.notes].items()}

    def fail(self) -> None:
        with pytest.raises(HandlerFailed):
            self.system.ask(Fail(), timeout=WAIT_S)


@pytest.fixture(params=["memory", "journal"])
def watch(request: pytest.FixtureRequest) -> Watch:
    return Watch(1, MemoryBackend() if request.param == "journal" else None)


def test_a_dead_letter_is_an_event_and_an_alarm_about_an_alarm_is_not(watch: Watch) -> None:
    seen: list[Any] = []

    @watch.system.when(on_event("seqtor.dead_letter"))
    def alarm(facts: Facts) -> list[Trigger[Any]]:
        seen.append(facts.event.payload)
        return [Note(text=facts.event.payload["error"]), Fail(text="again")]

    with watch.system as system:
        watch.fail()
        assert watch.noted() == {"ConnectionError: as told": 1}
        assert len(system.dead_letters()) == 2
        assert [each["name"] for each in seen] == ["Fail"]


def test_what_an_effect_of_an_alarm_fails_at_or_returns_raises_no_other_alarm(watch: Watch) -> None:
    system = watch.system
    alarms: list[str] = []

    class Page(Trigger[None]):
        """Has an effect that fails, and one that returns what fails."""

    @system.effect("page", retry=Retry(1))
    def page(context: EffectContext, text: str) -> Fail:
        if text == "raises":
            raise ConnectionError("nobody answers")
        return Fail()

    @system.on(Page)
    def page_all(trigger: Page, tx: Transaction) -> None:
        tx.effect(page, "raises")
        tx.effect(page, "returns")

    @system.when(on_event("seqtor.dead_letter"))
    def alarm(facts: Facts) -> Page:
        alarms.append(facts.event.payload["name"])
        return Page()

    with system:
        watch.fail()
        watch.noted()
        assert alarms == ["Fail"]
        assert Counter(letter.name for letter in system.dead_letters()) == {"Fail": 2, "page": 1}


def test_what_an_effect_does_that_is_no_alarms_is_one(watch: Watch) -> None:
    system = watch.system

    @system.effect("send", retry=Retry(1))
    def send(context: EffectContext, text: str) -> Fail:
        if text == "raises":
            raise ConnectionError("nobody answers")
        return Fail()

    @system.when(on_result(Note))
    def after(facts: Facts) -> Trigger[Any] | None:
        return None

    class Send(Trigger[None]):
        """Releases two effects."""

    @system.on(Send)
    def send_all(trigger: Send, tx: Transaction) -> None:
        tx.effect(send, "raises")
        tx.effect(send, "returns")

    @system.when(on_event("seqtor.dead_letter"))
    def alarm(facts: Facts) -> Note:
        return Note(text=f"{facts.event.payload['kind']} {facts.event.payload['name']}")

    with system:
        system.ask(Send(), timeout=WAIT_S)
        assert watch.noted() == {"effect send": 1, "run Fail": 1}


class Fragile(Actor):
    """Crashes at anything."""

    receives: ClassVar[tuple[type, ...]] = (str,)

    def on_str(self, text: str) -> None:
        raise ConnectionError(text)


def test_a_restart_of_an_actor_of_the_runtime_or_of_the_programs_is_an_event(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = watch.system
    own = system.supervise(ChildSpec("fragile", Fragile))
    as_it_is = Coordinator._methods[RunsSequenced]
    crashes = [OSError("once")]

    def crash_once(self: Coordinator, message: Any) -> None:
        if crashes:
            raise crashes.pop()
        as_it_is(self, message)

    @system.when(on_event("seqtor.restarted"))
    def restarted(facts: Facts) -> Note:
        what = facts.event.payload
        return Note(text=f"{what['actor']} {what['restarts']} {what['error']}")

    with system:
        own.ref.tell("as told")
        assert watch.noted() == {"fragile/fragile 1 ConnectionError: as told": 1}
        monkeypatch.setitem(Coordinator._methods, RunsSequenced, crash_once)
        assert system.ask(Note(text="goes on"), timeout=WAIT_S) == "goes on"
        noted = watch.noted()
        assert noted == {
            "fragile/fragile 1 ConnectionError: as told": 1, "Coordinator 1 OSError: once": 1, "goes on": 1,
        }  # fmt: skip
        assert [event.code for event in system.events()] == ["seqtor.restarted"] * 2


def test_without_a_reaction_to_it_a_restart_is_no_event(watch: Watch) -> None:
    own = watch.system.supervise(ChildSpec("fragile", Fragile))
    with watch.system as system:
        own.ref.tell("as told")
        watch.noted()
        assert system.tree()
        assert system.events() == []


@pytest.mark.parametrize("code", ["seqtor.dead_letter", "seqtor.mine"])
def test_the_codes_of_alarms_are_not_for_programs(watch: Watch, code: str) -> None:
    class Emit(Trigger[None]):
        """Emits what is not its own."""

    @watch.system.on(Emit)
    def emit(trigger: Emit, tx: Transaction) -> None:
        tx.emit(code)

    with watch.system as system:
        with pytest.raises(ValueError, match=f"seqtor's own, for alarms: call the event '{code}' otherwise"):
            system.emit(code)
        with pytest.raises(HandlerFailed, match="seqtor's own"):
            system.ask(Emit(), timeout=WAIT_S)
        assert system.events() == []


def test_the_codes_that_can_be_waited_for_are_those_that_are_told() -> None:
    told = {DEAD_LETTER, REACTION_FAILED, RESTARTED, MISSED_SLOT, DRIFT, GUARD, STORE_SUSPENDED, STORE_RESUMED}
    assert told == ALARM_CODES
    with pytest.raises(ValueError, match="add it to ALARM_CODES"):
        make_alarm("seqtor.new", None)
