"""Resources: opened once, at the first use, where they are used; closed at the stop, the last one first."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

import pytest
from loguru import logger

from seqtor import (
    EffectContext,
    HandlerFailed,
    NotRunning,
    RegistrationError,
    ResourceRef,
    Supervisor,
    Transaction,
    Trigger,
)
from tests.programs import WAIT_S, Gate, simulated, threaded


class Use(Trigger[Any]):
    """Uses a resource."""

    name: str = "client"


class UseLater(Trigger[Any]):
    """Uses it in a coroutine."""

    name: str = "client"


class Client:
    """What is opened."""

    def __init__(self, name: str = "client") -> None:
        self.name = name
        self.is_open = True


class Log:
    """Where things were opened and closed: (what, name, thread)."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, str]] = []

    def note(self, what: str, name: str) -> None:
        self.entries.append((what, name, threading.current_thread().name))

    @property
    def events(self) -> list[str]:
        return [f"{what} {name}" for what, name, _ in self.entries]

    def opener(self, name: str = "client") -> Callable[[], contextlib.AbstractContextManager[Client]]:
        @contextlib.contextmanager
        def open_client() -> Iterator[Client]:
            client = Client(name)
            self.note("open", name)
            yield client
            client.is_open = False
            self.note("close", name)

        return open_client

    def async_opener(self, name: str = "client") -> Callable[[], contextlib.AbstractAsyncContextManager[Client]]:
        @contextlib.asynccontextmanager
        async def open_client() -> AsyncIterator[Client]:
            task = asyncio.current_task()
            await asyncio.sleep(0)
            client = Client(name)
            self.note("open", name)
            yield client
            client.is_open = False
            await asyncio.sleep(0)
            assert asyncio.current_task() is task, "one task opens and closes"
            self.note("close", name)

        return open_client


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    found: list[str] = []
    sink = logger.add(lambda message: found.append(message.record["message"]), level="WARNING")
    logger.enable("seqtor")
    yield found
    logger.remove(sink)
    logger.disable("seqtor")


def using(system: Supervisor, **refs: ResourceRef[Any]) -> Supervisor:
    """Handlers that return the resource they are asked for, by its name."""
    seen: list[Any] = []

    @system.on(Use)
    def use(trigger: Use, tx: Transaction) -> str:
        client = tx.resource(refs[trigger.name])
        seen.append(client)
        assert client.is_open
        return str(client.name)

    @system.on(UseLater)
    async def use_later(trigger: UseLater, tx: Transaction) -> str:
        found = tx.resource(refs[trigger.name])
        client = await found if asyncio.iscoroutine(found) else found
        seen.append(client)
        assert client.is_open
        return str(client.name)

    system.seen = seen  # type: ignore[attr-defined]
    return system


# Opening --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trigger", [Use(), UseLater()])
@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_resource_is_opened_once_at_the_first_use(make: Any, trigger: Any, log: Log) -> None:
    system = make()
    opener = log.opener() if isinstance(trigger, Use) else log.async_opener()
    using(system, client=system.resource("client", opener))
    with system:
        assert log.events == [], "nobody has asked for it yet"
        for submission in system.submit_many([trigger] * 30):
            assert submission.result(WAIT_S) == "client"
        assert log.events == ["open client"]
        assert len({id(client) for client in system.seen}) == 1
    assert log.events == ["open client", "close client"]


def test_what_nobody_uses_is_neither_opened_nor_closed(log: Log) -> None:
    system = threaded()
    using(system, client=system.resource("client", log.opener()), other=system.resource("other", log.async_opener()))
    with system:
        pass
    assert log.events == []


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_whoever_asks_while_it_is_being_opened_gets_the_same_one(kind: str, log: Log) -> None:
    """The opening is held up until as many ask as there can be at the same time."""
    system, asking, gate = threaded(threads=6), threading.Barrier(5), Gate()
    opened: list[Client] = []

    @contextlib.contextmanager
    def open_slowly() -> Iterator[Client]:
        gate.pass_through()
        opened.append(Client())
        yield opened[-1]

    @contextlib.asynccontextmanager
    async def open_slowly_async() -> AsyncIterator[Client]:
        await asyncio.to_thread(gate.pass_through)
        opened.append(Client())
        yield opened[-1]

    ref: Any = system.resource("client", open_slowly if kind == "plain" else open_slowly_async)
    asked = threading.Semaphore(0)

    @system.on(Use)
    def use(trigger: Use, tx: Transaction) -> bool:
        asking.wait(WAIT_S)
        asked.release()
        return tx.resource(ref) is opened[0]

    @system.on(UseLater)
    async def use_later(trigger: UseLater, tx: Transaction) -> bool:
        asked.release()
        return await tx.resource(ref) is opened[0]

    with system:
        submissions = system.submit_many([Use() if kind == "plain" else UseLater()] * 5)
        for _ in range(5):
            assert asked.acquire(timeout=WAIT_S)
        gate.await_arrivals()
        gate.open()
        assert all(submission.result(WAIT_S) for submission in submissions)
    assert len(opened) == 1


