"""Schedules, as programs use them: registered by name, looked at, paused, resumed, fired, removed.

Owns what the program has registered, how that is reconciled with what the journal holds, and the scheduler's actor. A system
without schedules has no such actor, and an empty store. Promises: what a verb says has happened is durable when it returns;
a schedule that the program does not register any more is paused and reported, never fatal.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from loguru import logger

from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.handlers import did_you_mean, make_handler
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.reactor.ticks import take_slot
from seqtor.actors.registering import registering
from seqtor.actors.schedules.actor import Scheduler
from seqtor.actors.schedules.changes import STORE, ScheduleChanges
from seqtor.actors.schedules.plans import described, first_slot, make_registered
from seqtor.actors.stores.collection import Collection, CollectionState
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.submissions import Submission
from seqtor.messages.errors import RegistrationError, UseTransaction, WouldDeadlock
from seqtor.messages.events import OURS
from seqtor.messages.schedules import (
    ScheduleChanged,
    ScheduledRunEnded,
    ScheduledTrigger,
    ScheduleFired,
    SchedulePaused,
    ScheduleRecord,
    ScheduleRegistered,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleState,
    ScheduleTicked,
    SlotReached,
)
from seqtor.messages.triggers import Trigger
from seqtor.queries import next_slots, schedule_records
from seqtor.tree.view import Tree, tree_of

if TYPE_CHECKING:
    from seqtor.core import RunningSystem
    from seqtor.system import Supervisor

__all__ = ["RunningSchedules", "ScheduleRef", "Schedules"]

NAMED_MAX = 10


class ScheduleRef:
    """A schedule of a system, by its name. Verbs wait until what they say is durable; not inside of handlers.

    Each raises NotRunning before the start and after the stop, LookupError if there is no such schedule.
    """

    __slots__ = ("_schedules", "name")

    def __init__(self, schedules: Schedules, name: str) -> None:
        self._schedules = schedules
        self.name = name

    def pause(self) -> None:
        """Start nothing until it is resumed, also across restarts."""
        self._schedules.change(SchedulePaused(schedule=self.name))

    def resume(self) -> None:
        """Go on with the next slot from now on; slots of the pause are not made up for."""
        self._schedules.change(ScheduleResumed(schedule=self.name))

    def fire(self) -> str:
        """Start its trigger now, whatever its slots say; returns the id of the run."""
        return self._schedules.fire(self.name)

    def remove(self) -> None:
        """Forget it; what it has started goes on. A program that registers it at the next start has it again."""
        self._schedules.change(ScheduleRemoved(schedule=self.name))
        self._schedules.declared.pop(self.name, None)

    def next(self, count: int = 1) -> list[datetime.datetime]:
        """Its next `count` slots, aware and in UTC; fewer if it ends before, none if it is paused."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise TypeError(f"next() takes how many slots (an int from 0), got {count!r}")
        return self._schedules.next_slots(self._schedules.state(self.name), count)

    @property
    def last(self) -> datetime.datetime | None:
        """The newest slot that was started; None if there was none."""
        return _moment(self._schedules.state(self.name).last)

    def __repr__(self) -> str:
        return f"<ScheduleRef {self.name!r}>"


