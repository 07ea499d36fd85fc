"""The mailbox: order, bounds, one thread at a time, and that no message is lost in silence.

The races are shown twice: by hand, with a queue that lets the other thread go on at the worst moment, and by load.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from pykka import ActorDeadError
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from seqtor.actors.base import Actor, Ref
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.mailbox import START, Mailbox
from seqtor.messages.lifecycle import (
    ActorCrashed,
    ActorStarted,
    ActorStopped,
    DeadLetter,
    Drain,
    Drained,
    StoreRecovered,
    StoreRefusedToStart,
)
from seqtor.messages.refusals import MailboxFull
from tests.seeds import scaled
from tests.stages import PATIENCE_S, stage


class Recorder(Actor):
    """Keeps what it is told; a callable is called."""

    mailbox_depth_max: ClassVar[int | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.received: list[Any] = []

    def on_receive(self, message: Any) -> Any:
        self.received.append(message)
        if callable(message):
            message()
        return message


class Bounded(Recorder):
    mailbox_depth_max = 3


class ByHand:
    """A dispatcher that runs nothing by itself."""

    driver = None

    def __init__(self) -> None:
        self.scheduled: list[Mailbox] = []
        self.letters: list[DeadLetter] = []

    def ready(self, mailbox: Mailbox) -> None:
        self.scheduled.append(mailbox)

    def dead_letter(self, letter: DeadLetter) -> None:
        self.letters.append(letter)

    def run_all(self) -> None:
        while self.scheduled:
            self.scheduled.pop(0).run()


class Interrupted(deque[Any]):
    """A queue at which another thread acts, once, right before or after an operation."""

    def __init__(self, queued: deque[Any]) -> None:
        super().__init__(queued)
        self.after_append: Callable[[], Any] | None = None
        self.before_popleft: Callable[[], Any] | None = None

    def append(self, item: Any) -> None:
        super().append(item)
        if (act := self.after_append) is not None:
            self.after_append = None
            act()

    def popleft(self) -> Any:
        if (act := self.before_popleft) is not None:
            self.before_popleft = None
            act()
        return super().popleft()


@pytest.fixture
def by_hand() -> ByHand:
    return ByHand()


def started(by_hand: ByHand, kind: type[Recorder] = Recorder) -> tuple[Recorder, Mailbox, Ref]:
    ref = kind.start_on(by_hand)
    actor: Any = ref._actor_weakref()
    by_hand.run_all()
    return actor, actor.actor_inbox, ref


def interrupted(mailbox: Mailbox) -> Interrupted:
    mailbox._queue = queue = Interrupted(mailbox._queue)
    return queue


def asked(message: Any) -> tuple[ReplyFuture, Envelope[Any]]:
    future = ReplyFuture()
    return future, Envelope(message, reply_to=future)


# Order and scheduling ------------------------------------------------------------------------------------------------


def test_messages_are_delivered_in_the_order_in_which_they_came(by_hand: ByHand) -> None:
    actor, mailbox, ref = started(by_hand)
    mailbox.put(1)
    ref.tell(2)
    mailbox.tell(3)
    ref.ask(4, block=False)
    by_hand.run_all()
    assert actor.received == [1, 2, 3, 4]


def test_an_actor_is_scheduled_once_however_many_messages_wait(by_hand: ByHand) -> None:
    _, mailbox, _ = started(by_hand)
    for number in range(100):
        mailbox.put(number)
    assert by_hand.scheduled == [mailbox]


def test_what_arrives_while_the_actor_runs_is_delivered_too(by_hand: ByHand) -> None:
    actor, mailbox, _ = started(by_hand)
    mailbox.put(lambda: mailbox.put("later"))
    by_hand.run_all()
    assert actor.received[1:] == ["later"]


def test_what_arrives_as_the_actor_stops_looking_schedules_it_again(by_hand: ByHand) -> None:
    actor, mailbox, _ = started(by_hand)

    class LastMoment(Interrupted):
        def __bool__(self) -> bool:
            waiting = len(self) > 0
            if not waiting and (act := self.after_append) is not None:
                self.after_append = None
                act()  # The runner has seen an empty queue; now another thread puts.
            return waiting

    mailbox._queue = queue = LastMoment(mailbox._queue)
    mailbox.put("first")
    queue.after_append = lambda: mailbox.put("second")
    by_hand.run_all()
    assert actor.received == ["first", "second"]


def test_a_dispatcher_may_ask_for_fewer_messages_than_wait(by_hand: ByHand) -> None:
    actor, mailbox, _ = started(by_hand)
    for number in range(5):
        mailbox.put(number)
    by_hand.scheduled.pop().run(limit=2)
    assert actor.received == [0, 1]
    assert by_hand.scheduled == [mailbox], "the rest is not forgotten"
    by_hand.run_all()
    assert actor.received == [0, 1, 2, 3, 4]


def test_what_is_put_before_the_actor_starts_waits_for_its_start(by_hand: ByHand) -> None:
    actor = Recorder.__new__(Recorder)
    actor._dispatcher = by_hand
    actor.__init__()  # type: ignore[misc]
    actor.tell_self("early")
    assert not by_hand.scheduled
    actor._start_actor_loop()
    by_hand.run_all()
    assert actor.received == ["early"]


@pytest.mark.parametrize("where", ["elastic", "pool"])
def test_many_senders_lose_nothing_and_each_keeps_its_order(where: str) -> None:
    senders, each = 8, 3_000
    complete = threading.Event()

    class Counting(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.running = 0
            self.overlaps = 0

        def on_receive(self, message: Any) -> None:
            self.running += 1
            if self.running != 1:
                self.overlaps += 1
            self.received.append(message)
            if len(self.received) == senders * each:
                complete.set()
            self.running -= 1

    with stage(where) as here:
        ref = here.start(Counting)
        actor: Any = ref._actor_weakref()
        together = threading.Barrier(senders)

        def send(sender: int) -> None:
            together.wait()
            for number in range(each):
                ref.tell((sender, number))

        threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
        for thread in threads:
            thread.start()
        here.wait_for(complete)
        for thread in threads:
            thread.join()
        assert actor.overlaps == 0, "an actor runs on one thread at a time"
        for sender in range(senders):
            assert [number for who, number in actor.received if who == sender] == list(range(each))


# Bounds --------------------------------------------------------------------------------------------------------------


def test_a_full_mailbox_refuses_with_a_value(by_hand: ByHand) -> None:
    actor, _, ref = started(by_hand, Bounded)
    assert [ref.tell(number) for number in range(3)] == [None, None, None]
    refusal = ref.tell(3)
    assert isinstance(refusal, MailboxFull)
    assert refusal.mailbox_depth_max == 3
    assert "Bounded" in refusal.recipient
    answer = ref.ask(4, block=False)
    assert isinstance(answer.get(timeout=0), MailboxFull), "the asker gets it as the answer, at once"
    by_hand.run_all()
    assert actor.received == [0, 1, 2], "what was refused was not taken"
    assert ref.tell(5) is None, "there is room again"


def test_a_full_mailbox_takes_the_stop(by_hand: ByHand) -> None:
    actor, _, ref = started(by_hand, Bounded)
    for number in range(3):
        ref.tell(number)
    stopping = ref.stop(block=False)
    by_hand.run_all()
    assert stopping.get(timeout=0) is True
    assert actor.received == [0, 1, 2]
    assert not ref.is_alive()


@pytest.mark.parametrize(
    "message",
    [
        ActorCrashed(actor="Run", urn="urn:1", error=ValueError(), undelivered=0),
        ActorStarted(urn="urn:1"),
        ActorStopped(urn="urn:1"),
        Drain(reply_to=None),
        Drained(),
        StoreRecovered(store="accounts", state=None),
        StoreRefusedToStart(store="accounts", error=ValueError()),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_full_mailbox_takes_what_its_life_depends_on(by_hand: ByHand, message: Any) -> None:
    actor, mailbox, _ = started(by_hand, Bounded)
    for number in range(3):
        mailbox.put(number)
    assert mailbox.put(message) is None
    by_hand.run_all()
    assert actor.received == [0, 1, 2, message]


def test_the_bound_holds_while_dead_letters_pour_in(by_hand: ByHand) -> None:
    _, mailbox, _ = started(by_hand, Bounded)
    letter = DeadLetter(recipient="somebody", reason="has ended", message=None)
    refused = [mailbox.put(letter) for _ in range(10)]
    assert [refusal is None for refusal in refused] == [True] * 3 + [False] * 7


# After the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended_by", ["its own stop", "its owner"])
def test_what_comes_after_the_end_is_answered_or_reported(by_hand: ByHand, ended_by: str) -> None:
    actor, mailbox, ref = started(by_hand)
    if ended_by == "its own stop":
        ref.stop(block=False)
        by_hand.run_all()
    else:
        mailbox.close("has ended")
    future, ask = asked("question")
    stopping, stop = asked(_ActorStop())
    mailbox.put("first")
    mailbox.put(ask)
    mailbox.put(stop)
    mailbox.put(_ActorStop())
    mailbox.put("last")
    by_hand.run_all()
    assert [letter.message for letter in by_hand.letters] == ["first", "last"]
    with pytest.raises(ActorDeadError):
        future.get(timeout=0)
    assert stopping.get(timeout=0) is None, "who wants it to stop has what it wants"
    assert actor.received == []


def test_the_end_says_how_many_messages_were_not_delivered(by_hand: ByHand) -> None:
    _, mailbox, _ = started(by_hand)
    future, ask = asked("question")
    for item in ("one", ask, Envelope("two"), _ActorStop()):
        mailbox.put(item)
    assert mailbox.close("crashed before handling the message") == 2
    assert [letter.message for letter in by_hand.letters] == ["one", "two"]
    assert all("Recorder" in letter.recipient for letter in by_hand.letters)
    with pytest.raises(ActorDeadError, match=r"Recorder .* crashed before handling the message"):
        future.get(timeout=0)


def test_the_first_message_to_an_idle_actor_that_its_owner_has_ended_is_reported(by_hand: ByHand) -> None:
    _, mailbox, _ = started(by_hand)
    mailbox.close("has ended")
    mailbox.put("late")
    by_hand.run_all()
    assert [letter.message for letter in by_hand.letters] == ["late"]


def test_the_first_ask_of_an_idle_actor_that_its_owner_has_ended_is_answered(by_hand: ByHand) -> None:
    _, mailbox, _ = started(by_hand)
    mailbox.close("has ended")
    future, ask = asked("question")
    mailbox.put(ask)
    by_hand.run_all()
    with pytest.raises(ActorDeadError):
        future.get(timeout=0)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "scheduled"])
def test_a_message_that_arrives_while_the_mailbox_is_closed_is_not_lost(by_hand: ByHand, busy: bool) -> None:
    _, mailbox, _ = started(by_hand)
    if busy:
        mailbox.put("waits")
    queue = interrupted(mailbox)
    queue.after_append = lambda: mailbox.close("has ended")  # Between the arrival and the look at the gate.
    mailbox.put("late")
    by_hand.run_all()
    assert [letter.message for letter in by_hand.letters] == ["waits", "late"][not busy :]

    future, ask = asked("question")
    mailbox.put(ask)
    by_hand.run_all()
    with pytest.raises(ActorDeadError):
        future.get(timeout=0)


def test_an_owner_may_close_the_mailbox_while_its_actor_takes_the_last_message(by_hand: ByHand) -> None:
    actor, mailbox, _ = started(by_hand)
    mailbox.put("taken by the close")
    queue = interrupted(mailbox)
    queue.before_popleft = lambda: mailbox.close("has ended")  # The runner has seen the message and reaches for it.
    by_hand.run_all()
    assert actor.received == []
    assert [letter.message for letter in by_hand.letters] == ["taken by the close"]


def test_nothing_is_delivered_after_the_message_that_ended_the_actor(by_hand: ByHand) -> None:
    actor, mailbox, _ = started(by_hand)
    mailbox.put(lambda: mailbox.close("has ended"))
    mailbox.put("behind")
    by_hand.run_all()
    assert actor.received[1:] == []
    assert [letter.message for letter in by_hand.letters] == ["behind"]


def test_a_closed_mailbox_does_not_keep_its_actor_alive(by_hand: ByHand) -> None:
    actor, mailbox, ref = started(by_hand)
    watched = weakref.ref(actor)
    ref.stop(block=False)
    by_hand.run_all()
    del actor
    gc.collect()
    assert watched() is None
    mailbox.put("late")
    assert len(by_hand.letters) == 1


@pytest.mark.parametrize("where", ["elastic", "pool"])
def test_every_message_is_delivered_or_reported_when_the_end_races_the_senders(where: str) -> None:
    senders, each, rounds = 4, 25, scaled(50)
    accounted = threading.Semaphore(0)

    class Accounting(Recorder):
        def on_receive(self, message: Any) -> None:
            accounted.release()

    with stage(where) as here:
        here.dispatcher.dead_letter = lambda letter: accounted.release()
        for number in range(rounds):
            ref = here.start(Accounting)
            mailbox: Any = ref.actor_inbox
            ref.ask("has it started?")
            assert accounted.acquire(timeout=PATIENCE_S)
            together = threading.Barrier(senders + 1)

            def send(mailbox: Any = mailbox, together: threading.Barrier = together) -> None:
                together.wait()
                for sent in range(each):
                    mailbox.put(sent)

            threads = [threading.Thread(target=send) for _ in range(senders)]
            for thread in threads:
                thread.start()
            together.wait()
            if number % 2:
                mailbox.close("has ended")
            else:
                ref.stop(timeout=PATIENCE_S)
            for thread in threads:
                thread.join()
            for _ in range(senders * each):
                assert accounted.acquire(timeout=PATIENCE_S), "a message was lost in silence"
            assert not accounted.acquire(blocking=False), "a message was accounted for twice"
            ref.actor_stopped.set()


# Suspended -----------------------------------------------------------------------------------------------------------


def restartable(by_hand: ByHand, kind: type[Recorder] = Recorder) -> tuple[Recorder, Mailbox, Ref]:
    ref = kind.start_on(by_hand, restartable=True)
    actor: Any = ref._actor_weakref()
    by_hand.run_all()
    return actor, actor.actor_inbox, ref


def instance(ref: Ref) -> Any:
    return ref._actor_weakref()


def crash() -> None:
    raise ValueError("crash")


def test_what_waits_behind_a_crash_is_delivered_to_the_next_instance(by_hand: ByHand) -> None:
    actor, _, ref = restartable(by_hand)
    for message in ("before", crash, "behind"):
        ref.tell(message)
    by_hand.run_all()
    ref.tell("during")
    assert not by_hand.scheduled, "nobody is there to take it"
    ref.restart()
    by_hand.run_all()
    assert actor.received == ["before", crash]
    assert instance(ref).received == ["behind", "during"]
    assert by_hand.letters == []


def test_a_suspended_mailbox_is_scheduled_once_by_its_restart(by_hand: ByHand) -> None:
    _, mailbox, ref = restartable(by_hand)
    ref.tell(crash)
    by_hand.run_all()
    ref.tell("during")
    ref.restart()
    ref.tell("after")
    assert by_hand.scheduled == [mailbox]


def test_a_restart_while_the_old_run_still_leaves_its_loop_schedules_the_new_instance_once(by_hand: ByHand) -> None:
    _, mailbox, ref = restartable(by_hand)

    class Parent:
        def tell(self, message: Any) -> None:
            if isinstance(message, ActorCrashed):  # Another thread restarts it before this one is back in `run`.
                ref.restart()
                ref.tell("for the new one")

    instance(ref)._parent = Parent()
    ref.tell(crash)
    ref.tell("waits")
    old = instance(ref)
    by_hand.scheduled.pop().run()
    assert by_hand.scheduled == [mailbox], "the old run delivers nothing more, and does not schedule it either"
    assert old.received == [crash]
    by_hand.run_all()
    assert instance(ref).received == ["waits", "for the new one"]


@pytest.mark.parametrize("restart", ["before", "after"])
def test_an_actor_that_is_suspended_while_it_is_scheduled_runs_once_when_it_is_restarted(
    by_hand: ByHand, restart: str
) -> None:
    """The turn that was owed to the old instance is the new one's, or is spent: there are never two."""
    old, mailbox, ref = restartable(by_hand)
    ref.tell("waits")
    assert by_hand.scheduled == [mailbox]
    ref.suspend()
    if restart == "after":
        by_hand.run_all()
        assert old.received == []
        ref.tell("more")
        assert not by_hand.scheduled
    ref.restart()
    assert by_hand.scheduled == [mailbox]
    by_hand.run_all()
    assert instance(ref).received == ["waits", "more"][: 2 if restart == "after" else 1]
    ref.tell("later")
    assert by_hand.scheduled == [mailbox]