def test_the_opening_goes_on_if_whoever_asked_first_gives_up(log: Log) -> None:
    system, gate = threaded(), Gate()

    @contextlib.asynccontextmanager
    async def open_slowly() -> AsyncIterator[Client]:
        await asyncio.to_thread(gate.pass_through)
        log.note("open", "client")
        yield Client()
        log.note("close", "client")

    ref = system.resource("client", open_slowly)
    gave_up: list[bool] = []

    @system.on(UseLater)
    async def use_later(trigger: UseLater, tx: Transaction) -> bool:
        if not gave_up:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(tx.resource(ref), 0.001)
            gave_up.append(True)
            return False
        return (await tx.resource(ref)).is_open

    with system:
        assert system.ask(UseLater(), timeout=WAIT_S) is False
        gate.open()
        assert system.ask(UseLater(), timeout=WAIT_S) is True
    assert log.events == ["open client", "close client"]


@pytest.mark.parametrize("trigger", [Use(), UseLater()])
@pytest.mark.parametrize("make", [simulated, threaded])
def test_an_opener_that_raises_is_tried_again_at_the_next_use(make: Any, trigger: Any, log: Log) -> None:
    system = make()
    failures = [ConnectionError("away"), ConnectionError("still away")]
    openers = []

    def flaky() -> Any:
        openers.append(True)
        if isinstance(trigger, Use):
            return contextlib.contextmanager(opening)()
        return contextlib.asynccontextmanager(opening_async)()

    def opening() -> Iterator[Client]:
        if failures:
            raise failures.pop(0)
        yield Client()

    async def opening_async() -> AsyncIterator[Client]:
        await asyncio.sleep(0)
        if failures:
            raise failures.pop(0)
        yield Client()

    using(system, client=system.resource("client", flaky))
    with system:
        for text in ("away", "still away"):
            with pytest.raises(HandlerFailed) as caught:
                system.ask(trigger, timeout=WAIT_S)
            assert type(caught.value.__cause__) is ConnectionError
            assert str(caught.value.__cause__) == text
        assert system.ask(trigger, timeout=WAIT_S) == "client"
        assert system.ask(trigger, timeout=WAIT_S) == "client"
    assert len(openers) == 3


def test_a_plain_resource_serves_coroutines_and_effects_too(log: Log) -> None:
    system = threaded()
    ref = system.resource("client", log.opener())
    using(system, client=ref)
    used: list[Any] = []
    both = threading.Semaphore(0)

    class Release(Trigger[None]):
        pass

    @system.effect("plain")
    def plain(context: EffectContext, payload: None) -> None:
        used.append(context.resource(ref))
        both.release()

    @system.effect("later")
    async def later(context: EffectContext, payload: None) -> None:
        used.append(context.resource(ref))
        both.release()

    @system.on(Release)
    def release(trigger: Release, tx: Transaction) -> None:
        tx.effect(plain, None)
        tx.effect(later, None)

    with system:
        system.ask(UseLater(), timeout=WAIT_S)
        system.ask(Use(), timeout=WAIT_S)
        system.ask(Release(), timeout=WAIT_S)
        for _ in range(2):
            assert both.acquire(timeout=WAIT_S)
    assert len({id(client) for client in (*used, *system.seen)}) == 1  # type: ignore[attr-defined]
    assert log.events == ["open client", "close client"]


@pytest.mark.parametrize("make", [simulated, threaded])
def test_an_effect_that_is_a_coroutine_function_awaits_its_client(make: Any, log: Log) -> None:
    system = make()
    ref = system.resource("client", log.async_opener())
    used: list[Client] = []

    @system.effect("later")
    async def later(context: EffectContext, payload: None) -> None:
        used.append(await context.resource(ref))

    @system.on(Use)
    def use(trigger: Use, tx: Transaction) -> None:
        tx.effect(later, None)

    with system:
        system.ask(Use(), timeout=WAIT_S)
    assert [client.name for client in used] == ["client"]
    assert log.events == ["open client", "close client"]


