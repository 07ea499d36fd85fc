"""Aborts and crashed judges in the commit order itself: what it decides, wherever the run is."""

from __future__ import annotations

from typing import Any, NamedTuple

from seqtor import Aborted, Collection, Record, State
from seqtor.actors.committer import CommitOrder
from seqtor.actors.publications import Publication
from seqtor.actors.stores import StoreRef
from seqtor.messages import CommitRun, StoreAccess, Write


class Number(Record):
    """A counter."""

    n: int = 0


class Handler(NamedTuple):
    """As much of a handler as the order needs."""

    name: str = "Step"


class Submission(NamedTuple):
    """As much of a submission as the order needs."""

    handler: Handler = Handler()


class Reading:
    """An attempt that is executing and has read a key."""

    def __init__(self, key: str) -> None:
        self.key = key

    def has_read_key(self, store: int, key: str) -> bool:
        return key == self.key


def order_of(executing: dict[int, Any] | None = None, *, judged: bool = False) -> CommitOrder:
    spec: Any = Collection(Number, invariants=[lambda state: True] if judged else [])
    ref: Any = StoreRef("numbers", 0, spec, lambda store: 0)
    told = Publication(0, 0, (spec.build().recover(None),), {})
    return CommitOrder([ref], told, 1, 100, {} if executing is None else executing)


def intent(
    seq: int, *, attempt: int = 1, reads: str = "", writes: str = "", snapshot: int = 0, **changes: Any
) -> CommitRun:
    access = StoreAccess(
        store=0, keys=dict.fromkeys(reads), ranges=(), whole=False,
        writes=tuple(Write(key, Number(n=seq)) for key in writes),
    )  # fmt: skip
    fields: dict[str, Any] = {
        "run": f"run {seq}", "submission": Submission(), "seq": seq, "attempt": attempt, "epoch": 1,
        "snapshot_seq": snapshot, "first_snapshot_seq": 0, "outcome": State.COMMITTED, "accesses": (access,),
        "released": None, "result": seq, "error": None, "handler_s": 0.0, "deadline_s": 1.0, "seen": (),
    }  # fmt: skip
    return CommitRun(**{**fields, **changes})


def ended(order: CommitOrder) -> list[tuple[int, State]]:
    return [(each.seq, each.state) for each in order.take_ended()[0]]


def abort(order: CommitOrder, seq: int) -> bool:
    return order.abort(Submission(), seq, Aborted("stop"))


def test_a_run_that_executes_is_aborted_at_its_turn_and_its_intent_is_refused() -> None:
    order = order_of()
    assert abort(order, 2)
    assert ended(order) == []
    assert order.offer(intent(2, writes="a")) is not None
    assert order.offer(intent(1)) is None
    assert ended(order) == [(1, State.COMMITTED), (2, State.ABORTED)]
    assert order.offer(intent(2, writes="a")) is not None
    assert order.pending == 0


def test_a_run_that_has_ended_is_not_aborted() -> None:
    order = order_of()
    order.offer(intent(1))
    assert not abort(order, 1)
    assert ended(order) == [(1, State.COMMITTED)]


def test_an_aborted_run_that_waited_is_not_called_back_by_a_change_of_what_it_had_read() -> None:
    order = order_of()
    order.offer(intent(2, reads="a", writes="a"))
    assert abort(order, 2)
    order.offer(intent(1, writes="a"))
    assert ended(order) == [(1, State.COMMITTED), (2, State.ABORTED)]
    assert order.take_decisions().restarts == []
    assert order.conflicts_in_flight == 0


def test_an_aborted_run_that_was_to_execute_again_does_not() -> None:
    order = order_of()
    order.offer(intent(3, reads="a", writes="a"))
    order.offer(intent(2, reads="a", writes="a"))
    order.offer(intent(1, writes="a"))  # Both conflict; 2 executes again, 3 waits for it.
    assert [(seq, attempt) for _, seq, attempt in order.take_decisions().restarts] == [(2, 2)]
    assert abort(order, 3)
    order.offer(intent(2, attempt=2, reads="a", writes="a", snapshot=1))
    assert not order.has_decisions, "nobody is told to execute again"
    assert ended(order) == [(1, State.COMMITTED), (2, State.COMMITTED), (3, State.ABORTED)]
    assert order.conflicts_in_flight == 0


def test_an_aborted_run_whose_decision_to_execute_again_was_not_carried_out_does_not() -> None:
    order = order_of()
    order.offer(intent(2, reads="a"))
    order.offer(intent(1, writes="a"))
    assert order.has_decisions
    assert abort(order, 2)
    assert order.take_decisions().restarts == []
    assert ended(order) == [(1, State.COMMITTED), (2, State.ABORTED)]


def test_nobody_waits_for_the_writes_of_an_aborted_run() -> None:
    executing: dict[int, Any] = {2: Reading("a")}
    order = order_of(executing)
    order.offer(intent(3, reads="a"))
    assert abort(order, 2)
    assert executing == {}
    executing[2] = Reading("a")  # It began just when it was aborted.
    order.offer(intent(1, writes="a"))  # 2 ends; 3 conflicts, and is not to wait for 2, which has ended.
    assert [(seq, attempt) for _, seq, attempt in order.take_decisions().restarts] == [(3, 2)]


def test_nobody_waits_for_what_an_aborted_run_was_expected_to_write() -> None:
    order = order_of()
    order.offer(intent(3, writes="b"))
    order.offer(intent(4, reads="ab"))
    assert abort(order, 3)
    order.offer(intent(1, writes="a"))
    assert [(seq, attempt) for _, seq, attempt in order.take_decisions().restarts] == [(4, 2)], "2 has not ended"


def test_nobody_waits_for_a_run_that_began_when_it_was_aborted_and_has_ended() -> None:
    executing: dict[int, Any] = {}
    order = order_of(executing)
    assert abort(order, 1)
    executing[1] = Reading("a")
    order.offer(intent(3, reads="a"))
    order.offer(intent(2, writes="a"))
    assert [(seq, attempt) for _, seq, attempt in order.take_decisions().restarts] == [(3, 2)]


def test_a_run_that_is_judged_is_aborted_and_a_late_judgement_is_ignored() -> None:
    order = order_of(judged=True)
    order.offer(intent(1, writes="a"))
    order.offer(intent(2))
    assert abort(order, 1)
    assert order.take_decisions().judge is None
    assert ended(order) == [(1, State.ABORTED), (2, State.COMMITTED)]
    order.judge_crashed(1, 1, RuntimeError("late"))
    assert not order.has_decisions


def test_a_judge_that_crashed_is_asked_again_and_the_third_crash_ends_the_run() -> None:
    order = order_of(judged=True)
    order.offer(intent(1, writes="a"))
    order.offer(intent(2, writes="b"))
    for _ in range(2):
        asked = order.take_decisions().judge
        assert asked is not None
        assert (asked.seq, asked.trigger) == (1, "Step")
        order.judge_crashed(1, 1, RuntimeError("a defect"))
    asked = order.take_decisions().judge
    assert asked is not None
    assert asked.seq == 1
    order.judge_crashed(2, 1, RuntimeError("not of the head"))
    assert not order.has_decisions
    assert ended(order) == []
    order.judge_crashed(1, 1, RuntimeError("a defect"))
    assert ended(order) == [(1, State.FAILED)]
    asked = order.take_decisions().judge
    assert asked is not None
    assert asked.seq == 2, "the next one has its turn"
