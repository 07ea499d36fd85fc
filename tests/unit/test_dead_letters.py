"""Dead letters of runs and effects: one list, kept by the journal, each submitted again once."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from seqtor import (
    AlreadyResubmitted,
    Collection,
    DeadLetterRecord,
    DeadlineExceeded,
    EffectContext,
    HandlerFailed,
    KeyReused,
    Priority,
    Record,
    RegistrationError,
    Rejected,
    Retry,
    State,
    Submission,
    Supervisor,
    Transaction,
    Trigger,
    UseTransaction,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal import actor, open_runs
from seqtor.actors.journal.chain import Links
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages import DeadRunRecord, RecordedError, RecordedTrigger
from tests.programs import WAIT_S, simulated, threaded

LONG_S = 10_000.0


class Item(Record):
    """What is stored, and the payload of the effect."""

    n: int = 0


class Work(Trigger[int]):
    """Fails while the shop says so."""

    name: str = "a"
    how: str = "work"


class Shop:
    """A system that can be started again and again on one journal, and whose handlers fail on demand."""

    def __init__(self, journal: Any = None, **settings: Any) -> None:
        self.journal = journal
        self.settings = settings
        self.fails = True
        self.tries: list[tuple[str, int]] = []
        self.seed = 0

    def system(self, *, threads: bool = False) -> Supervisor:
        self.seed += 1
        seed = self.seed
        system = (
            threaded(2)
            if threads
            else Supervisor(self.journal, dispatchers=lambda _: SimulatedDispatchers(seed), settings=self.settings)
        )
        items = system.store("items", Collection(Item))

        @system.effect("send", retry=Retry(2, backoff=0.001))
        def send(context: EffectContext, item: Item) -> None:
            self.tries.append((context.key, item.n))
            if self.fails:
                raise OSError("no line")

        @system.on(Work, retry=Retry(2, backoff=0.001, on=LookupError), deadline=0.05)
        async def work(trigger: Work, tx: Transaction) -> int:
            if trigger.how == "send":
                tx.effect(send, Item(n=7))
                return 0
            if self.fails:
                if trigger.how == "reject":
                    raise Rejected("no")
                if trigger.how == "hang":
                    await asyncio.Event().wait()
                raise LookupError(trigger.name) if trigger.how == "retry" else ValueError(trigger.name)
            tx[items].increment(trigger.name, n=1)
            return tx.seq

        self.items = items
        return system


def world_of(system: Supervisor) -> SimulatedDispatchers:
    running: Any = system._running
    dispatchers: SimulatedDispatchers = running._dispatchers
    return dispatchers


def fail(system: Supervisor, **fields: str) -> DeadLetterRecord:
    """Have a run become a dead letter."""
    with pytest.raises((HandlerFailed, DeadlineExceeded)):
        system.ask(Work(**fields), timeout=LONG_S)
    return system.dead_letters(1)[0]


def send(system: Supervisor) -> DeadLetterRecord:
    """Have an effect become a dead letter."""
    before = len(system.dead_letters())
    system.ask(Work(how="send"), timeout=LONG_S)
    world_of(system).run_until(lambda: len(system.dead_letters()) > before, LONG_S)
    return system.dead_letters(1)[0]


def test_a_run_that_fails_for_good_is_a_dead_letter_with_what_is_needed_to_understand_it() -> None:
    with Shop().system() as system:
        submission = system.submit(Work(name="x"))
        with pytest.raises(HandlerFailed):
            submission.result(WAIT_S)
        record = system.record(1)
        (letter,) = system.dead_letters()
        assert letter == DeadLetterRecord(
            id=submission.id,
            kind="run",
            seq=1,
            name="Work",
            payload={"name": "x", "how": "work"},
            error="ValueError: x",
            attempts=1,
            time=record.committed_at or 0.0,
            submitted_at=record.submitted_at,
        )
        letter.payload["name"] = "changed"
        assert system.dead_letters()[0].payload["name"] == "x"
    assert [letter.seq for letter in system.dead_letters()] == [1], "after the stop, too"


def test_only_the_last_run_of_a_trigger_is_a_dead_letter() -> None:
    with Shop().system() as system:
        letter = fail(system, how="retry")
        assert (letter.seq, letter.attempts, letter.id) == (2, 2, system.record(2).id)
        assert len(system.dead_letters()) == 1


@pytest.mark.parametrize("threads", [False, True])
def test_a_run_past_its_deadline_is_a_dead_letter(threads: bool) -> None:
    with Shop().system(threads=threads) as system:
        letter = fail(system, how="hang")
        assert letter.error.startswith("DeadlineExceeded: Work at seq 1 ran longer than its deadline")


def test_rejections_and_aborts_are_no_dead_letters() -> None:
    with Shop().system() as system:
        with pytest.raises(Rejected):
            system.ask(Work(how="reject"))
        system.submit(Work(how="hang"))
        world_of(system).run_to_rest()
        system.abort(2, "not wanted")
        world_of(system).run_to_rest()
        assert system.record(2).state is State.ABORTED
        assert system.dead_letters() == []


def test_runs_and_effects_are_one_list_the_newest_first() -> None:
    with Shop().system() as system:
        letters = [fail(system, name="1"), send(system), fail(system, name="2"), send(system)]
        assert system.dead_letters() == letters[::-1]
        assert [letter.kind for letter in letters] == ["run", "effect", "run", "effect"]
        assert system.dead_letters(2) == letters[:1:-1]
        assert system.dead_letters(0) == []
        assert [letter.place for letter in letters] == ["1", "2.0", "3", "4.0"]


# Resubmitting ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_id", [False, True])
def test_a_dead_run_is_submitted_again_as_a_new_run_that_says_so(by_id: bool) -> None:
    shop = Shop()
    with shop.system() as system:
        system.submit(Work(name="x"), priority=Priority.LOW)
        world_of(system).run_to_rest()
        (letter,) = system.dead_letters()
        shop.fails = False
        again = system.resubmit(letter.id if by_id else letter)
        assert again.result(LONG_S) == 2
        assert again.id != letter.id
        record = system.record(2)
        assert (record.trigger, record.resubmits, record.state) == (Work(name="x"), "1", State.COMMITTED)
        assert record.submitted_at >= letter.time
        assert system.dead_letters() == [letter._replace(resubmitted_as=again.id)]
        assert again.priority == Priority.LOW


def test_a_dead_letter_is_submitted_again_once() -> None:
    with Shop().system() as system:
        letter = fail(system)
        again = system.resubmit(letter)
        with pytest.raises(AlreadyResubmitted, match=f"was submitted again already, as run {again.id}"):
            system.resubmit(letter)
        with pytest.raises(HandlerFailed):
            again.result(LONG_S)
        newest, oldest = system.dead_letters()
        assert (newest.id, newest.resubmitted_as) == (again.id, None)
        assert oldest.resubmitted_as == again.id
        with pytest.raises(AlreadyResubmitted):
            system.resubmit(oldest.id)
        assert system.resubmit(newest).id not in {newest.id, oldest.id}


def test_of_many_who_resubmit_at_once_one_does_it() -> None:
    with Shop().system(threads=True) as system:
        letter = fail(system)
        start = threading.Barrier(8)
        submissions: list[Submission[Any]] = []
        refused: list[AlreadyResubmitted] = []

        def resubmit() -> None:
            start.wait(WAIT_S)
            try:
                submissions.append(system.resubmit(letter))
            except AlreadyResubmitted as error:
                refused.append(error)

        threads = [threading.Thread(target=resubmit) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert len(refused) == 7
        with pytest.raises(HandlerFailed):
            submissions[0].result(WAIT_S)
        assert [record.seq for record in system.runs()] == [2, 1]


def test_a_dead_effect_is_carried_out_again_under_its_key() -> None:
    shop = Shop()
    with shop.system() as system:
        letter = send(system)
        shop.fails = False
        again = system.resubmit(letter)
        assert again.result(LONG_S) is None
        world_of(system).run_until(lambda: len(shop.tries) == 3, LONG_S)
        assert shop.tries == [(letter.id, 7)] * 3
        assert system.record(2).resubmits == "1.0"
        assert system.dead_letters() == [letter._replace(resubmitted_as=again.id)]


def test_an_effect_that_is_given_up_again_is_a_new_dead_letter_with_the_same_key() -> None:
    shop = Shop()
    with shop.system() as system:
        letter = send(system)
        again = system.resubmit(letter)
        world_of(system).run_until(lambda: len(system.dead_letters()) == 2, LONG_S)
        newest, oldest = system.dead_letters()
        assert (newest.id, oldest.id) == (letter.id, letter.id)
        assert (newest.place, newest.resubmitted_as) == ("2.0", None)
        assert (oldest.place, oldest.resubmitted_as) == ("1.0", again.id)
        shop.fails = False
        system.resubmit(letter.id).result(LONG_S)  # The newest of that id.
        world_of(system).run_until(lambda: len(shop.tries) == 5, LONG_S)
        assert {key for key, _ in shop.tries} == {letter.id}
        with pytest.raises(AlreadyResubmitted):
            system.resubmit(newest)


def test_what_cannot_be_resubmitted_is_refused() -> None:
    shop = Shop()
    system = shop.system()

    class Inside(Trigger[None]):
        pass

    @system.on(Inside)
    def inside(trigger: Inside, tx: Transaction) -> None:
        with pytest.raises(UseTransaction, match="submit a trigger of your own"):
            system.resubmit("x")

    with system:
        letter = fail(system)
        with pytest.raises(LookupError, match="there is no dead letter 'nobody'"):
            system.resubmit("nobody")
        with pytest.raises(LookupError, match="there is no dead letter"):
            system.resubmit(letter._replace(seq=7))
        with pytest.raises(TypeError, match="takes a dead letter"):
            system.resubmit(1)  # type: ignore[arg-type]
        system.ask(Inside())


def test_the_key_of_a_dead_run_stays_with_its_failure() -> None:
    shop = Shop()
    with shop.system() as system:
        first = system.submit(Work(), idempotency_key="k")
        with pytest.raises(HandlerFailed):
            first.result(LONG_S)
        shop.fails = False
        assert system.resubmit(first.id).result(LONG_S) == 2
        with pytest.raises(HandlerFailed):
            system.ask(Work(), idempotency_key="k")
        with pytest.raises(KeyReused):
            system.submit(Work(name="other"), idempotency_key="k")


# With a journal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trimmed", [False, True])
def test_dead_letters_and_their_marks_survive_restarts_and_compaction(
    trimmed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    shop = Shop(backend, retain=0) if trimmed else Shop(backend)
    with shop.system() as system:
        fail(system, name="1")
        fail(system, name="2")
        send(system)
        marked = system.resubmit(system.dead_letters()[1])
        with pytest.raises(HandlerFailed):
            marked.result(LONG_S)
        before = system.dead_letters()
    assert [(letter.seq, letter.resubmitted_as) for letter in before] == [
        (4, None),
        (3, None),
        (2, marked.id),
        (1, None),
    ]
    for _ in range(3):
        with shop.system() as system:
            assert system.dead_letters() == before
            with pytest.raises(AlreadyResubmitted):
                system.resubmit(before[2])
            world = world_of(system)
            if trimmed:
                world.clock.advance_to(world.clock.monotonic() + 1000.0)
            shop.fails = False
            system.ask(Work(name="ok"))
            shop.fails = True
    opened = backend.open(write=False)
    backend.close()
    assert (opened.commits_from > 4) == trimmed
    shop.fails = False
    with shop.system() as system:
        assert system.resubmit(before[3]).result(LONG_S)
        system.resubmit(before[1]).result(LONG_S)
        world_of(system).run_until(lambda: len(shop.tries) == 3, LONG_S)
        assert {key for key, _ in shop.tries} == {before[1].id}
        through = system.stats().current_seq
        assert system.replay(through - 1, through).executed == 2, "both resubmissions, the effect's too"


def test_a_resubmission_that_had_not_ended_at_a_crash_is_marked_and_runs_after_the_restart() -> None:
    backend = MemoryBackend()
    shop = Shop(backend)
    system = shop.system().start()
    letter = fail(system)
    shop.fails = False
    again = system.resubmit(letter)
    world = world_of(system)
    accepted = again.accepted()
    while not accepted.is_set():
        assert world.step()
    assert not again.done
    backend.close()  # The process dies here.
    with shop.system() as system:
        assert system.dead_letters() == [letter._replace(resubmitted_as=again.id)]
        with pytest.raises(AlreadyResubmitted):
            system.resubmit(letter)
        world_of(system).run_to_rest()
        assert [(record.id, record.state) for record in system.runs(limit=1)] == [(again.id, State.COMMITTED)]


def test_a_process_that_dies_leaves_the_dead_letters_and_marks_of_its_records() -> None:
    backend = MemoryBackend()
    shop = Shop(backend)
    system = shop.system().start()
    letter, retried = fail(system), fail(system, how="retry")
    again = system.resubmit(letter)
    with pytest.raises(HandlerFailed):
        again.result(LONG_S)
    letters = system.dead_letters()
    assert [(each.seq, each.resubmitted_as) for each in letters] == [(4, None), (3, None), (1, again.id)]
    assert retried.attempts == 2
    assert all(row.kind != "accepted" or row.ref != again.id for row in backend._entries), (
        "only its record has the mark"
    )
    backend.close()  # The process dies here.
    with shop.system() as system:
        assert system.dead_letters() == letters


def test_an_effect_that_is_resubmitted_keeps_its_key_through_a_death_before_it_is_carried_out() -> None:
    backend = MemoryBackend()
    shop = Shop(backend)
    system = shop.system().start()
    letter = send(system)
    system.resubmit(letter).result(LONG_S)
    tries = len(shop.tries)
    assert tries == 2, "it has not been carried out again"
    backend.close()  # The process dies here.
    shop.fails = False
    with shop.system() as system:
        world_of(system).run_until(lambda: len(shop.tries) > tries, LONG_S)
        assert shop.tries[-1] == (letter.id, 7)


def test_a_checkpoint_holds_the_dead_letters_of_the_runs_before_it_and_no_others() -> None:
    error = RecordedError(type="builtins.ValueError", message="x")
    trigger = RecordedTrigger(type="Work", payload={})
    runs = [
        DeadRunRecord(
            seq=seq, run=f"r-{seq}", trigger=trigger, state=State.FAILED, priority=2, submitted_at=0.0, ended_at=1.0,
            error=error,
        )
        for seq in (1, 3, 4)
    ]  # fmt: skip
    found = open_runs.OpenRuns(dead_runs=runs).found(3, b"", Links({3: b""}), 0)
    assert [run.seq for run in found.dead_runs] == [1, 3], "later ones are in the records behind it"


def test_no_more_than_the_newest_dead_letters_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (open_runs,):
        monkeypatch.setattr(module, "DEAD_LETTERS_MAX", 3)
    monkeypatch.setattr("seqtor.actors.dead_letters.DEAD_LETTERS_MAX", 3)
    monkeypatch.setattr("seqtor.actors.journal.recovery.DEAD_LETTERS_MAX", 3)
    monkeypatch.setattr(actor, "CHECKPOINT_BYTES_MIN", 1)
    shop = Shop(MemoryBackend())
    with shop.system() as system:
        for number in range(5):
            fail(system, name=str(number))
        assert [letter.seq for letter in system.dead_letters()] == [5, 4, 3]
    with shop.system() as system:
        assert [letter.seq for letter in system.dead_letters()] == [5, 4, 3]
        with pytest.raises(LookupError, match="of each kind the newest"):
            system.resubmit(system.record(1).id)


def test_dead_letters_are_there_in_a_file_and_the_trigger_comes_back_as_it_is_now(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop.db")
    with shop.system() as system:
        fail(system, name="x")
    program = Supervisor(tmp_path / "shop.db", dispatchers=lambda _: SimulatedDispatchers(5))
    program.store("items", Collection(Item))

    class Changed(Trigger[str], name="Work", version=2):
        title: str

    @program.upcast(Changed)
    def newer(fields: dict[str, Any], version: int) -> dict[str, Any]:
        return {"title": fields["name"].upper()}

    @program.on(Changed)
    def changed(trigger: Changed, tx: Transaction) -> str:
        return trigger.title

    with program:
        (letter,) = program.dead_letters()
        assert (letter.payload, letter.version) == ({"name": "x", "how": "work"}, 1)
        assert program.resubmit(letter).result(LONG_S) == "X"


def test_what_is_not_registered_any_more_cannot_be_resubmitted() -> None:
    backend = MemoryBackend()
    shop = Shop(backend)
    with shop.system() as system:
        fail(system)
        send(system)
    other = Supervisor(backend, dispatchers=lambda _: SimulatedDispatchers(5))
    other.store("items", Collection(Item))
    with other:
        effect, run = other.dead_letters()
        with pytest.raises(RegistrationError, match="no function is registered under that name"):
            other.resubmit(effect)
        with pytest.raises(RegistrationError, match="registers no handler"):
            other.resubmit(run)
        assert other.dead_letters() == [effect, run], "neither is marked"


def test_a_caller_who_has_the_failure_finds_the_dead_letter() -> None:
    with Shop().system(threads=True) as system:
        for number in range(1, 30):
            with pytest.raises(HandlerFailed):
                system.ask(Work(name=str(number)), timeout=WAIT_S)
            assert system.dead_letters(1)[0].seq == number


def test_simulated_and_empty() -> None:
    with simulated() as system:
        assert system.dead_letters() == []