@pytest.mark.parametrize("restart", ["while it leaves", "when it has left"])
def test_an_actor_that_is_suspended_as_its_run_ends_runs_again_when_it_is_restarted(
    by_hand: ByHand, restart: str
) -> None:
    """The run has looked at its last message and has the gate still: it must hand it on, or the restart hangs."""
    _, mailbox, ref = restartable(by_hand)

    class LastMoment(deque[Any]):
        act: Callable[[], None] | None = None

        def __bool__(self) -> bool:
            waiting = len(self) > 0
            if not waiting and (act := self.act) is not None:
                self.act = None
                act()
            return waiting

    def suspend() -> None:
        ref.suspend()
        if restart == "while it leaves":
            ref.restart()

    mailbox._queue = queue = LastMoment()
    ref.tell("last")
    queue.act = suspend
    by_hand.scheduled.pop().run()
    if restart == "when it has left":
        ref.restart()
    assert by_hand.scheduled == [mailbox], "for its start"
    ref.tell("next")
    assert by_hand.scheduled == [mailbox]
    by_hand.run_all()
    assert instance(ref).received == ["next"]


def test_an_actor_that_is_suspended_by_another_thread_right_after_a_message_runs_again_when_restarted(
    by_hand: ByHand,
) -> None:
    _, mailbox, ref = restartable(by_hand)

    def suspended_from_outside() -> None:
        mailbox.suspend(instance(ref), running=False)  # As `Ref.suspend` does, whose caller has seen the answer.

    ref.tell(suspended_from_outside)
    ref.tell("waits")
    by_hand.scheduled.pop().run()
    assert not by_hand.scheduled
    ref.restart()
    assert by_hand.scheduled == [mailbox]
    by_hand.run_all()
    assert instance(ref).received == ["waits"]


