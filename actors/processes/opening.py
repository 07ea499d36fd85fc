"""The crew of a system that starts, if any handler executes in worker processes.

Owns the last checks of such handlers, now that their modules have been executed, and what worker processes are told of the
program.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from seqtor.actors.dispatchers.contract import Dispatchers
from seqtor.actors.handlers import IN_PROCESS, Handler
from seqtor.actors.processes.crew import Crew
from seqtor.actors.processes.importable import FunctionName, require_found
from seqtor.actors.processes.process import preparation_of_main
from seqtor.actors.processes.remote import shape_of
from seqtor.actors.processes.wire import Preparation
from seqtor.actors.resources import ResourceRef
from seqtor.actors.stores.contract import StoreRef

__all__ = ["open_crew", "require_all_found"]


def require_all_found(handlers: Iterable[Handler]) -> None:
    """Raise RegistrationError for a handler that its name does not lead to; before anything is started."""
    for handler in handlers:
        if handler.place == IN_PROCESS:
            require_found(handler.function, handler.trigger_type)


def open_crew(
    handlers: Iterable[Handler],
    stores: tuple[StoreRef[Any], ...],
    resources: tuple[ResourceRef[Any], ...],
    dispatchers: Dispatchers,
    count: int,
    name: str,
) -> Crew | None:
    """The crew, started; None if no handler needs one, or on a simulated dispatcher, which executes them itself."""
    theirs = [handler for handler in handlers if handler.place == IN_PROCESS]
    if not theirs or dispatchers.driver is not None:
        return None
    names = [FunctionName.of(each) for handler in theirs for each in (handler.function, handler.trigger_type)]
    preparation = Preparation(
        main=preparation_of_main(),
        names=tuple(names),
        stores=tuple((ref.name, shape_of(ref)) for ref in stores),
        resources=tuple(ref.name for ref in resources),
    )
    crew = Crew(count, dispatchers.timers, name)
    crew.start(preparation)
    return crew
