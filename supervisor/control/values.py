"""What queries answer with, on its way through the control socket.

Owns the way of records (named tuples) to JSON and back, triggers in them included. Promises: a client gets the classes
that the facade's own queries return; what another version has added or left out breaks nothing.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter
from pydantic_core import from_json, to_json, to_jsonable_python

from seqtor.actors.journal.decoding import AS_KEPT, answer_adapter, value_of
from seqtor.actors.journal.encoding import model_json
from seqtor.messages.triggers import Trigger, UnregisteredTrigger

__all__ = ["as_json", "from_answer", "result_adapter", "sent_trigger", "trigger_of", "trigger_type_named"]

TupleT = TypeVar("TupleT")


def as_json(value: Any) -> Any:
    """A record, or several of them, as plain JSON; named tuples by their fields."""
    if isinstance(value, Trigger):
        return sent_trigger(value)
    names: Any = getattr(value, "_fields", None) if isinstance(value, tuple) else None
    if names is not None:
        return {name: as_json(getattr(value, name)) for name in names}
    if isinstance(value, (list, tuple)):
        return [as_json(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="strings", fallback=repr)


def sent_trigger(trigger: Trigger[Any]) -> dict[str, Any]:
    """A trigger by the name of its type; one whose type was not known to the system as what the journal has kept."""
    if isinstance(trigger, UnregisteredTrigger):
        return {"type": trigger.type, "version": trigger.version, "payload": from_json(trigger.payload_json)}
    return {
        "type": trigger.trigger_name,
        "version": trigger.trigger_version,
        "payload": from_json(model_json(trigger)),
    }


def from_answer(kind: type[TupleT], value: Any) -> TupleT:
    """A named tuple from JSON: its fields as their types say, without those that are not known here."""
    hints = {name: getattr(hint, "kind", hint) for name, hint in typing.get_type_hints(kind).items()}  # Trigger[Any]
    fields = {
        name: _field(hints[name], value[name])
        for name in kind._fields  # type: ignore[attr-defined]
        if name in value
    }
    return kind(**fields)


def trigger_of(sent: Mapping[str, Any]) -> Trigger[Any]:
    """A trigger as its own class, if this process has imported that, else as an `UnregisteredTrigger`."""
    kind = trigger_type_named(sent["type"])
    payload = to_json(sent["payload"])
    if kind is not None and kind.trigger_version == sent["version"]:
        try:
            return kind.model_validate_json(payload, by_alias=False, by_name=True)
        except ValueError:  # Another class of that name, or another shape of it.
            kind = None
    return UnregisteredTrigger(type=sent["type"], version=sent["version"], payload_json=payload.decode())


def trigger_type_named(name: str) -> type[Trigger[Any]] | None:
    """The trigger type of this name that this process has imported; None if there is none, or more than one."""
    left: list[type[Trigger[Any]]] = [*Trigger.__subclasses__()]
    found: set[type[Trigger[Any]]] = set()
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.trigger_name == name:
            found.add(kind)
    return found.pop() if len(found) == 1 else None


def result_adapter(trigger_type: type[Trigger[Any]] | None) -> TypeAdapter[Any]:
    """What turns the JSON of a result into the type that `Trigger[R]`, or the class's own `execute`, says."""
    if trigger_type is None:
        return TypeAdapter(Any, config=AS_KEPT)
    declared = trigger_type.result_type()
    if declared is Any:
        execute = getattr(trigger_type, "execute", None)
        return TypeAdapter(Any, config=AS_KEPT) if execute is None else answer_adapter(execute)

    def promised() -> None: ...

    promised.__annotations__["return"] = declared
    return answer_adapter(promised)


def _field(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Trigger):
        return trigger_of(value)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint.model_validate(value, by_alias=False, by_name=True)
    origin = typing.get_origin(hint)
    if origin is tuple or origin is list:
        of, *_ = typing.get_args(hint)
        if hasattr(of, "_fields"):
            return origin(from_answer(of, each) for each in value)
    return value_of(TypeAdapter(hint, config=AS_KEPT), value)
