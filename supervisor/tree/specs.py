"""What a supervisor supervises, as data: `ChildSpec` and `SupervisorSpec`.

Owns the checks of what programs pass; a spec that exists can be started. Immutable, compared by value; nothing here
starts anything.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

import pykka

from seqtor.messages.errors import RegistrationError
from seqtor.tree.window import Restart, duration_s

__all__ = ["AutoShutdown", "ChildSpec", "RestartKind", "Strategy", "SupervisorSpec"]

SHUTDOWN_S = 5.0


class Strategy(StrEnum):
    """Who is restarted when a child has crashed."""

    ONE_FOR_ONE = "one_for_one"
    """The child."""

    ONE_FOR_ALL = "one_for_all"
    """All children: the others are stopped in reverse order first, then all are started in order."""

    REST_FOR_ONE = "rest_for_one"
    """The child and those that were started after it."""

    DYNAMIC = "dynamic"
    """The child. All children are made from one recipe, and only by `start_child` (OTP's simple_one_for_one)."""


class RestartKind(StrEnum):
    """Which ends of a child make it be restarted."""

    PERMANENT = "permanent"
    """Every one."""

    TRANSIENT = "transient"
    """A crash; a child that stops by itself has done its work."""

    TEMPORARY = "temporary"
    """None; its spec is dropped when it ends."""


class AutoShutdown(StrEnum):
    """When a supervisor stops because significant children have stopped by themselves."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class ChildSpec:
    """One child: `start` is a class of actors with its arguments, or a `SupervisorSpec`.

    `id` is unique in its supervisor. `shutdown` is how long an ordered stop waits before the child is abandoned: seconds
    or a timedelta, "brutal_kill" (not at all) or "infinity"; the default is 5 seconds, for a supervisor infinity.
    `significant` matters where the supervisor has `auto_shutdown`. `dispatcher` is where an `Actor` of seqtor runs: None
    for a thread of a pool that grows with need, "dedicated" for a thread of its own; other actors of pykka bring theirs.

    Raises RegistrationError for what cannot be meant.
    """

    id: str
    start: type[pykka.Actor] | SupervisorSpec
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    restart: RestartKind
    shutdown: float | Literal["brutal_kill", "infinity"]
    significant: bool
    dispatcher: Literal["dedicated"] | None

    def __init__(
        self,
        id: str,  # noqa: A002
        start: type[pykka.Actor] | SupervisorSpec,
        *,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        restart: RestartKind | str = RestartKind.PERMANENT,
        shutdown: float | datetime.timedelta | str | None = None,
        significant: bool = False,
        dispatcher: Literal["dedicated"] | None = None,
    ) -> None:
        if not isinstance(id, str) or not id or "/" in id:
            raise RegistrationError(f"a child's id is a text that is not empty and has no '/', got {id!r}")
        is_tree = isinstance(start, SupervisorSpec)
        if not is_tree and not (isinstance(start, type) and issubclass(start, pykka.Actor)):
            raise RegistrationError(
                f"child {id!r}: start must be a class of pykka actors or a SupervisorSpec, got {start!r}"
            )
        if is_tree and (args or kwargs):
            raise RegistrationError(f"child {id!r}: a SupervisorSpec takes no arguments, got {args!r}, {kwargs!r}")
        if not isinstance(args, tuple):
            raise RegistrationError(f"child {id!r}: args must be a tuple, got {args!r}")
        if dispatcher not in (None, "dedicated"):
            raise RegistrationError(f"child {id!r}: dispatcher must be None or 'dedicated', got {dispatcher!r}")
        kind = _choice(RestartKind, restart, f"child {id!r}: restart")
        if significant and kind is RestartKind.PERMANENT:
            raise RegistrationError(
                f"child {id!r}: a permanent child never stops for good, so it cannot be significant"
            )
        put = object.__setattr__
        put(self, "id", id)
        put(self, "start", start)
        put(self, "args", args)
        put(self, "kwargs", MappingProxyType(dict(kwargs or {})))
        put(self, "restart", kind)
        put(self, "shutdown", _shutdown(id, shutdown, "infinity" if is_tree else SHUTDOWN_S))
        put(self, "significant", bool(significant))
        put(self, "dispatcher", dispatcher)

    @property
    def is_supervisor(self) -> bool:
        """Whether the child is a supervisor itself."""
        return isinstance(self.start, SupervisorSpec)

    def with_arguments(self, id: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ChildSpec:  # noqa: A002
        """The same under another id, with further arguments behind its own."""
        return ChildSpec(
            id, self.start, args=(*self.args, *args), kwargs={**self.kwargs, **kwargs}, restart=self.restart,
            shutdown=self.shutdown, significant=self.significant, dispatcher=self.dispatcher,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class SupervisorSpec:
    """A supervisor: its children, in the order in which they are started, and what happens when one of them ends.

    With the strategy `dynamic` there is exactly one child spec, the recipe of all children. Raises RegistrationError for
    what cannot be meant.
    """

    children: tuple[ChildSpec, ...]
    strategy: Strategy
    restart: Restart
    auto_shutdown: AutoShutdown

    def __init__(
        self,
        children: tuple[ChildSpec, ...] | list[ChildSpec] = (),
        *,
        strategy: Strategy | str = Strategy.ONE_FOR_ONE,
        restart: Restart | None = None,
        auto_shutdown: AutoShutdown | str = AutoShutdown.NEVER,
    ) -> None:
        children = tuple(children)
        chosen = _choice(Strategy, strategy, "strategy")
        if restart is not None and not isinstance(restart, Restart):
            raise RegistrationError(
                f"restart of a supervisor is a Restart(intensity, period), got {restart!r}; whether a child is restarted "
                f"is said in its ChildSpec"
            )
        put = object.__setattr__
        put(self, "children", children)
        put(self, "strategy", chosen)
        put(self, "restart", restart or Restart())
        put(self, "auto_shutdown", _choice(AutoShutdown, auto_shutdown, "auto_shutdown"))
        ids: set[str] = set()
        for child in children:
            require_fits(self, child)
            if child.id in ids:
                raise RegistrationError(f"two children have the id {child.id!r}: ids are unique in a supervisor")
            ids.add(child.id)
        if chosen is Strategy.DYNAMIC and len(children) != 1:
            raise RegistrationError(f"a dynamic supervisor has one child spec, the recipe, got {len(children)}")


def require_fits(supervisor: SupervisorSpec, child: object) -> None:
    """Raise RegistrationError unless `child` is a spec that this supervisor can have."""
    if not isinstance(child, ChildSpec):
        raise RegistrationError(f"a child is described by a ChildSpec, got {child!r}")
    if child.significant and supervisor.auto_shutdown is AutoShutdown.NEVER:
        raise RegistrationError(
            f"child {child.id!r} is significant, but its supervisor never stops because of that: give the supervisor "
            f"auto_shutdown='any_significant' or 'all_significant'"
        )


def _choice(kind: Callable[[Any], Any], value: Any, name: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(repr(str(member)) for member in kind)  # type: ignore[attr-defined]
        raise RegistrationError(f"{name} must be one of {known}, got {value!r}") from None


def _shutdown(child: str, value: Any, default: Any) -> Any:
    if value is None:
        return default
    if value in ("brutal_kill", "infinity"):
        return value
    if isinstance(value, str):
        raise RegistrationError(
            f"child {child!r}: shutdown must be seconds, 'brutal_kill' or 'infinity', got {value!r}"
        )
    return duration_s(f"child {child!r}: shutdown", value)
