"""What a program registers before the start: stores and handlers; `Bundle` carries registrations between modules.

Owns the decorators' checks. Everything that can be known to be wrong fails here.
"""

from __future__ import annotations

import datetime
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, Literal, TypeVar

from seqtor.actors.effects import EffectContext, EffectFunction, EffectFunctions, make_effect_function
from seqtor.actors.footprints import Declare
from seqtor.actors.handlers import Handlers, make_handler, require_trigger_type
from seqtor.actors.registering import registering
from seqtor.actors.resources import ResourceRef
from seqtor.actors.retries import Retry
from seqtor.actors.stores.contract import StoreActor, StoreRef, StoreSpec
from seqtor.actors.transactions import Transaction
from seqtor.messages.errors import RegistrationError
from seqtor.messages.triggers import Priority, Trigger
from seqtor.settings import seconds
from seqtor.tree.window import Restart

__all__ = ["Bundle", "EffectDecorator", "HandlerDecorator", "Resources", "Stores", "deadline_seconds",
           "execute_method_of", "self_executing"]  # fmt: skip

TriggerT = TypeVar("TriggerT", bound=Trigger[Any])
ViewT = TypeVar("ViewT")
HandlerT = TypeVar("HandlerT")
EffectT = TypeVar("EffectT", bound=Callable[[EffectContext, Any], Trigger[Any] | Awaitable[Trigger[Any] | None] | None])


class HandlerDecorator(Generic[TriggerT]):
    """What `on(...)` returns: registers the function below it and returns it unchanged."""

    def __init__(self, register: Callable[[Any], None]) -> None:
        self._register = register

    def __call__(
        self, function: Callable[[TriggerT, Transaction], HandlerT]
    ) -> Callable[[TriggerT, Transaction], HandlerT]:
        self._register(function)
        return function


class EffectDecorator:
    """What `effect(...)` returns: registers the function below it and returns it unchanged."""

    def __init__(self, register: Callable[[Any, Mapping[str, Any]], None]) -> None:
        self._register = register

    def __call__(self, function: EffectT) -> EffectT:
        self._register(function, sys._getframe(1).f_locals)  # Where the types of a function's annotations may be.
        return function


class Bundle:
    """Registrations of a module, for `system.include(bundle)`."""

    def __init__(self) -> None:
        self.effects: list[EffectFunction] = []
        self._effects = EffectFunctions()
        self.registrations: list[tuple[type[Trigger[Any]], Any, dict[str, Any]]] = []
        self._handlers = Handlers()

    def on(
        self,
        trigger_type: type[TriggerT],
        *,
        priority: Priority | None = None,
        deadline: float | datetime.timedelta | None = None,
        version: int = 1,
        retry: Retry | None = None,
        executor: str = "thread",
        sequence: Literal["arrival", "completion"] = "arrival",
        rate: float | None = None,
        writes: Declare | None = None,
        coalesce: Callable[[TriggerT], str | None] | None = None,
        merge: Callable[[TriggerT, TriggerT], TriggerT] | None = None,
    ) -> HandlerDecorator[TriggerT]:
        """Register the handler of a trigger type, as `Supervisor.on` does, with every system that includes the bundle."""
        with registering():
            require_trigger_type(trigger_type)
        options = {
            "priority": priority, "deadline": deadline, "version": version, "retry": retry, "executor": executor,
            "sequence": sequence, "rate": rate, "writes": writes, "coalesce": coalesce, "merge": merge,
        }  # fmt: skip

        def register(function: Any) -> None:
            # Registered here too, so that a mistake fails where it is made and not at include().
            with registering():
                deadline_s = deadline_seconds(deadline, 1.0)
                handler = make_handler(
                    trigger_type, function, priority=priority, deadline_s=deadline_s, version=version, retry=retry,
                    executor=executor, sequence=sequence, rate=rate, coalesce=coalesce, merge=merge,
                )  # fmt: skip
                self._handlers.add(handler)
                self.registrations.append((trigger_type, function, options))

        return HandlerDecorator(register)

    def effect(self, name: str, *, retry: Retry | None = None) -> EffectDecorator:
        """Register the function below, as `Supervisor.effect` does, with every system that includes the bundle."""

        def register(function: Any, local_names: Mapping[str, Any]) -> None:
            with registering():
                made = make_effect_function(name, function, retry, local_names)
                self._effects.add(made)
                self.effects.append(made)

        return EffectDecorator(register)


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
        if any(ref.name == name for ref in self.refs):
            raise RegistrationError(f"there is a store called {name!r} already: give this one another name")
        if isinstance(spec, type) and issubclass(spec, StoreActor):
            raise RegistrationError(f"store {name!r}: pass {spec.__name__}.spec(...), not the class itself")
        if not isinstance(spec, StoreSpec):
            raise RegistrationError(
                f"store {name!r}: expected Collection(Model), Document(Model) or MyStore.spec(...), got {spec!r}"
            )
        if restart is not None and not isinstance(restart, Restart):
            raise RegistrationError(f"store {name!r}: restart= takes Restart(intensity=, period=), got {restart!r}")
        shutdown_s = SHUTDOWN_S if shutdown is None else seconds(shutdown, f"store {name!r}: shutdown")
        ref: StoreRef[Any] = StoreRef(name, len(self.refs), spec, self._seq_of, restart, shutdown_s)
        self.refs.append(ref)
        return ref


def execute_method_of(trigger_type: type[Trigger[Any]]) -> Any:
    """The trigger's own `execute(self, tx)`, which is its handler, or None if it has none."""
    execute = getattr(trigger_type, "execute", None)
    return execute if callable(execute) else None


def self_executing(name: str) -> type[Trigger[Any]] | None:
    """The trigger type with this name that carries its own `execute`, if it was imported: it needs no registration.

    None if there is none, or more than one.
    """
    left: list[type[Trigger[Any]]] = [*Trigger.__subclasses__()]
    found: set[type[Trigger[Any]]] = set()
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.trigger_name == name and execute_method_of(kind) is not None:
            found.add(kind)
    return found.pop() if len(found) == 1 else None


def deadline_seconds(deadline: float | datetime.timedelta | None, default_s: float) -> float:
    """The deadline of a handler in seconds; raises RegistrationError for one that is not above 0."""
    if deadline is None:
        return default_s
    value = seconds(deadline, "deadline")
    if value <= 0:
        raise RegistrationError(f"deadline must be above 0 seconds, got {deadline!r}")
    return value
