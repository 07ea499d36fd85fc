"""What a tick comes to: which slots of a schedule are started, which wait, which are missed.

Owns the misfire and overlap policies. Pure, over the schedule's state and the tick. Promises: a slot that is not behind the
last one decided starts nothing, so the same tick twice is one; every slot is started, queued or noted as missed, once.
"""

from __future__ import annotations

from typing import NamedTuple

from seqtor.messages.schedules import MissedSlot, ScheduleState, ScheduleTicked

__all__ = ["MISSED_MAX", "Decision", "decide"]

MISSED_MAX = 20  # Of the newest missed slots, how many the state names.


class Decision(NamedTuple):
    """The schedule after the tick, the slots to start, and those that are missed, by why."""

    state: ScheduleState
    started: tuple[float, ...]
    missed: tuple[MissedSlot, ...]


def decide(state: ScheduleState, tick: ScheduleTicked) -> Decision:
    """What the tick comes to."""
    ended = set(tick.ended)
    under_way = tuple(slot for slot in state.under_way if slot not in ended)
    if state.paused or state.gone or tick.revision != state.revision:
        return Decision(state if under_way == state.under_way else state.replace(under_way=under_way), (), ())
    slots = tuple(slot for slot in tick.slots if slot > state.through)
    on_time = slots[max(0, len(slots) - tick.on_time) :]
    late = slots[: len(slots) - len(on_time)]
    caught_up = _caught_up(state, late, bool(on_time), tick.more)
    missed = [MissedSlot(slot=slot, why="late") for slot in late if slot not in set(caught_up)]
    started, queued, refused = _overlap(state, under_way, caught_up, on_time)
    missed += refused
    if len(missed) > 1:
        missed.sort(key=lambda each: each.slot)
    new = state.replace(
        through=slots[-1] if slots else state.through,
        last=max((*started, *(() if state.last is None else (state.last,))), default=None),
        started=state.started + len(started),
        under_way=(*under_way, *started) if state.plan.overlap != "parallel" else (),
        queued=queued,
        missed=(*state.missed, *missed)[-MISSED_MAX:],
        missed_count=state.missed_count + len(missed),
        catching_up=tick.more,
    )
    return Decision(new, started, tuple(missed))


def _caught_up(state: ScheduleState, late: tuple[float, ...], any_on_time: bool, more: bool) -> tuple[float, ...]:
    """Of the slots that are late, those that are made up for. With `more`, the newest of all are yet to come."""
    policy = state.plan.misfire
    if not late or policy == "skip":
        return ()
    if policy == "earliest":
        return () if state.catching_up else late[:1]
    if more:
        return ()
    if policy == "latest":
        return () if any_on_time else late[-1:]
    return late[-state.plan.catch_up_max :]


def _overlap(
    state: ScheduleState, under_way: tuple[float, ...], caught_up: tuple[float, ...], on_time: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...], list[MissedSlot]]:
    """What is started now, what waits, and what is refused because of those that have not ended."""
    plan, due = state.plan, (*caught_up, *on_time)
    if plan.overlap == "parallel":
        return due, (), []
    queued, refused = state.queued, list[MissedSlot]()
    if plan.overlap == "skip" and (under_way or queued):
        # Those of one catching up follow one another; they are there together, and none of them came while another ran.
        refused = [MissedSlot(slot=slot, why="overlap") for slot in due]
    else:
        room = max(0, plan.catch_up_max - len(queued)) + (0 if under_way else 1)
        queued = (*queued, *due[:room])
        refused = [MissedSlot(slot=slot, why="queue") for slot in due[room:]]
    if under_way or not queued:
        return (), queued, refused
    return queued[:1], queued[1:], refused