def test_an_actor_that_is_suspended_and_restarted_by_another_thread_during_a_message_runs_again(
    by_hand: ByHand,
) -> None:
    old, mailbox, ref = restartable(by_hand)

    def replaced_from_outside() -> None:
        mailbox.suspend(instance(ref), running=False)
        ref.restart()

    ref.tell(replaced_from_outside)
    ref.tell("waits")
    by_hand.scheduled.pop().run()
    assert by_hand.scheduled == [mailbox]
    by_hand.run_all()
    assert old.received == [replaced_from_outside]
    assert instance(ref).received == ["waits"]


def test_a_suspended_mailbox_keeps_its_bound(by_hand: ByHand) -> None:
    _, mailbox, ref = restartable(by_hand, Bounded)
    ref.tell(crash)
    by_hand.run_all()
    assert [mailbox.put(number) is None for number in range(4)] == [True, True, True, False]


def test_what_is_drained_comes_back_in_order_and_the_rest_stays_in_order(by_hand: ByHand) -> None:
    _, mailbox, ref = restartable(by_hand)
    ref.tell(crash)
    by_hand.run_all()
    for number in range(4):
        ref.tell(number)
    asker = ref.ask(4, block=False)
    mailbox.put(5)
    assert mailbox.drain(lambda message: message % 2 == 1) == [0, 2, 4]
    with pytest.raises(ActorDeadError, match="was restarted before"):
        asker.get(timeout=0)
    ref.restart()
    by_hand.run_all()
    assert instance(ref).received == [1, 3, 5]


