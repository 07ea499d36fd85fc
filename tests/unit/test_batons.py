"""Batons: one thread sleeps until another wakes it, whatever the platform offers for it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from seqtor.actors import batons
from seqtor.actors.batons import EventBaton, LockBaton
from tests.programs import WAIT_S

Baton = EventBaton | LockBaton
InThread = Callable[[Callable[[], object]], threading.Thread]
WaitUntilSignal = Callable[[Callable[[], object]], bool]
needs_eventfd = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="there are only locks on this platform")


@pytest.fixture(autouse=True)
def no_spare() -> Iterator[None]:
    batons._spare.clear()
    yield
    batons._spare.clear()


@pytest.fixture(params=[pytest.param("event", marks=needs_eventfd), "lock"])
def baton(request: pytest.FixtureRequest) -> Baton:
    return batons.take() if request.param == "event" else LockBaton()


@pytest.fixture
def in_thread() -> Iterator[InThread]:
    """Starts a thread; all have ended when the test has."""
    threads: list[threading.Thread] = []

    def start(function: Callable[[], object]) -> threading.Thread:
        threads.append(threading.Thread(target=function, daemon=True))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(WAIT_S)


def test_who_waits_goes_on_when_the_baton_is_handed_over(baton: Baton, in_thread: InThread) -> None:
    arrived: list[bool] = []
    waiting = in_thread(lambda: arrived.append(baton.wait()))
    assert waiting.is_alive()
    baton.hand_over()
    waiting.join(WAIT_S)
    assert arrived == [True]


def test_a_baton_may_be_handed_over_before_anyone_waits(baton: Baton) -> None:
    baton.hand_over()
    assert baton.wait(WAIT_S)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, 0.001])
def test_a_time_out_that_comes_first_is_told(baton: Baton, timeout_s: float) -> None:
    assert not baton.wait(timeout_s)


@pytest.mark.parametrize("timeout_s", [1e6, 1e9, 1e300])
def test_no_time_out_is_too_long(baton: Baton, timeout_s: float) -> None:
    baton.hand_over()
    assert baton.wait(timeout_s)


@needs_eventfd
def test_a_baton_that_was_given_back_is_taken_again_and_blocks_again() -> None:
    baton = batons.take()
    baton.hand_over()
    assert baton.wait()
    batons.give_back(baton)
    assert batons.take() is baton
    assert not baton.wait(0.0)


@needs_eventfd
def test_so_many_are_kept_and_the_rest_closed() -> None:
    taken = [batons.take() for _ in range(batons.SPARE_MAX + 1)]
    descriptors = [baton._descriptor for baton in taken if isinstance(baton, EventBaton)]
    while taken:
        batons.give_back(taken.pop(0))
    assert len(batons._spare) == batons.SPARE_MAX
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[0])


@needs_eventfd
def test_who_is_late_to_hand_over_keeps_the_descriptor_open() -> None:
    baton = batons.take()
    assert isinstance(baton, EventBaton)
    descriptor, late = baton._descriptor, baton.hand_over
    del baton
    os.fstat(descriptor)
    late()
    del late
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("error", [AttributeError("module 'os' has no attribute 'eventfd'"), OSError(24, "too many")])
def test_without_descriptors_a_lock_does_it(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def eventfd(_: int) -> int:
        raise error

    monkeypatch.setattr(os, "eventfd", eventfd, raising=False)
    baton = batons.take()
    assert isinstance(baton, LockBaton)
    batons.give_back(baton)
    assert not batons._spare


@needs_eventfd
def test_a_forked_child_does_not_wait_on_what_its_parent_holds() -> None:
    batons.give_back(batons.take())
    child = os.fork()
    if child == 0:
        os._exit(len(batons._spare))
    assert os.waitpid(child, 0)[1] == 0
    assert len(batons._spare) == 1


@pytest.fixture
def wait_until_signal(baton: Baton, in_thread: InThread) -> Iterator[WaitUntilSignal]:
    """Waits for the baton; meanwhile a signal comes, on which the main thread acts once."""
    before = signal.getsignal(signal.SIGUSR1)
    about_to_wait, handled = threading.Event(), threading.Event()

    def send() -> None:
        about_to_wait.wait(WAIT_S)
        while not handled.is_set():  # A signal may come just before the main thread falls asleep, then nobody acts.
            os.kill(os.getpid(), signal.SIGUSR1)
            handled.wait(0.01)

    def wait(act: Callable[[], object]) -> bool:
        def act_once(*_: object) -> None:
            if not handled.is_set():
                handled.set()
                act()

        signal.signal(signal.SIGUSR1, act_once)
        sender = in_thread(send)
        try:
            about_to_wait.set()
            return baton.wait(WAIT_S)
        finally:
            sender.join(WAIT_S)

    yield wait
    signal.signal(signal.SIGUSR1, before)


class Interrupted(Exception):
    """Raised by the handler of a signal."""


def test_a_signal_s_handler_may_end_the_wait(wait_until_signal: WaitUntilSignal) -> None:
    def interrupt() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        wait_until_signal(interrupt)


def test_a_signal_that_is_handled_does_not_end_the_wait(
    baton: Baton, in_thread: InThread, wait_until_signal: WaitUntilSignal
) -> None:
    assert wait_until_signal(lambda: in_thread(baton.hand_over))
