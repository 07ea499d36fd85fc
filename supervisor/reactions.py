"""The reactions of one running system: wired, resumed, held and stopped with it, and what can be asked about them.

Owns the reactor's actor. A system that registers no reaction has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from loguru import logger

from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.handlers import Handlers
from seqtor.actors.journal.contract import Backend
from seqtor.actors.journal.decoding import answer_adapter, error_of, value_of
from seqtor.actors.journal.kept_reactions import KeptReactions
from seqtor.actors.journal.recovery import Recovery
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.mailbox import Mailbox
from seqtor.actors.outbox import Prepare
from seqtor.actors.reactor import Reactions
from seqtor.actors.reactor.actor import Reactor
from seqtor.actors.reactor.book import ReactionBook
from seqtor.actors.reactor.deciding import Deciding, Link
from seqtor.actors.reactor.kept import FactReader
from seqtor.actors.reactor.matching import HalfMet, Waiting, waits
from seqtor.actors.submissions import Intake
from seqtor.commit_path import CommitPath
from seqtor.lineage import kept_links
from seqtor.messages.facts import Fact
from seqtor.messages.reactions import HalfMetComposite, HoldReactions, ReactionState
from seqtor.messages.records import RecordedFact, WaitingRecord
from seqtor.settings import Settings

__all__ = ["RunningReactions"]


class RunningReactions:
    """From the start to the stop of one system."""

    def __init__(
        self,
        reactions: Reactions,
        intake: Intake,
        prepare: Prepare,
        handlers: Handlers,
        upcasts: Upcasts,
        settings: Settings,
    ) -> None:
        self._reactions = reactions
        self._intake = intake
        self._prepare = prepare
        self._settings = settings
        self._held = False
        self._reader = FactReader(
            handlers.find, upcasts, error_of, lambda handler, value: value_of(answer_adapter(handler.function), value)
        )
        self.book: ReactionBook | None = None
        self._earlier: dict[str, Link] | None = None
        self._entries = (1, 0)
        self.ref: Any = None

    def start(self, dispatchers: Dispatchers, path: CommitPath, root: Mailbox, recovery: Recovery | None) -> None:
        """Start the actor, if there is something to react with; it matches nothing until `resume`."""
        kept = None if recovery is None else recovery.reactions
        if not len(self._reactions) and (kept is None or kept.is_empty):
            return
        if recovery is not None:
            self._entries = (recovery.opened.entries_from, recovery.opened.entries_through)
        reactions = self._reactions
        self.book = book = ReactionBook(reactions, reactions.interests, self._settings.records_max)
        if kept is not None:
            self._read(book, kept)
        path.ledger.reactions = book
        deciding = Deciding(reactions, self._intake, self._prepare, dispatchers.clock)
        self._arguments = (
            deciding, book, path.ledger, dispatchers.pool, dispatchers.clock, path.journal,
            path.sequencer_ref.actor_inbox, self._settings.deadline,
        )  # fmt: skip
        self.ref = Reactor.start_on(dispatchers.core, *self._arguments, parent=root, restartable=True)
        book.reactor = self.ref.actor_inbox

    def _read(self, book: ReactionBook, kept: KeptReactions) -> None:
        """Go on with what an earlier process has left. What nobody reacts to any more is left as it is."""
        book.number = kept.number
        for recorded in kept.facts.values():
            fact = self._fact(recorded)
            if fact is not None:
                book.pending[fact.id] = fact
        composites = book.reactions.composites()
        half_met, left = HalfMet(now=kept.now), []
        for record in kept.waiting.values():
            fact = self._fact(record.fact) if record.composite in composites else None
            if fact is None:
                left.append(record)
                continue
            waiting = Waiting(fact, record.at, tuple(record.conditions))
            parts = len(composites[record.composite][1].parts)
            half_met = waits(half_met, (record.composite, record.key), record.part, waiting, parts)
        book.half_met = half_met._replace(swept=len(half_met.entries))
        book.left = tuple(left)
        if left:
            told = ", ".join(f"{each.name!r} ({len(each.half_met)})" for each in _unknown(left, len(left)))
            logger.bind(actor="reactor").warning(
                "the journal holds half-met composites of reactions that the program does not register, or not with the "
                "same condition: {}; they stay as they are: register each under that name, with when(..., name=)", told,
            )  # fmt: skip

    def _fact(self, kept: RecordedFact | Fact) -> Fact | None:
        return self._reader.read(kept) if isinstance(kept, RecordedFact) else kept

    def restart(self) -> None:
        """Start the actor anew; what was not recorded is matched, or recorded, once more."""
        self.ref.restart(*self._arguments)
        if self._held:
            self.hold()

    def resume(self) -> None:
        """Match what an earlier process has left; the system takes triggers now."""
        if self.book is not None:
            self.book.open()

    def hold(self) -> None:
        """Let nothing more be matched."""
        self._held = True
        if self.ref is not None and self.ref.is_alive():
            self.ref.actor_inbox.tell(HoldReactions())

    def stop(self, stop_actors: Callable[[Iterable[Any]], None]) -> None:
        """Stop the actor."""
        if self.ref is not None:
            stop_actors([self.ref])

    def link_of(self, read: Callable[[Callable[[Backend], Any]], Any] | None) -> Callable[[str], Link | None]:
        """What tells what became of a fact, by its id; `read` reads the journal, once, for what was before the start."""
        book = self.book
        if book is None:
            return lambda _: None
        if self._earlier is None:
            self._earlier = {} if read is None else read(self._read_links)
        earlier: dict[str, Link] = self._earlier or {}

        def link_of(fact: str) -> Link | None:
            link, before = book.links.get(fact), earlier.get(fact)
            return before if link is None else link.after(before)

        return link_of

    def _read_links(self, backend: Backend) -> dict[str, Link]:
        """Those of the entries of earlier processes, as far as they are kept; the newest."""
        return kept_links(backend, *self._entries, self._settings.records_max)

    # Queries -----------------------------------------------------------------------------------------------------------

    def states(self, limit: int) -> list[ReactionState]:
        """Every reaction, the newest registered first, with at most `limit` half-met composites of each."""
        book = self.book
        if book is None:
            return []
        by_reaction: dict[str, list[HalfMetComposite]] = {}
        composites = book.reactions.composites()
        for (place, key), queues in book.half_met.entries.items():
            reaction, composite = composites[place]
            found = by_reaction.setdefault(reaction.name, [])
            found.append(
                HalfMetComposite(
                    condition=" & ".join(" | ".join(map(str, part)) for part in composite.parts),
                    key=key,
                    facts=tuple([tuple([each.fact.id for each in queue]) for queue in queues]),
                    waits_for=tuple(
                        [
                            " | ".join(map(str, part))
                            for part, queue in zip(composite.parts, queues, strict=True)
                            if not queue
                        ]
                    ),
                    since=min(each.at for queue in queues for each in queue),
                )
            )
        last = {name: f"{fact}: {text}" for name, fact, text in list(book.failures)}
        states = [
            ReactionState(
                name=reaction.name,
                condition=str(reaction.condition),
                started=book.started[reaction.name],
                failed=book.failed[reaction.name],
                last_failure=last.get(reaction.name),
                half_met=_newest(by_reaction.get(reaction.name, []), limit),
            )
            for reaction in reversed(list(book.reactions))
        ]
        return states + _unknown(book.left, limit)


def _newest(found: list[HalfMetComposite], limit: int) -> tuple[HalfMetComposite, ...]:
    return tuple(sorted(found, key=lambda each: each.since, reverse=True)[:limit])


def _unknown(left: Iterable[WaitingRecord], limit: int) -> list[ReactionState]:
    """What waits for reactions that the program does not register, or not with the same condition."""
    by_reaction: dict[str, dict[tuple[str, str], list[WaitingRecord]]] = {}
    for record in left:
        name = record.composite.rpartition("#")[0]
        by_reaction.setdefault(name, {}).setdefault((record.composite, record.key), []).append(record)
    return [
        ReactionState(
            name=name,
            condition="(not registered)",
            started=0,
            failed=0,
            last_failure=None,
            half_met=_newest(
                [
                    HalfMetComposite(
                        condition=place, key=key, facts=(tuple([each.fact.id for each in records]),), waits_for=(),
                        since=min(each.at for each in records),
                    )
                    for (place, key), records in found.items()
                ],
                limit,
            ),
            known=False,
        )
        for name, found in by_reaction.items()
    ]  # fmt: skip
