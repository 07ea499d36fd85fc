"""What asks for work: `Trigger` and its `Priority`.

Owns the base class of every user's trigger types and the name by which a type is known in the journal. A trigger is
what crosses the boundary into the system, so it is pydantic, frozen, and deeply immutable.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from seqtor.messages.models import FrozenModel

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    ResultT_co = TypeVar("ResultT_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    ResultT_co = TypeVar("ResultT_co", covariant=True)

__all__ = ["Priority", "Trigger", "UnregisteredTrigger"]


class Priority(enum.IntEnum):
    """What goes first when triggers wait; a smaller number goes first. Acts only before a seq is assigned."""

    URGENT = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


class Trigger(FrozenModel, Generic[ResultT_co]):
    """An immutable message that asks for work; `Trigger[int]` promises an int as its result.

    `priority` as a class attribute is the type's default priority. An `event_time` field or property (an aware
    datetime, or POSIX seconds) orders triggers of equal priority. A subclass may carry its own
    `execute(self, tx)`, sync or async, instead of a registered handler. `class Transfer(Trigger[int], name="transfer")`
    fixes the type's name in the journal; without it, it is the class name. `version=2` numbers its shape there, for
    `@system.upcast(Transfer)`; without it, it is 1.
    """

    priority: ClassVar[Priority | None] = None
    trigger_name: ClassVar[str] = "Trigger"
    trigger_version: ClassVar[int] = 1

    def __init_subclass__(cls, *, name: str | None = None, version: int = 1, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.trigger_name = name or cls.__name__
        cls.trigger_version = version

    if not TYPE_CHECKING:

        def __class_getitem__(cls, result_type: Any) -> type:
            """The result type is for type checkers: `Trigger[int]` is `Trigger` at run time."""
            return cls


class UnregisteredTrigger(Trigger[Any], name="seqtor.unregistered"):
    """Stands in a `RunRecord` for a trigger of a type that the program no longer registers, or that no longer fits it.

    `payload_json` is what the journal kept.
    """

    type: str
    version: int = 1
    payload_json: str
