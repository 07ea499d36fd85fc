"""Programs for worker processes: everything at the top level of a module, because a worker process imports it by name.

`Works` says for each system of a test which stores its handlers mean: here those of the newest one that was made, in a
worker process those that importing this module makes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import immutables

from seqtor import (
    Access,
    Collection,
    Document,
    EffectContext,
    Record,
    Rejected,
    ResourceRef,
    StoreActor,
    StoreRef,
    Supervisor,
    Transaction,
    Trigger,
    current_call_id,
    current_transaction,
)
from seqtor.actors.processes.remote import LOOK_S
from seqtor.messages import Checkpoint

__all__ = ["CARRIED_OUT", "HERE", "Act", "Awkward", "Doors", "InThread", "Item", "Note", "Sheet", "Works", "make_works"]

WAIT_S = 30.0


class Item(Record):
    n: int = 0


class Sheet(Record):
    title: str = ""
    count: int = 0


class Note(Trigger[None]):
    """What handlers submit; a thread carries it out."""

    text: str


class Act(Trigger[Any]):
    """Does what the function of this name does; `text` and `path` are for it."""

    verb: str
    text: str = ""
    number: int = 0
    path: str = ""


class InThread(Trigger[Any]):
    """The same on a thread."""

    verb: str
    text: str = ""
    number: int = 0
    path: str = ""


class Awkward(Exception):
    """An exception whose class takes other arguments than it keeps."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"{code}: {hint}")
        self.code = code
        self.hint = hint


IntMap = immutables.Map[str, int]


class Ints(StoreActor[IntMap, Any]):
    """A store with a state that only it knows; counts how often the state is taken apart for another process."""

    dispatcher: ClassVar[Any] = "core"

    def recover(self, checkpoint: Checkpoint | None) -> IntMap:
        return immutables.Map({"a": 1})

    @staticmethod
    def fold(state: IntMap, writes: Any) -> IntMap:
        for write in writes:
            state = state.set(write.key, write.op)
        return state

    @staticmethod
    def view(access: Access[IntMap]) -> Any:
        return IntsView(access)


class IntsView:
    def __init__(self, access: Access[IntMap]) -> None:
        self._access = access

    def get(self, key: str) -> int:
        self._access.read(key)
        return self._access.state.get(key, 0)

    def put(self, key: str, value: int) -> None:
        self._access.write(key, value)


class Works:
    """A system and its stores."""

    def __init__(self, system: Supervisor, items: dict[str, Item]) -> None:
        self.system = system
        self.items: StoreRef[Any] = system.store("items", Collection(Item, items))
        self.sheet: StoreRef[Any] = system.store("sheet", Document(Sheet))
        self.ints: StoreRef[Any] = system.store("ints", Ints.spec())
        self.tool: ResourceRef[Any] = system.resource("tool", open_tool)
        self.outside: StoreRef[Any] = Supervisor().store("elsewhere", Collection(Item))


HERE: list[Works] = []
CARRIED_OUT: list[tuple[str, str]] = []


def make_works(
    *args: Any, executor: str = "process", items: dict[str, Item] | None = None, deadline: float | None = None,
    settings: dict[str, Any] | None = None, writes: Any = None, **options: Any,
) -> Works:  # fmt: skip
    """A system on which `Act` is executed as asked."""
    system = Supervisor(*args, settings={"processes": 1, **(settings or {})}, **options)
    works = Works(system, {"a": Item(n=1), "b": Item(n=2)} if items is None else items)
    HERE[:] = [works]
    system.on(Act, executor=executor, deadline=deadline, writes=writes)(act)  # type: ignore[arg-type]
    system.on(InThread, writes=writes)(act)
    system.on(Note)(note)
    system.effect("carry_out")(carry_out)
    return works


def act(trigger: Any, tx: Transaction) -> Any:
    return VERBS[trigger.verb](trigger, tx)


def note(trigger: Note, tx: Transaction) -> None:
    tx[HERE[0].items][trigger.text] = Item(n=99)


def carry_out(context: EffectContext, payload: str) -> None:
    CARRIED_OUT.append((context.key, payload))


