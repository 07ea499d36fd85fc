"""`Settings`: the numbers of a system, and where they come from.

Owns their defaults, checks and precedence: what the program passes, then `SEQTOR_*` in the environment, then
`[tool.seqtor]` in the nearest pyproject.toml, then the defaults.
"""

from __future__ import annotations

import datetime
import functools
import math
import os
import pathlib
import tomllib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from seqtor.actors.handlers import did_you_mean
from seqtor.actors.registering import registering
from seqtor.messages.errors import RegistrationError
from seqtor.messages.models import FrozenModel

__all__ = ["Duration", "Settings", "seconds"]


def seconds(value: float | datetime.timedelta, name: str = "duration") -> float:
    """A duration as seconds. Raises RegistrationError for what is no duration."""
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise RegistrationError(f"{name} must be seconds (a number, 0 or more) or a timedelta, got {value!r}")
    return float(value)


def _as_seconds(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, datetime.timedelta) else value


def _off_is_none(value: Any) -> Any:
    """The environment and TOML have no None."""
    return None if value == "off" else value


Duration = Annotated[float, BeforeValidator(_as_seconds), Field(ge=0, allow_inf_nan=False)]


def _processors() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Settings(FrozenModel):
    """The numbers of one system; durations are seconds or timedeltas."""

    threads: int = Field(default_factory=lambda: min(32, (os.cpu_count() or 1) + 4), ge=2)
    """Execution slots for sync handlers."""

    max_queued: int = Field(default=100_000, ge=1)
    """Accepted triggers that wait for a seq; more are refused with `Overloaded`."""

    max_delayed: int = Field(default=100_000, ge=1)
    """Accepted triggers that wait for their time (`delay=`, `at=`); more are refused with `Overloaded`."""

    max_in_flight: int = Field(default=10_000, ge=1)
    """Numbered runs of async handlers that have not ended."""

    processes: int = Field(default_factory=_processors, ge=1)
    """Worker processes for handlers with `executor="process"`, at most; none without such handlers."""

    deadline: Duration = Field(default=10.0, gt=0)
    """Handler time of one attempt, for handlers without a `deadline=` of their own."""

    deadline_completion: Duration = Field(default=300.0, gt=0)
    """The same for handlers with `sequence="completion"`."""

    stop_grace: Duration = 30.0
    """How long `stop()` lets accepted triggers end."""

    head_warning: Annotated[Annotated[Duration, Field(gt=0)] | None, BeforeValidator(_off_is_none)] = 5.0
    """How long a run may hold up others behind it before a log line names it; None or "off": no line.

    On simulated dispatchers only if it is given: its timers would be a part of the simulation.
    """

    records_max: int = Field(default=100_000, ge=1)
    """Run records that are kept at hand; the oldest are forgotten first."""

    restart_intensity: int = Field(default=20, ge=0)
    """How often an actor of the runtime is restarted within `restart_period`; one more stops the system."""

    restart_period: Duration = Field(default=10.0, gt=0)
    """The time in which restarts are counted."""

    retain: Duration | None = None
    """How long the journal keeps history: records, states to go back to, idempotency keys; None keeps everything."""

    control: str = Field(default="auto", min_length=1)
    """Where other processes talk to the system: the path of a local socket, "off", or "auto": beside a journal file."""

    @model_validator(mode="wrap")
    @classmethod
    def _require_known_names(cls, given: Any, make: Any) -> Any:
        """A name that is no setting is refused with the nearest that is one."""
        if isinstance(given, dict):
            for name in given:
                if name not in cls.model_fields:
                    raise RegistrationError(_unknown(str(name)))
        return make(given)

    if TYPE_CHECKING:
        # Type checkers take a field's type for what may be passed; durations may be passed as timedeltas too.
        def __init__(
            self,
            *,
            threads: int = ...,
            max_queued: int = ...,
            max_delayed: int = ...,
            max_in_flight: int = ...,
            processes: int = ...,
            deadline: float | datetime.timedelta = ...,
            deadline_completion: float | datetime.timedelta = ...,
            stop_grace: float | datetime.timedelta = ...,
            head_warning: float | datetime.timedelta | Literal["off"] | None = ...,
            records_max: int = ...,
            restart_intensity: int = ...,
            restart_period: float | datetime.timedelta = ...,
            retain: float | datetime.timedelta | None = ...,
            control: str = ...,
        ) -> None: ...

    @classmethod
    def load(
        cls,
        given: Settings | Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        folder: pathlib.Path | None = None,
    ) -> Settings:
        """Merge all sources. Raises RegistrationError that names the source of what is wrong."""
        sources: list[tuple[str, Mapping[str, Any]]] = [
            ("[tool.seqtor] in pyproject.toml", _from_pyproject(folder or pathlib.Path.cwd())),
            ("the environment", _from_environ(os.environ if environ is None else environ)),
        ]
        if isinstance(given, Settings):
            sources.append(("settings=", {name: getattr(given, name) for name in given.model_fields_set}))
        elif isinstance(given, Mapping):
            sources.append(("settings=", given))
        elif given is not None:
            raise RegistrationError(f"settings= takes Settings or a mapping of its fields, got {given!r}")
        merged: dict[str, Any] = {}
        for source, values in sources:
            accepted = dict(values)
            for name in values:
                if name not in cls.model_fields:
                    del accepted[name]
                    with registering():
                        raise RegistrationError(f"{source}: {_unknown(str(name))}")
            try:
                cls(**{**merged, **accepted})
            except ValidationError as error:
                for each in error.errors():
                    name = str(each["loc"][0])
                    accepted.pop(name, None)
                    with registering():
                        raise RegistrationError(f"{source}: {name}={each['input']!r}: {each['msg']}") from error
            merged.update(accepted)
        return cls(**merged)


def _unknown(name: str) -> str:
    known = ", ".join(Settings.model_fields)
    return f"there is no setting {name!r}{did_you_mean(name, Settings.model_fields)}; settings are {known}"


def _from_environ(environ: Mapping[str, str]) -> dict[str, str]:
    prefix = "SEQTOR_"
    names = {name.removeprefix(prefix).lower(): value for name, value in environ.items() if name.startswith(prefix)}
    return {name: value for name, value in names.items() if name in Settings.model_fields}


def _from_pyproject(folder: pathlib.Path) -> dict[str, Any]:
    for place in (folder, *folder.parents):
        path = place / "pyproject.toml"
        if path.is_file():
            try:
                document = _toml(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise RegistrationError(f"{path} is not valid TOML: {error}") from error
            tools = cast("dict[str, Any]", document.get("tool", {}))
            table = tools.get("seqtor", {})
            if not isinstance(table, dict):
                raise RegistrationError(f"{path}: [tool.seqtor] must be a table, got {table!r}")
            return cast("dict[str, Any]", table)
    return {}


@functools.lru_cache(maxsize=4)
def _toml(document: str) -> dict[str, Any]:
    """What the text says; of the latest it is known, for a suite of tests makes thousands of systems beside one file."""
    return tomllib.loads(document)
