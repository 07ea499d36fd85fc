"""What must hold of a random system when it has settled, from its records and what is known outside of it.

Owns the order of the checks; the oracle, the reactions, the schedules and the outside have files of their own.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from seqtor import CommitRecord, ReconcileDerived, State
from tests.simulation.systems.following import require_reactions
from tests.simulation.systems.outsiders import files_in, rows_in
from tests.simulation.systems.playing import Playing
from tests.simulation.systems.programs import PAIR
from tests.simulation.systems.serial import Serial, plain, root_of
from tests.simulation.systems.slots import require_schedules

__all__ = ["check"]

GOES_ON = (State.RETRYING, State.DEFERRED)
LOOKS = 4  # At how many earlier seqs the states are looked at.


def check(played: Playing) -> Counter[str]:
    """Check everything; returns what there was."""
    system, plan = played.system, played.plan
    records = list(system.commits(oldest_first=True))
    assert [record.seq for record in records] == list(range(1, len(records) + 1)), "one record for every seq"
    looks = {max(1, len(records) * number // LOOKS): {} for number in range(1, LOOKS + 1)} if records else {}
    serial = Serial(plan, played.aborted)
    for record in records:
        serial.take(record)
        if record.seq in looks:
            looks[record.seq] = {store: dict(entries) for store, entries in serial.contents.items()}
    for seq, expected in looks.items():
        assert _contents(played, seq) == expected, f"the snapshot at seq {seq}"
    ended = _ended_apart(played, records)
    finals = _finals(records, ended)
    _require_callers(played, finals, ended)
    _require_times(played, records)
    _require_released(records, finals, ended)
    _require_effects(played, records)
    kinds = {each.id: plan.programs[each.program].kind for each in played.handed}
    told = played.cancelled | {each.id for each in played.handed if each.outcome == ("cancelled", None)}
    required = require_reactions(plan, _appended(played, records), ended, kinds, told)
    required += require_schedules(plan, records, finals, system._require_running().now())
    _require_outside(played, records, serial)
    _require_rest(played, len(records))
    if plan.seed % 6 == 0:
        system.verify()
    if "sums" in plan.stores:
        assert system.ask(ReconcileDerived(derived="sums")).outcome == "same"
    required["records"] = len(records)
    return required


def _appended(played: Playing, records: list[CommitRecord]) -> list[CommitRecord]:
    """The records in the order in which they were appended."""
    if not played.plan.journaled:
        assert sorted(played.appended) == list(range(1, len(records) + 1))
        return [records[seq - 1] for seq in played.appended]
    following = {record.previous: record for record in records}
    assert len(following) == len(records), "each record follows another one"
    found: list[CommitRecord] = []
    while (record := following.get(found[-1].seq if found else 0)) is not None:
        found.append(record)
    assert len(found) == len(records), "all records follow one another"
    return found


def _contents(played: Playing, seq: int) -> dict[str, dict[str, Any]]:
    snapshot = played.system.snapshot(seq)
    found: dict[str, dict[str, Any]] = {}
    for name, ref in played.system.stores.items():
        view = snapshot[ref]
        if name in ("pair", "sums"):
            value = view.value
            found[name] = {key: getattr(value, key) for key in (PAIR if name == "pair" else ("count", "amount"))}
        elif name in ("own", "files"):
            found[name] = dict(view.all() if name == "own" else view)
        else:
            found[name] = {key: plain(name, dict(each)) for key, each in view.items()}
    return found


def _ended_apart(played: Playing, records: list[CommitRecord]) -> dict[str, State]:
    """How triggers ended that never had a seq: as the journal says, without one as their callers know."""
    backend = played.outside.backend
    if backend is None:  # Their callers cancel a retry under the id that they know.
        newest = {root_of(record.run): record.retry.run for record in records if record.retry is not None}
        return {newest.get(run, run): State.CANCELLED for run in played.cancelled}
    found: dict[str, State] = {}
    for row in backend.entries(1, 1 << 60):
        if row.kind == "ended":
            body = json.loads(row.body)
            found[body["run"]] = State(body["state"])
    return found


def _finals(records: list[CommitRecord], ended: dict[str, State]) -> dict[str, CommitRecord]:
    """The record that ends each trigger, by its id; exactly one for each."""
    finals: dict[str, CommitRecord] = {}
    survivors: dict[str, str] = {}
    absorbed: dict[str, list[str]] = {}
    for record in records:
        for each in record.coalesced:
            assert each not in survivors, f"{each} became one with others twice"
            survivors[each] = root_of(record.run)
            absorbed.setdefault(root_of(record.run), []).append(each)
        if record.state not in GOES_ON:
            for each in (root_of(record.run), *absorbed.get(root_of(record.run), ())):
                assert each not in finals, f"{each} has ended twice: {finals[each].seq} and {record.seq}"
                finals[each] = record
    for run in ended:
        root = root_of(run)
        assert root not in finals, f"{run} was taken back, and has run at seq {finals[root].seq}"
    return finals


def _require_callers(played: Playing, finals: dict[str, CommitRecord], ended: dict[str, State]) -> None:
    """What callers were told is what the records say."""
    for each in played.handed:
        final = finals.get(root_of(each.id))  # Under a key that is known already it may be a retry.
        where = f"{each.id} (program {each.program}, life {each.life}, key {each.key})"
        if each.is_accepted:
            is_cancelled = each.id in ended or each.id in played.cancelled or each.outcome == ("cancelled", None)
            assert final is not None or is_cancelled, f"{where} was accepted, and is lost"
        if each.outcome is None:
            continue
        state, value = each.outcome
        if final is None:
            assert state == "cancelled", f"{where}: {each.outcome}, and there is no record"
        else:
            assert state == final.state.value, f"{where}: {each.outcome} instead of {final.state}"
            assert state != "committed" or value == final.result, f"{where}: {value} instead of {final.result}"
    for run in played.cancelled:
        assert run not in finals, f"{run} was cancelled, and has run at seq {finals[run].seq}"
    by_key: dict[str, set[str]] = {}
    for record in finals.values():
        if record.key is not None:
            by_key.setdefault(record.key, set()).add(root_of(record.run))
    for key, runs in by_key.items():
        assert len(runs) == 1, f"the key {key} was run by {sorted(runs)}"
    for key, run in played.emitted.items():
        assert key not in by_key or by_key[key] == {run}, f"the event {key} has another id than its caller was told"


def _require_times(played: Playing, records: list[CommitRecord]) -> None:
    """Times never decrease along the order, and nobody runs before its time."""
    plan, asked = played.plan, _asked(played)
    newest = 0.0
    due: dict[str, float] = {}
    for record in records:
        number = record.trigger.payload.get("number") if isinstance(record.trigger.payload, dict) else None  # type: ignore[union-attr]
        by_completion = number is not None and plan.handlings[plan.programs[int(str(number))].kind].by_completion
        # Who has asked outside, or was about to, keeps its time through deaths, however it ends.
        if not by_completion and asked.get(record.run) != record.sequenced_at:
            assert record.sequenced_at >= newest, f"seq {record.seq}: its time lies before that of a lower one"
            newest = record.sequenced_at
        if not plan.sets_clock and record.run in due:
            assert record.sequenced_at >= due[record.run] - 1e-6, f"seq {record.seq} began before its time"
        for each in (*record.submitted, *([] if record.retry is None else [record.retry])):
            if each.due is not None:
                due[each.run] = each.due


def _asked(played: Playing) -> dict[str, float]:
    """The time of each run that has noted that it asks outside: if it does not commit, its record has no calls."""
    entries = () if played.outside.backend is None else played.outside.backend.entries(1, 1 << 60)
    return {body["run"]: body["now"] for row in entries if row.kind == "call" for body in (json.loads(row.body),)}


def _require_released(records: list[CommitRecord], finals: dict[str, CommitRecord], ended: dict[str, State]) -> None:
    """What a commit has released has ended; a retry follows the run that it is a retry of."""
    runs = {record.run for record in records}
    for record in records:
        for each in record.submitted:
            assert each.run in finals or each.run in ended, f"seq {record.seq} has released {each.run}, which is lost"
        assert (record.state is State.RETRYING) == (record.retry is not None)
        if record.retry is not None:
            assert record.retry.run in runs or record.retry.run in ended, f"the retry of seq {record.seq} is lost"
            assert record.retry.run_number == record.run_number + 1


def _require_effects(played: Playing, records: list[CommitRecord]) -> None:
    """Every effect was carried out, none of a run that has not committed; what it returned ran once."""
    outside = played.outside
    assert not outside.wrongs, outside.wrongs
    released: Counter[str] = Counter()
    for record in records:
        assert record.state is State.COMMITTED or not record.effects
        released.update(effect.name for effect in record.effects)
    carried = Counter(key.partition(" ")[0] for key in outside.tries)
    assert carried == released, "every effect was carried out, and no other"
    replied = [str(record.trigger.payload["key"]) for record in records if record.trigger.type == "Replied"]  # type: ignore[index,call-overload]
    assert sorted(replied) == sorted(outside.replied), "what an effect returned is submitted exactly once"
    if played.made.life == 0 and not played.crashes:
        assert all(count == 1 for count in outside.calls.values()), "a call is made once"


def _require_outside(played: Playing, records: list[CommitRecord], serial: Serial) -> None:
    """Files and rows are as the state says, and no edit is lost."""
    place = played.outside.place
    if "files" in played.plan.stores:
        found = files_in(place)
        assert found == serial.contents["files"], f"the folder holds {found} instead of {serial.contents['files']}"
    if "rows" in played.plan.stores:
        found = rows_in(place)
        assert found == serial.contents["rows"], f"the table holds {found} instead of {serial.contents['rows']}"
    edits: list[tuple[str, str, str | None]] = []
    for record in records:
        if record.trigger.type == "seqtor.outside_edit":
            payload: Any = record.trigger.payload
            content = json.loads(payload.get("content_json", "null"))
            edits.append((payload["store"], payload["key"], plain(payload["store"], content)))
    played.edits.require_journaled(edits)


def _require_rest(played: Playing, last: int) -> None:
    stats = played.system.stats()
    assert (stats.queued, stats.in_flight, stats.delayed, stats.outside) == (0, 0, 0, 0)
    assert (stats.committed_through, stats.durable_through, stats.effects_through) == (last, last, last)
