"""The handlers of the triggers that register, change and tick schedules.

Owns the store `seqtor.schedules`. Run like any other handler, in the order: so each change is durable, happens once, and is
replayed and verified like all else. Must never read a clock: what is due was decided by who sent the tick.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seqtor.actors.schedules.decisions import decide
from seqtor.messages.events import make_alarm
from seqtor.messages.schedules import (
    MissedSlot,
    ScheduledTrigger,
    ScheduleFired,
    SchedulePaused,
    ScheduleRegistered,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleState,
    ScheduleTicked,
)

if TYPE_CHECKING:
    from seqtor.actors.stores.contract import StoreRef
    from seqtor.messages.triggers import Trigger

__all__ = ["MISSED_SLOT", "STORE", "ScheduleChanges"]

STORE = "seqtor.schedules"
MISSED_SLOT = "seqtor.missed_slot"
Decode = Callable[[ScheduledTrigger, str], "Trigger[Any]"]


class ScheduleChanges:
    """The handlers of one system. `store` is where its schedules are, `decode` makes a kept trigger again."""

    def __init__(self, store: Callable[[], StoreRef[Any]], decode: Decode) -> None:
        self._store = store
        self._decode = decode

    def handlers(self) -> dict[type[Trigger[Any]], Callable[[Any, Any], Any]]:
        """The handlers by trigger type."""
        return {
            ScheduleRegistered: self.register,
            SchedulePaused: self.pause,
            ScheduleResumed: self.resume,
            ScheduleRemoved: self.remove,
            ScheduleTicked: self.tick,
            ScheduleFired: self.fire,
        }

    def register(self, trigger: ScheduleRegistered, tx: Any) -> bool:
        """Begin, or go on: with a new plan from now on, under the same one where it was."""
        book, now = tx[self._store()], tx.now.timestamp()
        known: ScheduleState | None = book.get(trigger.schedule)
        if known is None:
            book[trigger.schedule] = ScheduleState(
                trigger=trigger.trigger, plan=trigger.plan, registered_at=now, anchor=now, through=now
            )
            return True
        changes: dict[str, Any] = {}
        if known.gone:
            changes["gone"] = False
        if known.trigger != trigger.trigger:
            changes["trigger"] = trigger.trigger
        if known.plan != trigger.plan:
            changes |= {
                "plan": trigger.plan, "anchor": now, "through": now, "registered_at": now, "queued": (),
                "catching_up": False,
            }  # fmt: skip
        if changes:
            book[trigger.schedule] = known.replace(revision=known.revision + 1, **changes)
        return bool(changes)

    def pause(self, trigger: SchedulePaused, tx: Any) -> bool:
        """Start nothing until it is resumed, or registered again."""
        return self._change(trigger.schedule, tx, lambda _: {"gone": True} if trigger.gone else {"paused": True})

    def resume(self, trigger: ScheduleResumed, tx: Any) -> bool:
        """Go on with the next slot."""
        now = tx.now.timestamp()

        def changes(known: ScheduleState) -> dict[str, Any]:
            # Of one that is not paused, what is late is still to be made up for.
            return {"paused": False, "through": max(known.through, now)} if known.paused else {}

        return self._change(trigger.schedule, tx, changes)

    def remove(self, trigger: ScheduleRemoved, tx: Any) -> bool:
        """Forget it."""
        book = tx[self._store()]
        if trigger.schedule not in book:
            return False
        del book[trigger.schedule]
        return True

    def tick(self, trigger: ScheduleTicked, tx: Any) -> int:
        """Start what is due."""
        book = tx[self._store()]
        known: ScheduleState | None = book.get(trigger.schedule)
        if known is None:
            return 0
        decision = decide(known, trigger)
        if decision.state is not known:
            book[trigger.schedule] = decision.state
        for slot in decision.started:
            self._start(trigger.schedule, known, slot, tx)
        for why in sorted({each.why for each in decision.missed}):
            self._tell_missed(trigger.schedule, [each for each in decision.missed if each.why == why], tx)
        return len(decision.started)

    def fire(self, trigger: ScheduleFired, tx: Any) -> bool:
        """Start it now."""
        known: ScheduleState | None = tx[self._store()].get(trigger.schedule)
        if known is None:
            return False
        self._start(trigger.schedule, known, tx.now.timestamp(), tx)
        return True

    def _change(self, name: str, tx: Any, changes: Callable[[ScheduleState], dict[str, Any]]) -> bool:
        book = tx[self._store()]
        known: ScheduleState | None = book.get(name)
        if known is None:
            return False
        book[name] = known.replace(revision=known.revision + 1, **changes(known))
        return True

    def _start(self, name: str, known: ScheduleState, slot: float, tx: Any) -> None:
        tx.submit_scheduled(self._decode(known.trigger, name), known.trigger.priority, (name, slot))

    def _tell_missed(self, name: str, missed: list[MissedSlot], tx: Any) -> None:
        slots = [datetime.datetime.fromtimestamp(each.slot, datetime.UTC).isoformat() for each in missed]
        missed_slot = {"schedule": name, "why": missed[0].why, "count": len(slots), "slots": slots}
        tx.submit(make_alarm(MISSED_SLOT, missed_slot))
