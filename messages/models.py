"""The immutable pydantic models that triggers and stored records are made of.

Owns `Record` and the base that it shares with `Trigger`. Promises: frozen, unknown fields refused, bytes survive JSON;
type checkers know that instances are frozen without a plugin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import PrivateAttr

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

__all__ = ["FrozenModel", "Record", "field_values"]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field, PrivateAttr))
class FrozenModelMeta(ModelMetaclass):
    """Tells type checkers that the models are frozen; changes nothing at run time."""


class FrozenModel(BaseModel, metaclass=FrozenModelMeta):
    """An immutable pydantic model without unknown fields."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        ser_json_inf_nan="strings",
    )


class Record(FrozenModel):
    """An immutable pydantic model kept in a store.

    `class Account(Record, version=2)` numbers its shape in the journal, for `@system.upcast(Account)`; 1 without it.
    """

    record_version: ClassVar[int] = 1

    def __init_subclass__(cls, *, version: int = 1, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.record_version = version

    def replace(self, **changes: Any) -> Self:
        """Return a copy with the named fields changed and validated.

        Raises pydantic's ValidationError for unknown names and values that do not fit.
        """
        return type(self)(**{**field_values(self), **changes})


def field_values(instance: BaseModel) -> dict[str, Any]:
    """The fields by name, extra ones too, without what a cached property has left among them; not to be changed."""
    values = vars(instance)
    extra = instance.__pydantic_extra__
    if not extra and len(values) == len(instance.__pydantic_fields__):
        return values
    return {name: values[name] for name in instance.__pydantic_fields__} | (extra or {})
