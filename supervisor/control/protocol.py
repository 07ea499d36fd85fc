"""What goes through the control socket: frames of JSON, each behind its length.

Owns the shape of frames, requests and answers, and their limits. A connection begins with a hello from each side, then
requests come with ids, and answers name the id; several may be under way. Promises: what does not fit is a
`ProtocolError`, whatever the bytes are; nothing longer than its limit is ever held.

    client                                                       server
    {"seqtor": 1}                                                {"seqtor": 1, "version": ..., "name": ..., "pid": ...}
    {"id": 1, "verb": "stats"}                                   {"id": 1, "value": {...}}
    {"id": 2, "verb": "submit", "triggers": [...], "wait": true} {"id": 2, "accepted": ["run id", ...]}
                                                                 {"id": 2, "index": 0, "seq": 7, "state": "committed",
                                                                  "result": 95}
    {"id": 3, "verb": "record", "seq": 99}                       {"id": 3, "error": {...}}
    {"id": 4, "verb": "cancel", "of": 2, "index": 0}             {"id": 4, "value": false}
    {"id": 5, "verb": "progress", "of": 2, "index": 0}           {"id": 5, "progress": ["half"]}, ..., {"id": 5}
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from seqtor.actors.journal.decoding import parsed
from seqtor.actors.journal.encoding import json_of
from seqtor.messages.runs import State
from seqtor.messages.triggers import Priority

__all__ = [
    "HEAD_BYTES",
    "LIMITS",
    "PROTOCOL",
    "Abort",
    "Answer",
    "Cancel",
    "ChangeSchedule",
    "Commits",
    "DeadLetters",
    "Emit",
    "History",
    "Limits",
    "Progress",
    "ProtocolError",
    "Query",
    "Record",
    "RemoteError",
    "Request",
    "Resubmit",
    "Runs",
    "Schedules",
    "SentTrigger",
    "States",
    "Submit",
    "answer_of",
    "frame",
    "frame_length",
    "hello_of",
    "request_of",
]

PROTOCOL = 1
HEAD = struct.Struct(">I")
HEAD_BYTES = HEAD.size
ID_MAX = 2**53
MOMENT_MAX = 253_402_300_799.0  # The end of the year 9999.


class Limits(NamedTuple):
    """What bounds one server: sizes, counts, and how long a client may take."""

    frame_bytes_max: int = 4 * 2**20
    """Of what a client sends."""

    answer_bytes_max: int = 64 * 2**20
    """Of what it is sent."""

    unsent_bytes_max: int = 256 * 2**20
    """Of what waits to be read by all clients together."""

    connections_max: int = 256
    requests_max: int = 10_000
    """Requests and awaited outcomes of one connection that are under way."""

    hello_s: float = 5.0
    """From the connection to the end of its hello."""

    frame_s: float = 10.0
    """From the first byte of a frame to its last."""

    read_s: float = 10.0
    """For the client to read what it is sent."""


LIMITS = Limits()


class ProtocolError(Exception):
    """The other side does not speak this protocol, or broke it; its connection is of no more use."""


def frame(value: Any) -> bytes:
    """A JSON value behind its length."""
    body = json_of(value).encode()
    return HEAD.pack(len(body)) + body


def frame_length(head: bytes, bytes_max: int) -> int:
    """The length of what follows. Raises ProtocolError if it is more than allowed."""
    (length,) = HEAD.unpack(head)
    if length > bytes_max:
        raise ProtocolError(f"a frame of {length} bytes, allowed are {bytes_max}")
    return int(length)


# What clients send ---------------------------------------------------------------------------------------------------


class Sent(BaseModel):
    """Base of what crosses the socket; unknown fields are refused, so that none is ignored that matters."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="strings")


class Hello(BaseModel):
    """The first frame of each side; what a later version adds is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    seqtor: int


class SentTrigger(Sent):
    """A trigger: the name and version of its type, and its fields."""

    type: str
    version: int | None = None
    payload: JsonValue = Field(default_factory=dict)


class Submit(Sent):
    """Hands triggers in: all of them, or none. With `wait` each outcome follows; `key` is for a single one.

    `delay` (seconds) or `at` (POSIX seconds) is before when they are not to run.
    """

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["submit"]
    triggers: list[SentTrigger]
    priority: Annotated[int, Field(ge=min(Priority), le=max(Priority))] | None = None
    key: str | None = None
    delay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    at: Annotated[float, Field(ge=0, le=MOMENT_MAX)] | None = None
    wait: bool = True


class Emit(Sent):
    """Records an event; the answer comes when it is durably accepted."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["emit"]
    code: str
    payload: JsonValue = None
    key: str | None = None


class Query(Sent):
    """A query without arguments."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["stats", "conflicts", "tree"]


class Record(Sent):
    """What is known of the run at a seq."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["record"]
    seq: int


