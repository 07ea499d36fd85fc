"""What a test gives to a handler that it calls without a system: contents of stores, answers of calls, resources.

Owns the stand-ins. Promises: a handler gets what it would get in a system (an answer is what its JSON says, a store's
content fits its model); what was not given is an error that says how to give it, also if the handler swallows exceptions.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from seqtor.actors.answers import Call, identify
from seqtor.actors.calls import Flight, ReplayedCalls, _called, _called_async, _hand_out, _pass_on
from seqtor.actors.effects.functions import RETRY as EFFECT_RETRY
from seqtor.actors.effects.functions import EffectFunction, EffectFunctions, make_effect_function
from seqtor.actors.futures import ReplyFuture
from seqtor.actors.resources import ResourceRef
from seqtor.actors.stores.contract import StoreRef, StoreSpec
from seqtor.actors.stores.derived import Derived
from seqtor.actors.stores.document import Document
from seqtor.actors.transactions import Transaction
from seqtor.messages.conditions import EFFECT_NAME
from seqtor.messages.errors import RegistrationError, Rejected
from seqtor.messages.records import RecordedEffect
from seqtor.messages.stores import Write

__all__ = ["CallMade", "EffectReleased", "GivenCalls", "GivenEffects", "GivenResources", "NotGiven", "ready", "stand_in",
           "state_given"]  # fmt: skip


class NotGiven(AssertionError):
    """The handler asked for something that the test did not give."""


class CallMade(NamedTuple):
    """A call that the handler made with `tx.call` or `tx.acall`."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


class EffectReleased(NamedTuple):
    """An effect that the handler released with `tx.effect`."""

    function: Callable[..., Any]
    payload: Any


# Stores --------------------------------------------------------------------------------------------------------------


def state_given(ref: StoreRef[Any], content: Any) -> Any:
    """A store's state with this content: models by key, a model or its fields, the state itself of a store of one's own.

    Raises TypeError or ValueError for what does not fit.
    """
    spec = ref.spec
    state = spec.build().recover(None)
    if isinstance(spec, Derived):
        sources = ", ".join(source.name for source in spec.sources)
        raise TypeError(f"stores= for {ref.name!r}: it is derived from {sources}, so give the content of these")
    if type(spec).writes_for is StoreSpec.writes_for:  # Only the store itself knows what its states are.
        return content
    try:
        if isinstance(spec, Document) and isinstance(content, Mapping):
            spec.kind.require_fields(content)
            writes: Sequence[Write] = [Write(name, value) for name, value in content.items()]
        else:
            writes = spec.writes_for(state, content)
        given, _ = spec.resolve(state, writes)
        spec.check(given)
    except TypeError as error:
        raise TypeError(f"stores= for {ref.name!r}: {error}") from error
    except (ValueError, Rejected) as error:
        raise ValueError(f"stores= for {ref.name!r} is no content that the store could have: {error}") from error
    return given


# Calls ---------------------------------------------------------------------------------------------------------------


class GivenCalls(ReplayedCalls):
    """The answers that a test gives, by function: a value, an exception, or a function that is called instead."""

    def __init__(self, given: Mapping[Callable[..., Any], Any]) -> None:
        super().__init__(())
        self._given = given
        self._by_name = {identify(function, (), {}).name: answer for function, answer in given.items()}
        self.made: list[CallMade] = []
        self.missing: NotGiven | None = None

    def answer(self, transaction: Transaction, call_id: str, call: Call) -> Any:
        instead, flight = self._instead(call), Flight(transaction, ReplyFuture())
        kept = _called(transaction, call_id, instead, flight)
        _pass_on(transaction, call_id, call, flight)
        return _hand_out(transaction, instead, kept, flight)

    async def answer_async(self, transaction: Transaction, call_id: str, call: Call) -> Any:
        instead, flight = self._instead(call), Flight(transaction, ReplyFuture())
        transaction.enter_call()
        try:
            kept = await asyncio.create_task(_called_async(call_id, instead, flight))
        finally:
            transaction.leave_call()
        return _hand_out(transaction, instead, kept, flight)

    def _instead(self, call: Call) -> Call:
        """The call with the stand-in as its function; what it answers is still what the function is annotated to."""
        self.made.append(CallMade(call.function, call.arguments, call.keywords))
        try:
            answer = self._given[call.function]
        except (KeyError, TypeError):  # Another method object of the same method, or a function that has no hash.
            if call.name not in self._by_name:
                self.missing = NotGiven(self._unknown(call))
                raise self.missing from None
            answer = self._by_name[call.name]
        return call._replace(function=functools.wraps(call.function)(stand_in(answer)))

    def _unknown(self, call: Call) -> str:
        arguments = [*map(repr, call.arguments), *[f"{name}={value!r}" for name, value in call.keywords.items()]]
        name = getattr(call.function, "__name__", call.name)
        given = ", ".join(sorted(self._by_name)) or "none"
        return (
            f"the handler calls {name}({', '.join(arguments)}), and the test gives no answer for it (given: {given}): pass "
            f"calls={{{name}: ...}} with the answer, an exception, or a function that is called instead"
        )


def stand_in(answer: Any) -> Callable[..., Any]:
    """A function that answers as the test says: with a value, an exception, or what another function returns."""

    def instead(*arguments: Any, **keywords: Any) -> Any:
        if isinstance(answer, BaseException) or (isinstance(answer, type) and issubclass(answer, BaseException)):
            raise answer
        return answer(*arguments, **keywords) if callable(answer) else answer

    return instead


# Effects and resources -----------------------------------------------------------------------------------------------


class GivenEffects(EffectFunctions):
    """Takes every function that some system has registered as an effect, and keeps what is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released: list[EffectReleased] = []

    def record(self, function: Any, payload: Any) -> RecordedEffect:
        name = getattr(function, EFFECT_NAME, None)
        if not isinstance(name, str):
            return super().record(function, payload)  # Raises, and says why.
        try:
            known = make_effect_function(name, function)
        except RegistrationError:  # An annotation that was understood only where the function was defined.
            known = EffectFunction(name, function, EFFECT_RETRY, type(payload))
        kept = known.record(payload)
        self.released.append(EffectReleased(function, payload))
        return kept


class GivenResources:
    """The resources that a test gives, by reference."""

    def __init__(self, given: Mapping[ResourceRef[Any], Any]) -> None:
        self._given = given
        self.missing: NotGiven | None = None

    def get(self, ref: ResourceRef[Any], place: Any, *, is_async: bool) -> Any:
        """The value that was given; of an async resource something to await."""
        if ref not in self._given:
            self.missing = NotGiven(
                f"the handler uses the resource {ref.name!r}, and the test does not give it: pass resources={{ref: value}} "
                "with the reference that system.resource() returned"
            )
            raise self.missing
        value = self._given[ref]
        return ready(value) if hasattr(type(ref.opener()), "__aenter__") else value


async def ready(value: Any) -> Any:
    """Something to await in place of an async resource."""
    return value
