"""Five checkers of outcomes: one terminal record each, answers that are durable, effects, one live epoch, real time.

Pure, but for what is left open in the process that lives: they look at the evidence and say in sentences what does not hold.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator

from seqtor.messages.runs import State
from seqtor.testing.checkers.evidence import Evidence, Violation, named
from seqtor.testing.checkers.watching import OrderBegan
from seqtor.testing.settling import Work

__all__ = ["check_durable", "check_effects", "check_epochs", "check_real_time", "check_records"]

RECORDS, DURABLE, EFFECTS, EPOCHS, TIME = "one record", "durable answers", "effects", "one epoch", "real time"
WITHOUT_SEQ = (State.CANCELLED, State.COALESCED)

# One terminal record -----------------------------------------------------------------------------------------------


def check_records(evidence: Evidence) -> Iterator[Violation]:
    """Every seq ends in exactly one record, every accepted trigger in exactly one outcome."""
    yield from _told_once(evidence)
    last = max(evidence.ended, default=0)
    first = min((life.first.seq for life in evidence.lives if life.first is not None), default=0)
    for seq in range(first + 1, last + 1):
        if seq not in evidence.ended:
            yield Violation(RECORDS, seq, f"seq {seq} has no record, and seq {last} has one")
    outcomes: dict[str, list[int]] = defaultdict(list)
    for seq, rows in sorted(evidence.rows.items()):
        if len(rows) > 1:
            yield Violation(RECORDS, seq, f"seq {seq} was written {len(rows)} times")
        record = rows[0].record
        if record["state"] != State.DEFERRED.value:
            for run in (record["run"], *record.get("coalesced", ())):
                outcomes[run].append(seq)
    for run, seqs in outcomes.items():
        if len(seqs) > 1:
            yield Violation(RECORDS, seqs[1], f"the run {run} has {len(seqs)} outcomes: at the seqs {_listed(seqs)}")
    yield from _without_outcome(evidence, outcomes)


def _told_once(evidence: Evidence) -> Iterator[Violation]:
    for (number, seq), tellings in evidence.told.items():
        (_, first), *others = tellings
        if any(each.submission is not first.submission or each.state is not first.state for _, each in others):
            states = _listed([each.state.value for _, each in tellings])
            process = f" in process {number + 1}" if len(evidence.lives) > 1 else ""
            yield Violation(RECORDS, seq, f"seq {seq} has ended {len(tellings)} times{process}: {states}")


def _without_outcome(evidence: Evidence, outcomes: dict[str, list[int]]) -> Iterator[Violation]:
    """What was durably accepted, and has neither ended nor goes on."""
    system = evidence.lives[-1].system
    running = system._running
    if running is None or system._stopped:
        return
    open_runs = {submission.id for submission in running.intake.open}
    retried = {row.record["retry"]["run"] for rows in evidence.rows.values() for row in rows if row.record.get("retry")}
    for run, entries in evidence.entries.items():
        kinds = {kind for _, kind, _ in entries}
        if "accepted" in kinds and "ended" not in kinds and not {run} & (outcomes.keys() | open_runs | retried):
            trigger = json.loads(entries[0][2])["trigger"]
            yield Violation(
                RECORDS, None, f"{trigger['type']} {trigger['payload']} (run {run}) was accepted and is lost"
            )


def _listed(values: list[int] | list[str]) -> str:
    return ", ".join(map(str, values))


# Durable answers ---------------------------------------------------------------------------------------------------


def check_durable(evidence: Evidence) -> Iterator[Violation]:
    """Nobody was answered before the record of the answer was durable, and what was durable stays so."""
    for at, note in evidence.answered:
        submission = note.submission
        if not note.life.is_journaled or submission._intake.gone is not None:
            continue
        where = f"{named(submission)} (run {note.run})"
        if note.seq is None:
            if note.state in WITHOUT_SEQ:
                yield from _unwritten_end(evidence, at, note.run, where)
            continue
        durable_at = evidence.durable_at(note.seq)
        if durable_at is None or durable_at > at:
            later = "never was" if durable_at is None else "was later"
            yield Violation(
                DURABLE, note.seq, f"{where} was answered at seq {note.seq} when its record was not durable; it {later}"
            )
    yield from _lost_rows(evidence)


def _unwritten_end(evidence: Evidence, at: int, run: str, where: str) -> Iterator[Violation]:
    entries = evidence.entries.get(run, ())
    written = [place for place, kind, _ in entries if kind == "ended"]
    if any(kind == "accepted" and place < at for place, kind, _ in entries) and not any(
        place < at for place in written
    ):
        yield Violation(DURABLE, None, f"{where} was told that it is taken back, and after a crash it would run")


def _lost_rows(evidence: Evidence) -> Iterator[Violation]:
    for at, note in evidence.openings:
        reached = note.opened.reached
        lost = [seq for seq, rows in evidence.rows.items() if rows[0].at < at and not reached.has(seq)]
        if lost:
            yield Violation(
                DURABLE,
                min(lost),
                f"the journal was opened without the seqs {_listed(sorted(lost))}, which were durable",
            )


# Effects -----------------------------------------------------------------------------------------------------------


def check_effects(evidence: Evidence) -> Iterator[Violation]:
    """Each effect was begun, never before its commit was durable; its end is recorded, or it waits for a try."""
    recorded: set[tuple[int, int]] = set()
    for entries in evidence.entries.values():
        for _, kind, body in entries:
            if kind == "effect":
                end = json.loads(body)
                recorded.add((end["seq"], end["index"]))
    for (seq, index), begun in sorted(evidence.effects.items()):
        durable_at = evidence.durable_at(seq)
        if durable_at is None or durable_at > begun[0]:
            yield Violation(EFFECTS, seq, f"effect {index} of seq {seq} was carried out before its commit was durable")
        if evidence.is_journaled and (seq, index) not in recorded and not _is_tried_again(evidence, seq, index):
            yield Violation(EFFECTS, seq, f"effect {index} of seq {seq} was carried out, and its end is not recorded")
    for seq, ended in sorted(evidence.ended.items()):
        released = ended.run.released
        names = [each.name for each in released.effects] if released and ended.run.state is State.COMMITTED else []
        for index, name in enumerate(names):
            if (seq, index) not in evidence.effects and (seq, index) not in recorded:
                yield Violation(EFFECTS, seq, f"effect {index} of seq {seq} ({name}) was never carried out")


def _is_tried_again(evidence: Evidence, seq: int, index: int) -> bool:
    running = evidence.lives[-1].system._running
    return running is not None and Work(running).is_tried_again(seq, index)


# One live epoch ----------------------------------------------------------------------------------------------------


def check_epochs(evidence: Evidence) -> Iterator[Violation]:
    """What an older epoch sends is never taken, neither by the commit path nor by the journal; epochs only rise."""
    for _, intent in evidence.intents:
        if intent.epoch != intent.epoch_live:
            yield Violation(
                EPOCHS,
                intent.seq,
                f"the commit of seq {intent.seq} (attempt {intent.attempt}), made in epoch {intent.epoch}, was taken in "
                f"epoch {intent.epoch_live}",
            )
    newest: dict[int, int] = {}
    for note in evidence.notes:
        if isinstance(note, OrderBegan):
            before = newest.get(note.life.number, 0)
            if note.epoch <= before:
                yield Violation(EPOCHS, None, f"epoch {note.epoch} of the commit path began after epoch {before}")
            newest[note.life.number] = note.epoch
    epoch = 0
    opened = [(at, note.opened.epoch) for at, note in evidence.openings]
    for _, each in opened:
        if each <= epoch:
            yield Violation(EPOCHS, None, f"the journal was opened in epoch {each} after epoch {epoch}")
        epoch = each
    for seq, rows in sorted(evidence.rows.items()):
        for row in rows:
            live = max((each for at, each in opened if at < row.at), default=row.record["epoch"])
            if row.record["epoch"] != live:
                text = f"the record of seq {seq}, of epoch {row.record['epoch']}, was written in epoch {live}"
                yield Violation(EPOCHS, seq, text)


# Real time ---------------------------------------------------------------------------------------------------------


def check_real_time(evidence: Evidence) -> Iterator[Violation]:
    """Who was handed in after somebody was answered has a higher seq than that one."""
    answers = iter(sorted((at, note.seq) for at, note in evidence.answered if note.seq is not None))
    answer = next(answers, None)
    highest = 0
    for run, (at, submission) in sorted(evidence.accepted.items(), key=lambda item: item[1][0]):
        while answer is not None and answer[0] < at:
            highest = max(highest, answer[1])
            answer = next(answers, None)
        seq = submission.seq
        if seq is not None and seq <= highest:
            yield Violation(
                TIME,
                seq,
                f"{named(submission)} (run {run}) has seq {seq}, and was handed in when seq {highest} had been answered",
            )
