"""Runs and triggers as JSON text, for the journal.

Owns the writing of the records of `messages/records.py`. They are put together as text, because there is one for every
run: building a pydantic record and dumping it costs four times as much; a test reads each back through its model.
Promises: what was accepted into the system can be written; the same run gives the same text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from functools import lru_cache
from hashlib import blake2b, sha256
from pathlib import PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Any
from zlib import crc32

from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from seqtor.messages.errors import RecordedFailure, Rejected
from seqtor.messages.records import (
    FORMAT,
    CallRecord,
    DeadRunRecord,
    EffectRecord,
    ReactionRecord,
    RecordedEffect,
    RecordedError,
    RecordedTrigger,
)
from seqtor.messages.runs import State
from seqtor.messages.stores import StoreAccess

if TYPE_CHECKING:
    from pydantic import BaseModel

    from seqtor.actors.stores.contract import StoreRef
    from seqtor.actors.submissions import Submission
    from seqtor.messages.commits import EndedRun, Released
    from seqtor.messages.triggers import Trigger

__all__ = [
    "GENESIS",
    "accepted_text",
    "chained",
    "commit_text",
    "dead_run_record",
    "ended_text",
    "entry_text",
    "error_record",
    "json_of",
    "model_json",
    "module_of",
    "payload_digest",
    "reads_digest",
    "text",
]

moment = lru_cache(maxsize=256)(repr)
"""A time as JSON; the runs of a batch share theirs."""

text = json.encoder.encode_basestring_ascii
"""A string as JSON, also one that is no valid Unicode."""


GENESIS = bytes(32)
"""The hash before the first record."""


def payload_digest(trigger: Trigger[Any]) -> bytes:
    """Tells whether two triggers are the same: type and fields."""
    return blake2b(f"{trigger.trigger_name}:{model_json(trigger)}".encode(), digest_size=16).digest()


def chained(chain: bytes, body: str) -> bytes:
    """The hash of a record that follows the record with the hash `chain`: SHA-256 over both."""
    return sha256(chain + body.encode()).digest()


def json_of(value: Any) -> str:
    """Any value that pydantic can serialise, as JSON."""
    kind = type(value)
    if kind is int:
        return repr(value)
    if kind is str:
        return text(value)
    try:
        return to_json(value, bytes_mode="base64", inf_nan_mode="strings").decode()
    except PydanticSerializationError:  # Strings that are no valid Unicode: the slower way escapes them.
        return json.dumps(to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="strings"))


def model_json(model: BaseModel, include: set[str] | None = None) -> str:
    """A model's fields (all, or those named), by name, as JSON from which it can be made again."""
    serializer = model.__pydantic_serializer__
    try:
        return serializer.to_json(model, round_trip=True, by_alias=False, include=include).decode()
    except PydanticSerializationError:
        fields = serializer.to_python(model, mode="json", round_trip=True, by_alias=False, include=include)
        return json.dumps(fields, separators=(",", ":"))


def trigger_text(submission: Submission[Any], given: Any = None) -> str:
    """A trigger with the name and version of its type; `given` stands in its place."""
    trigger = submission.trigger if given is None else given
    return f"{_trigger_head(submission.handler.name, trigger.trigger_version)}{model_json(trigger)}}}"


@lru_cache(maxsize=1024)
def _trigger_head(name: str, version: int) -> str:
    numbered = "" if version == 1 else f',"version":{version}'
    return f'{{"type":{text(name)}{numbered},"payload":'


def accepted_text(submission: Submission[Any], deferred: int = 0) -> str:
    """An `AcceptedRecord`; with `deferred`, of a run that was deferred once more than its submission says."""
    origin = submission.origin
    # One that is merged with others stands for itself alone until its run has a record. Its retry follows that record.
    given = None if origin is None or origin.retry is not None else origin.given
    return (
        f'{{"format":1,"run":"{submission.id}","arrival":{submission.arrival},"trigger":{trigger_text(submission, given)},'
        f'"priority":{submission.priority},"event_time":{submission.event_time!r},'
        f'"submitted_at":{submission.submitted_at!r}{_origin_text(submission)}{_due_text(submission, deferred)}}}'
    )


def _due_text(submission: Submission[Any], deferred: int) -> str:
    """Before when a retry or a delayed trigger is not to run, how often a run was deferred; of interest until it has run."""
    due = submission.due
    found = "" if due is None else f',"due":{due!r}'
    if submission.origin is not None and submission.origin.coalesce is not None:
        found += f',"coalesce":{text(submission.origin.coalesce)}'
    deferrals = deferred if submission.origin is None else submission.origin.deferrals + deferred
    return f'{found},"deferrals":{deferrals}' if deferrals else found


