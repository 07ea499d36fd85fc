"""What a system tells of itself: figures, records, events, trees, and its history executed again.

Owns the queries of the facade. Promises: nothing here changes anything; what is asked of a journal works on a running
system, and before the start and after the stop on what the journal holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from seqtor.actors.effects import EffectFunctions
from seqtor.actors.journal.contract import Backend
from seqtor.actors.journal.history import History, history_of
from seqtor.actors.journal.recovery import commit_record
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.stores.contract import StoreRef
from seqtor.actors.submissions import Intake
from seqtor.control.server import ControlServer
from seqtor.core import RunningSystem
from seqtor.endings import Life
from seqtor.known import KnownTriggers
from seqtor.lineage import lineage, started_by
from seqtor.messages.effects import DeadLetterRecord
from seqtor.messages.errors import NotRunning, UseTransaction, WouldDeadlock
from seqtor.messages.reactions import EventRecord, Lineage, ReactionState
from seqtor.messages.records import CommitRecord
from seqtor.messages.runs import ConflictReport, RunRecord, State, Stats
from seqtor.messages.schedules import ScheduleRecord
from seqtor.messages.triggers import Trigger
from seqtor.queries import PIECE, RunFilter, commits, events, kept_records, require_limit, run_record
from seqtor.registry import Resources
from seqtor.replay import Program, Progress, ReplayReport, replay, require_range
from seqtor.schedules import Schedules
from seqtor.settings import Settings
from seqtor.tree.users import UserTrees
from seqtor.tree.view import Tree

__all__ = ["Inspection"]


class Inspection(ABC):
    """The queries; `Supervisor` is what they look at."""

    name: str
    settings: Settings
    _make_backend: Callable[[], Backend | None]
    _known: KnownTriggers
    _upcasts: Upcasts
    _effects: EffectFunctions
    _resources: Resources
    _schedules: Schedules
    _users: UserTrees
    _control: ControlServer | None
    _running: RunningSystem | None
    _stopped: bool
    _replaying: Intake | None

    @property
    @abstractmethod
    def life(self) -> Life:
        """Where the system is between its making and its end."""

    @property
    @abstractmethod
    def _every_store(self) -> tuple[StoreRef[Any], ...]: ...

    @abstractmethod
    def _require_running(self) -> RunningSystem: ...

    @abstractmethod
    def _refuse_inside_handler(self, verb: str, error: type[UseTransaction | WouldDeadlock], instead: str) -> None: ...

    def stats(self) -> Stats:
        """The system's figures at this moment; after the stop, those of the stop."""
        running = self._require_running()
        stats, outside = running.asking.stats(), running.outside
        persisted = outside.persisted_through(stats.durable_through)  # Later than it: too little, never too much.
        return stats._replace(persisted_through=persisted, stores_suspended=outside.suspended())

    def record(self, seq: int) -> RunRecord:
        """What is known of the run at `seq`; with a journal, of any seq that it keeps.

        Raises LookupError for a seq that was not given yet, or is forgotten.
        """
        if isinstance(seq, bool) or not isinstance(seq, int):
            raise TypeError(f"record() takes a seq (an int from 1), got {seq!r}")
        running = self._require_running()
        found = running.asking.record(seq)
        if found is None and seq > 0 and not running.in_memory:
            with self._history() as (history, through):
                for row in history.rows(seq, min(seq, through)):
                    kept = commit_record(row, history.place)
                    started = started_by(kept.run, kept.state, running.reactions.link_of(running.read_journal))
                    return run_record(kept, self._known.named, self._upcasts, started)
        if found is None:
            raise LookupError(
                f"there is no record of seq {seq}: seqs start at 1; it was not given yet, or is older than the "
                f"{self.settings.records_max} records that are kept (records_max)"
            )
        return found

    def runs(
        self,
        *,
        state: State | str | Iterable[State | str] | None = None,
        trigger: type[Trigger[Any]] | str | None = None,
        limit: int | None = 100,
    ) -> list[RunRecord]:
        """Runs that have a seq, newest first: those in a state (or one of several), of a trigger type, at most `limit`.

        With a journal also those of earlier processes. A trigger whose type is not registered any more is an
        `UnregisteredTrigger`. Raises TypeError for a state or a trigger that there cannot be, WouldDeadlock inside a
        handler.
        """
        self._refuse_inside_handler("runs", WouldDeadlock, "ask from outside")
        running, limit = self._require_running(), require_limit(limit)
        wanted = RunFilter(state, trigger)
        return list(islice(self._wanted_runs(running, wanted), limit))

    def _wanted_runs(self, running: RunningSystem, wanted: RunFilter) -> Iterator[RunRecord]:
        before: int | None = None
        while known := running.asking.runs(before, PIECE):
            yield from filter(wanted.takes, known)
            before = known[-1].seq
        if not running.in_memory:
            with self._history() as (history, through):
                last = through if before is None else min(through, before - 1)
                yield from kept_records(history, last, wanted, self._known.named, self._upcasts)

    def commits(
        self, after: int = 0, limit: int | None = None, *, oldest_first: bool = False
    ) -> Iterator[CommitRecord]:
        """The records of the durable commits after a seq, newest first, at most `limit`; read as they are asked for.

        With `oldest_first`, `limit` counts from `after` on: to go on where one has stopped. Before the start and after
        the stop the journal is opened for reading until the iterator is exhausted or closed. Raises JournalCorrupted for
        a record that is not what was written, WouldDeadlock inside a handler.
        """
        self._refuse_inside_handler("commits", WouldDeadlock, "ask from outside")
        if isinstance(after, bool) or not isinstance(after, int) or after < 0:
            raise TypeError(f"commits() takes the seq after which to begin (an int from 0), got {after!r}")
        limit = require_limit(limit)

        def records() -> Iterator[CommitRecord]:
            with self._history() as (history, through):
                yield from commits(history, after, through, limit, oldest_first=oldest_first)

        return records()

    def events(
        self,
        *,
        code: str | None = None,
        matched: bool | None = None,
        started: bool | None = None,
        after: int = 0,
        limit: int | None = 100,
    ) -> list[EventRecord]:
        """Events that were recorded, newest first, at most `limit`: those of a code, of seqs above `after`.

        With `matched`, those that have met a reaction, or a part of one (or not); with `started`, those from which runs
        followed. With a journal also those of earlier processes. Raises TypeError, WouldDeadlock inside a handler.
        """
        self._refuse_inside_handler("events", WouldDeadlock, "ask from outside")
        if isinstance(after, bool) or not isinstance(after, int) or after < 0:
            raise TypeError(f"events() takes the seq after which to begin (an int from 0), got {after!r}")
        running, limit = self._require_running(), require_limit(limit)
        with self._history() as (history, through):
            found = events(history, after, through, running.reactions.link_of(running.read_journal))
            wanted = (
                event
                for event in found
                if code in (None, event.code)
                and matched in (None, bool(event.matched))
                and started in (None, bool(event.started))
            )
            return list(islice(wanted, limit))

    def lineage(self, seq: int) -> Lineage:
        """The run at `seq` (of an event, say) and all that followed from it, as a tree.

        Raises LookupError for a seq without a durable record, TypeError, WouldDeadlock inside a handler.
        """
        self._refuse_inside_handler("lineage", WouldDeadlock, "ask from outside")
        if isinstance(seq, bool) or not isinstance(seq, int):
            raise TypeError(f"lineage() takes a seq (an int from 1), got {seq!r}")
        running = self._require_running()
        with self._history() as (history, through):
            return lineage(history, seq, through, running.reactions.link_of(running.read_journal))

    def reactions(self, *, limit: int = 100) -> list[ReactionState]:
        """Every reaction, the newest registered first: what it has started, how it failed, its half-met composites.

        Of these the newest `limit` for each reaction. Those that the program does not register any more and of which the
        journal holds half-met composites come last.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise TypeError(f"reactions() takes a limit (an int from 0), got {limit!r}")
        return self._require_running().reactions.states(limit)

    def tree(self) -> Tree:
        """The supervision tree as it is now: every actor with its state, its restarts and what waits in its mailbox."""
        running, control = self._running, self._control
        runtime: tuple[Tree, ...] = () if running is None else running.trees()
        edge = () if control is None else (control.tree(),)
        return Tree(
            name=self.name, kind="supervisor", state=self.life.value, children=(*runtime, *self._users.trees(), *edge)
        )  # fmt: skip

    def conflicts(self) -> ConflictReport:
        """Hottest keys, handler pairs that collide, executions wasted; of runs that have ended."""
        return self._require_running().asking.conflicts()

    def dead_letters(self, limit: int = 100) -> list[DeadLetterRecord]:
        """What was given up after its last try, runs and effects, newest first, at most `limit`; from before a restart,
        too. `resubmit` takes an entry of it.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise TypeError(f"dead_letters() takes a limit (an int from 0), got {limit!r}")
        return self._require_running().dead_letters(limit)

    def schedules(self, limit: int | None = 100) -> list[ScheduleRecord]:
        """The schedules that the journal holds, the newest first, at most `limit`."""
        return self._schedules.records(require_limit(limit))

    def replay(
        self,
        first: int = 1,
        last: int | None = None,
        *,
        workers: int = 1,
        shuffle: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ReplayReport:
        """Execute the runs of a range of seqs again and compare what they give with the journal; nothing is written.

        Each handler gets the state as of its place in the order and its recorded inputs; recorded calls are not made,
        effects not carried out. `workers` threads execute in any order, which `shuffle` seeds: the report is the same.
        Works on a running system, and before the start and after the stop on its journal. `progress` is called with
        (seq, last) now and then. Raises ReplayDiverged for the first run that ends in another way, LookupError for seqs
        that are not kept or not durable yet, RegistrationError for a trigger type that is not registered any more,
        WouldDeadlock inside a handler.
        """
        self._refuse_inside_handler("replay", WouldDeadlock, "replay from outside")
        with self._history() as (history, through):
            first, last = require_range(history, through, first, last)
            return self._replay(history, first, last, workers, shuffle, progress)

    def verify(
        self,
        *,
        workers: int = 1,
        shuffle: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ReplayReport:
        """Execute everything that the journal keeps again and compare. As `replay`, from the oldest record on."""
        self._refuse_inside_handler("verify", WouldDeadlock, "verify from outside")
        with self._history() as (history, through):
            return self._replay(history, history.first, through, workers, shuffle, progress)

    def _replay(
        self, history: History, first: int, last: int, workers: int, shuffle: int | None, progress: Progress | None
    ) -> ReplayReport:
        if self._running is not None:
            intake = self._running.intake
        else:
            intake = self._replaying = self._replaying or Intake("replay", None, lambda _, future: future.set(None))
        program = Program(
            stores=self._every_store,
            handler_named=self._known.named,
            upcasts=self._upcasts,
            effects=self._effects,
            resources=tuple(self._resources.refs),
            prepare=self._known.prepare,
            intake=intake,  # By it a transaction is known to be of this system, so that verbs are refused as they were.
        )
        return replay(program, history, first, last, workers=workers, shuffle=shuffle, progress=progress)

    @contextmanager
    def _history(self) -> Iterator[tuple[History, int]]:
        """What was, and the last seq of it: of the running system, or of its journal, opened for reading."""
        running = self._running
        if running is not None and (running.in_memory or not self._stopped):
            yield running.history, running.recorded_through
            return
        backend = self._make_backend()
        if backend is None:
            raise NotRunning(
                f"{self.name!r} keeps everything in memory and is not started: there is nothing to look at"
            )
        for ref in self._every_store:
            ref.spec.prepare_for_journal(self._upcasts)
        opened = backend.open(write=False)
        try:
            yield history_of(backend, opened, self._every_store), opened.commits_through
        finally:
            backend.close()