def test_what_comes_while_a_mailbox_is_drained_stays_behind_what_was_there(by_hand: ByHand) -> None:
    _, mailbox, ref = restartable(by_hand)
    ref.tell(crash)
    by_hand.run_all()
    for number in range(3):
        ref.tell(number)

    def keep(message: int) -> bool:
        if message == 1:
            mailbox.put("meanwhile")
        return True

    assert mailbox.drain(keep) == []
    ref.restart()
    by_hand.run_all()
    assert instance(ref).received == [0, 1, 2, "meanwhile"]


def test_the_start_is_delivered_once_if_the_first_instance_never_came_to_it(by_hand: ByHand) -> None:
    ref = Recorder.start_on(by_hand, restartable=True)
    ref.suspend()
    assert list(ref.actor_inbox._queue) == [START]
    ref.restart()
    assert list(ref.actor_inbox._queue) == [START]


def test_a_request_to_end_an_instance_that_crashed_before_it_came_is_not_for_its_successor(by_hand: ByHand) -> None:
    _, _, ref = restartable(by_hand)

    def recycled_and_crashed() -> None:
        ref.recycle()
        raise ValueError("before it came to it")

    ref.tell(recycled_and_crashed)
    by_hand.run_all()
    ref.restart()
    ref.tell("next")
    by_hand.run_all()
    assert instance(ref).received == ["next"]
    assert not ref.suspended