# The wrong kind -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [simulated, threaded])
def test_an_async_resource_in_a_plain_handler_says_so(make: Any, log: Log) -> None:
    system = make()
    using(system, client=system.resource("client", log.async_opener()))
    with system:
        for _ in range(2):
            with pytest.raises(HandlerFailed) as caught:
                system.ask(Use(), timeout=WAIT_S)
            assert str(caught.value.__cause__).startswith(
                "the resource 'client' is an async context manager, which lives on the event loop: use it in handlers and "
                "effects that are declared with async def"
            )
            assert system.ask(UseLater(), timeout=WAIT_S) == "client"
            assert log.events == ["open client"]


class Both:
    """Can be entered in both ways, one of them wrong, as clients do to say so."""

    name, is_open = "both", True

    def __enter__(self) -> None:
        raise TypeError("use async with")

    def __exit__(self, *_: object) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


def test_what_can_be_entered_in_both_ways_is_an_async_one() -> None:
    system = threaded()
    using(system, client=system.resource("client", Both))
    with system:
        assert system.ask(UseLater(), timeout=WAIT_S) == "both"


@pytest.mark.parametrize("made", [lambda: 3, Client, lambda: asyncio.sleep(0)])
@pytest.mark.parametrize("trigger", [Use(), UseLater()])
def test_an_opener_that_returns_no_context_manager_says_what_it_returned(made: Any, trigger: Any) -> None:
    system = threaded()
    using(system, client=system.resource("client", made))
    with system, pytest.raises(HandlerFailed, match="must return a context manager or an async one, it returned"):
        system.ask(trigger, timeout=WAIT_S)


def test_a_resource_of_another_system_is_refused(log: Log) -> None:
    system, other = simulated(), simulated()
    other.resource("x", log.opener())
    using(system, client=other.resource("client", log.opener()), own=system.resource("own", log.opener()))
    with system:
        with pytest.raises(HandlerFailed, match="the resource 'client' belongs to another system"):
            system.ask(Use())
        assert system.ask(Use(name="own")) == "client"
    plain = simulated()
    plain.on(Use)(lambda trigger, tx: tx.resource("client"))
    with (
        plain,
        pytest.raises(HandlerFailed, match=r"takes the ResourceRef that system.resource\(\) returned, got 'client'"),
    ):
        plain.ask(Use())


def test_a_transaction_gives_no_resource_after_its_end(log: Log) -> None:
    system = simulated()
    ref = system.resource("client", log.opener())
    kept: list[Transaction] = []
    system.on(Use)(lambda trigger, tx: kept.append(tx))
    with system:
        system.ask(Use())
        with pytest.raises(Exception, match="has ended: use tx only inside its handler"):
            kept[0].resource(ref)


# Closing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [simulated, threaded])
def test_resources_are_closed_in_reverse_order(make: Any, log: Log) -> None:
    system = make()
    refs = {
        name: system.resource(name, (log.async_opener if name.startswith("async") else log.opener)(name))
        for name in ("first", "async second", "third", "async fourth", "unused")
    }
    using(system, **refs)
    with system:
        for name in ("third", "async second", "first", "async fourth"):
            system.ask(UseLater(name=name) if name.startswith("async") else Use(name=name), timeout=WAIT_S)
    assert log.events == [
        "open third",
        "open async second",
        "open first",
        "open async fourth",
        "close async fourth",
        "close first",
        "close async second",
        "close third",
    ]


def test_resources_are_opened_and_closed_where_they_are_used(log: Log) -> None:
    system = threaded()
    refs: dict[str, Any] = {
        "plain": system.resource("plain", log.opener("plain")),
        "later": system.resource("later", log.opener("later")),
        "async": system.resource("async", log.async_opener("async")),
        "effect": system.resource("effect", log.opener("effect")),
    }
    using(system, **refs)

    class Release(Trigger[None]):
        pass

    @system.effect("plain")
    def plain(context: EffectContext, payload: None) -> None:
        context.resource(refs["effect"])

    system.on(Release)(lambda trigger, tx: tx.effect(plain, None))
    with system:
        for trigger in (Use(name="plain"), UseLater(name="later"), UseLater(name="async"), Release()):
            system.ask(trigger, timeout=WAIT_S)
    places = {(what, name): thread.rpartition("-pool")[1] or thread for what, name, thread in log.entries}
    for what in ("open", "close"):
        assert places[what, "plain"] == "-pool"
        assert places[what, "later"] == places[what, "async"] == "seqtor-loop"
        assert places[what, "effect"] == "seqtor-effects-1"