@contextmanager
def open_tool() -> Iterator[str]:
    yield f"tool of {os.getpid()}"
    place = os.environ.get("SEQTOR_TEST_TOOL")
    if place:
        Path(place).write_text("closed", encoding="utf-8")


# Gates between processes ------------------------------------------------------------------------------------------------


class Doors:
    """A door in a handler, of another process: two named pipes in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("reached", "opened"):
            os.mkfifo(folder / name)

    def await_arrival(self) -> str:
        """Wait until a handler stands at the door; returns what it says."""
        with (self.folder / "reached").open() as pipe:
            return pipe.read()

    def take_away(self) -> None:
        """Nobody shall stand there any more."""
        (self.folder / "reached").unlink()

    def open(self) -> None:
        """Let it through."""
        with (self.folder / "opened").open("w") as pipe:
            pipe.write("go")


def pass_through(folder: str, says: str = "") -> None:
    """Called by the handler; an attempt that is replayed finds no door."""
    if not (Path(folder) / "reached").exists():
        return
    with (Path(folder) / "reached").open("w") as pipe:
        pipe.write(says or str(os.getpid()))
    with (Path(folder) / "opened").open() as pipe:
        assert pipe.read() == "go"


# What handlers do -------------------------------------------------------------------------------------------------------


def everything(trigger: Any, tx: Transaction) -> dict[str, Any]:
    """All that a transaction can do, as plain values."""
    works = HERE[0]
    items, sheet, ints = tx[works.items], tx[works.sheet], tx[works.ints]
    seen: dict[str, Any] = {
        "is_transaction": isinstance(tx, Transaction) and current_transaction() is tx,
        "seq": tx.seq,
        "attempt": tx.attempt,
        "random": [tx.random.random(), tx.random.randrange(1000)],
        "uuid4": [str(tx.uuid4()), str(tx.uuid4())],
        "aware": tx.now.tzinfo is not None,
        "now_is_kept": tx.now == tx.now,
        "item": items["a"].n,
        "absent": items.get("zz"),
        "has": ["a" in items, "zz" in items],
        "len": len(items),
        "keys": list(items),
        "pairs": [[key, value.n] for key, value in items.items()],
        "scan": [[key, value.n] for key, value in items.scan(start="b")],
        "prefix": [key for key, _ in items.scan(prefix="a")],
        "sheet": [sheet.value.model_dump(), sheet.fields.title],
        "ints": [ints.get("a"), ints.get("q")],
        "peek": [tx.peek(works.items)["a"].n, len(tx.peek(works.items)), tx.peek(works.ints).get("a")],
        "peek_sheet": tx.peek(works.sheet).value.title,
        "changed": [tx.changed(works.items, "a"), tx.changed(works.ints, "a"), tx.changed(works.sheet, "title")],
        "call": tx.call(square, 7),
        "tool": tx.resource(works.tool).startswith("tool of"),
    }
    items["a"] = Item(n=items["a"].n + 10)
    items["new"] = Item(n=5)
    items.increment("b", n=3)
    items.increment("fresh", n=4)
    del items["new"]
    sheet.update(title=f"by {tx.seq}")
    sheet.increment(count=2)
    ints.put("k", 8)
    values = [items["a"].n, items.get("new"), items["b"].n, items["fresh"].n, ints.get("k")]
    seen["own"] = [values, list(items), sheet.value.model_dump()]
    seen["emitted"] = isinstance(tx.emit("done", {"by": tx.seq}), str)
    tx.submit(Note(text="noted"), idempotency_key=f"note-{tx.seq}")
    tx.effect(carry_out, "payload")
    return seen


def square(number: int) -> int:
    assert current_call_id()
    place = os.environ.get("SEQTOR_TEST_CALLS")
    if place:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(f"{number}\n")
    return number * number


def fail_outside(text: str) -> int:
    raise ValueError(text) from KeyError("why")


def exit_outside() -> int:
    raise SystemExit(3)


def low_level(trigger: Any, tx: Transaction) -> Any:
    works = HERE[0]
    seq, state = tx.read(works.items)
    state["low"] = Item(n=len(state))
    del state["b"]
    return [tx.prepare_commit(works.items, seq, state)]


def add(trigger: Any, tx: Transaction) -> int:
    items = tx[HERE[0].items]
    n = items.get(trigger.text, Item()).n + trigger.number
    items[trigger.text] = Item(n=n)
    return n


def increment(trigger: Any, tx: Transaction) -> None:
    tx[HERE[0].items].increment(trigger.text, n=trigger.number)


def put(trigger: Any, tx: Transaction) -> None:
    tx[HERE[0].items][trigger.text] = Item(n=trigger.number)


def put_int(trigger: Any, tx: Transaction) -> None:
    tx[HERE[0].ints].put(trigger.text, trigger.number)


def get_int(trigger: Any, tx: Transaction) -> int:
    return tx[HERE[0].ints].get(trigger.text)


def at_doors(trigger: Any, tx: Transaction) -> int:
    """Read as `text` says, wait at the doors, write what was read; only in the first attempt."""
    works = HERE[0]
    items = tx[works.items]
    reads: dict[str, Callable[[], int]] = {
        "key": lambda: items["a"].n,
        "absence": lambda: int("zz" in items),
        "range": lambda: len(items),
        "scan": lambda: sum(value.n for _, value in items.scan(start="a")),
        "changed": lambda: int(tx.changed(works.items, "a")),
        "field": lambda: tx[works.sheet].fields.count,
        "int": lambda: tx[works.ints].get("a"),
        "increment": lambda: items.increment("a", n=5) or 0,
        "nothing": lambda: 0,
    }
    read = reads[trigger.text]()
    if tx.attempt == 1:
        pass_through(trigger.path)
        late = time.monotonic() + 2 * LOOK_S
        while time.monotonic() < late:
            pass
    if trigger.number:
        items["beyond"] = Item(n=read)  # An operation, which leaves the handler if the attempt is over.
        (Path(trigger.path) / f"went on in attempt {tx.attempt}").touch()
    items["out"] = Item(n=read)
    return read


def call(trigger: Any, tx: Transaction) -> Any:
    n = tx[HERE[0].items]["a"].n
    answers = [tx.call(square, 3), tx.call(square, 3), tx.call(square, trigger.number)]
    if trigger.path and tx.attempt == 1:
        pass_through(trigger.path)
    tx[HERE[0].items]["sum"] = Item(n=sum(answers) + n)
    return answers


def call_and_die(trigger: Any, tx: Transaction) -> str:
    return tx.call(die_outside, trigger.path)


def die_outside(path: str) -> str:
    """Die at the first call; answers with the ids of both."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{current_call_id()}\n")
    ids = Path(path).read_text(encoding="utf-8").split()
    if len(ids) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return " ".join(ids)


