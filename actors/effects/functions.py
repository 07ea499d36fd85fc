"""The functions that carry out effects, by name: how each is found, and how its payload is kept and brought back.

Owns the checks at registration and those of a payload. Promises: a payload that was taken comes back as what the
function's annotation says, in another process too; what would not is refused in the handler that hands it in.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic_core import PydanticSerializationError, from_json, to_json

from seqtor.actors.answers import is_coroutine_function
from seqtor.actors.handlers import did_you_mean
from seqtor.actors.retries import Retry
from seqtor.messages.errors import RegistrationError
from seqtor.messages.fidelity import comes_back
from seqtor.messages.models import Record
from seqtor.messages.records import RecordedEffect
from seqtor.messages.triggers import Trigger

if TYPE_CHECKING:
    from seqtor.actors.journal.upcasts import Upcasts

__all__ = ["EffectFunction", "EffectFunctions", "make_effect_function"]

RETRY = Retry(10)
# Where the annotation is no model with settings of its own: bytes and infinities survive JSON, as they do in a Record.
JSON_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings")


class EffectFunction:
    """A function that carries out an effect: its name, its retry policy, and the type of its payload."""

    __slots__ = ("_adapter", "_comes_back", "_model", "_version", "function", "is_async", "name", "retry")

    def __init__(self, name: str, function: Callable[..., Any], retry: Retry, payload_type: Any) -> None:
        self.name = name
        self.function = function
        self.retry = retry
        self.is_async = is_coroutine_function(function)
        self._adapter = _adapter(name, payload_type)
        self._comes_back = comes_back(payload_type, JSON_CONFIG)
        is_model = isinstance(payload_type, type) and issubclass(payload_type, BaseModel)
        self._model: type[BaseModel] | None = payload_type if is_model else None
        self._version = _version_of(self._model)

    def record(self, payload: Any) -> RecordedEffect:
        """The effect as it is kept. Raises TypeError for a payload that is not, or would not come back as, what the
        function takes.
        """
        what = f"the payload of the effect {self.name!r}"
        if self._model is not None and type(payload) is not self._model:
            raise TypeError(f"{what} must be a {self._model.__name__}, got {payload!r}")
        try:
            self._adapter.validate_python(payload, strict=True)
            text = self._adapter.dump_json(payload, round_trip=True, by_alias=False, warnings="error")
        except ValidationError as misfit:
            raise TypeError(f"{what} is not what {_name(self.function)} takes: {_first(misfit)}") from misfit
        except (PydanticSerializationError, ValueError) as error:
            raise TypeError(f"{what} cannot be kept as JSON ({error}): use plain values and pydantic models") from error
        try:
            kept = self._adapter.validate_json(text, by_alias=False, by_name=True)
        except ValidationError as misfit:
            raise TypeError(f"{what} would not come back from the journal as it is: {_first(misfit)}") from misfit
        if not self._comes_back and kept != payload:
            raise TypeError(
                f"{what} would come back from the journal as {kept!r}, it is {payload!r}: annotate it with types that JSON "
                "tells apart"
            )
        return RecordedEffect(name=self.name, version=self._version, payload=from_json(text))

    def carried_out_by(self, function: Callable[..., Any]) -> EffectFunction:
        """The same effect, with another function that carries it out."""
        other = copy.copy(self)
        other.function = function
        other.is_async = is_coroutine_function(function)
        return other

    def payload_of(self, effect: RecordedEffect, upcasts: Upcasts, where: str) -> Any:
        """The payload that was kept. Raises RegistrationError if it does not fit the annotation as it is now."""
        if self._model is not None:
            return upcasts.model(self._model, effect.payload, effect.version, self._version, where)
        try:
            return self._adapter.validate_json(to_json(effect.payload), by_alias=False, by_name=True)
        except ValidationError as misfit:
            raise RegistrationError(
                f"{where}: the payload does not fit the annotation of {_name(self.function)} as it is now: {_first(misfit)}"
            ) from misfit


class EffectFunctions:
    """The effect functions of one system."""

    def __init__(self, functions: Iterable[EffectFunction] = ()) -> None:
        self._by_name: dict[str, EffectFunction] = {}
        self._by_function: dict[Any, EffectFunction] = {}
        for function in functions:
            self.add(function)

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def names(self) -> Iterable[str]:
        """The registered names."""
        return self._by_name.keys()

    def add(self, function: EffectFunction) -> None:
        """Register; raises RegistrationError if the name or the function is taken."""
        namesake = self._by_name.get(function.name)
        if namesake is not None:
            raise RegistrationError(
                f"there is an effect called {function.name!r} already ({_name(namesake.function)}): give "
                f"{_name(function.function)} another name"
            )
        try:
            known = self._by_function.get(function.function)
        except TypeError:
            raise RegistrationError(
                f"the effect {function.name!r}: {function.function!r} cannot be hashed, and so not be found again"
            ) from None
        if known is not None:
            raise RegistrationError(
                f"{_name(function.function)} carries out the effect {known.name!r} already: one function, one effect"
            )
        self._by_name[function.name] = function
        self._by_function[function.function] = function

    def named(self, name: str) -> EffectFunction:
        """The function of an effect. Raises KeyError."""
        return self._by_name[name]

    def record(self, function: Any, payload: Any) -> RecordedEffect:
        """An effect as it goes with a commit. Raises RegistrationError for an unknown function, TypeError for a payload
        that will not do.
        """
        known = self._by_function.get(function) if callable(function) else None
        if known is None:
            raise RegistrationError(self._unknown(function))
        return known.record(payload)

    def _unknown(self, function: Any) -> str:
        if not callable(function):
            return (
                f"tx.effect() takes the function that @system.effect(...) registered and its payload, got {function!r}"
            )
        names = {_name(known.function): known.name for known in self._by_name.values()}
        return (
            f"{_name(function)} is not registered as an effect of this system: decorate it with "
            f'@system.effect("name"){did_you_mean(_name(function), names)}'
        )


def make_effect_function(
    name: Any, function: Any, retry: Any = None, local_names: Mapping[str, Any] | None = None
) -> EffectFunction:
    """Check and make an effect function; raises RegistrationError that says what to change.

    `local_names` are those of the place where the function is defined, for annotations that are kept as text.
    """
    if not isinstance(name, str) or not name:
        raise RegistrationError(
            f"an effect's name is a non-empty string, got {name!r}: @system.effect('exchange.place')"
        )
    if retry is not None and not isinstance(retry, Retry):
        raise RegistrationError(f"the effect {name!r}: retry= takes a Retry, such as Retry(5), got {retry!r}")
    if not callable(function):
        raise RegistrationError(f"the effect {name!r} must be a function, got {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise RegistrationError(f"the effect {name!r}: {_name(function)} is a generator: return instead of yielding")
    annotation = _payload_annotation(name, function, local_names or {})
    return EffectFunction(name, function, retry or RETRY, annotation)


def _payload_annotation(name: str, function: Any, local_names: Mapping[str, Any]) -> Any:
    shape = f"def {getattr(function, '__name__', 'place')}(context: EffectContext, payload: PlaceOrder)"
    try:
        signature = inspect.signature(function)
    except ValueError:
        raise RegistrationError(f"the effect {name!r}: {function!r} has no signature: wrap it, {shape}") from None
    try:
        signature.bind(None, None)
    except TypeError:
        raise RegistrationError(
            f"the effect {name!r}: {_name(function)} takes {signature}, but it is called with (context, payload): {shape}"
        ) from None
    parameters = list(signature.parameters.values())
    if len(parameters) < 2 or parameters[1].annotation is inspect.Parameter.empty:
        raise RegistrationError(
            f"the effect {name!r}: {_name(function)} does not say the type of its payload, which comes back from the "
            f"journal as what is written there: {shape}"
        )
    annotation = parameters[1].annotation
    holder = types.SimpleNamespace(__annotations__={"payload": annotation})
    try:
        return get_type_hints(holder, _globals_of(function), dict(local_names), include_extras=True)["payload"]
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise RegistrationError(
            f"the effect {name!r}: the annotation {annotation!r} of the payload of {_name(function)} cannot be resolved "
            f"({error}): define the type before the function, at the top level of the module"
        ) from error


def _globals_of(function: Any) -> dict[str, Any]:
    function = inspect.unwrap(function)
    function = getattr(function, "func", function)  # functools.partial
    if not hasattr(function, "__globals__"):
        function = type(function).__call__
    return getattr(function, "__globals__", {})


def _adapter(name: str, payload_type: Any) -> TypeAdapter[Any]:
    try:
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(payload_type, config=JSON_CONFIG)
        except PydanticUserError as error:
            if error.code != "type-adapter-config-unused":
                raise
            adapter = TypeAdapter(payload_type)
        adapter.json_schema()
    except (PydanticUserError, PydanticInvalidForJsonSchema, NameError) as error:
        raise RegistrationError(
            f"the effect {name!r}: a payload of type {payload_type!r} cannot be kept as JSON "
            f"({str(error).splitlines()[0]}): use plain values, a Record or another pydantic model"
        ) from error
    return adapter


def _version_of(model: type[BaseModel] | None) -> int:
    if model is not None and issubclass(model, Record):
        return model.record_version
    if model is not None and issubclass(model, Trigger):
        return model.trigger_version
    return 1


def _first(misfit: ValidationError) -> str:
    first = misfit.errors()[0]
    field = ".".join(map(str, first["loc"]))
    return f"{field}: {first['msg']}" if field else first["msg"]


def _name(function: Any) -> str:
    return getattr(function, "__name__", None) or repr(function)