class Runs(Sent):
    """Runs, newest first."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["runs"]
    state: list[str] | None = None
    trigger: str | None = None
    limit: int | None = 100


class Commits(Sent):
    """Records of durable commits after a seq, newest first; with `oldest_first` `limit` counts from `after` on."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["commits"]
    after: int = 0
    limit: int | None = 100
    oldest_first: bool = False


class DeadLetters(Sent):
    """What was given up, newest first."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["dead_letters"]
    limit: int = 100


class States(Sent):
    """What the stores held after a seq."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["state"]
    store: str | None = None
    seq: int | None = None


class History(Sent):
    """Every change of one key."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["history"]
    store: str
    key: str


class Events(Sent):
    """Events that were recorded, newest first."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["events"]
    code: str | None = None
    matched: bool | None = None
    started: bool | None = None
    after: Annotated[int, Field(ge=0)] = 0
    limit: int | None = 100


class Reactions(Sent):
    """The reactions, newest first, with at most `limit` half-met composites of each."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["reactions"]
    limit: Annotated[int, Field(ge=0)] = 100


class Lineage(Sent):
    """What followed from the run at a seq."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["lineage"]
    seq: int


class Abort(Sent):
    """Ends the run at a seq."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["abort"]
    seq: int
    reason: str


class Schedules(Sent):
    """The schedules, newest first."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["schedules"]
    limit: int = 100


class ChangeSchedule(Sent):
    """Pauses, resumes, fires or removes a schedule; `next` changes nothing, and is answered with its next slots."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["schedule"]
    name: str
    do: Literal["pause", "resume", "fire", "remove", "next"]
    count: Annotated[int, Field(ge=0, le=1000)] = 1


class Resubmit(Sent):
    """Another try of what was given up; `letter` is the dead letter's id. With `wait` the outcome follows."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["resubmit"]
    letter: str
    wait: bool = True


class Cancel(Sent):
    """Takes a trigger back that this connection has handed in, with `wait`: the one at `index` of the request `of`.

    The answer says whether it will never run; null: its outcome has been sent already.
    """

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["cancel"]
    of: int
    index: int = 0


class Progress(Sent):
    """What the run tells of its progress, until it ends; the same trigger is meant as with `Cancel`."""

    id: Annotated[int, Field(ge=0, le=ID_MAX)]
    verb: Literal["progress"]
    of: int
    index: int = 0


Request = (
    Submit
    | Emit
    | Query
    | Record
    | Runs
    | Commits
    | DeadLetters
    | Events
    | Reactions
    | Lineage
    | States
    | History
    | Abort
    | Resubmit
    | Schedules
    | ChangeSchedule
    | Cancel
    | Progress
)
REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="verb")])


# What servers send ---------------------------------------------------------------------------------------------------


class RemoteError(BaseModel):
    """An error: its class, its text, and what else it carries. `known` is the nearest class that every client has."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")

    type: str
    known: str
    message: str
    code: str | None = None
    arguments: list[JsonValue] = []
    attributes: dict[str, JsonValue] = {}
    cause: RemoteError | None = None


class Answer(BaseModel):
    """An answer to the request `id`, or one of its answers; what a later version adds is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")

    id: int | None = None
    value: JsonValue = None
    accepted: list[str] | None = None
    index: int | None = None
    seq: int | None = None
    state: State | None = None
    result: JsonValue = None
    progress: list[JsonValue] | None = None
    error: RemoteError | None = None


# Reading -------------------------------------------------------------------------------------------------------------


def hello_of(body: bytes) -> int:
    """The protocol's number that the other side speaks. Raises ProtocolError if it says none."""
    return _valid(Hello.model_validate, body, "a hello").seqtor  # type: ignore[no-any-return]


def request_of(body: bytes) -> Request | tuple[int | None, str]:
    """A request, or for one that cannot be understood its id and what is wrong with it.

    Raises ProtocolError for what is no JSON object.
    """
    value = _object(body, "a request")
    try:
        return REQUEST.validate_python(value)
    except ValidationError as error:
        number = value.get("id")
        known = isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= ID_MAX
        return number if known else None, _what_is_wrong(error)


def answer_of(body: bytes) -> Answer:
    """An answer. Raises ProtocolError."""
    return _valid(Answer.model_validate, body, "an answer")  # type: ignore[no-any-return]


def _valid(validate: Any, body: bytes, what: str) -> Any:
    value = _object(body, what)
    try:
        return validate(value)
    except ValidationError as error:
        raise ProtocolError(f"expected {what}, got {_start(body)}: {_what_is_wrong(error)}") from error


def _object(body: bytes, what: str) -> dict[str, Any]:
    try:
        value = parsed(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"expected {what}, got {_start(body)}, which is no JSON") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"expected {what}, got {_start(body)}")
    return value


def _start(body: bytes) -> str:
    return repr(body[:40]) + ("..." if len(body) > 40 else "")


def _what_is_wrong(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the request'}: {first['msg']}"
