"""The actor of a store that writes outside: to files, a database, a service.

Owns when the store's `persist`, `look` and `edit_ended` are called. Promises: commits are persisted in seq order, in groups
of what has queued up, once they are durable, and again from `persisted()` on after a crash; an outside that is away, or a
`persist` that raises, suspends this store alone, and neither the order nor the runs that write to it. Must never write what
is not durable.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import islice
from typing import Any, ClassVar

from loguru import logger

from seqtor.actors.dispatchers.contract import Cancellable
from seqtor.actors.faults import fault
from seqtor.actors.journal.encoding import json_of
from seqtor.actors.mailbox import answer, answer_error
from seqtor.actors.stores.access import frozen_json
from seqtor.actors.stores.cell import StoreCell
from seqtor.actors.stores.contract import StoreActor
from seqtor.actors.stores.outside import Outside, ReadCommits, TrimmedAway, read_commits
from seqtor.actors.submissions import Submission
from seqtor.messages.errors import NotRunning, OutcomeUnknown, RegistrationError, StoreUnavailable
from seqtor.messages.journal import ReadJournal
from seqtor.messages.lifecycle import StoreRecovered
from seqtor.messages.outside import OutsideEdit, decoded, encoded
from seqtor.messages.stores import BeginOutside, Commit, CommitsRead, EditEnded, PersistCommits, StoreDue

__all__ = ["OutsideCell"]

GROUP_MAX = 1024
BACKOFF_S, BACKOFF_MAX_S = 0.1, 30.0


class OutsideCell(StoreCell):
    """Hosts one store that writes outside. `outside` is what outlives a crash of this actor."""

    receives: ClassVar[tuple[type, ...]] = (
        *StoreCell.receives, BeginOutside, PersistCommits, CommitsRead, EditEnded, StoreDue,
    )  # fmt: skip

    def __init__(self, *args: Any, outside: Outside) -> None:
        super().__init__(*args)
        self._outside = outside
        self._position: float | None = (
            None  # The seq up to which all is outside; infinite if nothing is; None: not known.
        )
        self._held: float = 0  # What the medium itself says, or would after what was written.
        self._waits = False  # For a timer, or for the journal.
        self._more = False  # There is a message behind all that has queued up.
        self._failures = 0
        self._writes = False  # What is being done is writing; else it is looking for edits.
        self._failed_writing = False
        self._looked = False
        self._look_timer: Cancellable | None = None  # One: a look that is asked for twice sets no second.
        self._piece: CommitsRead | None = None  # What the journal has read, and is not outside yet.

    def on_start(self) -> None:
        super().on_start()
        self._go_on()

    def _build(self) -> StoreActor[Any, Any]:
        behaviour = super()._build()
        behaviour._report = self._note_edit
        return behaviour

    # What it is told ---------------------------------------------------------------------------------------------------

    def on_begin_outside(self, message: BeginOutside) -> None:
        outside = self._outside
        outside.submit, outside.read, outside.asker = message.submit, message.read, message.reply_to
        outside.suspension.alarm = message.alarm
        self._go_on()

    def on_persist_commits(self, message: PersistCommits) -> None:
        self._outside.take(message)
        if not self._more:  # Behind all that has queued up: it is one group.
            self._more = True
            self.tell_self(StoreDue(incarnation=self._incarnation, more=True))

    def on_commits_read(self, message: CommitsRead) -> None:
        self._waits = False
        position, outside = self._position, self._outside
        if position is not None and message.through > position and not outside.is_covered(position):
            whole = self._whole() if position == 0 and isinstance(message.error, TrimmedAway) else None
            if message.error is not None and whole is None:
                self._suspend(message.error)
                return
            self._piece = whole or message
        self._go_on()

    def on_edit_ended(self, message: EditEnded) -> None:
        self._outside.ended.append(message)  # It stays among the edits until what it has committed is outside, too.
        self._go_on()

    def on_store_due(self, message: StoreDue) -> None:
        if message.incarnation != self._incarnation:
            return
        if message.more:
            self._more = False
        elif message.looks:
            self._looked = False
        else:
            self._waits = False
        if self._behaviour is None and self._failures and not self._waits:
            self._rebuild()
        self._go_on()

    def on_stop(self) -> None:
        """Write what is durable, then close; what cannot be written is written after the next start."""
        try:
            if self._behaviour is None and self._failures:
                self._behaviour = self._build()
                self._behaviour.recover(self._checkpoint)
            if self._behaviour is not None and self._outside.submit is not None:
                self._persist_the_rest(self._behaviour)
        except Exception as error:
            left = len(self._outside.waiting)
            log = logger.bind(actor=self._ref.name).opt(exception=error)
            log.warning("store {}: {} commits are not outside yet: {}", self._ref.name, left, error)
        super().on_stop()

    def _persist_the_rest(self, behaviour: StoreActor[Any, Any]) -> None:
        """Write what is here; what the journal alone has comes after the next start."""
        if self._position is None:
            self._open(behaviour)
        while self._position is not None and self._outside.is_covered(self._position) and self._outside.waiting:
            self._persist(behaviour)

    # What it does ------------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Do the next thing outside, if there is one."""
        if self._behaviour is None or self._waits or self._outside.submit is None:
            return
        try:
            self._advance(self._behaviour)
        except Exception as error:  # The store's own code: it fails by itself.
            self._suspend(error)
        else:
            self._submit_edits()

    def _advance(self, behaviour: StoreActor[Any, Any]) -> None:
        outside = self._outside
        self._writes = True
        if self._position is None:
            self._open(behaviour)
        position = self._position
        assert position is not None
        if position == math.inf:
            outside.persisted(position)
        if not outside.is_covered(position):
            self._catch_up(behaviour, int(position))
            return
        if outside.waiting:
            self._persist(behaviour)
        if outside.waiting:
            self.tell_self(StoreDue(incarnation=self._incarnation))  # Behind what waits for this store meanwhile.
            return
        assert self._position is not None
        if outside.note_due and self._position < outside.told:
            self._persist_group(behaviour, (Commit(outside.told, (), ()),))
        outside.note_due = False
        self._writes = False
        behaviour.settled = outside.state
        while outside.ended:
            ended = outside.ended.pop(0)
            outside.edits.pop((ended.key, ended.content_json), None)
            behaviour.edit_ended(ended.key, decoded(json.loads(ended.content_json)))
        if not self._looked:
            behaviour.look()
            self._looked = True
            self._note_kept(behaviour)
            if behaviour.look_every_s is not None:
                again = StoreDue(incarnation=self._incarnation, looks=True)
                if self._look_timer is not None:
                    self._look_timer.cancel()
                self._look_timer = self._timers.call_after(behaviour.look_every_s, lambda: self.tell_self(again))
        self._failures = 0
        outside.suspension.end()

    def _note_written(self) -> None:
        """Something was written: so it works again, if that was what had failed."""
        if self._failed_writing:
            self._failures = 0
            self._outside.suspension.end()

    def _open(self, behaviour: StoreActor[Any, Any]) -> None:
        outside, position = self._outside, behaviour.persisted()
        if position is None:
            self._position = math.inf
        elif type(position) is not int or position < 0:
            raise TypeError(f"persisted returned {position!r}: it returns a seq (an int from 0), or None")
        elif position > outside.told:
            raise RegistrationError(
                f"store {self._ref.name!r} holds outside what was committed up to seq {position}, and the journal knows "
                f"seqs up to {outside.told}: was one of the two restored from a backup?"
            )
        else:
            if position < outside.through:
                outside.cover_from(position)
            self._position = position
        self._held = self._position
        self._note_kept(behaviour)
        outside.persisted(self._position)

    def _catch_up(self, behaviour: StoreActor[Any, Any], position: int) -> None:
        """Write what the journal alone has, one piece after the other."""
        outside, piece = self._outside, self._piece
        if piece is not None:
            if piece.commits:
                self._persist_group(behaviour, piece.commits)
            self._position, self._piece = piece.through, None
            outside.persisted(piece.through)
            self.tell_self(StoreDue(incarnation=self._incarnation))
            return
        if outside.read is None:
            self._piece = self._whole()  # A store that notes its seq late may have all but the newest of it.
            if self._piece is None:
                raise RegistrationError(
                    f"store {self._ref.name!r} has lost what was written outside after seq {position}, and there is no "
                    "journal"
                )
            self.tell_self(StoreDue(incarnation=self._incarnation))
            return
        first, last = outside.piece(position)
        self._waits = True
        read = read_commits(self._ref.name, self._ref.spec, first, last)
        outside.read(ReadJournal(read=read, reply_to=ReadCommits(self.actor_inbox, last)))  # type: ignore[arg-type]

    def _whole(self) -> CommitsRead | None:
        """All that the store held as one commit, for a place that lacks what cannot be read any more."""
        outside = self._outside
        writes = self._ref.spec.whole(outside.state)
        if writes is None:
            return None
        seq = outside.covered
        return CommitsRead(through=seq, commits=(Commit(seq=seq, reads=(), writes=tuple(writes)),))

    def _persist(self, behaviour: StoreActor[Any, Any]) -> None:
        """Have the next group written."""
        self._persist_group(behaviour, tuple(islice(self._outside.waiting, GROUP_MAX)))

    def _persist_group(self, behaviour: StoreActor[Any, Any], group: Sequence[Commit]) -> None:
        fault("outside.persist.before")
        behaviour.persist(group)
        fault("outside.persist.after")
        self._position = self._held = group[-1].seq
        self._note_kept(behaviour)
        self._outside.persisted(self._position)
        self._note_written()

    def _note_kept(self, behaviour: StoreActor[Any, Any]) -> None:
        kept = behaviour.kept_through
        self._outside.kept = self._held if kept is None else min(self._held, kept)

    # Edits -------------------------------------------------------------------------------------------------------------

    def _note_edit(self, key: str, content: Any) -> None:
        if type(key) is not str:
            raise TypeError(f"an edit's key must be a str, got {type(key).__name__} {key!r}")
        content_json = json_of(encoded(frozen_json(content, "content")))
        self._outside.edits.setdefault((key, content_json), None)

    def _submit_edits(self) -> None:
        """Hand in the edits that were found, and tell who waits for the beginning that it is over."""
        outside = self._outside
        assert outside.submit is not None
        for (key, content_json), submitted in list(outside.edits.items()):
            if submitted is None:
                edit = OutsideEdit(store=self._ref.name, key=key, content_json=content_json)
                try:
                    submission = outside.edits[key, content_json] = outside.submit(edit)
                except NotRunning:  # It is found again after the next start.
                    del outside.edits[key, content_json]
                    continue
                self._watch(submission, EditEnded(key=key, content_json=content_json))
        if outside.asker is not None and (self._looked or self._failures):
            answer(outside.asker, tuple(outside.edits.values()))
            outside.asker = None

    def _watch(self, submission: Submission[None], ended: EditEnded) -> None:
        def tell() -> None:
            try:
                submission._unwrap()
            except (NotRunning, OutcomeUnknown):
                return
            except Exception as error:
                logger.bind(actor=self._ref.name, seq=submission.seq).warning(
                    "store {}: the edit of {!r} from outside was not adopted: {}", self._ref.name, ended.key, error
                )
            self.tell_self(ended)

        if submission.when_done(tell):
            tell()

    # What goes wrong ---------------------------------------------------------------------------------------------------

    def _suspend(self, error: BaseException) -> None:
        """Leave the outside alone for a while; a store that has failed is rebuilt then."""
        outside, name = self._outside, self._ref.name
        self._failures += 1
        self._failed_writing = self._writes
        if isinstance(error, StoreUnavailable):
            delay_s = max(error.retry_after, 0.001)
        elif outside.asker is not None:  # It is the start that fails.
            answer_error(outside.asker, error)
            outside.asker = outside.submit = None
            return
        else:
            delay_s = min(BACKOFF_S * 2 ** min(self._failures - 1, 16), BACKOFF_MAX_S)
            self._behaviour = self._position = self._piece = None
        if outside.submit is not None and outside.asker is not None:
            self._submit_edits()
        logger.bind(actor=name).opt(exception=error).warning(
            "store {} is suspended for {:.3g} s, {} commits wait to be written outside: {}: {}",
            name, delay_s, len(outside.waiting), type(error).__name__, error,
        )  # fmt: skip
        outside.suspension.begin(error, len(outside.waiting))
        self._waits = True
        due = StoreDue(incarnation=self._incarnation)
        self._timers.call_after(delay_s, lambda: self.tell_self(due))

    def _rebuild(self) -> None:
        """Make the behaviour anew, and have it asked again about a commit that waits for it."""
        try:
            behaviour = self._build()
            behaviour.recover(self._checkpoint)
        except Exception as error:
            self._suspend(error)
            return
        self._behaviour = behaviour
        self._started.tell(StoreRecovered(store=self._ref.name, state=self._state))
