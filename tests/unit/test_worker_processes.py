"""Handlers in worker processes: the same as in threads in all that can be seen, whatever becomes of the process."""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from seqtor import (
    Aborted,
    DeadlineExceeded,
    FootprintViolation,
    HandlerFailed,
    NotRunning,
    RegistrationError,
    Rejected,
    State,
    Submission,
    UnknownTrigger,
)
from seqtor.actors.committer import CommitOrder
from seqtor.actors.processes.answering import Answering
from seqtor.actors.processes.process import WorkerProcess
from seqtor.actors.processes.wire import Link
from tests.process_programs import CARRIED_OUT, HERE, Act, Awkward, Doors, InThread, Item, Note, Works, make_works
from tests.programs import Gate, simulated

WAIT_S = 60.0


@pytest.fixture(scope="module")
def works() -> Iterator[Works]:
    """A system that many tests share: a worker process takes a while to start."""
    made = make_works()
    with made.system:
        yield made


@pytest.fixture
def doors(tmp_path: Path) -> Doors:
    return Doors(tmp_path)


def ask(works: Works, verb: str, text: str = "", number: int = 0, path: Any = "") -> Any:
    return works.system.ask(Act(verb=verb, text=text, number=number, path=str(path)), timeout=WAIT_S)


def submit(works: Works, verb: str, text: str = "", number: int = 0, path: Any = "") -> Submission[Any]:
    return works.system.submit(Act(verb=verb, text=text, number=number, path=str(path)))


def failure_of(works: Works, verb: str, text: str = "") -> BaseException:
    with pytest.raises(HandlerFailed) as caught:
        ask(works, verb, text)
    assert caught.value.__cause__ is not None
    return caught.value.__cause__


# The same as in threads ------------------------------------------------------------------------------------------------


def test_all_that_a_transaction_can_do_gives_the_same_as_in_a_thread() -> None:
    seen = []
    for executor in ("process", "thread"):
        CARRIED_OUT.clear()
        works = make_works(executor=executor)
        with works.system:
            value = ask(works, "everything")
            works.system.stop()
            contents = {key: value.n for key, value in works.system.snapshot()[works.items].items()}
            accesses = [record.trigger.trigger_name for record in works.system.runs(limit=20)]
        # Of the run id, which is another one in each system.
        assert len(value.pop("random")) == len(value.pop("uuid4")) == 2
        seen.append((value, contents, accesses, sorted(payload for _, payload in CARRIED_OUT)))
    assert seen[0] == seen[1]
    assert seen[0][3] == ["payload"]
    assert seen[0][0]["own"][0] == [11, None, 5, 4, 8]


def test_what_is_drawn_from_the_run_id_is_the_same_in_a_thread_that_replays_it() -> None:
    works = make_works()
    with works.system:
        ask(works, "everything")
        assert works.system.verify().executed > 0


def test_the_handler_executes_in_another_process_and_a_process_stays(works: Works) -> None:
    first, second = ask(works, "where"), ask(works, "where")
    assert first == second != os.getpid()


def test_the_low_level_form_commits_exactly_the_intents() -> None:
    works = make_works()
    with works.system:
        ask(works, "low_level")
        assert dict(works.system.snapshot()[works.items].items()) == {"a": Item(n=1), "low": Item(n=2)}


@pytest.mark.parametrize(
    ("verb", "error"),
    [("wrong_store", RegistrationError), ("wrong_trigger", UnknownTrigger), ("wrong_effect", RegistrationError)],
)
def test_what_tx_refuses_it_refuses_there_too(works: Works, verb: str, error: type[Exception]) -> None:
    assert isinstance(failure_of(works, verb), error)


def test_what_is_told_of_the_progress_is_heard(works: Works, doors: Doors) -> None:
    async def listen() -> list[Any]:
        told = submit(works, "tell", path=doors.folder).progress()
        doors.await_arrival()
        doors.open()
        return [value async for value in told]

    assert asyncio.run(listen()) == [0, 1, 2]


def test_the_verbs_of_the_system_are_refused_there_too(works: Works) -> None:
    assert ask(works, "verbs_of_the_system") == ["UseTransaction", "WouldDeadlock", "UseTransaction"]


# Errors ----------------------------------------------------------------------------------------------------------------


def test_what_is_asked_of_the_system_itself_says_that_it_runs_elsewhere(works: Works) -> None:
    error = failure_of(works, "ask_for_stats")
    assert isinstance(error, NotRunning)
    assert "runs in the process that has started it, not in this worker process: what a handler needs" in str(error)
    assert "system.start()" not in str(error)