class Schedules:
    """The schedules of one program."""

    def __init__(self, system: Supervisor) -> None:
        self._system = system
        self.declared: dict[str, ScheduleRegistered] = {}
        self._spec: Collection[ScheduleState] = Collection(ScheduleState)
        self._ref: StoreRef[Any] | None = None

    # The parts of a system -------------------------------------------------------------------------------------------

    def store_behind(self, refs: Sequence[StoreRef[Any]]) -> StoreRef[Any]:
        """The store of the schedules, behind those of the program."""
        if self._ref is None or self._ref.index != len(refs):
            self._ref = StoreRef(STORE, len(refs), self._spec, self._system._seq_of)
        return self._ref

    def add_handlers(self, add: Callable[[Any], None]) -> None:
        """Register the handlers of what changes schedules."""
        changes = ScheduleChanges(lambda: self._system._every_store[-1], self._decode)
        for kind, function in changes.handlers().items():
            add(make_handler(kind, function))
        add(make_handler(SlotReached, take_slot))

    def _decode(self, kept: ScheduledTrigger, name: str) -> Trigger[Any]:
        system = self._system
        where = f"the trigger of schedule {name!r} ({kept.type})"
        kind = system._known.named(kept.type, f"the trigger {kept.type!r}").trigger_type
        payload = json.loads(kept.payload_json)
        return system._upcasts.model(kind, payload, kept.version, kind.trigger_version, where)

    # Registration ----------------------------------------------------------------------------------------------------

    def register(self, trigger: Any, name: Any, priority: Any, options: dict[str, Any]) -> ScheduleRef:
        """Check and register a schedule. Raises RegistrationError."""
        self._system._refuse_inside_handler("schedule", UseTransaction, "register schedules outside of handlers")
        with registering():
            registered = make_registered(trigger, name, priority, options)
            if self._system._running is None:
                self.declare(registered)
            else:
                self._system._known.prepare(
                    trigger, None
                )  # Raises UnknownTrigger, and TypeError for what cannot be kept.
                self._register_now(registered, is_named=name is not None)
            name = registered.schedule
        return ScheduleRef(self, str(name))

    def declare(self, registered: ScheduleRegistered) -> None:
        """Have the start register a schedule. Raises RegistrationError if its name is taken."""
        if self._system._stopped:
            raise RegistrationError("schedule() comes before the stop: the system was stopped")
        earlier = self.declared.setdefault(registered.schedule, registered)
        if earlier != registered:
            raise _taken(earlier)

    def _register_now(self, registered: ScheduleRegistered, *, is_named: bool) -> None:
        """Register a schedule with the running system; under a name that it gave, it takes the place of another."""
        name = registered.schedule
        if self._system._stopped:
            raise RegistrationError("schedule() comes before the stop: the system was stopped")
        earlier = self.declared.get(name)
        if earlier is not None and earlier != registered:
            if not is_named:
                raise _taken(earlier)
            logger.bind(actor="scheduler").info("schedule {} takes the place of {}", _told(registered), _told(earlier))
        if self._never_due(registered):
            raise RegistrationError(
                f"schedule {name!r}: {described(registered.plan)} is never due from now on: what is to run now is "
                "submitted, with system.submit(...)"
            )
        self._submit([registered])
        self.declared[name] = registered

    def _never_due(self, registered: ScheduleRegistered) -> bool:
        """Whether this begins a schedule that has no slot from now on; one that has had its slots is known."""
        kept = self._running.state(registered.schedule)
        begins = kept is None or kept.plan != registered.plan
        return begins and first_slot(registered.plan, self._system._require_running().now()) is None

    def reconcile(self, ours: Iterable[ScheduleRegistered]) -> None:
        """After the start of the actors: tell the order what the program registers, and what it does not any more.

        `ours` are those behind `on_cron`, which are forgotten when nothing waits for them.
        """
        self.declared.update((each.schedule, each) for each in ours)
        for error in self.unknown():
            raise error
        kept = self._running.states()
        changed = [each for name, each in self.declared.items() if _differs(kept.get(name), each)]
        never_due = [_told(each) for each in changed if self._never_due(each)]
        gone = [name for name, state in kept.items() if name not in self.declared and not state.gone]
        unused = [ScheduleRemoved(schedule=name) for name in gone if name.startswith(OURS)]
        gone = [name for name in gone if not name.startswith(OURS)]
        if changed or gone or unused:
            self._submit([*changed, *[SchedulePaused(schedule=name, gone=True) for name in gone], *unused])
        log = logger.bind(actor="scheduler")
        if never_due:
            log.warning("schedules are registered that are never due from now on: {}", _listed(never_due))
        if gone:
            log.warning(
                "schedules are paused that the program does not register any more: {}; register them again, or remove them "
                "with `seqtor schedules remove`", _listed(gone),
            )  # fmt: skip

    def unknown(self) -> Iterator[RegistrationError]:
        """An error for each schedule whose trigger the program does not handle, or could not decode."""
        for name, registered in self.declared.items():
            try:
                self._system._known.prepare(self._decode(registered.trigger, name), None)
            except RegistrationError as error:
                told = RegistrationError(f"schedule {name!r}: {error}")
                told.__cause__ = error
                yield told

    # Verbs -----------------------------------------------------------------------------------------------------------

    def change(self, trigger: Trigger[bool]) -> None:
        """Have a schedule changed. Raises LookupError if there is none."""
        verb = trigger.trigger_name.rpartition("_")[2]
        self._system._refuse_inside_handler(verb, WouldDeadlock, "change schedules from outside of handlers")
        name: str = trigger.schedule  # type: ignore[attr-defined]
        if not self._submit([trigger])[0].result():
            raise self._unknown(name)

    def fire(self, name: str) -> str:
        """Start a schedule's trigger now; returns the run id."""
        self._system._refuse_inside_handler("fire", WouldDeadlock, "tx.submit(...) starts a trigger")
        submission = self._submit([ScheduleFired(schedule=name)])[0]
        if not submission.result():
            raise self._unknown(name)
        return f"{submission.id}.1"

    def state(self, name: str) -> ScheduleState:
        """A schedule as it is now. Raises LookupError, NotRunning."""
        state = self._running.state(name)
        if state is None:
            raise self._unknown(name)
        return state

    def next_slots(self, state: ScheduleState, count: int) -> list[datetime.datetime]:
        """The next slots of a schedule."""
        slots = next_slots(state, self._system._require_running().now(), count)
        return [datetime.datetime.fromtimestamp(slot, datetime.UTC) for slot in slots]

    def records(self, limit: int | None) -> list[ScheduleRecord]:
        """All schedules, the newest first."""
        running, now = self._running, self._system._require_running().now()
        return [
            record._replace(under_way=record.under_way - len(running.ended(record.name, state.under_way)))
            for record, state in schedule_records(running.states(), now, limit)
        ]

    @property
    def _running(self) -> RunningSchedules:
        return self._system._require_running().schedules

    def _submit(self, triggers: Sequence[Trigger[Any]]) -> list[Submission[Any]]:
        """Submit what changes schedules, wait until it is durable, and have the scheduler look at them."""
        running = self._system._require_running()
        submissions = running.edge.submit_past_the_bound(
            [self._system._known.prepare(trigger, None) for trigger in triggers]
        )
        for submission in submissions:
            trigger: Any = submission.trigger
            name: str = trigger.schedule
            if submission.when_done(lambda name=name: running.schedules.changed(name)):  # type: ignore[misc]
                running.schedules.changed(name)
        for submission in submissions:
            submission.result()
        running.schedules.start()
        return submissions

    def _unknown(self, name: str) -> LookupError:
        return LookupError(f"there is no schedule {name!r}{did_you_mean(name, self._running.states())}")


