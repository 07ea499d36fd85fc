"""What the built-in stores know about the pydantic model that they keep.

Owns copying, deltas and validation of model values, the same for collections and documents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, MutableMapping
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUserError

from seqtor.actors.journal.encoding import model_json
from seqtor.actors.journal.upcasts import NO_UPCASTS, Upcasts
from seqtor.actors.stores.invariants import Invariants
from seqtor.messages.errors import RegistrationError
from seqtor.messages.fidelity import comes_back
from seqtor.messages.immutability import (
    has_cached_property,
    has_user_validation,
    mutable_in_type,
    mutable_in_value,
    needs_value_check,
)
from seqtor.messages.models import field_values

__all__ = ["Increment", "ModelKind"]

ModelT = TypeVar("ModelT", bound=BaseModel)

# Their JSON schemas, as text: pydantic takes a millisecond for one, and each start and each checkpoint asks.
_schemas: MutableMapping[type[BaseModel], str] = WeakKeyDictionary()


class Increment:
    """A write that adds to fields without reading them; increments commute."""

    __slots__ = ("amounts",)

    def __init__(self, amounts: Mapping[str, Any]) -> None:
        self.amounts = amounts

    def plus(self, other: Mapping[str, Any]) -> Increment:
        """Both increments in one."""
        merged = dict(self.amounts)
        for name, amount in other.items():
            merged[name] = merged[name] + amount if name in merged else amount
        return Increment(merged)

    def __repr__(self) -> str:
        return f"Increment({', '.join(f'{name}={amount!r}' for name, amount in self.amounts.items())})"


class ModelKind(Generic[ModelT]):
    """A model class and how its values are kept.

    `shared`: instances cannot be changed, so everyone may hold the same one; otherwise readers get private copies.
    `validates`: building an instance may run the user's code.
    """

    def __init__(self, model: type[ModelT], invariants: Invariants) -> None:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise RegistrationError(
                f"a store keeps pydantic models: give it a Record subclass, got {model!r}; for plain values wrap them "
                "in a Record, or write a StoreActor of your own"
            )
        self.model: type[ModelT] = model
        self.invariants = invariants
        self.shared = mutable_in_type(model) is None and not needs_value_check(model)
        self.validates = has_user_validation(model)
        self.comes_back = comes_back(model)
        self.version: int = getattr(model, "record_version", 1)
        self.upcasts: Upcasts = NO_UPCASTS
        self._plain = (
            model.__eq__ is BaseModel.__eq__
            and not model.__private_attributes__
            and model.model_config.get("extra") != "allow"
            and not has_cached_property(model)
        )

    def build(self, values: Mapping[str, Any]) -> ModelT:
        """Validate values by field name into an instance."""
        return self.model.model_validate(values, by_alias=False, by_name=True)

    def require_instance(self, value: Any) -> ModelT:
        """Return the value, or a private copy if it could still be changed; raises TypeError for another type."""
        if not isinstance(value, self.model):
            raise TypeError(f"the store keeps {self.model.__name__}, got {type(value).__name__}: {value!r}")
        if not self.shared:
            return value.model_copy(deep=True)
        if type(value) is not self.model:
            found = mutable_in_value(value, type(value).__name__)
            if found is not None:
                raise TypeError(f"the store keeps {self.model.__name__}, and {found}")
        return value

    def hand_out(self, value: ModelT) -> ModelT:
        """Return the value as its reader may have it."""
        return value if self.shared else value.model_copy(deep=True)

    def require_fields(self, names: Mapping[str, Any]) -> None:
        """Raise TypeError for a name that is not a field of the model."""
        for name in names:
            if name not in self.model.model_fields:
                known = ", ".join(self.model.model_fields)
                raise TypeError(f"{self.model.__name__} has no field {name!r}; it has {known}")

    def require_amounts(self, amounts: Mapping[str, Any]) -> None:
        """Raise TypeError unless every amount is a number for a field of the model."""
        self.require_fields(amounts)
        for name, amount in amounts.items():
            if isinstance(amount, bool) or not hasattr(amount, "__add__") or hasattr(amount, "__len__"):
                raise TypeError(f"increment {name}={amount!r}: an amount must be a number")

    def same(self, one: ModelT, other: ModelT) -> bool:
        """Whether two values are equal; plain records by their fields, ten times as fast as pydantic's comparison."""
        if self._plain and type(one) is type(other):
            return one.__dict__ == other.__dict__
        return one == other

    def incremented(self, value: ModelT | None, amounts: Mapping[str, Any]) -> ModelT:
        """The value with amounts added, validated; an absent value starts from the model's defaults."""
        start = self.model() if value is None else value
        changed = {name: getattr(start, name) + amount for name, amount in amounts.items()}
        return self.build({**field_values(start), **changed})

    def from_json(self, value: Any, version: int, where: str) -> ModelT:
        """A model from the JSON that the journal kept, through its upcast if it no longer fits.

        Raises RegistrationError that names `where` and the field.
        """
        return self.upcasts.model(self.model, value, version, self.version, where)

    def require_kept(self, value: ModelT) -> None:
        """Raise TypeError unless the journal would give the value back as it is."""
        try:
            kept = self.model.model_validate_json(model_json(value), by_alias=False, by_name=True)
        except Exception as error:
            raise TypeError(f"the journal cannot keep {value!r}: {error}") from error
        if kept != value:
            raise TypeError(
                f"the journal would give {value!r} back as {kept!r}: give the fields of {self.model.__name__} types that "
                "JSON tells apart"
            )

    @property
    def shape(self) -> str:
        """A digest of the model's fields and their types."""
        described = f"[{self.version}, {_schema_of(self.model)}]"
        return hashlib.blake2b(described.encode(), digest_size=8).hexdigest()

    def field_adapter(self, name: str) -> TypeAdapter[Any]:
        """Validates one field by itself; only for models without the user's validators."""
        field = self.model.model_fields[name]
        return TypeAdapter(field.rebuild_annotation())


def _schema_of(model: type[BaseModel]) -> str:
    """What the fields of a model are, as JSON."""
    known = _schemas.get(model)
    if known is not None:
        return known
    try:
        schema = json.dumps(model.model_json_schema(), sort_keys=True)
    except (
        PydanticUserError
    ):  # A type that JSON schema has no word for, or one that is not defined yet: then not for good.
        return json.dumps([(name, repr(field.annotation)) for name, field in model.model_fields.items()])
    _schemas[model] = schema
    return schema