def test_a_rejection_comes_back_as_itself(works: Works) -> None:
    with pytest.raises(Rejected) as caught:
        ask(works, "reject", number=3)
    assert (caught.value.message, caught.value.code, caught.value.details) == ("no more", "full", {"left": 3})


def test_an_exception_comes_back_as_itself_with_its_cause_and_where_it_was_raised(works: Works) -> None:
    error = failure_of(works, "fail", "bad")
    assert (type(error), error.args) == (ValueError, ("bad",))
    assert isinstance(error.__cause__, KeyError)
    assert "process_programs.py" in error.__notes__[0]
    assert "raise ValueError(trigger.text)" in error.__notes__[0]


def test_an_exception_that_pickle_cannot_make_again_comes_back_as_itself(works: Works) -> None:
    error = failure_of(works, "fail_awkwardly")
    assert isinstance(error, Awkward)
    assert (error.args, error.code, error.hint) == (("7: a hint",), 7, "a hint")


def test_an_exception_of_a_class_that_only_the_worker_knows_says_which_and_verify_agrees(works: Works) -> None:
    error = failure_of(works, "fail_locally")
    assert isinstance(error, OSError)
    assert (type(error).__qualname__, str(error)) == ("fail_locally.<locals>.Local", "from here")
    with pytest.raises(Rejected) as rejected:
        ask(works, "reject_locally")
    assert (rejected.value.message, rejected.value.code, rejected.value.details) == ("no", "full", {"left": 3})
    rejecting, failing = works.system.runs(limit=2)
    assert (rejecting.state, failing.state) == (State.REJECTED, State.FAILED)
    assert works.system.replay(failing.seq, rejecting.seq).executed == 2


def test_a_handler_that_leaves_the_interpreter_fails_and_its_process_stays(works: Works) -> None:
    before = ask(works, "where")
    assert isinstance(failure_of(works, "leave"), SystemExit)
    assert ask(works, "where") == before


@pytest.mark.parametrize(("verb", "what"), [("return_local", "the result of Act"), ("write_local", "what Act writes")])
def test_what_cannot_cross_fails_the_run_and_says_so(works: Works, verb: str, what: str) -> None:
    error = failure_of(works, verb)
    assert isinstance(error, TypeError)
    assert f"{what} cannot cross between the system and its worker process" in str(error)
    assert 'or executor="thread"' in str(error)
    assert ask(works, "add", "a", 0) >= 0, "the process goes on"


# Reads -----------------------------------------------------------------------------------------------------------------