def _origin_text(submission: Submission[Any]) -> str:
    origin = submission.origin
    if origin is None:
        return ""
    parts = "" if origin.key is None else f',"key":{text(origin.key)}'
    if origin.cause is not None:
        parts += f',"cause":{text(origin.cause)}'
    if origin.causes:
        parts += f',"causes":[{",".join(map(text, origin.causes))}]'
    if origin.retry is not None:
        parts += f',"run_number":{origin.retry.run_number},"retry_of":{text(origin.retry.of)}'
    if origin.scheduled is not None:
        parts += f',"scheduled":[{text(origin.scheduled[0])},{origin.scheduled[1]!r}]'
    return parts if origin.resubmits is None else f'{parts},"resubmits":{text(origin.resubmits)}'


def effect_text(effect: RecordedEffect) -> str:
    """A `RecordedEffect`; it has a key of its own only if it was a dead letter."""
    special = {name for name, value in (("key", effect.key), ("alarm", effect.alarm)) if value}
    return model_json(effect, {"name", "version", "payload"} | special)


def dead_run_record(ended: EndedRun, ended_at: float) -> DeadRunRecord:
    """What a checkpoint keeps of a run that ended for good without having done its work."""
    submission = ended.submission
    retry = None if submission.origin is None else submission.origin.retry
    return DeadRunRecord(
        seq=ended.seq,
        run=submission.id,
        trigger=RecordedTrigger.model_validate_json(trigger_text(submission)),
        state=ended.state,
        priority=submission.priority,
        submitted_at=submission.submitted_at,
        ended_at=ended_at,
        run_number=1 if retry is None else retry.run_number,
        error=None if ended.error is None else error_record(ended.error),
    )


def reads_digest(accesses: Sequence[StoreAccess] | None, stores: Sequence[StoreRef[Any]]) -> str:
    """A CRC over the names that were read: stores, keys and ranges, in an order of their own.

    Empty if it is not known what was read. It tells a run that reads something else from one that does not; what is in
    the journal is protected by the chain.
    """
    if accesses is None:
        return ""
    if len(accesses) == 1:
        [access] = accesses
        keys = access.keys
        if len(keys) == 1 and not (access.ranges or access.whole):  # Most runs: the way below is the same, and longer.
            named = "\0".join([stores[access.store].name, *keys])
            return f"{crc32(named.encode('utf-8', 'surrogatepass')):08x}"
    parts = []
    for access in accesses:
        keys = access.keys
        names = list(keys) if len(keys) < 2 else sorted(keys)
        if access.ranges or access.whole:
            names += [repr(each) for each in sorted(access.ranges, key=repr)]
            names.append(f"whole={access.whole}")
        if names:
            parts.append("\0".join([stores[access.store].name, *names]))
    if len(parts) > 1:
        parts.sort()
    return f"{crc32(chr(10).join(parts).encode('utf-8', 'surrogatepass')):08x}"


def commit_text(
    ended: EndedRun,
    previous: int,
    epoch: int,
    ended_at: float,
    stores: Sequence[StoreRef[Any]],
    kinds: Collection[str] = (),
) -> str:
    """A `CommitRecord`, with what is empty left out. `kinds` of facts are of interest: what they need is in it."""
    submission = ended.submission
    submitted_at, event_time = submission.submitted_at, submission.event_time
    submitted = moment(submitted_at)
    # One expression for what every record has: joining parts takes a third longer.
    return (
        f'{{"format":1,"seq":{ended.seq},"previous":{previous},"epoch":{epoch},"run":"{submission.id}","state":"'
        f'{ended.state._value_}","attempt":{ended.attempts},"trigger":{trigger_text(submission)},"priority":'
        f'{submission.priority},"event_time":{submitted if event_time is submitted_at else moment(event_time)},'
        f'"submitted_at":{submitted},"sequenced_at":{moment(submission.sequenced_at)},"ended_at":'
        f'{moment(ended_at)},"handler_s":{ended.handler_s!r},"snapshot":'
        f'{ended.snapshot_seq},"first_snapshot":{ended.first_snapshot_seq},"reads":"'
        f'{reads_digest(ended.accesses, stores)}"{_what_it_did(ended, stores, kinds)}}}'
    )


