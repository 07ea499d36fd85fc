"""A small language in which random triggers are written, the stores that they work on, and how hypothesis makes both.

A program is a tuple of steps; what a step reads flows into an accumulator, and later steps take keys, values, branches,
rejections and exceptions from it. So an attempt on a stale snapshot takes other branches, touches other keys and fails
in other ways than the one that counts. Everything that was read is the program's result: equal results mean that every
read was right. The same interpreter runs against the runtime's transaction and against the serial oracle's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import immutables
from hypothesis import strategies as st
from pydantic import BaseModel, Field, model_validator

from seqtor import (
    Access,
    Collection,
    CommitIntent,
    Document,
    Record,
    Rejected,
    Restart,
    Snapshot,
    StoreActor,
    StoreRef,
    Supervisor,
)
from seqtor.messages import Checkpoint, Commit, Write
from tests.oracle import PlainCollection, PlainCustom, PlainDocument, PlainStore, SerialOracle

__all__ = ["FOREVER", "KEYS", "Boom", "Step", "Steps", "Stores", "contents_of", "perform", "programs", "step_lists",
           "stores"]  # fmt: skip

Step = tuple[Any, ...]
Steps = tuple[Step, ...]
KEYS = ("a", "ab", "abc", "b", "ba", "c")
PREFIXES = ("", "a", "ab", "b", "z")
BOUNDS = (None, "a", "ab", "abd", "b", "c", "d")
FOREVER = -1  # The ticks of a pause that nothing but a deadline ends.


class Boom(Exception):
    """What a program raises."""


# Stores ------------------------------------------------------------------------------------------------------------


class Item(Record):
    """A shared value with a bound that increments can break."""

    n: int = Field(default=0, le=60)
    tag: str = ""


class Loose(BaseModel):
    """A value that could be changed in place, so everyone gets private copies."""

    n: int = 0
    tags: list[int] = []


class Sheet(Record):
    """A document of independent fields."""

    a: int = 0
    b: int = Field(default=0, le=60)
    c: int = 0


class Account(BaseModel):
    """A mutable document whose validator derives one field from the others."""

    a: int = 0
    b: int = 0
    c: int = 0

    @model_validator(mode="after")
    def derive(self) -> Account:
        """`c` is always the sum; a sum of 13 is refused."""
        if self.a + self.b == 13:
            raise ValueError("thirteen")
        self.c = self.a + self.b
        return self


IntMap = immutables.Map[str, int]


class IntsView:
    """Plain ints by key; names what it reads."""

    def __init__(self, access: Access[IntMap]) -> None:
        self._access = access

    def get(self, key: str) -> int:
        self._access.read(key)
        return self._access.state.get(key, 0)

    def add(self, key: str, amount: int) -> None:
        self._access.write(key, amount)

    def between(self, start: str | None, stop: str | None) -> list[list[Any]]:
        self._access.read_range(start, stop)
        return [
            [key, value]
            for key, value in sorted(self._access.state.items())
            if (start is None or key >= start) and (stop is None or key < stop)
        ]


class UnnamedIntsView(IntsView):
    """The same without naming anything: every read is one of the whole store."""

    def get(self, key: str) -> int:
        return self._access.state.get(key, 0)

    def between(self, start: str | None, stop: str | None) -> list[list[Any]]:
        return [
            [key, value]
            for key, value in sorted(self._access.state.items())
            if (start is None or key >= start) and (stop is None or key < stop)
        ]


class Ints(StoreActor[IntMap, Any]):
    """A user's own store on the core: its writes are amounts to add."""

    dispatcher: ClassVar[Literal["core", "dedicated"]] = "core"

    def recover(self, checkpoint: Checkpoint | None) -> IntMap:
        return immutables.Map({"a": 1})

    @staticmethod
    def fold(state: IntMap, writes: Any) -> IntMap:
        for write in writes:
            if write.op == 31:
                raise Boom("fold")
            if write.op:
                state = state.set(write.key, state.get(write.key, 0) + write.op)
        return state

    @staticmethod
    def view(access: Access[IntMap]) -> Any:
        return IntsView(access)


