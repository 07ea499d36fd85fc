"""What `seqtor run` says of a system: what it is made of before the start, where it stands after it.

Owns the words. As data too, for logs that machines read.
"""

from __future__ import annotations

from typing import Any

import seqtor
from seqtor.actors.clock import SystemClock
from seqtor.messages.events import OURS
from seqtor.system import Supervisor

__all__ = ["banner", "facts", "standing"]

UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def facts(system: Supervisor) -> dict[str, Any]:
    """What a system is made of, as JSON says it."""
    backend = system._make_backend()
    return {
        "system": system.name,
        "version": seqtor.__version__,
        "journal": None if backend is None else backend.place,
        "stores": {ref.name: _store(ref.spec) for ref in system.stores.values()},
        "handlers": {
            handler.name: "async" if handler.is_async else "sync"
            for handler in system._handlers
            if handler.trigger_type.__module__.partition(".")[0] != "seqtor"
        },
        "effects": list(system._effects.names),
        "reactions": [each.name for each in system._reactions if not each.name.startswith(OURS)],
        "schedules": [name for name in system._schedules.declared if not name.startswith(OURS)],
        "resources": [ref.name for ref in system._resources.refs],
        "settings": _changed_settings(system),
    }


def banner(found: dict[str, Any]) -> str:
    """The same, as people read it."""
    rows = {
        "journal": found["journal"] or "none: everything is kept in memory, and gone at the end",
        "stores": _listed(f"{name} ({kind})" for name, kind in found["stores"].items()),
        "handlers": _listed(
            name if kind == "sync" else f"{name} (async)" for name, kind in sorted(found["handlers"].items())
        ),
        "effects": _listed(found["effects"]),
        "reactions": _listed(found["reactions"]),
        "schedules": _listed(found["schedules"]),
        "resources": _listed(found["resources"]),
        "settings": _listed(f"{name}={value}" for name, value in found["settings"].items()) or "as they are by default",
    }
    lines = [f"{found['system']} on seqtor {found['version']}"]
    lines += [f"  {name:<9}  {text}" for name, text in rows.items() if text]
    return "\n".join(lines)


def standing(system: Supervisor) -> str:
    """Where a system stands that has just started."""
    running = system._require_running()
    last = None if running.in_memory else next(iter(system.commits(limit=1)), None)
    ago = "" if last is None else f"; the last commit was {duration(SystemClock.time() - last.ended_at)} ago"
    return f"{running.standing()}{ago}"


def duration(elapsed_s: float) -> str:
    """A duration in its largest unit."""
    for unit_s, name in UNITS:
        if elapsed_s >= unit_s:
            count = int(elapsed_s // unit_s)
            return f"{count} {name}{'' if count == 1 else 's'}"
    return "less than a second"


def _listed(names: Any) -> str:
    return ", ".join(names)


def _store(spec: Any) -> str:
    kind = type(spec).__name__
    return spec.store_class.__name__ if kind == "StoreSpec" else f"{kind} of {spec.kind.model.__name__}"


def _changed_settings(system: Supervisor) -> dict[str, Any]:
    fields = type(system.settings).model_fields
    found = {name: getattr(system.settings, name) for name in fields}
    return {
        name: value for name, value in found.items() if value != fields[name].get_default(call_default_factory=True)
    }