def _what_it_did(ended: EndedRun, stores: Sequence[StoreRef[Any]], kinds: Collection[str]) -> str:
    """What only some records have."""
    submission, error, released = ended.submission, ended.error, ended.released
    found = ""
    if submission.handler.version != 1:
        found = f',"handler_version":{submission.handler.version}'
    if ended.writes:
        found += f',"writes":[{_writes(ended, stores)}]'
    if ended.result is not None:
        found += f',"result":{json_of(ended.result)}'
    if error is not None:
        found += f',"error":{model_json(error_record(error))}'
    if submission.origin is not None:
        found += _origin_text(submission)
        if submission.origin.absorbed and submission.origin.retry is None:
            absorbed = ",".join([f'"{each.id}"' for each in submission.absorbed])
            found += f',"coalesced":[{absorbed}]' if absorbed else ""
            if kinds and ended.state is not State.DEFERRED:
                found += _absorbed_text(submission, kinds)
    if released is not None:
        found += _released_text(ended, released)
    if ended.conflicts:
        conflicts = [json_of(conflict._asdict()) for conflict in ended.conflicts]
        found += f',"conflicts":[{",".join(conflicts)}]'
    return found


def _absorbed_text(submission: Submission[Any], kinds: Collection[str]) -> str:
    """The triggers that became one with it, if somebody reacts to that."""
    if f"status {State.COALESCED.value} {submission.handler.name}" not in kinds:
        return ""
    absorbed = ",".join(
        [f'{{"run":"{each.id}","trigger":{trigger_text(each, each.given)}}}' for each in submission.absorbed]
    )
    return f',"absorbed":[{absorbed}]' if absorbed else ""


def _released_text(ended: EndedRun, released: Released) -> str:
    found = ""
    if released.calls:
        found = f',"calls":[{",".join(map(model_json, released.calls))}]'
    if ended.state is State.COMMITTED:
        if released.submissions:
            found += f',"submitted":[{",".join(map(accepted_text, released.submissions))}]'
        if released.effects:
            found += f',"effects":[{",".join(map(effect_text, released.effects))}]'
    elif released.retry is not None:
        found += f',"retry":{accepted_text(released.retry)}'
    elif released.deferred is not None:
        found += f',"deferred":{accepted_text(ended.submission, deferred=1)}'
    return found


def _writes(ended: EndedRun, stores: Sequence[StoreRef[Any]]) -> str:
    found = []
    for store, writes in ended.writes:
        ref = stores[store]
        name, version, op_json = text(ref.name), ref.spec.version, ref.spec.op_json
        tail = "]" if version == 1 else f",{version}]"
        for key, op in writes:
            found.append(f"[{name},{text(key)},{op_json(key, op)}{tail}")
    return ",".join(found)


def entry_text(record: CallRecord | EffectRecord | ReactionRecord) -> str:
    """The entry of a call, of the end of an effect, or of what reactions follow, with what is empty left out."""
    if isinstance(record, ReactionRecord):
        return model_json(record, {name for name, value in record if value})
    return f'{{"format":{FORMAT},{record.model_dump_json(exclude_defaults=True)[1:]}'


def ended_text(submission: Submission[Any], ended_at: float) -> str:
    """An `EndedRecord`."""
    state = submission.ended_as
    assert state is not None
    return f'{{"format":{FORMAT},"run":"{submission.id}","state":"{state._value_}","ended_at":{ended_at!r}}}'


def error_record(error: BaseException) -> RecordedError:
    """An exception as it is kept: class, text, and the arguments if they are JSON; of one that was kept, the same again."""
    if isinstance(error, RecordedFailure):
        return RecordedError(type=error.kind, message=error.message)
    kind = type(error)
    details = code = None
    if isinstance(error, Rejected):
        details = _jsonable(error.details) if error.details else None
        code = error.code
        message = error.message
    else:
        message = str(error)
    arguments = [_jsonable(argument) for argument in _arguments(error)]
    return RecordedError(
        type=f"{module_of(kind)}.{kind.__qualname__}", message=message, code=code, details=details, arguments=arguments
    )


def module_of(named: Any) -> str:
    """The name of a module, or of a class's or function's; of the program's own file what others would import it by.

    So what was kept by `python bank.py` is found again by a program that imports `bank`.
    """
    name = named.__name__ if isinstance(named, ModuleType) else getattr(named, "__module__", None) or "?"
    if name not in ("__main__", "__mp_main__"):  # The second is what worker processes call it.
        return str(name)
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    return PurePath(file).stem if file else name


def _arguments(error: BaseException) -> tuple[Any, ...]:
    """What the exception can be made from again; classes whose `args` do not say all of it tell it to copiers."""
    try:
        made = error.__reduce__()
        if made[0] is type(error):
            return tuple(made[1])
    except Exception:
        pass
    return error.args


def _jsonable(value: Any) -> Any:
    """The value as JSON; what JSON cannot hold as its repr, because the journal must be able to take every error."""
    try:
        return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="strings", fallback=repr)
    except ValueError:
        return repr(value)