class UnnamedInts(Ints):
    """Off the core, and reads everything."""

    dispatcher = "dedicated"

    @staticmethod
    def view(access: Access[IntMap]) -> Any:
        return UnnamedIntsView(access)


class GuardedInts(Ints):
    """Validates every commit: refuses sums of 25 and more, crashes at a value of 7."""

    dispatcher = "dedicated"

    def validate(self, old: IntMap, new: IntMap, commit: Commit) -> None:
        assert all(isinstance(write, Write) for write in commit.writes)
        if sum(new.values()) >= 25:
            raise Rejected("too much", code="guard", total=sum(new.values()))
        if 7 in new.values():
            raise Boom("validate")


class GuardedCoreInts(GuardedInts):
    """The same on the core."""

    dispatcher = "core"


def total_is_low(items: Mapping[str, Any]) -> bool:
    """An invariant over a whole collection."""
    return sum(value.n for value in items.values()) < 40


def no_four_keys(items: Mapping[str, Any]) -> None:
    """An invariant that raises."""
    if len(items) == 4:
        raise ValueError("four")


def sheet_is_low(sheet: Any) -> bool:
    """An invariant over a document."""
    return bool(sheet.a + sheet.c < 20)


OFTEN = Restart(intensity=1_000_000)  # That a store crashes is part of the programs.


@dataclasses.dataclass(frozen=True)
class Stores:
    """Which stores a system has: for each an initial content, and whether its commits run the user's code."""

    items: Mapping[str, int]
    items_guarded: bool
    loose: Mapping[str, int]
    loose_guarded: bool
    sheet_guarded: bool
    ints: type[Ints]

    def register(self, system: Supervisor) -> dict[str, StoreRef[Any]]:
        """The stores in the runtime."""
        return {
            "items": system.store("items", Collection(Item, self._items(), self._items_invariants())),
            "loose": system.store("loose", Collection(Loose, self._loose(), self._loose_invariants())),
            "sheet": system.store("sheet", Document(Sheet, invariants=self._sheet_invariants())),
            "account": system.store("account", Document(Account)),
            "ints": system.store("ints", self.ints.spec(), restart=OFTEN),
        }

    def oracle(self) -> SerialOracle:
        """The same stores without concurrency."""
        plain: dict[str, PlainStore] = {
            "items": PlainCollection(Item, self._items(), self._items_invariants()),
            "loose": PlainCollection(Loose, self._loose(), self._loose_invariants()),
            "sheet": PlainDocument(Sheet, invariants=self._sheet_invariants()),
            "account": PlainDocument(Account, lazy=True),
            "ints": PlainCustom(self.ints(), lambda state: sorted(map(list, state.items()))),
        }
        return SerialOracle(plain)

    def _items(self) -> dict[str, Item]:
        return {key: Item(n=n) for key, n in self.items.items()}

    def _loose(self) -> dict[str, Loose]:
        return {key: Loose(n=n, tags=[n]) for key, n in self.loose.items()}

    def _items_invariants(self) -> tuple[Callable[[Any], Any], ...]:
        return (total_is_low,) if self.items_guarded else ()

    def _loose_invariants(self) -> tuple[Callable[[Any], Any], ...]:
        return (no_four_keys,) if self.loose_guarded else ()

    def _sheet_invariants(self) -> tuple[Callable[[Any], Any], ...]:
        return (sheet_is_low,) if self.sheet_guarded else ()


def contents_of(snapshot: Snapshot, refs: Mapping[str, StoreRef[Any]]) -> dict[str, Any]:
    """All stores of a snapshot as plain values, in the form of `SerialOracle.contents`."""
    items, loose = snapshot[refs["items"]], snapshot[refs["loose"]]
    return {
        "items": [[key, value.model_dump()] for key, value in items.items()],
        "loose": [[key, value.model_dump()] for key, value in loose.items()],
        "sheet": snapshot[refs["sheet"]].value.model_dump(),
        "account": snapshot[refs["account"]].value.model_dump(),
        "ints": snapshot[refs["ints"]].between(None, None),
    }