def call_and_fail(trigger: Any, tx: Transaction) -> Any:
    try:
        tx.call(fail_outside, trigger.text)
    except ValueError as error:
        return [str(error), repr(error.__cause__), type(error).__name__]
    return None


def call_and_exit(trigger: Any, tx: Transaction) -> None:
    tx.call(exit_outside)


def call_with_tx(trigger: Any, tx: Transaction) -> None:
    tx.call(use_the_transaction)


def use_the_transaction() -> int:
    current_transaction()
    return 1


def die(trigger: Any, tx: Transaction) -> None:
    if trigger.text == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(trigger: Any, tx: Transaction) -> int:
    """Die in the first attempt that comes to it, and only in it."""
    n = tx[HERE[0].items]["a"].n
    mark = Path(trigger.path)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def spin(trigger: Any, tx: Transaction) -> None:
    """Compute until somebody ends it, in the named pipe's sight."""
    if trigger.path:
        with (Path(trigger.path) / "reached").open("w") as pipe:
            pipe.write(str(os.getpid()))
    while True:
        pass


def where(trigger: Any, tx: Transaction) -> int:
    return os.getpid()


def compute(trigger: Any, tx: Transaction) -> int:
    """So many milliseconds of work."""
    until = time.perf_counter() + trigger.number / 1000
    rounds = 0
    while time.perf_counter() < until:
        rounds += 1
    return rounds


