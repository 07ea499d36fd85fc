"""What asks for work: `Trigger` and its `Priority`.

Owns the base class of every user's trigger types and the name by which a type is known in the journal. A trigger is
what crosses the boundary into the system, so it is pydantic, frozen, and deeply immutable.
"""

from __future__ import annotations

import enum
import typing
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

        def __class_getitem__(cls, result_type: Any) -> Any:
            """`Trigger[int]` is for type checkers, and as a base class; everywhere else it stands for `Trigger`."""
            return _Promise(cls, result_type)

    @classmethod
    def result_type(cls) -> Any:
        """What the class promises as its result: `int` for a subclass of `Trigger[int]`; `Any` if it does not say."""
        for kind in cls.__mro__:
            for base in vars(kind).get("__orig_bases__", ()):
                if isinstance(base, _Promise) and base.kind is Trigger and not base.__parameters__:
                    return base.result_type
        return Any


class _Promise:
    """`Trigger[R]` at run time: the class, and what it promises as its result."""

    __slots__ = ("kind", "result_type")

    def __init__(self, kind: type[Trigger[Any]], result_type: Any) -> None:
        self.kind = kind
        self.result_type = result_type

    @property
    def __parameters__(self) -> tuple[Any, ...]:
        """The type variables that are open, as Python's own generic aliases have it."""
        return (self.result_type,) if isinstance(self.result_type, typing.TypeVar) else ()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self.kind,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.kind(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kind, name)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self.kind)

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self.kind)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Promise) and (self.kind, self.result_type) == (other.kind, other.result_type)

    def __hash__(self) -> int:
        return hash((self.kind, self.result_type))

    def __or__(self, other: Any) -> Any:
        return self.kind | other

    def __ror__(self, other: Any) -> Any:
        return other | self.kind

    def __repr__(self) -> str:
        return f"{self.kind.__name__}[{self.result_type!r}]"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return handler(self.kind)


class UnregisteredTrigger(Trigger[Any], name="seqtor.unregistered"):
    """Stands in a `RunRecord` for a trigger of a type that the program no longer registers, or that no longer fits it.

    `payload_json` is what the journal kept.
    """

    type: str
    version: int = 1
    payload_json: str