# Programs ----------------------------------------------------------------------------------------------------------


class Execution:
    """One attempt at a program."""

    def __init__(self, tx: Any, refs: Mapping[str, StoreRef[Any]], keys: Sequence[str] = KEYS) -> None:
        self.tx = tx
        self.refs = refs
        self.keys = keys  # All that its operations on single keys may name.
        self.seen: list[Any] = []
        self.acc = 0
        self.result: Any = self.seen

    def observe(self, value: Any) -> None:
        """Note what was read; later steps depend on it."""
        self.seen.append(value)
        self.acc = (self.acc * 31 + number(value)) % 1009

    def key(self, operand: str | int) -> str:
        if isinstance(operand, str):
            return operand if operand in self.keys else self.keys[number(operand) % len(self.keys)]
        return self.keys[(self.acc + operand) % len(self.keys)]

    def amount(self, operand: int) -> int:
        """A literal, or (above 100) what the accumulator says."""
        return operand if operand < 100 else (self.acc + operand) % 19 - 3


def written_stores(steps: Steps) -> dict[str, bool]:
    """The stores that a program may write; True for those of which it writes no keys but those that it may name."""
    found: dict[str, bool] = {}
    for step in steps:
        if step[0] == "commit_whole":
            found.update(dict.fromkeys((*step[1], "loose"), False))
        elif step[0] in WRITING:
            store = "ints" if step[0] == "int_add" else step[1]
            found[store] = found.get(store, True) and WRITING[step[0]]
        for part in step[1:]:
            if isinstance(part, tuple) and part and isinstance(part[0], tuple):
                for store, by_key in written_stores(part).items():
                    found[store] = found.get(store, True) and by_key
    return found


WRITING = {
    "change": True, "put": True, "pop": True, "increment": True, "thin_out": True, "setdefault": True, "delete": True,
    "popitem": False, "clear": False, "change_field": False, "update": False, "update_two": False, "increment_field": False,
    "set_document": False, "int_add": False,
}  # fmt: skip


def number(value: Any) -> int:
    """Any plain value as a number, the same in every process."""
    if value is None:
        return 7
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return sum(map(ord, value))
    if isinstance(value, dict):
        return number(list(value.items()))
    return sum((i + 1) * number(part) for i, part in enumerate(value))


Pauses = Generator[int, None, bool]


def perform(steps: Steps, run: Execution) -> Pauses:
    """Carry out the steps; yields for how many ticks the handler should give way. True if the program has ended early."""
    for step in steps:
        ended = yield from OPERATIONS[step[0]](run, *step[1:])
        if ended:
            return True
    return False


def shown(value: Any) -> Any:
    """A stored value as plain values."""
    return value.model_dump() if isinstance(value, BaseModel) else value


def simple(operation: Callable[..., None]) -> Callable[..., Pauses]:
    """An operation without steps of its own."""

    def performed(run: Execution, *operands: Any) -> Pauses:
        operation(run, *operands)
        return False
        yield 0

    return performed


def get(run: Execution, store: str, key: Any) -> None:
    run.observe(shown(run.tx[run.refs[store]].get(run.key(key))))


def index(run: Execution, store: str, key: Any) -> None:
    run.observe(shown(run.tx[run.refs[store]][run.key(key)]))


def has(run: Execution, store: str, key: Any) -> None:
    run.observe(run.key(key) in run.tx[run.refs[store]])


def make(store: str, n: int) -> BaseModel:
    return Item(n=n, tag=f"t{n % 3}") if store == "items" else Loose(n=n, tags=[n])


def put(run: Execution, store: str, key: Any, amount: int) -> None:
    run.tx[run.refs[store]][run.key(key)] = make(store, run.amount(amount))


def change(run: Execution, store: str, key: Any, amount: int) -> None:
    view, name = run.tx[run.refs[store]], run.key(key)
    value = view.get(name, make(store, 0))
    if store == "items":
        view[name] = value.replace(n=value.n + run.amount(amount))
    else:
        value.n += run.amount(amount)
        value.tags.append(value.n)
        view[name] = value
        value.tags.append(-1)  # Of the handler's own copy.
    run.observe(value.n)


