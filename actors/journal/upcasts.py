"""What makes old records fit the models of today.

Owns the functions that programs register with `@system.upcast(Model)`. Promises: a record that fits is taken as it is
(a field that was added with a default needs no upcast); one that does not goes through the upcast once; one for which
there is none is refused with its place and the field that does not fit, never dropped or guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from seqtor.messages.errors import RegistrationError

__all__ = ["NO_UPCASTS", "Upcast", "Upcasts"]

ModelT = TypeVar("ModelT", bound=BaseModel)
Upcast = Callable[[dict[str, Any], int], dict[str, Any]]


class Upcasts:
    """The upcasts of one system, by model."""

    def __init__(self) -> None:
        self._functions: dict[type[BaseModel], Upcast] = {}

    def add(self, model: type[BaseModel], function: Upcast) -> None:
        """Register; raises RegistrationError if there is one already."""
        if model in self._functions:
            raise RegistrationError(f"{model.__name__} has an upcast already: do all steps in one function")
        self._functions[model] = function

    def model(self, model: type[ModelT], value: Any, version: int, version_now: int, where: str) -> ModelT:
        """The instance that a JSON object of the journal stands for. Raises RegistrationError if it cannot be made."""
        function = self._functions.get(model)
        if version != version_now:
            value = self._upcast(function, model, value, version, where)
        try:
            return _validated(model, value)
        except ValidationError as misfit:
            if function is None or version != version_now:
                raise RegistrationError(_misfit_text(model, misfit, version, where)) from misfit
        value = self._upcast(function, model, value, version, where)
        try:
            return _validated(model, value)
        except ValidationError as misfit:
            raise RegistrationError(f"after the upcast: {_misfit_text(model, misfit, version, where)}") from misfit

    def _upcast(self, function: Upcast | None, model: type[BaseModel], value: Any, version: int, where: str) -> Any:
        if function is None:
            return value  # Without one it has to fit as it is.
        try:
            return function(dict(value), version)
        except Exception as error:
            raise RegistrationError(
                f"{where}: the upcast of {model.__name__} raised {type(error).__name__}: {error} for {value!r}"
            ) from error


def _validated(model: type[ModelT], value: Any) -> ModelT:
    """Validate as JSON is (bytes are base64, dates are texts), by field names."""
    try:
        text = to_json(value)
    except PydanticSerializationError:  # Strings that are no valid Unicode, which its JSON reader does not take either.
        return model.model_validate(value, by_alias=False, by_name=True)
    return model.model_validate_json(text, by_alias=False, by_name=True)


def _misfit_text(model: type[BaseModel], misfit: ValidationError, version: int, where: str) -> str:
    first = misfit.errors()[0]
    field = ".".join(map(str, first["loc"]))
    return (
        f"{where}: the record (version {version}) does not fit {model.__name__} as it is now: field {field!r}: "
        f"{first['msg']}. Say how old records become new ones with @system.upcast({model.__name__}), a function of the "
        "record (a dict) and its version"
    )


NO_UPCASTS = Upcasts()
