"""How a system ends, for whoever waits for it: `system.wait()` and `system.life`."""

from __future__ import annotations

import threading

import pytest

from seqtor import Ending, Life, NotRunning, Supervisor, Transaction, Trigger, WouldDeadlock
from seqtor.endings import LifeEnd
from seqtor.messages.errors import HandlerFailed
from tests.programs import WAIT_S, Gate, simulated, threaded


class Wait(Trigger[None]):
    """Waits for the end of its own system."""


def test_who_waits_is_told_that_the_system_was_stopped() -> None:
    system = threaded()
    endings: list[Ending] = []
    with system:
        waiting = threading.Thread(target=lambda: endings.append(system.wait(WAIT_S)))
        waiting.start()
    waiting.join(WAIT_S)
    assert endings == [Ending(Life.STOPPED, "it was told to stop")] == [system.wait()]
    assert not endings[0].broke_down


def test_life_says_where_a_system_is() -> None:
    assert threaded().life is Life.NOT_STARTED
    system = threaded()
    gate = Gate()

    @system.on(Wait)
    def wait(trigger: Wait, tx: Transaction) -> None:
        gate.pass_through()

    with system:
        assert system.life is Life.RUNNING
        system.tell(Wait())
        gate.await_arrivals()
        stopping = threading.Thread(target=system.stop)
        stopping.start()
        while system.life is Life.RUNNING:
            pass
        assert system.life is Life.STOPPING
        gate.open()
        stopping.join(WAIT_S)
    assert system.life is Life.STOPPED
    never = threaded()
    never.stop()
    assert never.life is Life.STOPPED


def test_a_wait_has_a_time_out() -> None:
    for system in (threaded(), simulated()):
        with system, pytest.raises(TimeoutError, match=r"the system has not ended within 0\.01 s"):
            system.wait(0.01)


def test_before_the_start_there_is_no_end_to_wait_for() -> None:
    with pytest.raises(NotRunning, match="is not started"):
        Supervisor().wait()


def test_a_handler_may_not_wait_for_the_end() -> None:
    system = simulated()

    @system.on(Wait)
    def wait(trigger: Wait, tx: Transaction) -> None:
        system.wait()

    with system, pytest.raises(HandlerFailed) as failed:
        system.ask(Wait())
    assert isinstance(failed.value.__cause__, WouldDeadlock)


def test_the_first_end_counts() -> None:
    end = LifeEnd(None)
    end.tell(Life.BROKEN_DOWN, "the journal crashed")
    end.tell(Life.STOPPED, "it was told to stop")
    assert end.wait(0) == end.ending == Ending(Life.BROKEN_DOWN, "the journal crashed")
    assert end.wait(None).broke_down
