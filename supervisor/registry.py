"""The stores and resources that a program registers before the start.

Owns their checks. Everything that can be known to be wrong fails here.
"""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Callable
from typing import Any

from seqtor.actors.resources import ResourceRef
from seqtor.actors.stores.contract import StoreActor, StoreRef, StoreSpec
from seqtor.messages.errors import RegistrationError
from seqtor.settings import seconds
from seqtor.tree.window import Restart

__all__ = ["Resources", "Stores", "deadline_seconds"]


class Resources:
    """The resources of one system, by name and in the order of their registration."""

    def __init__(self) -> None:
        self.refs: list[ResourceRef[Any]] = []

    def add(self, name: Any, opener: Any) -> ResourceRef[Any]:
        """Register; raises RegistrationError if the name or the opener will not do."""
        if not isinstance(name, str) or not name:
            raise RegistrationError(f"a resource's name is a non-empty string, got {name!r}")
        if any(ref.name == name for ref in self.refs):
            raise RegistrationError(f"there is a resource called {name!r} already: give this one another name")
        if not callable(opener):
            raise RegistrationError(
                f"resource {name!r}: pass a function that returns a context manager, which is opened at the first use, not "
                f"{opener!r} itself"
            )
        advice = {
            inspect.isgeneratorfunction: "@contextlib.contextmanager",
            inspect.isasyncgenfunction: "@contextlib.asynccontextmanager",
            inspect.iscoroutinefunction: "@contextlib.asynccontextmanager, and yield instead of returning",
        }
        for is_kind, decorator in advice.items():
            if is_kind(opener):
                raise RegistrationError(f"resource {name!r}: the opener must return a context manager: add {decorator}")
        try:
            inspect.signature(opener).bind()
        except TypeError as error:
            raise RegistrationError(f"resource {name!r}: the opener is called without arguments ({error})") from None
        except ValueError:
            pass  # A callable without a signature that Python can read: its call will tell.
        ref: ResourceRef[Any] = ResourceRef(name, len(self.refs), opener)
        self.refs.append(ref)
        return ref


SHUTDOWN_S = 5.0


class Stores:
    """The stores of one system, by name and in the order of their registration."""

    def __init__(self, seq_of: Callable[[int], int]) -> None:
        self.refs: list[StoreRef[Any]] = []
        self._seq_of = seq_of

    def add(self, name: Any, spec: Any, restart: Any, shutdown: Any) -> StoreRef[Any]:
        """Register; raises RegistrationError if the name, the recipe or how it is supervised will not do."""
        if not isinstance(name, str) or not name:
            raise RegistrationError(f"a store's name is a non-empty string, got {name!r}")
        if name.startswith("seqtor."):
            raise RegistrationError(
                f"store {name!r}: names that begin with 'seqtor.' are the library's: choose another"
            )
        if any(ref.name == name for ref in self.refs):
            raise RegistrationError(f"there is a store called {name!r} already: give this one another name")
        if isinstance(spec, type) and issubclass(spec, StoreActor):
            raise RegistrationError(f"store {name!r}: pass {spec.__name__}.spec(...), not the class itself")
        if not isinstance(spec, StoreSpec):
            raise RegistrationError(
                f"store {name!r}: expected Collection(Model), Document(Model), Derived(Model, [store], rebuild=f) or "
                f"MyStore.spec(...), got {spec!r}"
            )
        export = getattr(spec, "export", None)
        for other in self.refs if export is not None else ():
            if getattr(other.spec, "export", None) == export:
                raise RegistrationError(f"store {name!r}: {export} is the file of the store {other.name!r} already")
        for source in spec.sources:
            if source not in self.refs:
                raise RegistrationError(f"store {name!r}: its source {source.name!r} belongs to another system")
        if restart is not None and not isinstance(restart, Restart):
            raise RegistrationError(f"store {name!r}: restart= takes Restart(intensity=, period=), got {restart!r}")
        shutdown_s = SHUTDOWN_S if shutdown is None else seconds(shutdown, f"store {name!r}: shutdown")
        ref: StoreRef[Any] = StoreRef(name, len(self.refs), spec, self._seq_of, restart, shutdown_s, self.refs)
        self.refs.append(ref)
        return ref


def deadline_seconds(deadline: float | datetime.timedelta | None, default_s: float) -> float:
    """The deadline of a handler in seconds; raises RegistrationError for one that is not above 0."""
    if deadline is None:
        return default_s
    value = seconds(deadline, "deadline")
    if value <= 0:
        raise RegistrationError(f"deadline must be above 0 seconds, got {deadline!r}")
    return value