class RunningSchedules:
    """The scheduler of one running system, and what it asks. Its actor is started with the first schedule."""

    def __init__(self, running: RunningSystem, dispatchers: Dispatchers, index: int, root: Mailbox) -> None:
        self._running = running
        self._dispatchers = dispatchers
        self._index = index
        self._root = root
        self._open: dict[
            str, dict[float, Submission[Any]]
        ] = {}  # What slots have started, until it is known to have ended.
        self._stopped = False
        self.ref: Any = None
        # What an earlier process has started: of that, what is not open has ended.
        self._before = frozenset((name, slot) for name, state in self.states().items() for slot in state.under_way)

    # What is started -------------------------------------------------------------------------------------------------

    def note_open(self) -> None:
        """Find what earlier processes have started and has not ended; before the actor is there."""
        for submission in list(self._running.intake.open):
            self.note(submission)

    def begin(self) -> None:
        """Start the actor, if there is anything to schedule."""
        if self.states():
            self.start()

    def note(self, submission: Submission[Any]) -> None:
        """A run was let go; of interest if a schedule has started it. Twice: harmless."""
        origin = submission.origin
        if origin is None or origin.scheduled is None:
            return
        name, slot = origin.scheduled
        self._open.setdefault(name, {})[slot] = submission
        if submission.when_done(lambda: self._tell(ScheduledRunEnded(schedule=name))):
            self._tell(ScheduledRunEnded(schedule=name))

    def start(self) -> None:
        """Start the actor, unless it is there or the system stops."""
        if self.ref is None and not self._stopped:
            dispatchers = self._dispatchers
            self.ref = Scheduler.start_on(
                dispatchers.dedicated("scheduler"), self, dispatchers.clock, dispatchers.timers, parent=self._root,
                restartable=True,
            )  # fmt: skip
            self._running.supervise_scheduler(self.ref)

    def stop(self, stop_actors: Callable[[Iterable[Any]], None]) -> None:
        """Give no more ticks."""
        self._stopped = True
        if self.ref is not None:
            stop_actors([self.ref])

    def changed(self, name: str) -> None:
        """A schedule was changed: look at it. From any thread."""
        if self.ref is None:
            return
        self._tell(ScheduleChanged(schedule=name))

    def trees(self) -> list[Tree]:
        """The actor, for `system.tree()`."""
        return [] if self.ref is None else [tree_of("scheduler", self.ref)]

    def _tell(self, message: Any) -> None:
        ref = self.ref
        if ref is not None and not ref.actor_inbox.closed:
            ref.actor_inbox.put(message)

    # What the actor asks ---------------------------------------------------------------------------------------------

    def states(self) -> dict[str, ScheduleState]:
        """All schedules as they are now, by name, in the order of the names."""
        state: CollectionState[ScheduleState] = self._running.visible(self._index)
        return {name: state.entries[name] for name in state.keys.between(None, None)}

    def schedules(self) -> Iterable[str]:
        return self.states()

    def state(self, name: str) -> ScheduleState | None:
        state: CollectionState[ScheduleState] = self._running.visible(self._index)
        return state.entries.get(name)

    def ended(self, name: str, slots: Iterable[float]) -> tuple[float, ...]:
        found = []
        for slot in slots:
            submission = self._open.get(name, {}).get(slot)
            # One of this process that is not known has yet to be let go.
            if (name, slot) in self._before if submission is None else submission.newest.done:
                found.append(slot)
        return tuple(found)

    def give(self, tick: ScheduleTicked) -> Submission[int]:
        return self._running.edge.submit_tick(tick)

    def forget(self, name: str, under_way: Iterable[float]) -> None:
        known, needed = self._open.get(name, {}), set(under_way)
        for slot, submission in list(known.items()):
            if slot not in needed and submission.newest.done:
                known.pop(slot, None)


def _differs(state: ScheduleState | None, registered: ScheduleRegistered) -> bool:
    return state is None or state.gone or (state.plan, state.trigger) != (registered.plan, registered.trigger)


def _told(registered: ScheduleRegistered) -> str:
    """A schedule in a line of the log."""
    return f"{registered.schedule!r} ({described(registered.plan)}, starts {registered.trigger.type})"


def _taken(earlier: ScheduleRegistered) -> RegistrationError:
    return RegistrationError(
        f"there is a schedule called {earlier.schedule!r} already, for something else ({described(earlier.plan)}, starts "
        f"{earlier.trigger.type} {earlier.trigger.payload_json}): give this one a name= of its own"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more


def _moment(at: float | None) -> datetime.datetime | None:
    return None if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC)