def test_an_instance_that_ends_before_it_has_started_is_not_asked_to_clean_up(by_hand: ByHand) -> None:
    hooks: list[str] = []

    class Hooked(Recorder):
        def on_start(self) -> None:
            hooks.append("start")

        def on_stop(self) -> None:
            hooks.append("stop")

    ref = Hooked.start_on(by_hand, restartable=True)
    ref.recycle()
    by_hand.run_all()
    assert ref.suspended
    assert hooks == []
    ref.restart()
    by_hand.run_all()
    ref.recycle()
    by_hand.run_all()
    assert hooks == ["start", "stop"]


def test_a_mailbox_whose_instance_was_cut_off_passes_everything_on_in_order(by_hand: ByHand) -> None:
    old, mailbox, ref = restartable(by_hand)
    ref.tell("waits")
    future, ask = asked("question")
    mailbox.put(ask)
    ref.detach()
    mailbox.put("to the old address")
    ref.tell("to the ref")
    by_hand.run_all()
    assert old.received == []
    ref.restart()
    by_hand.run_all()
    assert instance(ref).received == ["waits", "question", "to the old address", "to the ref"]
    assert future.get(timeout=0) == "question"
    assert by_hand.letters == []


def test_an_instance_that_was_cut_off_in_a_message_gets_nothing_more(by_hand: ByHand) -> None:
    old, _, ref = restartable(by_hand)

    def cut_off() -> None:
        ref.detach()
        ref.restart()

    ref.tell(cut_off)
    ref.tell("for the new one")
    by_hand.run_all()
    assert old.received == [cut_off]
    assert instance(ref).received == ["for the new one"]


