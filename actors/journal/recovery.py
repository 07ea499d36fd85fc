"""Brings back what a journal holds: the stores' states, and the work that had not ended.

Owns the way from rows to states, without any handler's code. What has overtaken a seq that had not ended stays beside the
states: that seq executes again, and must not see what came after it. Promises: what is read is checked (the hash chain,
the shape of each record, its place); a journal that cannot be read is refused with the place, never taken for a shorter
one; what the code no longer registers is named. Called at the start, on the caller's thread, before any actor has the
backend.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from seqtor.actors.faults import fault
from seqtor.actors.journal.chain import Break, Chain, Links, checked_rows, hash_at
from seqtor.actors.journal.contract import Backend, CheckpointInfo, CommitRow, EntryRow, Opened
from seqtor.actors.journal.decoding import parsed
from seqtor.actors.journal.encoding import GENESIS
from seqtor.actors.journal.kept_reactions import KeptReactions
from seqtor.actors.journal.open_runs import DEAD_LETTERS_MAX, DEAD_STATES
from seqtor.actors.publications import NOTHING_AHEAD, Ahead, Publication
from seqtor.actors.stores.contract import StoreRef, op_of
from seqtor.messages.errors import JournalCorrupted, RegistrationError
from seqtor.messages.records import (
    AcceptedRecord,
    CallRecord,
    CommitRecord,
    DeadRunRecord,
    EffectRecord,
    EndedRecord,
    OpenEffect,
    OpenWork,
    ReactionRecord,
    SequencedRecord,
)
from seqtor.messages.stores import Checkpoint, Commit, Write

__all__ = ["OPEN_WORK", "Recovery", "checked_rows", "commit_record", "entry_record", "links_of", "open_work",
           "read_sections", "store_section", "writes_by_store"]  # fmt: skip

RecordT = TypeVar("RecordT", bound=BaseModel)
OPEN_WORK = "open"
EntryRecord = AcceptedRecord | CallRecord | EffectRecord | EndedRecord | ReactionRecord | SequencedRecord
ENTRY_KINDS: dict[str, type[EntryRecord]] = {
    "accepted": AcceptedRecord,
    "call": CallRecord,
    "effect": EffectRecord,
    "ended": EndedRecord,
    "reaction": ReactionRecord,
    "sequenced": SequencedRecord,
}
RUN_KINDS = ("accepted", "call")  # Of no interest once the run that `ref` names has ended.


def store_section(store: str) -> str:
    """The section of a checkpoint that holds a store's state."""
    return f"store:{store}"


def read_sections(backend: Backend, seq: int) -> dict[str, bytes]:
    """The sections of the finished checkpoint at `seq`."""
    sections: dict[str, list[bytes]] = {}
    for part in backend.checkpoint_parts(seq):
        sections.setdefault(part.section, []).append(part.data)
    return {section: b"".join(parts) for section, parts in sections.items()}


def open_work(sections: dict[str, bytes], seq: int, place: str) -> OpenWork:
    """What a checkpoint remembers beside the stores. Raises JournalCorrupted if that is not there."""
    return _record(OpenWork, sections.get(OPEN_WORK, b""), f"{place}: checkpoint at seq {seq}")


def links_of(info: CheckpointInfo, work: OpenWork) -> Links:
    """What the records behind a checkpoint are held against."""
    if not work.links:
        return Links({info.seq: info.chain})
    return Links({seq: bytes.fromhex(chain) for seq, chain in work.links}, tuple(work.passed))


