"""`assert_committed`: that a run has committed, and what was near if none has.

Owns the comparison of triggers field by field. Works on every running system, simulated or not; looks and does not wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from seqtor.actors.handlers import did_you_mean
from seqtor.actors.submissions import Submission
from seqtor.messages.events import OURS
from seqtor.messages.models import field_values
from seqtor.messages.runs import RunRecord, State
from seqtor.messages.triggers import Trigger
from seqtor.system import Supervisor
from seqtor.testing.settling import shown

__all__ = ["assert_committed"]

NEAREST_MAX = 5


def assert_committed(
    system: Supervisor, trigger: Trigger[Any] | type[Trigger[Any]], *, times: int | None = None, **fields: Any
) -> RunRecord:
    """Raise AssertionError unless a run of this trigger has committed; returns the record of the newest.

    `trigger` is a type, of which `fields` must be as given, or an instance, which must be equal. `times` is how many must
    have, exactly; without it at least one. Nothing is waited for: `desk.settle()` comes before.
    """
    if times is not None and times < 1:
        raise ValueError(
            f"times is how many have committed, from 1, got {times!r}; system.runs(...) lists those that have"
        )
    kind, wanted = _wanted(trigger, fields)
    runs = system.runs(trigger=kind, limit=None)
    found = [run for run in runs if run.state is State.COMMITTED and not _differing(run.trigger, wanted)]
    if found and times in (None, len(found)):
        return found[0]
    described = f"{kind.trigger_name}({', '.join(f'{name}={shown(value)}' for name, value in wanted.items())})"
    count = "no run" if not found else f"{len(found)} {'run' if len(found) == 1 else 'runs'}"
    expected = "" if times is None else f", expected {times}"
    raise AssertionError("\n".join([f"{count} of {described} committed{expected}", *_near(system, kind, wanted, runs)]))


def _wanted(trigger: Any, fields: dict[str, Any]) -> tuple[type[Trigger[Any]], dict[str, Any]]:
    if isinstance(trigger, Trigger):
        if fields:
            raise TypeError("give a trigger or fields, not both: assert_committed(system, Transfer, amount=5)")
        return type(trigger), dict(field_values(trigger))
    if not (isinstance(trigger, type) and issubclass(trigger, Trigger)):
        raise TypeError(f"assert_committed() takes a trigger or a trigger type, got {trigger!r}")
    for name in fields:
        if name not in trigger.model_fields:
            known = ", ".join(trigger.model_fields) or "none"
            raise TypeError(
                f"{trigger.__name__} has no field {name!r}{did_you_mean(name, trigger.model_fields)}; it has {known}"
            )
    return trigger, fields


def _differing(trigger: Trigger[Any], wanted: dict[str, Any]) -> list[str]:
    return [
        f"{name} is {shown(getattr(trigger, name))}, not {shown(value)}"
        for name, value in wanted.items()
        if getattr(trigger, name) != value
    ]


def _near(system: Supervisor, kind: type[Trigger[Any]], wanted: dict[str, Any], runs: list[RunRecord]) -> Iterable[str]:
    if runs:
        yield "nearest:"
        by_distance = [
            (len(_differing(run.trigger, wanted)), run.state is not State.COMMITTED, -run.seq) for run in runs
        ]
        ranked = [run for _, run in sorted(zip(by_distance, runs, strict=True))]
        for run in ranked[:NEAREST_MAX]:
            yield f"  seq {run.seq} {_ended(run)}: {'; '.join(_differing(run.trigger, wanted)) or shown(run.trigger)}"
        if len(ranked) > NEAREST_MAX:
            yield f"  and {len(ranked) - NEAREST_MAX} more"
    waiting = [each for each in _open(system) if type(each.trigger) is kind]
    if waiting:
        named = ", ".join(shown(each.trigger) for each in waiting[:NEAREST_MAX])
        yield f"not ended yet: {named}; settle() first, or clock.advance(...) for what waits for its time"
    if not runs and not waiting:
        names = Counter(run.trigger.trigger_name for run in system.runs(limit=None))
        others = [f"{name} ({count})" for name, count in sorted(names.items()) if not name.startswith(OURS)]
        yield f"no {kind.trigger_name} was handed in; what was: {', '.join(others) or 'nothing'}"


def _ended(run: RunRecord) -> str:
    return run.state.value if run.error is None else f"{run.state.value} ({run.error})"


def _open(system: Supervisor) -> list[Submission[Any]]:
    """What was accepted and has not ended."""
    return list(system._require_running().intake.open)
