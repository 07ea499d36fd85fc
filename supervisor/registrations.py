"""What a `Supervisor` and a `Bundle` register alike: handlers, effects and reactions.

Owns the decorators and their signatures, each in one place. Promises: what can be known to be wrong fails where it is
written, also in a bundle.
"""

from __future__ import annotations

import datetime
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar

from seqtor.actors.effects import EffectContext, EffectFunction, EffectFunctions, make_effect_function
from seqtor.actors.footprints import Declare
from seqtor.actors.handlers import Handlers, make_handler, require_trigger_type
from seqtor.actors.reactor import Facts, Reactions
from seqtor.actors.registering import registering
from seqtor.actors.retries import Retry
from seqtor.actors.schedules.plans import CATCH_UP_MAX, make_registered
from seqtor.actors.transactions import Transaction
from seqtor.messages.conditions import AnyCondition, name_effect
from seqtor.messages.schedules import Misfire, Overlap, ScheduleRegistered
from seqtor.messages.triggers import Priority, Trigger
from seqtor.registry import deadline_seconds

__all__ = ["Bundle", "EffectDecorator", "HandlerDecorator", "ReactionDecorator", "Registrations"]

TriggerT = TypeVar("TriggerT", bound=Trigger[Any])
HandlerT = TypeVar("HandlerT")
EffectT = TypeVar("EffectT", bound=Callable[[EffectContext, Any], Trigger[Any] | Awaitable[Trigger[Any] | None] | None])
ReactionT = TypeVar("ReactionT", bound=Callable[[Facts], Trigger[Any] | Iterable[Trigger[Any]] | None])


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


class ReactionDecorator:
    """What `when(...)` returns: registers the function below it and returns it unchanged."""

    def __init__(self, register: Callable[[Any], None]) -> None:
        self._register = register

    def __call__(self, function: ReactionT) -> ReactionT:
        self._register(function)
        return function


class Registrations(ABC):
    """The decorators; whoever inherits takes what they register."""

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
        """Register the function below as the handler of a trigger type; sync or async, called with (trigger, tx).

        `priority` is the default for this type. `deadline` is the handler time of one attempt; after it the run ends
        with `DeadlineExceeded`. `version` is recorded with each run; `verify` skips records of another version, so count
        it up when the handler is to do something else than before. `retry` makes a new run, with a new seq, of one that
        raised an instance of `Retry.on`, or passed its deadline if `on` names `DeadlineExceeded` or a base of it (the
        default does); never of one that was rejected. Without it nothing is retried. `executor="process"` executes a plain
        function in a worker process, for what computes: it must be importable by its name. `sequence="completion"` is for
        agents and other long work: a run executes outside of the order, on one snapshot, and gets its seq when it has
        finished (docs/how-to/agents.md). `rate` is how many runs of this type may begin in a second; further triggers wait
        in the queue, and others go before them.

        `coalesce` gives the key (a str, or None) of a trigger: those that wait under one key become one run, of the newest
        by event time, or of what `merge(old, new)` makes of them; every submission gets its outcome.

        `writes` declares all that the handler may write: a list of stores, or a function of the trigger that returns stores
        and (store, key) pairs. Then later runs that touch nothing of it need not wait for this one, and it waits for the
        earlier ones that may write the same before it executes, instead of executing twice. The function is called where
        the trigger is handed in, and must say the same for the same trigger. A run that writes anything else ends as failed,
        with `FootprintViolation`.

        Raises RegistrationError for a wrong signature, a second handler, a mutable payload, a policy that retries
        `Rejected`, an executor that cannot be, a `writes` that names no stores of this system.
        """
        with registering():
            require_trigger_type(trigger_type)
        options = {
            "priority": priority, "deadline": deadline, "version": version, "retry": retry, "executor": executor,
            "sequence": sequence, "rate": rate, "writes": writes, "coalesce": coalesce, "merge": merge,
        }  # fmt: skip

        def register(function: Any) -> None:
            with registering():
                self._take_handler(trigger_type, function, options)

        return HandlerDecorator(register)

    def effect(self, name: str, *, retry: Retry | None = None) -> EffectDecorator:
        """Register the function below as what carries out an effect; sync or async, called with (context, payload).

        It runs when a commit that released it with `tx.effect(function, payload)` is durable, at least once, with the
        same `context.key` at every try. A Trigger that it returns is submitted exactly once. What it raises is tried
        again as `retry` says (default: `Retry(10)`), then it is a dead letter. `name` is its name in the journal.

        Raises RegistrationError for a name that is taken, a wrong signature, a payload that cannot be kept as JSON.
        """
        with registering():
            self._require_open("effect")

        def register(function: Any, local_names: Mapping[str, Any]) -> None:
            with registering():
                self._require_open("effect")
                self._take_effect(make_effect_function(name, function, retry, local_names))
                name_effect(function, name)

        return EffectDecorator(register)

    def when(
        self,
        condition: AnyCondition,
        *,
        name: str | None = None,
        priority: Priority | None = None,
        retry: Retry | None = None,
    ) -> ReactionDecorator:
        """Register the function below as a reaction: it is called with the `Facts` that met the condition, and returns the
        trigger that is to run, several of them, or None.

        It is called once for each fact that meets the condition, and once for each match of an `&`, outside of the order and
        within `settings.deadline`; it only decides what runs, so it should be quick and do nothing else: after a crash it is
        called again. What it starts runs exactly once. `name` is the reaction's name in the journal (default: that of the
        function); a condition that is changed under the same name begins anew with its half-met composites. `priority` is
        that of what it starts. `retry` calls the function again, at once, if it raises. A function can be decorated several
        times.

        Raises RegistrationError for a condition that cannot be meant, a wrong signature, a name that is taken.
        """
        with registering():
            self._require_open("when")

        def register(function: Any) -> None:
            with registering():
                self._require_open("when")
                self._take_reaction(condition, function, {"name": name, "priority": priority, "retry": retry})

        return ReactionDecorator(register)

    @abstractmethod
    def _take_handler(self, trigger_type: type[Trigger[Any]], function: Any, options: Mapping[str, Any]) -> None:
        """Register a handler; raises RegistrationError. `options` are those of `on`."""

    @abstractmethod
    def _take_effect(self, effect: EffectFunction) -> None:
        """Register what carries out an effect; raises RegistrationError."""

    @abstractmethod
    def _take_reaction(self, condition: AnyCondition, function: Any, options: Mapping[str, Any]) -> None:
        """Register a reaction; raises RegistrationError. `options` are those of `when`."""

    @abstractmethod
    def _require_open(self, verb: str) -> None:
        """Raise RegistrationError if nothing can be registered any more."""


