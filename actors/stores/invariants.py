"""Invariants: what must hold of a store's new state before it is committed.

Owns the two kinds, of all that a store holds and of each key by itself, and what is said of one that is broken. Promises: an
invariant of each key costs what a commit has written, however much the store holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from seqtor.actors.registering import require_function
from seqtor.messages.errors import RegistrationError, Rejected

__all__ = ["Each", "Invariants", "each"]

ValueT_contra = TypeVar("ValueT_contra", contravariant=True)


class Each(Generic[ValueT_contra]):
    """An invariant of each key by itself; made by `each`."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[str, ValueT_contra], bool | None]) -> None:
        self.function = function

    def __repr__(self) -> str:
        return f"each({_name_of(self.function)})"


def each(function: Callable[[str, ValueT_contra], bool | None]) -> Each[ValueT_contra]:
    """Make an invariant of each key by itself: `Collection(Account, invariants=[each(never_below_zero)])`.

    `function(key, value)` is called for each key that a commit has changed, with what the key is to hold, and not for one
    that goes; at a start for all that are there. It returns a bool or raises. For `Collection`, `Files` and `Table`; usable
    as a decorator. Raises RegistrationError for what is no function.
    """
    if isinstance(function, (Each, type)):
        raise RegistrationError(f"each(...) takes a function of a key and its value, got {function!r}")
    require_function(function, "each(...)", 2, "a key and its value")
    return Each(function)


class Invariants:
    """Those of one store. Raises RegistrationError for what is none; `keyed`: whether the store has keys to look at."""

    __slots__ = ("of_all", "of_each")

    def __init__(self, given: Any, *, keyed: bool) -> None:
        if callable(given) or isinstance(given, Each):
            raise RegistrationError("invariants= takes a list of functions: write invariants=[f]")
        try:
            several = tuple(given)
        except TypeError:
            raise RegistrationError(f"invariants= takes a list of functions, got {given!r}") from None
        for invariant in several:
            if isinstance(invariant, Each):
                if not keyed:
                    raise RegistrationError(
                        f"{invariant!r}: a document has no keys; its invariants are functions of the whole of it"
                    )
            elif not callable(invariant):
                raise RegistrationError(f"an invariant must be a function of the new state, got {invariant!r}")
            else:
                hint = ", or each(f) for one of each key" if keyed else ""
                require_function(invariant, "an invariant", 1, f"the whole new state alone{hint}")
        self.of_all = tuple([one for one in several if not isinstance(one, Each)])
        self.of_each = tuple([one.function for one in several if isinstance(one, Each)])

    def __bool__(self) -> bool:
        return bool(self.of_all or self.of_each)

    def check(self, seen: Any, changed: Iterable[tuple[str, Any]], store: str | None) -> None:
        """Run those of each key on what has `changed`, then those of all on what is `seen`.

        Raises `Rejected` for one that is False or raises; it names the invariant, the store and the key.
        """
        named = {} if store is None else {"store": store}
        if self.of_each:
            for key, value in changed:
                for holds in self.of_each:
                    _require(holds, (key, value), {**named, "key": key})
        for holds in self.of_all:
            _require(holds, (seen,), named)


def _require(invariant: Callable[..., Any], arguments: tuple[Any, ...], where: dict[str, str]) -> None:
    name = _name_of(invariant)
    try:
        holds = invariant(*arguments)
    except Rejected:
        raise
    except Exception as error:
        raise Rejected(f"invariant {name} raised {type(error).__name__}: {error}", "invariant", **where) from error
    if holds is None:
        return
    if not isinstance(holds, bool):
        said = f"invariant {name} returned {type(holds).__name__}: it must return a bool or raise"
        raise Rejected(said, "invariant", **where)
    if not holds:
        raise Rejected(f"invariant {name} does not hold", "invariant", **where)


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", None) or repr(function)
