"""The triggers of mixed programs: a type for each combination of a handler's options, and the handler in other processes.

A worker process imports this module and nothing else of the test: what a trigger is to do there, it carries.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from seqtor import StoreRef, Supervisor, Transaction, Trigger
from tests.properties.language import FOREVER, Execution, perform

__all__ = ["REFS", "Kind", "Mixed", "MixedInProcess", "execute", "joined", "type_of"]


class Kind(NamedTuple):
    """The options of a handler."""

    place: str  # "pool", "loop" or "process".
    by_completion: bool = False
    declares: bool = False
    timed: bool = False  # Has a short deadline, and may go on past it.
    merges: bool = False
    rated: bool = False


class Mixed(Trigger[Any]):
    """One or, when they were merged, several programs."""

    number: int
    also: tuple[int, ...] = ()  # Those before it that it was merged with.
    group: str | None = None  # With whom it becomes one while it waits.
    event_time: float | None = None


class MixedInProcess(Mixed):
    """A program that runs in a worker process; `pickled` is (the pickled stores, steps, keys)."""

    pickled: bytes


@functools.cache
def type_of(kind: Kind) -> type[Mixed]:
    """The trigger type whose handler has these options."""
    name = "Mixed" + "".join(
        part.capitalize() for part in (kind.place, *(f for f in kind._fields if f != "place" and getattr(kind, f)))
    ).replace("_", "")
    base = MixedInProcess if kind.place == "process" else Mixed
    made: Any = type(name, (base,), {"__module__": __name__, "__qualname__": name, "__doc__": f"{kind}."})
    return made  # type: ignore[no-any-return]


for _declares, _timed, _rated in itertools.product((False, True), repeat=3):  # Found by their names in other processes.
    _made = type_of(Kind("process", declares=_declares, timed=_timed, rated=_rated))
    globals()[_made.__name__] = _made


def joined(old: Mixed, new: Mixed) -> Mixed:
    """Both, one after the other; some want nothing before them, and too many are too many."""
    if new.number % 7 == 3 or len(old.also) > 2:
        raise ValueError("not with this one")
    return type(new)(number=new.number, also=(*old.also, old.number), group=new.group, event_time=new.event_time)


REFS: dict[bytes, Mapping[str, StoreRef[Any]]] = {}  # By the pickled stores.


def refs_of(pickled_stores: bytes) -> Mapping[str, StoreRef[Any]]:
    """The references to the stores: the system's own, or in a worker process such as have the same names."""
    if pickled_stores not in REFS:
        REFS.clear()
        REFS[pickled_stores] = pickle.loads(pickled_stores).register(Supervisor())
    return REFS[pickled_stores]


def execute(trigger: MixedInProcess, tx: Transaction) -> Any:
    """The handler of all that run in worker processes."""
    pickled_stores, steps, keys = pickle.loads(trigger.pickled)
    run = Execution(tx, refs_of(pickled_stores), keys)
    for ticks in perform(steps, run):
        if ticks == FOREVER:
            threading.Event().wait()  # The process is killed in it.
    return run.result