class Recovery:
    """What is read from a journal at the start. `tail` holds each store's writes since the checkpoint.

    It ends at the last seq up to which all have ended, `through`. `overlay` are the writes of those that have overtaken, by
    store, in seq order; `sequenced` are the runs that they have overtaken, by seq: these execute again under it. `next_seq`
    is the first that is to be given anew. `unkept` are the stores that the checkpoint does not hold, because they make
    none: their tail begins at seq 1.
    """

    def __init__(self, backend: Backend, opened: Opened) -> None:
        self.backend = backend
        self.opened = opened
        self.info: CheckpointInfo | None = opened.checkpoints[-1] if opened.checkpoints else None
        self.checkpoints: dict[str, bytes] = {}
        self.shapes: dict[str, str] = {}
        self.unkept: frozenset[str] = frozenset()
        self._changed: dict[str, int] = {}
        self.chain = GENESIS
        self.tip = 0
        self.breaks: list[Break] = []
        self.through = opened.commits_through
        self.next_seq = opened.commits_last + 1
        self.overlay: list[tuple[int, dict[str, list[tuple[str, Any, int]]]]] = []
        self.sequenced: dict[int, SequencedRecord] = {}
        self._reached = opened.reached
        self._links = Links({0: GENESIS})
        self.now = 0.0
        self.accepted: dict[str, AcceptedRecord] = {}
        self.calls: dict[str, list[CallRecord]] = {}
        self.effects: dict[tuple[int, int], OpenEffect] = {}
        self.dead: list[EffectRecord] = []
        self.resubmitted: dict[str, str] = {}
        self.ended_without_seq: list[str] = []
        self._dead_runs: deque[DeadRunRecord | dict[str, Any]] = deque(maxlen=DEAD_LETTERS_MAX)
        self.tail: dict[str, list[tuple[int, list[tuple[str, Any, int]]]]] = {}
        self.tail_bytes = 0  # What lies behind the checkpoint, in characters.
        self.closed: set[tuple[int, int]] = set()  # Effects that have ended, of commits behind the checkpoint.
        self._outcomes: list[EffectRecord] = []
        self._ends: list[EndedRecord] = []
        self._decisions: list[ReactionRecord] = []
        self.reactions = KeptReactions()
        self._ended: set[str] = set()
        fault("journal.recovery.begin")
        self._read_checkpoint()
        self._read_commits()
        self._read_entries()
        self._close_what_ended()
        self._require_sequenced()
        fault("journal.recovery.end")

    def states(self, refs: Sequence[StoreRef[Any]], recovered: Sequence[Any]) -> list[Any]:
        """Fold what was committed since the checkpoint into the states that the stores recovered."""
        found = []
        for ref, state in zip(refs, recovered, strict=True):
            tail = self.tail.get(ref.name)
            found.append(state if not tail else ref.spec.restore(self.checkpoint(ref.name), state, tail))
        return found

    def publication(self, refs: Sequence[StoreRef[Any]], states: Sequence[Any]) -> Publication:
        """What is visible at the start: the `states` through which everything has ended, and what has overtaken."""
        indexes = {ref.name: ref.index for ref in refs}
        newest = list(states)
        ahead: Ahead = NOTHING_AHEAD
        keys: list[tuple[int, dict[int, set[str]]]] = []
        for seq, by_store in self.overlay:
            changes: list[tuple[int, tuple[Write, ...]]] = []
            for name, kept in by_store.items():
                store = indexes[name]
                newest[store] = after = refs[store].spec.restore(None, newest[store], [(seq, kept)])
                changes.append((store, tuple([_write(refs[store], after, key, value) for key, value, _ in kept])))
            ahead = ahead.set(seq, tuple(changes))
            keys.append((seq, {store: {write.key for write in writes} for store, writes in changes}))
        return Publication(0, self.through, tuple(states), {}, ahead, tuple(newest), tuple(keys))

    def checkpoint(self, store: str) -> Checkpoint | None:
        """A store's part of the checkpoint."""
        data = self.checkpoints.get(store)
        return None if data is None or self.info is None else Checkpoint(self.info.seq, data)

    def changed(self, store: str) -> int:
        """The last seq up to which everything has ended that may have changed a store."""
        tail = self.tail.get(store)
        if tail:
            return tail[-1][0]
        return 0 if self.info is None else self._changed.get(store, self.info.seq)

    def ahead_of(self, ref: StoreRef[Any]) -> list[Commit]:
        """A store's commits that have overtaken a seq which has not ended."""
        return [
            Commit(seq, (), tuple([ref.spec.write_of(*each, where=f"seq {seq}") for each in by_store[ref.name]]))
            for seq, by_store in self.overlay
            if ref.name in by_store
        ]

    def needs_checkpoint(self, refs: Iterable[StoreRef[Any]]) -> bool:
        """Whether a store is new, or kept in another form than now."""
        return any(self.shapes.get(ref.name) != ref.spec.shape for ref in refs)

    def require_known(self, stores: Iterable[str], triggers: Iterable[str], effects: Iterable[str]) -> None:
        """Raise RegistrationError that names all that the journal needs and the code does not register."""
        needed = [
            (
                "store",
                {*self.shapes, *self.tail, *(name for _, by_store in self.overlay for name in by_store)},
                set(stores),
            ),
            ("trigger", {record.trigger.type for record in self.accepted.values()}, set(triggers)),
            ("effect", {each.effect.name for each in self.effects.values()}, set(effects)),
        ]
        missing = [f"{kind} {name!r}" for kind, used, known in needed for name in sorted(used - known)]
        if missing:
            raise RegistrationError(
                f"the journal {self.backend.place} holds work of {', '.join(missing)}, which the program no longer "
                "registers: register it again (under the name it had), or let the version that has it end the work first"
            )

    @cached_property
    def seq_of(self) -> dict[str, SequencedRecord]:
        """The runs that are bound to a seq, by run id."""
        return {record.run: record for record in self.sequenced.values()}

    @property
    def dead_runs(self) -> list[DeadRunRecord]:
        """The runs that were given up, the oldest first."""
        return [each if isinstance(each, DeadRunRecord) else _dead_run(each) for each in self._dead_runs]

    def open_accepted(self) -> list[AcceptedRecord]:
        """The triggers that were accepted and have not ended, in the order in which they were submitted."""
        return sorted(self.accepted.values(), key=lambda record: (record.submitted_at, record.arrival))

    # Reading -----------------------------------------------------------------------------------------------------------

    def _read_checkpoint(self) -> None:
        if self.info is None:
            if self.opened.commits_from > 1:
                raise JournalCorrupted(
                    f"{self.backend.place}: the commits up to seq {self.opened.commits_from - 1} were trimmed, and the "
                    "checkpoint that stood for them is missing"
                )
            return
        sections = read_sections(self.backend, self.info.seq)
        for section, data in sections.items():
            if section != OPEN_WORK:
                self.checkpoints[section.removeprefix("store:")] = data
        work = open_work(sections, self.info.seq, self.backend.place)
        self._links = links_of(self.info, work)
        self.now = work.now
        for record in work.sequenced:
            self._bind(record)
        self.shapes = work.shapes
        self._changed = work.changed
        self.unkept = frozenset(self.shapes) - frozenset(self.checkpoints)
        self.accepted = {record.run: record for record in work.accepted}
        for call in work.calls:
            self.calls.setdefault(call.run, []).append(call)
        self.effects = {(each.seq, each.index): each for each in work.effects}
        self.dead = list(work.dead)
        self._dead_runs.extend(work.dead_runs)
        self.resubmitted = dict(work.resubmitted)
        self.closed = set(work.closed)
        self.ended_without_seq = list(work.ended)
        self.reactions = KeptReactions(work.reactions)

    def _read_entries(self) -> None:
        after = self.info.entries_through if self.info else 0
        for row in self.backend.entries(after + 1, self.opened.entries_through):
            self.tail_bytes += len(row.body)
            if row.kind in RUN_KINDS and row.ref in self._ended:
                continue  # Nearly all: decoding them took longer than all the rest.
            record = entry_record(row, self.backend.place)
            if isinstance(record, AcceptedRecord):
                self.accepted.setdefault(row.ref, record)  # Of a deferred run its newest record counts.
                if record.resubmits is not None:
                    self.resubmitted[record.resubmits] = record.run
            elif isinstance(record, CallRecord):
                self.calls.setdefault(row.ref, []).append(record)
            elif isinstance(record, SequencedRecord):
                self._bind(record)
            elif isinstance(record, EndedRecord):
                self.ended_without_seq.append(record.run)
                self._ends.append(record)
            elif isinstance(record, ReactionRecord):
                self._decisions.append(record)
            else:
                self._outcomes.append(record)

    def _read_commits(self) -> None:
        first = self.info.seq + 1 if self.info else 1
        if self.info and self.unkept:
            self._read_whole_tails(self.info)
        chain = Chain(self.backend.place, self._links, hash_at(self.backend))
        for row in checked_rows(self.backend, first, self.opened.commits_last, chain, self.opened.gaps):
            self.tail_bytes += len(row.body)
            self._fold_in(parsed(row.body))
        self.tip, self.chain = chain.tip
        self.breaks = chain.breaks
        self.reactions.read_all(self.breaks)

    def _bind(self, record: SequencedRecord) -> None:
        """A run has a seq for good if its seq has not ended."""
        self.now = max(self.now, record.sequenced_at)
        if not self._reached.has(record.seq):
            self.sequenced[record.seq] = record

    def _require_sequenced(self) -> None:
        """Every seq that was overtaken says which run it belongs to, and the journal still has that run's trigger."""
        for seq in self.opened.gaps:
            record = self.sequenced.get(seq)
            if record is None or record.run not in self.accepted:
                why = (
                    "nothing says which run" if record is None else f"the trigger of its run {record.run} is not there"
                )
                raise JournalCorrupted(
                    f"{self.backend.place}: seq {seq} has no record although a later one has, and {why}: a record, or an "
                    "entry, is missing. Restore it from a backup",
                    seq,
                )

    def _close_what_ended(self) -> None:
        self._ended.update(self.ended_without_seq)
        for ended in self._ends:
            if ended.run in self.accepted:
                self.reactions.read_ended(self.accepted[ended.run], ended.state, ended.ended_at)
        for closed in self.closed:
            self.effects.pop(closed, None)
        for outcome in self._outcomes:
            if self.effects.pop((outcome.seq, outcome.index), None) is None:
                continue  # Written twice: the first counts.
            self.closed.add((outcome.seq, outcome.index))
            if outcome.error is not None:
                self.dead.append(outcome)
                self.reactions.gave_up(outcome)
            if outcome.submitted is not None and outcome.submitted.run not in self._ended:
                self.accepted[outcome.submitted.run] = outcome.submitted
        for decision in self._decisions:
            if self.reactions.note(decision):
                self.accepted.update((each.run, each) for each in decision.started)
        for run in self._ended:
            self.accepted.pop(run, None)
            self.calls.pop(run, None)

    def _read_whole_tails(self, info: CheckpointInfo) -> None:
        """Read all that was ever committed to stores which no checkpoint holds."""
        if self.opened.commits_from > 1:
            raise JournalCorrupted(
                f"{self.backend.place}: {_names(self.unkept)} made no checkpoint (StoreActor.checkpoint returned None), so "
                f"every commit since the first is needed, and those up to seq {self.opened.commits_from - 1} were trimmed"
            )
        chain = GENESIS
        for row in checked_rows(self.backend, 1, info.seq, GENESIS):
            chain = row.chain
            for store, writes in writes_by_store(parsed(row.body)).items():
                if store in self.unkept:
                    self.tail.setdefault(store, []).append((row.seq, writes))
        if chain != info.chain:
            raise JournalCorrupted(
                f"{self.backend.place}: the records up to seq {info.seq} are not those after which its checkpoint was made",
                info.seq,
            )

    def _fold_in(self, record: dict[str, Any]) -> None:
        if record["format"] != 1:
            raise JournalCorrupted(
                f"{self.backend.place}: seq {record['seq']} is written in format {record['format']}, this version reads "
                "format 1: open it with the version that wrote it",
                record["seq"],
            )
        seq = record["seq"]
        self.now = max(self.now, record["sequenced_at"])
        self.reactions.read_commit(record)
        by_store = writes_by_store(record)
        if seq > self.through:
            self.overlay.append((seq, by_store))
        else:
            for store, writes in by_store.items():
                self.tail.setdefault(store, []).append((seq, writes))
        if "resubmits" in record:
            self.resubmitted[record["resubmits"]] = record["run"]
        if "deferred" in record:  # Only its seq has ended.
            deferred = AcceptedRecord.model_validate(record["deferred"])
            self.accepted[deferred.run] = deferred
            return
        self._ended.add(record["run"])
        self._ended.update(record.get("coalesced", ()))
        if "retry" in record:
            retry = AcceptedRecord.model_validate(record["retry"])
            self.accepted[retry.run] = retry
        elif record["state"] in DEAD_STATES:
            self._dead_runs.append(record)
        for child in record.get("submitted", ()):
            accepted = AcceptedRecord.model_validate(child)
            self.accepted[accepted.run] = accepted
        for index, effect in enumerate(record.get("effects", ())):
            self.effects[seq, index] = OpenEffect(seq=seq, index=index, effect=effect)


