"""What stands in for the outside of a system under test: answers of calls, resources, effects, contents of stores.

Owns the checks of what a test gives. Promises: what stands in is executed where the original would be, and what it answers
is recorded as the original's; the program's own registrations are not touched.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from seqtor.actors.answers import Call, identify
from seqtor.actors.dispatchers.contract import LoopDispatcher
from seqtor.actors.effects.functions import EffectFunction, EffectFunctions
from seqtor.actors.resources import ResourceRef, Resources
from seqtor.actors.stores.contract import StoreRef
from seqtor.around import Around
from seqtor.testing.given import NotGiven, ready, stand_in, state_given

if TYPE_CHECKING:
    from seqtor.system import Supervisor

__all__ = ["NOTHING_GIVEN", "StandIns"]


class StandIns(NamedTuple):
    """What stands in for the outside: of `tx.call` by function, of resources by reference, of effects by function.

    A call gets a value, an exception or a function that is called instead; an effect a function with the same arguments.
    `stores` are contents to begin with. With a list as `missing` nothing else outside is touched: asking for it raises
    NotGiven, and is noted there.
    """

    calls: Mapping[Callable[..., Any], Any] = {}
    resources: Mapping[ResourceRef[Any], Any] = {}
    effects: Mapping[Callable[..., Any], Callable[..., Any]] = {}
    stores: Mapping[StoreRef[Any], Any] = {}
    missing: list[str] | None = None

    def require_known(self, system: Supervisor) -> None:
        """Raise TypeError for what is no part of the system, or is no stand-in."""
        for name, given, kind, maker in (
            ("stores", self.stores, StoreRef, "system.store()"),
            ("resources", self.resources, ResourceRef, "system.resource()"),
        ):
            known = system._every_store if kind is StoreRef else system._resources.refs
            for ref in given:
                if not isinstance(ref, kind) or not any(ref is each for each in known):
                    raise TypeError(f"{name}= takes contents by the {kind.__name__} that {maker} returned, got {ref!r}")
        for function in self.calls:
            if not callable(function):
                raise TypeError(f"calls= takes answers by the function that the handler calls, got {function!r}")
        registered = {each.function for each in self._of(system._effects)}
        for function, instead in self.effects.items():
            if function not in registered:
                raise TypeError(
                    f"effects= takes functions by the one that @system.effect(...) registered, got {function!r}"
                )
            if not callable(instead):
                raise TypeError(f"effects= takes a function that carries out the effect instead, got {instead!r}")

    @staticmethod
    def _of(functions: EffectFunctions) -> list[EffectFunction]:
        return [functions.named(name) for name in functions.names]

    def carried_out(self, functions: EffectFunctions) -> EffectFunctions:
        """The effect functions of a system with those that stand in for some."""
        if not self.effects and self.missing is None:
            return functions
        return EffectsInstead([self._instead_of(each) for each in self._of(functions)], functions)

    def _instead_of(self, effect: EffectFunction) -> EffectFunction:
        instead = self.effects.get(effect.function)
        if instead is None and self.missing is None:
            return effect
        return effect.carried_out_by(self._not_carried_out(effect) if instead is None else instead)

    def _not_carried_out(self, effect: EffectFunction) -> Callable[..., Any]:
        def nothing_stands_in(context: Any, payload: Any) -> Any:
            raise self._not_given(
                f"the effect {effect.name!r} is carried out outside, and nothing stands in for it: give a function, "
                f"effects={{{getattr(effect.function, '__name__', 'function')}: ...}}"
            )

        return nothing_stands_in

    def around(self) -> Around:
        """The same as a running system takes it."""
        initial = self._initial if self.stores else None
        resources = self._found if self.resources or self.missing is not None else Resources
        return Around(None, self._called if self.calls or self.missing is not None else None, resources, initial)

    def _initial(self, refs: Sequence[StoreRef[Any]], states: tuple[Any, ...]) -> tuple[Any, ...]:
        found = list(states)
        for ref, content in self.stores.items():
            found[ref.index] = state_given(ref, content)
        return tuple(found)

    def _called(self, call: Call) -> Call:
        try:
            known = call.function in self.calls
        except TypeError:  # It has no hash.
            known = False
        if known:
            return call._replace(function=functools.wraps(call.function)(stand_in(self.calls[call.function])))
        for function, answer in self.calls.items():  # Another method object of the same method.
            with contextlib.suppress(TypeError):  # A lambda, which no handler can call either.
                if identify(function, (), {}).name == call.name:
                    return call._replace(function=functools.wraps(call.function)(stand_in(answer)))
        if self.missing is None:
            return call
        raise self._not_given(
            f"{call.name} is called outside, and nothing stands in for it: give its answer, "
            f"calls={{{getattr(call.function, '__name__', call.name)}: ...}}"
        )

    def _not_given(self, text: str) -> NotGiven:
        """Note it, whatever the handler makes of the exception."""
        if self.missing is not None:
            self.missing.append(text)
        return NotGiven(text)

    def _found(self, refs: Sequence[ResourceRef[Any]], loop: LoopDispatcher) -> Resources:
        return ResourcesInstead(refs, loop, self)


NOTHING_GIVEN = StandIns()


class EffectsInstead(EffectFunctions):
    """Effect functions of which others carry some out; programs know them by their own."""

    def __init__(self, functions: Sequence[EffectFunction], registered: EffectFunctions) -> None:
        self._registered = registered
        super().__init__()
        self._by_name = {each.name: each for each in functions}

    def record(self, function: Any, payload: Any) -> Any:
        return self._registered.record(function, payload)


class ResourcesInstead(Resources):
    """Resources of which some are given."""

    def __init__(self, refs: Sequence[ResourceRef[Any]], loop: LoopDispatcher, given: StandIns) -> None:
        super().__init__(refs, loop)
        self._given = given

    def get(self, ref: Any, place: Any, *, is_async: bool) -> Any:
        if ref in self._given.resources:
            value = self._given.resources[ref]
            return ready(value) if hasattr(type(ref.opener()), "__aenter__") else value
        if self._given.missing is not None:
            raise self._given._not_given(
                f"the resource {ref.name!r} is outside, and nothing stands in for it: give resources={{ref: value}}"
            )
        return super().get(ref, place, is_async=is_async)