def spoil(run: Execution, store: str, key: Any) -> None:
    value = run.tx[run.refs[store]].get(run.key(key))
    if value is not None and store == "loose":
        value.n = -99
        value.tags.clear()


def delete(run: Execution, store: str, key: Any) -> None:
    del run.tx[run.refs[store]][run.key(key)]


def pop(run: Execution, store: str, key: Any) -> None:
    run.observe(shown(run.tx[run.refs[store]].pop(run.key(key), None)))


def popitem(run: Execution, store: str) -> None:
    key, value = run.tx[run.refs[store]].popitem()
    run.observe([key, shown(value)])


def clear(run: Execution, store: str) -> None:
    run.tx[run.refs[store]].clear()


def setdefault(run: Execution, store: str, key: Any, amount: int) -> None:
    run.observe(shown(run.tx[run.refs[store]].setdefault(run.key(key), make(store, run.amount(amount)))))


def increment(run: Execution, store: str, key: Any, amount: int) -> None:
    run.tx[run.refs[store]].increment(run.key(key), n=run.amount(amount))


def scan(run: Execution, store: str, kind: str, prefix: str, start: str | None, stop: str | None) -> None:
    view = run.tx[run.refs[store]]
    found = view.scan(prefix=prefix) if kind == "prefix" else view.scan(start=start, stop=stop)
    run.observe([[key, shown(value)] for key, value in found])


def thin_out(run: Execution, store: str, amount: int) -> None:
    """Change a collection while scanning it."""
    view = run.tx[run.refs[store]]
    for key, value in view.scan():
        run.observe([key, value.n])
        victim = run.key(number(key))
        if value.n % 2 and victim in view:
            del view[victim]
        else:
            view[victim] = make(store, run.amount(amount))


def keys(run: Execution, store: str) -> None:
    run.observe(list(run.tx[run.refs[store]]))


def length(run: Execution, store: str) -> None:
    run.observe(len(run.tx[run.refs[store]]))


def items(run: Execution, store: str) -> None:
    run.observe([[key, shown(value)] for key, value in run.tx[run.refs[store]].items()])


def field(run: Execution, store: str, name: str) -> None:
    run.observe(getattr(run.tx[run.refs[store]].fields, name))


def value(run: Execution, store: str) -> None:
    run.observe(shown(run.tx[run.refs[store]].value))


def update(run: Execution, store: str, name: str, amount: int) -> None:
    run.tx[run.refs[store]].update(**{name: run.amount(amount)})


def update_two(run: Execution, store: str, first: int, second: int) -> None:
    run.tx[run.refs[store]].update(a=run.amount(first), b=run.amount(second))


def change_field(run: Execution, store: str, name: str, amount: int) -> None:
    view = run.tx[run.refs[store]]
    view.update(**{name: getattr(view.fields, name) + run.amount(amount)})
    run.observe(getattr(view.fields, name))


def set_document(run: Execution, store: str, first: int, second: int) -> None:
    model = Sheet if store == "sheet" else Account
    run.tx[run.refs[store]].set(model(a=run.amount(first), b=run.amount(second)))


def increment_field(run: Execution, store: str, name: str, amount: int) -> None:
    run.tx[run.refs[store]].increment(**{name: run.amount(amount)})


def int_get(run: Execution, key: Any) -> None:
    run.observe(run.tx[run.refs["ints"]].get(run.key(key)))


def int_add(run: Execution, key: Any, amount: int) -> None:
    run.tx[run.refs["ints"]].add(run.key(key), run.amount(amount))


def int_range(run: Execution, start: str | None, stop: str | None) -> None:
    run.observe(run.tx[run.refs["ints"]].between(start, stop))


def glance(run: Execution, store: str, key: Any) -> None:
    run.observe(shown(run.tx.peek(run.refs[store]).get(run.key(key))))