def _write(ref: StoreRef[Any], after: Any, key: str, value: Any) -> Write:
    """A recorded write as the store folds it; `after` is the state with it."""
    part = ref.spec.part(after, key)
    return Write(key, op_of(value) if part is NotImplemented else part)


def _dead_run(record: dict[str, Any]) -> DeadRunRecord:
    """What a dead letter needs of a commit's record (as parsed JSON)."""
    return DeadRunRecord.model_validate(
        {name: record[name] for name in DeadRunRecord.model_fields if name != "format" and name in record}
    )


def writes_by_store(record: dict[str, Any]) -> dict[str, list[tuple[str, Any, int]]]:
    """The writes of a commit record (as parsed JSON): (key, JSON, version) by store."""
    by_store: dict[str, list[tuple[str, Any, int]]] = {}
    for write in record.get("writes", ()):
        by_store.setdefault(write[0], []).append((write[1], write[2], write[3] if len(write) > 3 else 1))
    return by_store


def entry_record(row: EntryRow, place: str) -> EntryRecord:
    """An entry as a record. Raises JournalCorrupted if it is none."""
    where = f"{place}: entry {row.pos} ({row.kind} {row.ref})"
    kind = ENTRY_KINDS.get(row.kind)
    if kind is None:
        raise JournalCorrupted(f"{where}: this version knows no such entry; was it written by a newer one?")
    return _record(kind, row.body, where)


def commit_record(row: CommitRow, place: str) -> CommitRecord:
    """A row as a record. Raises JournalCorrupted if it is none."""
    return _record(CommitRecord, row.body, f"{place}: seq {row.seq}")


def _record(kind: type[RecordT], body: str | bytes, where: str) -> RecordT:
    try:
        return kind.model_validate(parsed(body))
    except ValueError as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise JournalCorrupted(f"{where} is not what a {kind.__name__} looks like: {why}") from error


def _names(stores: Iterable[str]) -> str:
    return ", ".join(f"store {name!r}" for name in sorted(stores))