@pytest.mark.parametrize("where", ["elastic", "pool"])
def test_no_message_is_lost_or_reordered_while_an_actor_crashes_all_the_time(where: str) -> None:
    """Four senders, and a parent that restarts at once, on whichever thread: the old run is often still leaving."""
    senders, each = 4, 2_000
    received: list[Any] = []
    complete = threading.Event()

    class Crashing(Recorder):
        def on_receive(self, message: Any) -> None:
            received.append(message)
            if len(received) == senders * each:
                complete.set()
            if message[1] % 10 == 0:
                raise ValueError("every tenth")

    with stage(where) as here:

        class Parent(Actor):
            receives: ClassVar[tuple[type, ...]] = (ActorCrashed, ActorStarted)

            def on_actor_started(self, message: ActorStarted) -> None:
                """Nothing to do."""

            def on_actor_crashed(self, message: ActorCrashed) -> None:
                ref.restart()

        parent = here.start(Parent)
        ref = here.start(Crashing, parent=parent.actor_inbox, restartable=True)
        together = threading.Barrier(senders)

        def send(sender: int) -> None:
            together.wait()
            for number in range(each):
                ref.tell((sender, number))

        threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
        for thread in threads:
            thread.start()
        here.wait_for(complete)
        for thread in threads:
            thread.join()
        for sender in range(senders):
            assert [number for who, number in received if who == sender] == list(range(each))
        assert here.letters == []