def moved(run: Execution, store: str, key: Any) -> None:
    run.observe(run.tx.changed(run.refs[store], run.key(key)))


def moved_field(run: Execution, store: str, name: str) -> None:
    run.observe(run.tx.changed(run.refs[store], name))


def answer_to(question: int) -> int:
    """The outside world, which answers alike whoever asks."""
    return question * 7 % 11


def ask(run: Execution, spread: int) -> None:
    """Ask something that depends on what was read, one of so many questions."""
    run.observe(run.tx.call(answer_to, run.acc % spread))


def reject_if(run: Execution, modulus: int, remainder: int) -> None:
    if run.acc % modulus == remainder:
        raise Rejected("as the accumulator says", code="chosen", acc=run.acc)


def raise_if(run: Execution, modulus: int, remainder: int) -> None:
    if run.acc % modulus == remainder:
        raise Boom(run.acc)


def branch(run: Execution, modulus: int, remainder: int, then: Steps, otherwise: Steps) -> Pauses:
    return (yield from perform(then if run.acc % modulus == remainder else otherwise, run))


def attempt(run: Execution, stubborn: bool, steps: Steps) -> Pauses:
    """Swallow what the steps raise; stubborn handlers even what is not theirs to swallow."""
    try:
        return (yield from perform(steps, run))
    except GeneratorExit:
        raise
    except Exception as error:
        run.observe(type(error).__name__)
    except BaseException:
        if not stubborn:
            raise
    return False


def stop_if(run: Execution, modulus: int, remainder: int) -> Pauses:
    return run.acc % modulus == remainder
    yield 0


def pause(run: Execution, ticks: int) -> Pauses:
    yield ticks
    return False


def hang_if(run: Execution, modulus: int, remainder: int) -> Pauses:
    """Go on for ever, as the accumulator says: an attempt with stale reads may hang, and the one that counts not."""
    if run.acc % modulus == remainder:
        yield FOREVER
    return False


def commit_whole(run: Execution, names: tuple[str, ...], amount: int, mistake: str | None) -> Pauses:
    """The low-level form: read whole stores, change the copies, return the intents."""
    intents: list[CommitIntent] = []
    for name in names:
        seq, copy = run.tx.read(run.refs[name])
        run.observe({key: shown(part) for key, part in copy.items()} if isinstance(copy, dict) else shown(copy))
        n = run.amount(amount)
        if isinstance(copy, dict):
            copy.pop(run.key(1), None)
            copy[run.key(0)] = make(name, n)
        else:
            copy = copy.model_copy(update={"a": n})
        if mistake == "kind" and name == names[-1]:
            copy = 5
        intents.append(run.tx.prepare_commit(run.refs[name], seq, copy))
    if mistake == "twice":
        intents.append(intents[0])
    if mistake == "unread":
        intents.append(
            run.tx.prepare_commit(run.refs["loose"], run.tx.read(run.refs["sheet"])[0], {"b": make("loose", 3)})
        )
    run.result = intents
    return True
    yield 0


OPERATIONS: dict[str, Callable[..., Pauses]] = {
    operation.__name__: simple(operation)
    for operation in (
        get, index, has, put, change, spoil, delete, pop, popitem, clear, setdefault, increment, scan, thin_out, keys,
        length, items, field, value, update, update_two, change_field, set_document, increment_field, int_get, int_add,
        int_range, glance, moved, moved_field, ask, reject_if, raise_if,
    )
}  # fmt: skip
OPERATIONS |= {operation.__name__: operation for operation in (branch, attempt, stop_if, pause, hang_if, commit_whole)}


# Strategies --------------------------------------------------------------------------------------------------------

mappings = st.sampled_from(("items", "items", "loose"))
documents = st.sampled_from(("sheet", "sheet", "account"))
names = st.sampled_from(KEYS)
operands = st.one_of(names, st.integers(0, 5))
amounts = st.one_of(st.integers(-3, 15), st.sampled_from((0, 1, 31, 55, 61)), st.integers(100, 110))
small_amounts = st.one_of(st.integers(-3, 9), st.integers(100, 110))
fields = st.sampled_from(("a", "b", "c"))
settable = st.sampled_from(("a", "b"))
moduli = st.integers(2, 4).flatmap(lambda modulus: st.tuples(st.just(modulus), st.integers(0, modulus - 1)))