class Bundle(Registrations):
    """Registrations of a module, for `system.include(bundle)`: as those of a `Supervisor`, with every one that does."""

    def __init__(self) -> None:
        self.registrations: list[tuple[type[Trigger[Any]], Any, Mapping[str, Any]]] = []
        self.effects: list[EffectFunction] = []
        self.reactions: list[tuple[AnyCondition, Any, Mapping[str, Any]]] = []
        self.schedules: list[ScheduleRegistered] = []
        self._handlers = Handlers()  # Registered here too, so that a mistake fails where it is made, not at include().
        self._effects = EffectFunctions()
        self._reactions = Reactions()

    def schedule(
        self,
        trigger: Trigger[Any],
        *,
        cron: str | None = None,
        every: float | datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
        name: str | None = None,
        timezone: str = "UTC",
        misfire: Misfire = "latest",
        catch_up_max: int = CATCH_UP_MAX,
        overlap: Overlap = "skip",
        jitter: float | datetime.timedelta | None = None,
        start: datetime.datetime | None = None,
        end: datetime.datetime | None = None,
        grace: float | datetime.timedelta | None = None,
        priority: Priority | None = None,
    ) -> str:
        """Have every system that includes the bundle submit a trigger at certain times, as `Supervisor.schedule` does.

        Returns the schedule's name: `system.schedule_named(name)` is that of a system.
        """
        options = {
            "cron": cron, "every": every, "at": at, "timezone": timezone, "misfire": misfire, "catch_up_max": catch_up_max,
            "overlap": overlap, "jitter": jitter, "start": start, "end": end, "grace": grace,
        }  # fmt: skip
        with registering():
            registered = make_registered(trigger, name, priority, options)
            self.schedules.append(registered)
            return registered.schedule
        return str(name)

    def _take_handler(self, trigger_type: type[Trigger[Any]], function: Any, options: Mapping[str, Any]) -> None:
        checked = {**options, "deadline_s": deadline_seconds(options["deadline"], 1.0)}
        del checked["deadline"], checked["writes"]  # These are those of the system that includes the bundle.
        self._handlers.add(make_handler(trigger_type, function, **checked))
        self.registrations.append((trigger_type, function, options))

    def _take_effect(self, effect: EffectFunction) -> None:
        self._effects.add(effect)
        self.effects.append(effect)

    def _take_reaction(self, condition: AnyCondition, function: Any, options: Mapping[str, Any]) -> None:
        self._reactions.add(condition, function, **options)
        self.reactions.append((condition, function, options))

    def _require_open(self, verb: str) -> None:
        """A bundle takes registrations at any time; a system takes them over when it includes it."""
