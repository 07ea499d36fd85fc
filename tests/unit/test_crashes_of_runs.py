"""A run actor, or the judge of a commit, that crashes: tried again at the same seq, three times at most."""

from __future__ import annotations

from typing import Any

import pytest

from seqtor import Collection, HandlerFailed, Retry, State, Supervisor, Transaction, Trigger
from seqtor.actors.committer.judge import Judge
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.actors.runs import AsyncRun, SyncRun
from seqtor.messages import ExecuteRun, JudgeCommit
from tests.programs import WAIT_S, Account, simulated, threaded


class Step(Trigger[int]):
    """Adds one."""

    number: int


class Crashes:
    """Makes an actor raise at a message for one seq, so often; notes its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: Any, message_kind: type, seq: int, times: int) -> None:
        self.left = times
        self.calls: list[int] = []
        original = kind._methods[message_kind]

        def crashing(actor: Any, message: Any) -> None:
            at = message.seq if kind is Judge else actor.seq
            if at == seq:
                self.calls.append(at)
                if self.left:
                    self.left -= 1
                    raise RuntimeError("a defect of the runtime")
            original(actor, message)

        monkeypatch.setitem(kind._methods, message_kind, crashing)


def stepping(system: Supervisor, *, is_async: bool = False, judged: bool = False) -> Any:
    invariants = [lambda state: True] if judged else []
    numbers = system.store("numbers", Collection(Account, invariants=invariants))

    def step(trigger: Step, tx: Transaction) -> int:
        n = tx[numbers].get("x", Account()).balance + 1
        tx[numbers]["x"] = Account(balance=n)
        return n

    async def step_async(trigger: Step, tx: Transaction) -> int:
        return step(trigger, tx)

    system.on(Step, retry=Retry(5))(step_async if is_async else step)
    return numbers


def outcomes(system: Supervisor) -> list[Any]:
    found: list[Any] = []
    for submission in system.submit_many([Step(number=number) for number in range(1, 8)]):
        try:
            found.append(submission.result(WAIT_S))
        except HandlerFailed as failure:
            found.append(str(failure.__cause__))
    return found


@pytest.mark.parametrize("make", [simulated, threaded])
@pytest.mark.parametrize("kind", [SyncRun, AsyncRun])
def test_a_run_actor_that_crashes_twice_is_made_again_with_the_same_seq(
    make: Any, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = Crashes(monkeypatch, kind, ExecuteRun, seq=3, times=2)
    system = make()
    stepping(system, is_async=kind is AsyncRun)
    with system:
        assert outcomes(system) == [1, 2, 3, 4, 5, 6, 7]
        assert crashes.left == 0
        assert system.stats().restarts == 2
        assert system.dead_letters() == []


@pytest.mark.parametrize("make", [simulated, threaded, lambda: simulated(journal=MemoryBackend())])
@pytest.mark.parametrize("kind", [SyncRun, AsyncRun])
def test_a_run_actor_that_crashes_three_times_ends_its_run_as_failed_and_a_dead_letter(
    make: Any, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Crashes(monkeypatch, kind, ExecuteRun, seq=3, times=99)
    system = make()
    stepping(system, is_async=kind is AsyncRun)
    with system:
        says = "its run actor crashed 3 times, at last with RuntimeError: a defect of the runtime"
        assert outcomes(system) == [1, 2, says, 3, 4, 5, 6]
        assert system.record(3).state is State.FAILED, "no policy retries what is none of the handler's doing"
        assert [(letter.seq, letter.error) for letter in system.dead_letters()] == [(3, f"RunCrashed: {says}")]
        assert system.verify().skipped == {"crashed": 1}


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_judge_that_crashes_twice_is_asked_again(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    crashes = Crashes(monkeypatch, Judge, JudgeCommit, seq=3, times=2)
    system = make()
    numbers = stepping(system, judged=True)
    with system:
        assert outcomes(system) == [1, 2, 3, 4, 5, 6, 7]
        assert len(crashes.calls) == 3
        assert system.stats().restarts == 2
        assert system.snapshot()[numbers]["x"].balance == 7


@pytest.mark.parametrize("make", [simulated, threaded, lambda: simulated(journal=MemoryBackend())])
def test_a_judge_that_crashes_three_times_ends_its_run_as_failed_and_a_dead_letter(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = Crashes(monkeypatch, Judge, JudgeCommit, seq=3, times=99)
    system = make()
    numbers = stepping(system, judged=True)
    with system:
        says = "its judge crashed 3 times, at last with RuntimeError: a defect of the runtime"
        assert outcomes(system) == [1, 2, says, 3, 4, 5, 6]
        assert len(crashes.calls) == 3
        assert system.record(3).state is State.FAILED
        assert [letter.seq for letter in system.dead_letters()] == [3]
        assert system.snapshot()[numbers]["x"].balance == 6
        assert system.verify().skipped == {"crashed": 1}


@pytest.mark.parametrize("make", [simulated, threaded])
def test_crashes_of_two_judges_are_counted_apart(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Crashes(monkeypatch, Judge, JudgeCommit, seq=2, times=2)
    Crashes(monkeypatch, Judge, JudgeCommit, seq=3, times=2)
    system = make()
    stepping(system, judged=True)
    with system:
        assert outcomes(system) == [1, 2, 3, 4, 5, 6, 7]