def hold(trigger: Any, tx: Transaction) -> None:
    pass_through(trigger.path)
    put(trigger, tx)


def copy_b(trigger: Any, tx: Transaction) -> dict[str, Any]:
    """What `b` is, in all ways to look at it; under the trigger's own key, too."""
    works = HERE[0]
    items = tx[works.items]
    n = items["b"].n
    items[trigger.text] = Item(n=n)
    scanned = [value.n for key, value in items.scan(prefix="b")]
    return {"read": n, "scanned": scanned, "int": tx[works.ints].get("b"), "peek": tx.peek(works.items)["b"].n}


def put_both(trigger: Any, tx: Transaction) -> None:
    put(trigger, tx)
    put_int(trigger, tx)


def tell(trigger: Any, tx: Transaction) -> None:
    pass_through(trigger.path)
    for number in range(3):
        tx.progress(number)


def reject(trigger: Any, tx: Transaction) -> None:
    raise Rejected("no more", code="full", left=trigger.number)


def fail(trigger: Any, tx: Transaction) -> None:
    try:
        dict[str, int]()["missing"]
    except KeyError as error:
        raise ValueError(trigger.text) from error


def fail_awkwardly(trigger: Any, tx: Transaction) -> None:
    raise Awkward(7, hint="a hint")


def fail_locally(trigger: Any, tx: Transaction) -> None:
    class Local(OSError):
        pass

    raise Local("from here")


def ask_for_stats(trigger: Any, tx: Transaction) -> None:
    HERE[0].system.stats()


def reject_locally(trigger: Any, tx: Transaction) -> None:
    class Local(Rejected):
        pass

    raise Local("no", "full", left=3)


def leave(trigger: Any, tx: Transaction) -> None:
    raise SystemExit("out")


def interrupt(trigger: Any, tx: Transaction) -> str:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    return "unmoved"


def return_local(trigger: Any, tx: Transaction) -> Any:
    class Local(Record):
        n: int = 1

    return Local()


def write_local(trigger: Any, tx: Transaction) -> Any:
    class Local(Item):
        pass

    tx[HERE[0].items]["local"] = Local(n=1)


def verbs_of_the_system(trigger: Any, tx: Transaction) -> list[str]:
    system, caught = HERE[0].system, []
    for verb in (lambda: system.submit(Note(text="x")), lambda: system.ask(Note(text="x")), lambda: system.emit("x")):
        try:
            verb()
        except Exception as error:
            caught.append(type(error).__name__)
    return caught


def wrong_store(trigger: Any, tx: Transaction) -> None:
    _ = tx[HERE[0].outside]


def wrong_trigger(trigger: Any, tx: Transaction) -> None:
    tx.submit(Unregistered())


def wrong_effect(trigger: Any, tx: Transaction) -> None:
    tx.effect(square, "x")  # type: ignore[arg-type]


class Unregistered(Trigger[None]):
    pass


def read_three(trigger: Any, tx: Transaction) -> int:
    items = tx[HERE[0].items]
    return sum(items[f"k{number:05}"].n for number in (3, 5000, 9998))


def read_all(trigger: Any, tx: Transaction) -> int:
    return sum(value.n for value in tx[HERE[0].items].values())


def read_some(trigger: Any, tx: Transaction) -> int:
    total = 0
    for number, (_, value) in enumerate(tx[HERE[0].items].scan()):
        if number == 20:
            break
        total += value.n
    return total


VERBS = {
    function.__name__: function
    for function in (
        call_and_die, everything, low_level, add, increment, put, put_int, get_int, at_doors, call,
        call_and_fail, call_and_exit, call_with_tx, die, die_once, spin, where, compute, reject, tell, hold,
        copy_b, put_both, fail, fail_awkwardly, fail_locally, reject_locally, ask_for_stats, leave, interrupt,
        return_local, write_local, verbs_of_the_system, wrong_store, wrong_trigger, wrong_effect, read_three,
        read_all, read_some,
    )
}  # fmt: skip

make_works()  # In a worker process nobody else does.