def test_a_resource_that_fails_to_close_keeps_no_other_open(log: Log, warnings: list[str]) -> None:
    system = threaded()

    @contextlib.contextmanager
    def fails() -> Iterator[Client]:
        yield Client("fails")
        raise OSError("cannot close")

    @contextlib.asynccontextmanager
    async def fails_async() -> AsyncIterator[Client]:
        yield Client("fails too")
        raise OSError("cannot close either")

    refs = {"a": system.resource("a", log.opener("a")), "b": system.resource("b", fails),
            "c": system.resource("c", fails_async), "d": system.resource("d", log.opener("d"))}  # fmt: skip
    using(system, **refs)
    with system:
        for name in "abcd":
            system.ask(UseLater(name=name), timeout=WAIT_S)
    assert log.events == ["open a", "open d", "close d", "close a"]
    assert warnings == [
        "closing the resource 'c' failed: cannot close either",
        "closing the resource 'b' failed: cannot close",
    ]


def test_what_runs_in_the_drain_still_has_its_resources(log: Log) -> None:
    system = threaded()
    ref = system.resource("client", log.opener())
    used: list[bool] = []

    @system.effect("plain")
    def plain(context: EffectContext, payload: None) -> None:
        used.append(context.resource(ref).is_open)

    system.on(Use)(lambda trigger, tx: tx.effect(plain, None))
    with system:
        for _ in range(20):
            system.tell(Use())
    assert used == [True] * 20
    assert log.events == ["open client", "close client"]


def test_what_is_opened_after_the_stop_is_closed_at_once(log: Log) -> None:
    system, gate, heard = threaded(threads=2), Gate(), threading.Event()
    errors: list[Exception] = []

    @contextlib.contextmanager
    def open_slowly() -> Iterator[Client]:
        gate.pass_through()
        with log.opener()() as client:
            yield client

    ref = system.resource("client", open_slowly)

    @system.on(Use)
    def use(trigger: Use, tx: Transaction) -> None:
        try:
            tx.resource(ref)
        except NotRunning as error:
            errors.append(error)
        heard.set()

    system.start()
    system.submit(Use())
    gate.await_arrivals()
    system.stop(grace=0)
    gate.open()
    assert heard.wait(WAIT_S)
    assert log.events == ["open client", "close client"]
    assert str(errors[0]) == "the resource 'client' cannot be used any more: the system has stopped"


def test_a_stop_waits_only_so_long_for_a_place_that_hangs(
    log: Log, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.setattr("seqtor.actors.resources.CLOSE_TIMEOUT_S", 0.05)
    system, gate = threaded(), Gate()
    ref = system.resource("client", log.opener())

    @system.effect("plain")
    def plain(context: EffectContext, payload: None) -> None:
        context.resource(ref)
        gate.pass_through()

    system.on(Use)(lambda trigger, tx: tx.effect(plain, None))
    system.start()
    system.ask(Use(), timeout=WAIT_S)
    gate.await_arrivals()
    system.stop(grace=0)
    assert any("resources were not closed in time: client" in line for line in warnings)
    gate.open()


# Registration ---------------------------------------------------------------------------------------------------------


def generator() -> Iterator[None]:
    yield None


async def async_generator() -> AsyncIterator[None]:
    yield None


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("name", "opener", "says"),
    [
        ("", contextlib.nullcontext, "a resource's name is a non-empty string, got ''"),
        (None, contextlib.nullcontext, "a resource's name is a non-empty string, got None"),
        ("taken", contextlib.nullcontext, "there is a resource called 'taken' already"),
        (
            "x",
            contextlib.nullcontext(),
            "pass a function that returns a context manager, which is opened at the first use",
        ),
        ("x", generator, "the opener must return a context manager: add @contextlib.contextmanager"),
        ("x", async_generator, "the opener must return a context manager: add @contextlib.asynccontextmanager"),
        ("x", coroutine, "add @contextlib.asynccontextmanager, and yield instead of returning"),
        ("x", lambda path: path, "the opener is called without arguments"),
    ],
)
def test_what_cannot_be_a_resource_is_refused(name: Any, opener: Any, says: str) -> None:
    system = simulated()
    system.resource("taken", contextlib.nullcontext)
    with pytest.raises(RegistrationError, match=says):
        system.resource(name, opener)


def test_resources_are_registered_before_the_start() -> None:
    with simulated() as system, pytest.raises(RegistrationError, match=r"resource\(\) comes before the start"):
        system.resource("x", contextlib.nullcontext)


def test_a_reference_names_its_resource() -> None:
    assert repr(simulated().resource("client", contextlib.nullcontext)) == "<ResourceRef 'client'>"