class Traffic:
    """Counts what worker processes ask, and the bytes that they are sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.questions: list[str] = []
        self.sent = 0
        answer, send_bytes = Answering._answer, Link.send

        def counted(answering: Any, question: Any) -> Any:
            if question.name != "look":  # On a slow machine there is one more now and then.
                self.questions.append(question.name)
            return answer(answering, question)

        def measured(link: Any, frame: Any) -> None:
            self.sent += len(pickle.dumps(frame))
            send_bytes(link, frame)

        monkeypatch.setattr(Answering, "_answer", counted)
        monkeypatch.setattr(Link, "send", measured)


def test_of_a_store_of_10_000_records_only_what_is_read_crosses(monkeypatch: pytest.MonkeyPatch) -> None:
    works = make_works(items={f"k{number:05}": Item(n=number) for number in range(10_000)})
    with works.system:
        ask(works, "where")
        traffic = Traffic(monkeypatch)
        assert ask(works, "read_three") == 3 + 5000 + 9998
        assert traffic.questions == ["read"] * 3
        assert traffic.sent < 3_000
        traffic.questions.clear()
        assert ask(works, "read_all") == sum(range(10_000))
        assert set(traffic.questions) <= {"range", "keys", "values"}
        assert len(traffic.questions) < 50
        traffic.questions.clear()
        traffic.sent = 0
        assert ask(works, "read_some") == sum(range(20))
        assert traffic.questions.count("values") == 2, "values come in pieces, not all at once"


def test_the_state_of_a_custom_store_crosses_once_per_version(monkeypatch: pytest.MonkeyPatch) -> None:
    works = make_works()
    with works.system:
        traffic = Traffic(monkeypatch)
        assert [ask(works, "get_int", "a") for _ in range(3)] == [1, 1, 1]
        unchanged = traffic.sent
        ask(works, "put_int", "b", 5)
        assert ask(works, "get_int", "b") == 5
        assert traffic.questions.count("state") == 4, "asked for once per attempt that looks at it"
        assert unchanged > 0
        shipped = works.system._running._crew._members[0].process.shipped  # type: ignore[union-attr]
        assert shipped._next == 2, "two versions were sent"


@pytest.mark.parametrize(
    ("read", "write", "conflicts"),
    [
        ("key", Act(verb="put", text="a", number=50), True),
        ("key", Act(verb="increment", text="a", number=50), True),
        ("key", Act(verb="put", text="b", number=50), False),
        ("absence", Act(verb="put", text="zz", number=50), True),
        ("absence", Act(verb="put", text="zzz", number=50), False),
        ("range", Act(verb="put", text="zz", number=50), True),
        ("scan", Act(verb="put", text="b", number=50), True),
        ("changed", Act(verb="put", text="a", number=50), True),
        ("int", Act(verb="put_int", text="a", number=50), True),
        ("int", Act(verb="put_int", text="b", number=50), False),
        ("increment", Act(verb="increment", text="a", number=50), False),
        ("nothing", Act(verb="put", text="a", number=50), False),
    ],
    ids=lambda part: part if isinstance(part, str) else None,
)
@pytest.mark.parametrize("when", ["meanwhile", "afterwards"])
def test_what_is_read_conflicts_as_in_a_thread(read: str, write: Act, conflicts: bool, when: str, doors: Doors) -> None:
    if when == "afterwards":  # The attempt finishes, and waits for its turn with what it has read.
        doors.take_away()
    works = make_works()
    gate = Gate()

    def first(trigger: Note, tx: Any) -> Any:
        gate.pass_through()
        return vars(__import__("tests.process_programs", fromlist=["VERBS"]))["VERBS"][write.verb](write, tx)

    works.system._handlers.named("Note").function = first
    with works.system:
        lower = works.system.submit(Note(text="x"))
        gate.await_arrivals()
        higher = submit(works, "at_doors", read, path=doors.folder)
        if when == "meanwhile":
            doors.await_arrival()
        while when == "afterwards" and not works.system.stats().pending_commits:
            os.sched_yield()
        gate.open()
        lower.result(WAIT_S)
        if when == "meanwhile":
            doors.open()
        higher.result(WAIT_S)
        record = works.system.record(higher.seq or 0)
        assert record.attempts == (2 if conflicts else 1)
        if when == "meanwhile":
            doors.take_away()
        assert works.system.verify().executed == 2, "a thread that replays it reads and writes the same"


def test_an_attempt_that_is_over_leaves_the_handler_at_its_next_operation(doors: Doors) -> None:
    works = make_works()
    gate = Gate()

    def first(trigger: Note, tx: Any) -> None:
        gate.pass_through()
        tx[works.items]["a"] = Item(n=77)

    works.system._handlers.named("Note").function = first
    with works.system:
        lower = works.system.submit(Note(text="x"))
        gate.await_arrivals()
        higher = submit(works, "at_doors", "key", 1, doors.folder)
        doors.await_arrival()
        gate.open()
        lower.result(WAIT_S)
        doors.open()
        assert higher.result(WAIT_S) == 77
    assert [path.name for path in doors.folder.glob("went on*")] == ["went on in attempt 2"]


# Calls -----------------------------------------------------------------------------------------------------------------


def test_a_call_is_made_once_for_all_attempts_and_recorded(
    doors: Doors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQTOR_TEST_CALLS", str(tmp_path / "calls"))
    works = make_works(tmp_path / "calls.db")
    gate = Gate()

    def first(trigger: Note, tx: Any) -> None:
        gate.pass_through()
        tx[works.items]["a"] = Item(n=1000)

    works.system._handlers.named("Note").function = first
    with works.system:
        lower = works.system.submit(Note(text="x"))
        gate.await_arrivals()
        higher = submit(works, "call", number=4, path=doors.folder)
        doors.await_arrival()
        gate.open()
        lower.result(WAIT_S)
        doors.open()
        assert higher.result(WAIT_S) == [9, 9, 16]
        assert works.system.record(higher.seq or 0).attempts == 2
        assert works.system.snapshot()[works.items]["sum"].n == 1034
    assert (tmp_path / "calls").read_text().split() == ["3", "3", "4"]
    assert works.system.verify().executed == 2
    assert (tmp_path / "calls").read_text().split() == ["3", "3", "4"]


def test_what_a_called_function_raises_the_handler_gets_with_its_cause(works: Works) -> None:
    assert ask(works, "call_and_fail", "outside") == ["outside", "ValueError('outside')", "ValueError"]


def test_what_is_no_answer_of_a_call_passes_through_the_handler(works: Works) -> None:
    assert isinstance(failure_of(works, "call_and_exit"), SystemExit)


def test_a_call_in_which_the_process_dies_is_made_once_more_under_the_same_id(works: Works, tmp_path: Path) -> None:
    first, second = ask(works, "call_and_die", path=tmp_path / "ids").split()
    assert first == second


def test_a_called_function_gets_no_transaction(works: Works) -> None:
    assert isinstance(failure_of(works, "call_with_tx"), LookupError)


# Processes that end ----------------------------------------------------------------------------------------------------


def test_a_run_whose_process_is_killed_executes_again_with_the_same_seq(doors: Doors) -> None:
    works = make_works()
    with works.system:
        run = submit(works, "at_doors", "key", path=doors.folder)
        os.kill(int(doors.await_arrival()), signal.SIGKILL)
        doors.await_arrival()
        doors.open()
        assert run.result(WAIT_S) == 1
        record = works.system.record(1)
        assert (run.seq, record.state, record.attempts) == (1, State.COMMITTED, 1), (
            "attempts count conflicts, not deaths"
        )
        assert works.system.stats().processes_replaced == 1


@pytest.mark.parametrize(("how", "by"), [("segfault", "SIGSEGV"), ("kill", "SIGKILL")])
def test_a_handler_that_kills_its_process_ends_as_failed_after_three_and_the_others_go_on(how: str, by: str) -> None:
    works = make_works(settings={"processes": 2})
    with works.system:
        runs = [submit(works, "add", "a", 1), submit(works, "die", how), submit(works, "add", "a", 1)]
        assert runs[0].result(WAIT_S) == 2
        said = f"^Act at seq 2 failed: its worker process died 3 times, at last with .* was killed by {by}"
        with pytest.raises(HandlerFailed, match=said):
            runs[1].result(WAIT_S)
        assert runs[2].result(WAIT_S) == 3
        assert works.system.stats().processes_replaced == 3
        report = works.system.verify()  # Which would be the end of this process.
        assert (report.executed, dict(report.skipped)) == (2, {"crashed": 1})


def test_a_handler_past_its_deadline_is_killed_and_the_next_goes_on() -> None:
    works = make_works(deadline=1.0)
    with works.system:
        ask(works, "where")
        late = submit(works, "spin")
        after = submit(works, "add", "a", 1)
        with pytest.raises(DeadlineExceeded, match=r"Act at seq 2 ran longer than its deadline of 1 s"):
            late.result(WAIT_S)
        assert after.result(WAIT_S) == 2
        assert works.system.stats().processes_replaced == 1
        assert works.system.stats().threads_replaced == 0


def test_the_start_of_a_process_is_no_handler_time() -> None:
    works = make_works(deadline=0.1)  # A process takes longer to start.
    with works.system:
        assert ask(works, "add", "a", 1) == 2


def test_an_aborted_run_is_killed_and_the_next_goes_on(doors: Doors) -> None:
    works = make_works()
    with works.system:
        stuck = submit(works, "spin", path=doors.folder)
        pid = int(doors.await_arrival())
        works.system.abort(1, "it spins")
        with pytest.raises(Aborted, match="it spins"):
            stuck.result(WAIT_S)
        assert ask(works, "where") != pid


def test_a_stop_ends_the_processes_also_those_in_a_handler(doors: Doors) -> None:
    works = make_works(settings={"processes": 2})
    with works.system:
        stuck = submit(works, "spin", path=doors.folder)
        pids = {int(doors.await_arrival()), ask_beside(works)}
        works.system.stop(0.0)
    with pytest.raises(Exception, match="stopped before this run had ended"):
        stuck.result(WAIT_S)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def ask_beside(works: Works) -> int:
    """The process of the second worker; the answer never comes, because the run before it has not ended."""
    submit(works, "where")
    crew: Any = works.system._running._crew  # type: ignore[union-attr]
    return next(member.process.pid for member in crew._members if member.process is not None)


def test_what_was_opened_in_a_worker_process_is_closed_at_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQTOR_TEST_TOOL", str(tmp_path / "tool"))
    works = make_works()
    with works.system:
        assert ask(works, "everything")["tool"]
        assert not (tmp_path / "tool").exists()
    assert (tmp_path / "tool").read_text() == "closed"


def test_interrupts_and_terminations_leave_a_worker_process_alone(works: Works) -> None:
    assert ask(works, "interrupt") == "unmoved"


def test_runs_in_processes_hold_no_thread_of_the_pool(doors: Doors) -> None:
    works = make_works(settings={"processes": 1, "threads": 2})
    with works.system:
        waiting = submit(works, "at_doors", "key", path=doors.folder)
        doors.await_arrival()
        others = [works.system.submit(InThread(verb="put", text=f"t{number}", number=number)) for number in range(3)]
        queued = submit(works, "add", "a", 1)
        while works.system.stats().pending_commits < 3:
            os.sched_yield()  # They execute, and wait for their turn.
        doors.open()
        waiting.result(WAIT_S)
        assert [each.result(WAIT_S) for each in others] == [None] * 3
        assert queued.result(WAIT_S) == 2


def test_two_systems_of_one_process_have_processes_of_their_own() -> None:
    one, other = make_works(name="one"), make_works(name="other")
    with one.system, other.system:
        assert ask(one, "where") != ask(other, "where")
        assert (ask(one, "add", "a", 1), ask(other, "add", "a", 2)) == (2, 3)


def test_a_process_that_cannot_be_started_fails_the_run_after_three(monkeypatch: pytest.MonkeyPatch) -> None:
    works = make_works()

    def refuse(process: Any, preparation: Any) -> None:
        process.kill()
        raise OSError("no more processes")

    monkeypatch.setattr(WorkerProcess, "prepare", refuse)
    with works.system:
        with pytest.raises(HandlerFailed, match="no more processes"):
            ask(works, "where")
        monkeypatch.undo()
        assert ask(works, "where") != os.getpid()


# Elsewhere -------------------------------------------------------------------------------------------------------------


def test_on_a_simulated_dispatcher_the_handler_executes_in_this_process() -> None:
    pids = set()
    for seed in range(3):
        works = make_works(dispatchers=simulated(seed)._make_dispatchers)
        with works.system:
            pids.add(works.system.ask(Act(verb="where")))
            assert works.system._running._crew is None  # type: ignore[union-attr]
    assert pids == {os.getpid()}


def test_the_core_goes_on_after_a_crash_and_the_run_in_a_process_executes_again(doors: Doors) -> None:
    works = make_works()
    with works.system:
        run = submit(works, "at_doors", "key", path=doors.folder)
        doors.await_arrival()
        crash = itertools.chain([RuntimeError("a defect")], itertools.repeat(()))
        with mock.patch.object(CommitOrder, "all_in_flight", side_effect=crash):
            works.system.runs()
        doors.open()
        doors.await_arrival()
        doors.open()
        assert run.result(WAIT_S) == 1
        assert run.seq == 1


# With other options ----------------------------------------------------------------------------------------------------


def test_a_declared_footprint_holds_in_a_worker_process_too() -> None:
    works = make_works(writes=lambda trigger: [(HERE[0].items, trigger.text)])
    with works.system:
        runs = [submit(works, "add", "a", 1) for _ in range(5)]
        assert [run.result(WAIT_S) for run in runs] == [2, 3, 4, 5, 6]
        assert all(works.system.record(run.seq or 0).attempts == 1 for run in runs), "each waits for the one before it"
        with pytest.raises(FootprintViolation):
            ask(works, "low_level", "a")
        assert works.system.verify().executed == 6


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_run_that_was_overtaken_reads_the_state_as_of_its_own_place(executor: str, doors: Doors) -> None:
    works = make_works(
        executor=executor,
        writes=lambda trigger: [
            HERE[0].ints if store == "ints" else (HERE[0].items, store) for store in keys_of(trigger)
        ],
    )
    with works.system:
        first = works.system.submit(InThread(verb="hold", text="a", number=7, path=str(doors.folder)))
        doors.await_arrival()
        second = submit(works, "copy_b", "a")  # Waits for the first: both write the same key.
        third = submit(works, "put_both", "b", 50)
        third.result(WAIT_S)
        fourth = submit(works, "copy_b", "c")  # Sees what has overtaken, for it is behind that.
        assert fourth.result(WAIT_S) == {"read": 50, "scanned": [50], "int": 50, "peek": 2}
        doors.open()
        assert second.result(WAIT_S) == {"read": 2, "scanned": [2], "int": 0, "peek": 2}
        first.result(WAIT_S)
        assert works.system.snapshot()[works.items]["b"].n == 50
        doors.take_away()
        assert works.system.verify().executed == 4


def keys_of(trigger: Any) -> list[str]:
    return [trigger.text, "ints"] if trigger.verb == "put_both" else [trigger.text]
