"""The serial oracle: what the records of a random system must say if its triggers had run one after another.

Owns the re-execution of the journal over plain dicts, with recorded inputs only: how runs ended that passed a deadline, were
aborted or deferred, and what was found outside. Only reads records; knows nothing of the runtime.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from seqtor import CommitRecord, State
from tests.simulation.systems.making import GUARDED, OWN_MAX
from tests.simulation.systems.plan import Handling, Plan, Program
from tests.simulation.systems.programs import PAIR, Book, Doubtful, Flawed, answer_to, perform

__all__ = ["Serial", "expected_states", "plain", "root_of", "work_of"]

Contents = dict[str, dict[str, Any]]
RETRY = re.compile(r"~\d+$")
TAGGED = ("files", "rows")  # Whose values say by whom they are.


class Hung(Exception):
    """The program waits for ever."""


class PlainBook(Book):
    """A book over plain dicts."""

    def __init__(self, contents: Contents, number: int) -> None:
        self._contents, self._number = contents, number
        self._sums = dict(contents.get("sums", {}))  # A run does not see what follows from its own writes.
        self.changed: Contents = {}
        self.submitted: list[tuple[Any, ...]] = []
        self.effects: list[str] = []

    def get(self, store: str, key: str) -> int | None:
        found = self._sums[key] if store == "sums" else self.changed.get(store, self._contents[store]).get(key)
        return None if found is None else number_of(found)

    def put(self, store: str, key: str, number: int | None) -> None:
        entries = self.changed.setdefault(store, dict(self._contents[store]))
        if number is None:
            entries.pop(key, None)
        else:
            entries[key] = f"{number} {self._number}" if store in TAGGED else number

    def add(self, store: str, key: str, amount: int) -> None:
        self.put(store, key, (self.get(store, key) or 0) + amount)

    def all(self, store: str) -> Mapping[str, int]:
        entries = self.changed.get(store, self._contents[store])
        return {key: number_of(each) for key, each in entries.items()}

    def emit(self, code: str, payload: dict[str, Any]) -> None:
        self.submitted.append(("event", code, payload))

    def effect(self, name: str) -> None:
        self.effects.append(name)

    def submit(self, program: int, delay: float | None) -> None:
        self.submitted.append(("work", program, delay))


def number_of(value: Any) -> int:
    """The number in a plain value."""
    return int(value.split()[0]) if isinstance(value, str) else int(value)


def root_of(run: str) -> str:
    """The id of a trigger, whichever of its runs this is."""
    return RETRY.sub("", run)


def plain(store: str, value: Any) -> Any:
    """A recorded or stored value as the oracle has it."""
    if isinstance(value, Mapping):
        return f"{value['n']} {value['by']}" if store == "rows" else value["n"]
    return value


def work_of(record: CommitRecord) -> int | None:
    """The number of the program that a record is of, if it is of one."""
    payload: Any = record.trigger.payload
    return int(payload["number"]) if record.trigger.type.startswith("Work") else None


def expected_states(handling: Handling, run_number: int, outcome: str) -> set[State]:
    """How a run may end whose program serially ends so."""
    if outcome in ("committed", "rejected"):
        return {State(outcome)}
    if run_number < handling.runs_max:
        return {State.RETRYING}
    return {State.DEADLINE if outcome == "hung" else State.FAILED}


class Serial:
    """The stores of a plan, record after record. `contents` is what they must hold after the last one taken."""

    def __init__(self, plan: Plan, aborted: set[str]) -> None:
        self.plan = plan
        self._aborted = aborted
        names = [*plan.stores, "notes"]
        self.contents: Contents = {name: {} for name in names}
        if "pair" in plan.stores:
            self.contents["pair"] = dict.fromkeys(PAIR, 0)
        if "sums" in plan.stores:
            self.contents["sums"] = {"count": 0, "amount": 0}
        self._kept: Contents = {name: dict(entries) for name, entries in self.contents.items()}  # As records say it.
        self.deferrals: dict[str, int] = {}

    def take(self, record: CommitRecord) -> None:
        """Execute what a record is of, and compare."""
        number = work_of(record)
        kind = record.trigger.type
        payload: Any = record.trigger.payload
        changed: Contents = {}
        if number is not None:
            changed = self._work(record, number, self.plan.programs[number])
        elif record.state is State.COMMITTED:
            if kind in ("Noted", "Replied"):
                key = payload["reaction"] if kind == "Noted" else "replied"
                notes = self.contents["notes"]
                changed = {"notes": notes | {key: notes.get(key, 0) + 1}}
            elif kind == "seqtor.outside_edit":
                changed = self._edited(payload)
        else:
            assert kind == "seqtor.outside_edit", f"seq {record.seq}: {kind} ended as {record.state}"
        self._apply(record, changed)

    def _work(self, record: CommitRecord, number: int, program: Program) -> Contents:
        where = f"seq {record.seq}, program {number} {program}"
        book = PlainBook(self.contents, number)
        outcome, result, text = self._outcome(program, book)
        handling = self.plan.handlings[program.kind]
        if record.state is State.DEFERRED:
            assert handling.by_completion, where
            self.deferrals[record.run] = self.deferrals.get(record.run, 0) + 1
            return {}
        if record.state is State.ABORTED:
            assert self._aborted & {root_of(record.run), *record.coalesced}, where  # One of a group aborts its run.
            return {}
        error = "" if record.error is None else record.error.type.rpartition(".")[2]
        if error == "RunDeferred":
            assert self.deferrals[record.run] > 1, where
            return {}
        passed = error == "DeadlineExceeded" and handling.hangs and self.plan.lateness > 0
        if not passed:
            found = (record.state, error == "DeadlineExceeded")
            assert record.state in expected_states(handling, record.run_number, outcome), f"{where}: {found}, {outcome}"
            assert (error == "DeadlineExceeded") == (outcome == "hung"), where
        if record.state is not State.COMMITTED:
            if outcome in ("failed", "rejected") and text and not passed:
                assert record.error is not None
                assert record.error.message == text, f"{where}: {record.error.message} instead of {text}"
            return {}
        assert record.result == result, f"{where}: {record.result} instead of {result}"
        assert [effect.name for effect in record.effects] == book.effects, where
        assert [self._released(each, record) for each in record.submitted] == book.submitted, where
        return book.changed

    def _outcome(self, program: Program, book: PlainBook) -> tuple[str, list[int | None], str]:
        try:
            result = self._performed(program, book)
        except Flawed as error:
            return "failed", [], str(error)
        except Doubtful as doubt:
            return "rejected", [], str(doubt)
        except Hung:
            return "hung", [], ""
        guarded, own = book.changed.get("guarded", {}), book.changed.get("own", {})
        if any(each % GUARDED == 12 for each in guarded.values()) or any(each >= OWN_MAX for each in own.values()):
            return "rejected", [], ""
        if "collection" in book.changed and "sums" in self.contents:
            numbers = book.changed["collection"]
            book.changed["sums"] = {"count": len(numbers), "amount": sum(numbers.values())}
        return "committed", result, ""

    @staticmethod
    def _performed(program: Program, book: PlainBook) -> list[int | None]:
        performing = perform(program.steps, book)
        answered: Any = None
        try:
            while True:
                what, given = performing.send(answered)
                if what == "hang":
                    raise Hung
                answered = answer_to(given) if what == "call" else 0
        except StopIteration as end:
            found: list[int | None] = end.value
            return found

    @staticmethod
    def _released(accepted: Any, record: CommitRecord) -> tuple[Any, ...]:
        payload = accepted.trigger.payload
        if accepted.trigger.type == "seqtor.event":
            return "event", payload["code"], json.loads(payload["payload_json"])
        delay = None if accepted.due is None else round(accepted.due - record.sequenced_at, 3)
        return "work", payload["number"], delay

    def _edited(self, payload: Any) -> Contents:
        store, key = payload["store"], payload["key"]
        entries = dict(self.contents[store])
        content = plain(store, json.loads(payload.get("content_json", "null")))
        entries.pop(key, None)
        if content is not None:
            entries[key] = content
        return {store: entries}

    def _apply(self, record: CommitRecord, changed: Contents) -> None:
        touched = set(changed)
        self.contents.update(changed)
        for store, key, value, *_ in record.writes:
            if store == "seqtor.schedules" or key.startswith("!"):
                continue
            touched.add(store)
            if value is None:
                self._kept[store].pop(key, None)
            else:
                self._kept[store][key] = plain(store, value)
        for store in touched:
            found, expected = self._kept[store], self.contents[store]
            assert found == expected, f"seq {record.seq}: {store} holds {found} instead of {expected}"
