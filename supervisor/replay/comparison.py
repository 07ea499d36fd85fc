"""Compares how a run ended now with its record: what differs first, and whether a difference of text is one of value.

Owns what counts as the same. Promises: the record's inputs are never compared, everything else is; two texts that stand
for equal values are the same (a set is written in the order of the process's hash seed); the text of a run that did not
diverge is its record's, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from json.decoder import JSONDecoder, scanstring  # type: ignore[attr-defined]
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from pydantic_core import to_json

from seqtor.actors.effects import EffectFunctions
from seqtor.actors.handlers import Handler
from seqtor.actors.journal.decoding import answer_adapter, value_of
from seqtor.actors.journal.encoding import commit_text
from seqtor.actors.journal.upcasts import Upcasts
from seqtor.actors.stores.contract import StoreRef
from seqtor.messages.commits import EndedRun
from seqtor.messages.errors import ReplayDiverged
from seqtor.messages.records import CommitRecord, RecordedEffect

__all__ = ["Comparison", "Divergence", "members", "same_error"]

# What the handler and the stores make of the inputs, the most telling first. All other members of a record are inputs,
# or measurements: they are taken from the record.
OUTCOMES = ("state", "error", "result", "writes", "submitted", "effects", "calls", "reads")
RETRYABLE = {'"failed"', '"retrying"'}  # Whether a failure is retried is for the policy to say, not for the handler.
NOT_KNOWN = '""'  # A system in memory does not keep what was read.
TEXT_MAX = 200
ADVICE = (
    "A handler must do the same whenever it gets the same state and the same recorded inputs. Look for a clock (use "
    "tx.now), random numbers and ids (tx.random, tx.uuid4), the order of a set (sorted(...)), a global that changes, or "
    "something outside (tx.call). If the code was changed on purpose, count the handler's version up, "
    "@system.on({name}, version={version}): records of other versions are skipped"
)

_decoder = JSONDecoder()


class Divergence(NamedTuple):
    """The first thing that is not as it is recorded."""

    seq: int
    handler: Handler
    what: str
    expected: str
    found: str

    def error(self) -> ReplayDiverged:
        """The error that names it."""
        function = self.handler.function
        place = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
        advice = ADVICE.format(name=self.handler.trigger_type.__name__, version=self.handler.version + 1)
        text = (
            f"seq {self.seq}: {self.handler.name}, handled by {place}, gave another {self.what} than the record: expected "
            f"{_cut(self.expected)}, found {_cut(self.found)}. {advice}"
        )
        return ReplayDiverged(text, self.seq, self.handler.name, self.expected, self.found)


class Comparison:
    """Holds runs against their records."""

    def __init__(self, stores: Sequence[StoreRef[Any]], upcasts: Upcasts, effects: EffectFunctions) -> None:
        self._stores = stores
        self._upcasts = upcasts
        self._effects = effects

    def of(self, ended: EndedRun, record: CommitRecord, body: str) -> tuple[str, Divergence | None]:
        """The text of the record that the run gives now, and what differs from the one that is kept."""
        text = commit_text(ended, record.previous, record.epoch, record.ended_at, self._stores)
        if text == body:
            return body, None
        kept, found = members(body), members(text)
        divergence: Divergence | None = None
        for name in OUTCOMES:
            before, now = kept.get(name), found.get(name)
            if before == now:
                continue
            if self._same(name, before, now, ended):
                if before is not None:
                    found[name] = before
                continue
            if divergence is None:
                if name == "state":
                    before, now = _ending(kept), _ending(found)
                what, expected, got = _first_difference(name, before, now)
                divergence = Divergence(ended.seq, ended.submission.handler, what, expected, got)
        outcomes = {name: found[name] for name in OUTCOMES if name in found}
        again = {name: text for name, text in kept.items() if name not in OUTCOMES or name in outcomes} | outcomes
        return "{" + ",".join([f'"{name}":{text}' for name, text in again.items()]) + "}", divergence

    # Whether a difference of text is one of value --------------------------------------------------------------------

    def _same(self, name: str, before: str | None, now: str | None, ended: EndedRun) -> bool:
        if name == "state":
            return {before, now} <= RETRYABLE
        if name == "reads":
            return before == NOT_KNOWN
        if before is None or now is None:
            return False
        try:
            if name == "error":
                return same_error(json.loads(before), json.loads(now))
            if name == "result":
                return _same_result(ended.submission.handler, json.loads(before), ended.result)
            if name == "writes":
                return self._same_writes(json.loads(before), ended)
            if name == "submitted":
                return self._same_submissions(json.loads(before), json.loads(now), ended)
            if name == "effects":
                return self._same_effects(json.loads(before), json.loads(now))
        except Exception:  # What cannot be read as what it should be is not the same.
            return False
        return False

    def _same_writes(self, before: list[list[Any]], ended: EndedRun) -> bool:
        now = [
            (self._stores[store], key, op)
            for store, writes in ended.writes
            for key, op in writes
            if not self._stores[store].spec.sources
        ]
        # What is derived follows from the functions of its time; reconciling says whether it is what they say now.
        derived = {ref.name for ref in self._stores if ref.spec.sources}
        before = [kept for kept in before if kept[0] not in derived]
        return len(before) == len(now) and all(
            kept[:2] == [ref.name, key]
            and (len(kept) < 4 or kept[3] == ref.spec.version)
            and ref.spec.same_op(key, op, kept[2], ref.spec.version)
            for kept, (ref, key, op) in zip(before, now, strict=True)
        )

    def _same_submissions(self, before: list[dict[str, Any]], now: list[dict[str, Any]], ended: EndedRun) -> bool:
        if ended.released is None or len(before) != len(now):
            return False
        for kept, new, submission in zip(before, now, ended.released.submissions, strict=True):
            old, trigger = kept["trigger"], submission.trigger
            if {**kept, "trigger": None} != {**new, "trigger": None} or old["type"] != new["trigger"]["type"]:
                return False
            version = old.get("version", 1)
            if self._upcasts.model(type(trigger), old["payload"], version, trigger.trigger_version, "") != trigger:
                return False
        return True

    def _same_effects(self, before: list[dict[str, Any]], now: list[dict[str, Any]]) -> bool:
        payloads = [
            [
                (
                    each["name"],
                    each.get("key"),
                    self._effects.named(each["name"]).payload_of(RecordedEffect(**each), self._upcasts, ""),
                )
                for each in effects
            ]
            for effects in (before, now)
        ]
        return bool(payloads[0] == payloads[1])


def _first_difference(name: str, before: str | None, now: str | None) -> tuple[str, str, str]:
    """What it is called, what was expected, what was found; of lists the first element that differs."""
    if name == "reads":
        return "set of keys and ranges that were read (here its digest)", before or "none", now or "none"
    if name in ("state", "result", "error"):
        return name, before or "none", now or "none"
    old, new = _elements(before), _elements(now)
    index = 0
    while index < min(len(old), len(new)) and old[index] == new[index]:
        index += 1
    what = {"writes": "write", "submitted": "submitted trigger", "effects": "effect", "calls": "call"}[name]
    nothing = f"no {what}" if index == 0 else f"no {what} after the first {index}"
    return what, old[index] if index < len(old) else nothing, new[index] if index < len(new) else nothing


def _ending(record: dict[str, str]) -> str:
    """How a run ended, in a few words."""
    state = json.loads(record["state"])
    if "error" not in record:
        return str(state)
    error = json.loads(record["error"])
    return f"{state} ({error['type'].removeprefix('builtins.')}: {error['message']})"


def members(body: str) -> dict[str, str]:
    """The members of a JSON object as they are written, without decoding them. The object must be compact."""
    found: dict[str, str] = {}
    at = 1
    while body[at] != "}":
        name, at = scanstring(body, at + 1, False)
        start = at + 1
        _, at = _decoder.raw_decode(body, start)
        found[name] = body[start:at]
        if body[at] == ",":
            at += 1
    return found


def _elements(array: str | None) -> list[str]:
    """The elements of a compact JSON array as they are written."""
    if array is None:
        return []
    found: list[str] = []
    at = 1
    while array[at] != "]":
        start = at
        _, at = _decoder.raw_decode(array, start)
        found.append(array[start:at])
        if array[at] == ",":
            at += 1
    return found


def same_error(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """By class, text, code and details. What a script called `bank.Broke` may be `app.bank.Broke` when it is imported."""
    shorter, longer = sorted((before["type"], now["type"]), key=len)
    same_type = shorter == longer or longer.endswith(f".{shorter}")
    return same_type and all(before.get(name) == now.get(name) for name in ("message", "code", "details"))


def _same_result(handler: Handler, before: Any, now: Any) -> bool:
    adapter = answer_adapter(handler.function)
    if bool(value_of(adapter, before) == now):
        return True
    return bool(TypeAdapter(type(now)).validate_json(to_json(before)) == now)


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}... ({len(text)} characters)"