def tagged(tag: str, *parts: Any) -> Any:
    return st.tuples(st.just(tag), *parts)


leaves = st.one_of(
    tagged("get", mappings, operands),
    tagged("has", mappings, operands),
    tagged("change", mappings, operands, small_amounts),
    tagged("change", mappings, operands, small_amounts),
    tagged("put", mappings, operands, amounts),
    tagged("pop", mappings, operands),
    tagged("increment", mappings, operands, amounts),
    tagged("increment", mappings, operands, small_amounts),
    tagged(
        "scan",
        mappings,
        st.sampled_from(("prefix", "range")),
        st.sampled_from(PREFIXES),
        *[st.sampled_from(BOUNDS)] * 2,
    ),
    st.one_of(
        tagged("index", mappings, operands),
        tagged("delete", mappings, operands),
        tagged("setdefault", mappings, operands, amounts),
        tagged("spoil", mappings, operands),
        tagged("popitem", mappings),
        tagged("clear", mappings),
        tagged("thin_out", mappings, small_amounts),
        tagged("keys", mappings),
        tagged("length", mappings),
        tagged("items", mappings),
    ),
    st.one_of(
        tagged("field", documents, fields),
        tagged("value", documents),
        tagged("update", documents, settable, amounts),
        tagged("update_two", documents, amounts, amounts),
        tagged("change_field", documents, settable, small_amounts),
        tagged("set_document", documents, small_amounts, small_amounts),
        tagged("increment_field", documents, settable, small_amounts),
    ),
    st.one_of(
        tagged("int_get", operands),
        tagged("int_add", operands, amounts),
        tagged("int_range", st.sampled_from(BOUNDS), st.sampled_from(BOUNDS)),
    ),
    tagged("pause", st.integers(0, 2)),
    st.one_of(
        tagged("glance", mappings, operands),
        tagged("moved", mappings, operands),
        tagged("moved_field", documents, settable),
        tagged("ask", st.sampled_from((1, 2, 100))),
        tagged("ask", st.sampled_from((1, 2, 100))),
    ),
    st.one_of(
        moduli.map(lambda test: ("reject_if", *test)),
        moduli.map(lambda test: ("raise_if", *test)),
        moduli.map(lambda test: ("stop_if", *test)),
    ),
)


def nested(steps: st.SearchStrategy[Step]) -> st.SearchStrategy[Step]:
    several = st.lists(steps, max_size=3).map(tuple)
    return st.one_of(
        st.builds(lambda test, then, otherwise: ("branch", *test, then, otherwise), moduli, several, several),
        tagged("attempt", st.booleans(), several),
    )


step_lists = st.lists(
    st.one_of(leaves, leaves, leaves, nested(st.one_of(leaves, nested(leaves)))), min_size=1, max_size=7
)
last_steps = st.one_of(
    *[st.just(())] * 6,
    st.tuples(
        tagged(
            "commit_whole",
            st.lists(st.sampled_from(("items", "loose", "sheet", "account")), min_size=1, max_size=2, unique=True).map(
                tuple
            ),
            amounts,
            st.sampled_from((None, None, None, None, "kind", "twice", "unread", "unread")),
        )
    ),
)
programs: st.SearchStrategy[Steps] = st.builds(lambda steps, last: (*steps, *last), step_lists, last_steps)
contents = st.dictionaries(names, st.integers(0, 12), max_size=3)
stores: st.SearchStrategy[Stores] = st.builds(
    Stores,
    items=contents,
    items_guarded=st.booleans(),
    loose=contents,
    loose_guarded=st.booleans(),
    sheet_guarded=st.booleans(),
    ints=st.sampled_from((Ints, UnnamedInts, GuardedInts, GuardedCoreInts)),
)
