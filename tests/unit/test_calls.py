"""`tx.call` and `tx.acall`: what a call is known by, what a handler gets, what is refused, and who waits for what."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import math
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, Field, field_serializer

from seqtor import (
    DeadlineExceeded,
    HandlerFailed,
    OutcomeUnknown,
    Record,
    RecordedFailure,
    Rejected,
    ReplayDiverged,
    State,
    Supervisor,
    Transaction,
    Trigger,
    current_call_id,
    current_transaction,
)
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.answers import answered, failed, identify, value_of_call
from seqtor.actors.journal.contract import Group
from seqtor.actors.journal.decoding import error_of
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages import AcceptTriggers
from seqtor.messages.records import RecordedCall
from tests.programs import WAIT_S, Account, Deposit, Gate, open_bank, simulated, threaded

ROOT = Path(__file__).parents[2]


class Act(Trigger[Any]):
    """Does what the test says."""

    what: int = 0


class Quote(Record):
    """A model that is passed and returned."""

    symbol: str
    price: float = 0.0
    tags: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Place:
    """A dataclass that is passed and returned."""

    row: int
    raw: bytes = b""


class Side(enum.Enum):
    BUY = "buy"
    SELL = "sell"


class Pair(NamedTuple):
    left: int
    right: str


class Aliased(BaseModel):
    """Another name in JSON than in Python, each way."""

    value: int = Field(validation_alias="in", serialization_alias="out")
    model_config = {"validate_by_name": True, "validate_by_alias": True}


class Client:
    """Something with methods, which is no argument."""

    def __init__(self, base: str = "") -> None:
        self.base = base

    def fetch(self, path: str) -> str:
        return self.base + path

    @classmethod
    def make(cls, path: str) -> str:
        return path

    def __call__(self, path: str) -> str:
        return path

    async def fetch_async(self, path: str) -> str:
        return self.base + path


class SpecialClient(Client):
    """Inherits its methods."""


class WithClient(BaseModel):
    """A model that alone knows how its field is serialised."""

    model_config = {"arbitrary_types_allowed": True}
    client: Client

    @field_serializer("client")
    def base_of(self, client: Client) -> str:
        return client.base


def plain(*args: Any, **kwargs: Any) -> Any:
    return [args, kwargs]


async def coroutine(value: Any = None) -> Any:
    await asyncio.sleep(0)
    return value


def place_of(function: Any, *args: Any, **kwargs: Any) -> str:
    return identify(function, args, kwargs).place


def name_of(function: Any) -> str:
    return identify(function, (), {}).name


Acts = Callable[[Transaction], Any]


def acting(system: Supervisor, *acts: Acts, deadline: float = WAIT_S) -> Supervisor:
    """Register a plain handler."""

    @system.on(Act, deadline=deadline)
    def act(trigger: Act, tx: Transaction) -> Any:
        return acts[trigger.what](tx)

    return system


def acting_async(system: Supervisor, *acts: Acts, deadline: float = WAIT_S) -> Supervisor:
    """Register a coroutine function as handler, which awaits what it gets."""

    @system.on(Act, deadline=deadline)
    async def act(trigger: Act, tx: Transaction) -> Any:
        result = acts[trigger.what](tx)
        return await result if asyncio.iscoroutine(result) else result

    return system


def cause_of(system: Supervisor) -> BaseException:
    with system, pytest.raises(HandlerFailed) as caught:
        system.ask(Act(), timeout=WAIT_S)
    cause = caught.value.__cause__
    assert cause is not None
    return cause


# What a call is known by ---------------------------------------------------------------------------------------------


def test_a_function_is_known_by_its_module_and_qualified_name() -> None:
    def inner() -> None: ...

    here = __name__
    assert name_of(plain) == f"{here}.plain"
    assert name_of(inner) == f"{here}.{inner.__qualname__}"
    assert name_of(time.time) == "time.time"
    assert name_of(json.dumps) == "json.dumps"


def test_a_method_is_known_by_the_class_of_its_object() -> None:
    here = __name__
    assert name_of(Client("a").fetch) == f"{here}.Client.fetch"
    assert name_of(SpecialClient().fetch) == f"{here}.SpecialClient.fetch", "not by the class that defines it"
    assert name_of(SpecialClient.make) == f"{here}.SpecialClient.make"
    assert name_of(Client()) == f"{here}.Client"
    assert name_of({}.get) == "builtins.dict.get"


def test_a_partial_is_its_function_with_all_arguments() -> None:
    part = functools.partial(functools.partial(plain, 1, mode="x"), 2, mode="y")
    call = identify(part, (3,), {"more": 4})
    assert call.place == place_of(plain, 1, 2, 3, mode="y", more=4)
    assert call.function(*call.arguments, **call.keywords) == [(1, 2, 3), {"mode": "y", "more": 4}]


def test_a_decorated_function_is_known_by_what_it_wraps() -> None:
    @functools.lru_cache
    @functools.wraps(plain)
    def wrapped(*args: Any) -> Any: ...

    assert name_of(wrapped) == f"{__name__}.plain"


@pytest.mark.parametrize("function", [lambda x: x, functools.partial(lambda x: x, 1)])
def test_a_lambda_is_refused_because_it_has_no_name(function: Any) -> None:
    with pytest.raises(
        TypeError, match=r"known by the name of its function, and <function .*<lambda>.* has none: define"
    ):
        identify(function, (), {})


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="take a function and its arguments, got 5 as function"):
        identify(5, (), {})  # type: ignore[arg-type]


def test_arguments_tell_calls_apart_and_equal_ones_do_not() -> None:
    different = [
        place_of(plain),
        place_of(plain, None),
        place_of(plain, 1),
        place_of(plain, "1"),
        place_of(plain, 1.5),
        place_of(plain, True),
        place_of(plain, 1, 2),
        place_of(plain, [1, 2]),
        place_of(plain, x=1),
        place_of(plain, y=1),
        place_of(plain, {"x": 1}),
        place_of(plain, "x", 1),
        place_of(plain, Side.BUY),
        place_of(plain, Side.SELL),
        place_of(plain, b"x"),
        place_of(plain, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)),
        place_of(plain, decimal.Decimal("1.10")),
        place_of(plain, uuid.UUID(int=1)),
        place_of(plain, Place(1)),
        place_of(plain, Place(1, b"x")),
        place_of(plain, Quote(symbol="A")),
        place_of(plain, Quote(symbol="A", price=2)),
        place_of(plain, math.nan),
        place_of(plain, math.inf),
    ]
    assert len(set(different)) == len(different)
    assert place_of(plain, a=1, b=2) == place_of(plain, b=2, a=1)
    assert place_of(plain, {"a": 1, "b": [2]}) == place_of(plain, {"b": (2,), "a": 1})
    assert place_of(plain, {1, 2, 3}) == place_of(plain, frozenset([3, 2, 1]))
    assert place_of(plain, Pair(1, "x")) == place_of(plain, (1, "x"))
    assert place_of(plain, Quote(symbol="A")) == place_of(plain, Quote(symbol="A", price=0))


def test_what_a_call_is_known_by_does_not_depend_on_the_process_or_its_hash_seed() -> None:
    program = (
        "from tests.unit.test_calls import Quote, place_of, plain\n"
        "tags = frozenset(f'tag{n}' for n in range(20))\n"
        "print(place_of(plain, set(tags), {t: 1 for t in tags}, Quote(symbol='x', tags=tags), [tags]))\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(printed) == 1


@pytest.mark.parametrize(
    "start", [["shop.py"], ["-m", "shop"], ["-c", "import shop; shop.main()"]], ids=["script", "module", "import"]
)
def test_a_program_s_own_file_is_known_by_the_name_that_others_import_it_by(start: list[str], tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from seqtor.actors.answers import identify, failed\n"
        "from seqtor.actors.journal.decoding import error_of\n"
        "class SoldOut(Exception): pass\n"
        "def price(): ...\n"
        "def main():\n"
        "    call = identify(price, (), {})\n"
        "    kept = failed('1', call, SoldOut('x')).error\n"
        "    print(call.name, kept.type, type(error_of(kept)) is SoldOut)\n"
        "if __name__ == '__main__': main()\n"
    )
    ran = subprocess.run([sys.executable, *start], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == "shop.price shop.SoldOut True\n"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "a object that cannot be serialised"),
        (iter([1]), "a list_iterator that cannot be serialised (it can be read only once)"),
        ([plain], "a list that cannot be serialised"),
    ],
)
def test_an_argument_that_is_no_json_is_refused_by_its_name(value: Any, said: str) -> None:
    def named(symbol: str, limit: Any = None) -> None: ...

    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = [(("A", value), {}), (("A",), {"limit": value})]
    for arguments, keywords in given:
        with pytest.raises(TypeError) as caught:
            identify(named, arguments, keywords)
        assert str(caught.value).startswith(f"argument 'limit' of {__name__}.")
        assert said in str(caught.value)
        assert "pass plain values" in str(caught.value)
    with pytest.raises(TypeError, match=r"argument 2 of builtins\.dict\.fromkeys|argument 'value' of"):
        identify(dict.fromkeys, ("A", value), {})


def test_a_model_with_a_field_of_its_own_kind_is_known_by_its_json() -> None:
    assert place_of(plain, WithClient(client=Client("a"))) == place_of(plain, WithClient(client=Client("a")))
    assert place_of(plain, WithClient(client=Client("a"))) != place_of(plain, WithClient(client=Client("b")))


# Answers --------------------------------------------------------------------------------------------------------------

Anything = Any


def kept_and_back(annotation: Any, answer: Any) -> Any:
    """The answer as it is recorded and written, and as a handler gets it from there."""

    def function() -> Any: ...

    function.__annotations__["return"] = annotation
    call = identify(function, (), {})
    kept = answered("id", call, answer)
    written = RecordedCall.model_validate_json(kept.model_dump_json(exclude_defaults=True))
    assert written == kept
    return value_of_call(written, call)


@pytest.mark.parametrize(
    ("annotation", "answer"),
    [
        (None, None),
        (int, 5),
        (int, 2**100),
        (bool, True),
        (str, 'ä "quoted"\n'),
        (float, 0.1),
        (float, math.inf),
        (float, 5.0),
        (bytes, b"\xff\x00\xfe"),
        (dict[str, bytes], {"a": b"\xff"}),
        (list[Quote], [Quote(symbol="A", price=1.5, tags=frozenset({"x", "y"}))]),
        (Quote | None, None),
        (Quote | None, Quote(symbol="A")),
        (Place, Place(1, b"text")),
        (Pair, Pair(1, "x")),
        (Side, Side.SELL),
        (set[int], {1, 2, 3}),
        (tuple[int, str], (1, "x")),
        (dict[int, str], {1: "x"}),
        (datetime.datetime, datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)),
        (datetime.timedelta, datetime.timedelta(seconds=1.5)),
        (decimal.Decimal, decimal.Decimal("1.10")),
        (uuid.UUID, uuid.UUID(int=7)),
        (Path, Path("a/b")),
        (Aliased, Aliased(value=3)),
        (Anything, {"a": [1, 2.5, None, "x", True]}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_answer_comes_back_as_what_the_function_is_annotated_to_return(annotation: Any, answer: Any) -> None:
    found = kept_and_back(annotation, answer)
    assert found == answer
    assert type(found) is type(answer)


def test_nan_comes_back_as_nan() -> None:
    assert math.isnan(kept_and_back(float, math.nan))


def test_an_answer_without_an_annotation_is_plain_json() -> None:
    assert kept_and_back(Any, Quote(symbol="A")) == {"symbol": "A", "price": 0.0, "tags": []}
    assert kept_and_back(Any, (1, {2})) == [1, [2]]
    assert kept_and_back("NoSuchName", Place(1)) == {"row": 1, "raw": ""}


def test_an_answer_is_made_to_fit_its_annotation_or_refused() -> None:
    assert kept_and_back(Quote, {"symbol": "A"}) == Quote(symbol="A")
    assert type(kept_and_back(float, 5)) is float
    with pytest.raises(
        TypeError, match="does not fit what the function is annotated to return: Input should be a valid in"
    ):
        kept_and_back(int, "five")


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("answer", [object(), {"a": plain}, iter([1]), deep(300), "\udc80", [1, "\ud800"]], ids=repr)
def test_an_answer_that_cannot_be_kept_is_refused(answer: Any) -> None:
    with pytest.raises(TypeError, match=r"returned a .* that cannot be serialised .* return plain values"):
        kept_and_back(Any, answer)


def test_an_answer_of_any_depth_that_is_taken_can_be_read_from_inside_its_record() -> None:
    taken = 0
    for levels in range(150, 260):
        with contextlib.suppress(TypeError):
            assert kept_and_back(Any, deep(levels)) == deep(levels)
            taken += 1
    assert taken > 20


def test_nobody_shares_an_answer() -> None:
    call = identify(plain, (), {})
    answer = {"list": [1]}
    kept = answered("id", call, answer)
    first = value_of_call(kept, call)
    first["list"].append(2)
    answer["list"].append(3)
    assert value_of_call(kept, call) == {"list": [1]}


# Exceptions -----------------------------------------------------------------------------------------------------------


class Odd(Exception):
    """Cannot be made again from what it keeps."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one}{two}")


class Plain(Exception):
    """Can."""


class Silent(Exception):
    """Says nothing of itself."""

    def __str__(self) -> str:
        raise ValueError("no text")


def raised_again(error: Exception) -> BaseException:
    kept = failed("id", identify(plain, (), {}), error)
    written = RecordedCall.model_validate_json(kept.model_dump_json(exclude_defaults=True))
    assert written == kept
    assert written.error is not None
    return error_of(written.error)


def os_error(kind: type[OSError], *args: Any) -> OSError:
    return kind(*args)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        KeyError("x"),
        TimeoutError(),
        Plain("a", 1),
        FileNotFoundError(2, "No such file", "a/b"),
        ConnectionRefusedError(111, "refused"),
        json.JSONDecodeError("bad", "{]", 1),
        Rejected("no", "sold_out", left=3),
    ],
    ids=repr,
)
def test_an_exception_is_made_again_with_its_class_arguments_and_text(error: Exception) -> None:
    found = raised_again(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found.args == error.args
    assert vars(found) == vars(error)


@pytest.mark.parametrize("error", [Odd(1, 2), Silent(), ValueError("\udc80")], ids=["arguments", "text", "unicode"])
def test_an_exception_that_cannot_be_made_again_is_a_recorded_failure(error: Exception) -> None:
    found = raised_again(error)
    if type(error) is ValueError:
        assert (type(found), found.args) == (RecordedFailure, ("builtins.ValueError: \\udc80",))
    else:
        assert type(found) is RecordedFailure
        assert found.kind == f"{__name__}.{type(error).__name__}"


def refuses() -> None:
    raise Plain("told no")


@pytest.mark.parametrize("make", [simulated, threaded])
def test_the_attempt_that_made_the_call_sees_where_it_failed(make: Any) -> None:
    cause = cause_of(acting(make(), lambda tx: tx.call(refuses)))
    assert (type(cause), str(cause)) == (Plain, "told no")
    original = cause.__cause__
    assert type(original) is Plain
    assert original.__traceback__ is not None
    assert original.__traceback__.tb_frame.f_code is refuses.__code__


def test_a_rejection_by_the_function_rejects_the_run() -> None:
    def sold_out() -> None:
        raise Rejected("sold out", left=0)

    with acting(simulated(), lambda tx: tx.call(sold_out)) as system, pytest.raises(Rejected) as caught:
        system.ask(Act())
    assert (caught.value.message, caught.value.details) == ("sold out", {"left": 0})


class Abrupt(BaseException):
    """No Exception: nothing that a function answers."""


def test_what_is_no_exception_passes_and_is_not_recorded() -> None:
    made: list[str] = []

    def leaves() -> None:
        made.append(current_call_id())
        raise Abrupt

    async def leaves_async() -> None:
        await asyncio.sleep(0)
        leaves()

    for make in (acting, acting_async):
        backend = MemoryBackend()
        verb = "call" if make is acting else "acall"
        function: Any = leaves if make is acting else leaves_async
        with make(simulated(journal=backend), lambda tx, v=verb, f=function: getattr(tx, v)(f)) as system:  # type: ignore[misc]
            with pytest.raises(HandlerFailed) as caught:
                system.ask(Act())
            assert type(caught.value.__cause__) is Abrupt
            assert system.verify().executed == 1
        backend.open(write=False)
        assert [row.body for row in backend.entries(1, 9) if row.kind == "call" and '"call"' in row.body] == []
    assert len(made) == 2


# Verbs ----------------------------------------------------------------------------------------------------------------


def test_the_wrong_verb_names_the_right_one() -> None:
    client = Client()
    for function in (coroutine, client.fetch_async, functools.partial(coroutine, 1)):
        cause = cause_of(acting(simulated(), lambda tx, f=function: tx.call(f)))  # type: ignore[misc]
        assert type(cause) is TypeError
        assert "is a coroutine function, and tx.call calls plain ones" in str(cause)
        assert "await tx.acall" in str(cause)
    cause = cause_of(acting_async(simulated(), lambda tx: tx.acall(plain)))  # type: ignore[arg-type]
    assert type(cause) is TypeError
    assert "is a plain function, and tx.acall calls coroutine functions: use tx.call" in str(cause)
    cause = cause_of(acting(simulated(), lambda tx: tx.acall(coroutine)))
    assert type(cause) is TypeError
    assert "has to be awaited, which the plain handler of Act cannot" in str(cause)


def test_a_function_that_turns_out_to_make_coroutines_is_refused() -> None:
    def in_disguise() -> Any:
        return coroutine()

    cause = cause_of(acting(simulated(), lambda tx: tx.call(in_disguise)))
    assert type(cause) is TypeError
    assert "returned a coroutine instead of its answer" in str(cause)


def test_keywords_of_any_name_are_the_function_s() -> None:
    system = acting(simulated(), lambda tx: tx.call(plain, 1, function=2, self=3, args=4))
    with system:
        assert system.ask(Act()) == [[1], {"function": 2, "self": 3, "args": 4}]


def test_equal_calls_of_one_attempt_are_told_apart_by_their_number() -> None:
    def count() -> str:
        return current_call_id()

    system = acting(simulated(), lambda tx: [tx.call(count), tx.call(count), tx.call(functools.partial(count))])
    with system:
        ids = system.ask(Act())
        run = system.record(1).id
    assert [each.rpartition(":")[2] for each in ids] == ["1", "2", "3"]
    assert len({each.rpartition(":")[0] for each in ids}) == 1
    assert ids[0].startswith(f"{run}:{__name__}.")


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_plain_call_works_in_a_coroutine_function_too(make: Any) -> None:
    def both(tx: Transaction) -> Any:
        async def ask() -> Any:
            return [tx.call(plain, 1), await tx.acall(coroutine, 2)]

        return ask()

    for journal in (None, MemoryBackend()):
        system = make(**({"journal": journal} if make is simulated else {}))
        with acting_async(system, both) as system:
            assert system.ask(Act(), timeout=WAIT_S) == [[[1], {}], 2]


def test_several_calls_are_under_way_at_a_time() -> None:
    started: list[int] = []
    all_started = asyncio.Event()

    async def wait_for_all(number: int) -> int:
        started.append(number)
        if len(started) == 3:
            all_started.set()
        await all_started.wait()
        return number

    async def ask(tx: Transaction) -> Any:
        return await asyncio.gather(*(tx.acall(wait_for_all, number) for number in range(3)))

    with acting_async(simulated(), ask) as system:
        assert system.ask(Act()) == [0, 1, 2]


# Inside the function --------------------------------------------------------------------------------------------------


def test_there_is_no_current_call_outside_of_one() -> None:
    with pytest.raises(LookupError, match=r"current_call_id\(\) works inside a function that tx.call"):
        current_call_id()
    cause = cause_of(acting(simulated(), lambda tx: current_call_id()))
    assert type(cause) is LookupError


def look_inside(look: Callable[[], Any]) -> tuple[Acts, Acts]:
    def inside() -> Any:
        return look()

    async def inside_async() -> Any:
        await asyncio.sleep(0)
        return look()

    return lambda tx: tx.call(inside), lambda tx: tx.acall(inside_async)


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_called_function_is_outside_of_the_run_but_not_of_the_handler(make: Any) -> None:
    for register, place in ((acting, 0), (acting_async, 1)):
        system = make()
        looks = look_inside(lambda system=system: [said_by(current_transaction), said_by(lambda: system.ask(Act()))])  # type: ignore[misc]
        with register(system, looks[place]):
            no_transaction, would_deadlock = system.ask(Act(), timeout=WAIT_S)
        assert no_transaction.startswith("LookupError: there is no current transaction inside a function that tx.call")
        assert would_deadlock.startswith("WouldDeadlock: system.ask() inside the handler of Act")


def said_by(do: Callable[[], Any]) -> str:
    try:
        return f"nothing: {do()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("make", [simulated, threaded])
def test_a_called_function_cannot_use_the_transaction(make: Any) -> None:
    """What it read or wrote would be missing in the next attempt, which does not call it again."""

    def uses(tx: Transaction, accounts: Any) -> list[Callable[[], Any]]:
        return [
            lambda: tx[accounts]["alice"],
            lambda: tx[accounts].increment("alice", balance=1),
            lambda: tx.peek(accounts),
            lambda: tx.random,
            tx.uuid4,
            lambda: tx.submit(Deposit()),
            lambda: tx.call(plain),
        ]

    for register, place in ((acting, 0), (acting_async, 1)):
        system = make()
        accounts = open_bank(system, alice=1)

        def act(tx: Transaction, accounts: Any = accounts, place: int = place) -> Any:
            _ = tx[accounts]["alice"]  # The view is there already.
            return look_inside(lambda: [said_by(use) for use in uses(tx, accounts)])[place](tx)

        with register(system, act):
            heard = system.ask(Act(), timeout=WAIT_S)
            assert system.snapshot(1)[accounts]["alice"] == Account(balance=1)
        assert len(heard) == 7
        for said in heard:
            assert said.startswith("SeqtorError: the transaction of seq 1 is used inside a function that tx.call"), said


def test_the_handler_itself_can_use_the_transaction_while_a_call_is_under_way() -> None:
    system = simulated()
    accounts = open_bank(system, alice=1)

    async def act(tx: Transaction) -> Any:
        called = asyncio.create_task(tx.acall(coroutine, 5))
        await asyncio.sleep(0)
        balance = tx[accounts]["alice"].balance
        await asyncio.sleep(0)
        tx[accounts]["alice"] = Account(balance=balance + await called)
        return tx[accounts]["alice"].balance

    with acting_async(system, act):
        assert system.ask(Act()) == 6


# Waiting --------------------------------------------------------------------------------------------------------------


class Held(MemoryBackend):
    """A journal whose writing can be held up, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.may_write = threading.Event()
        self.may_write.set()
        self.arrived = threading.Semaphore(0)
        self.fails_at: Callable[[Group], bool] = lambda group: False

    def append(self, group: Group) -> None:
        self.arrived.release()
        assert self.may_write.wait(WAIT_S)
        if self.fails_at(group):
            raise OSError("the disk is gone")
        super().append(group)


def answers(group: Group) -> bool:
    return any(row.kind == "call" and '"call"' in row.body for row in group.entries)


def starts(group: Group) -> bool:
    return any(row.kind == "call" and '"call"' not in row.body for row in group.entries)


def test_a_call_starts_when_the_run_is_durable_and_its_answer_is_before_it_is_handed_out() -> None:
    backend = Held()
    calls, handed_out = threading.Semaphore(0), threading.Event()

    def outside() -> None:
        calls.release()
        backend.may_write.clear()

    def act(tx: Transaction) -> None:
        tx.call(outside)
        handed_out.set()

    with acting(Supervisor(backend), act) as system:
        backend.may_write.clear()
        submission = system.submit(Act())
        assert backend.arrived.acquire(timeout=WAIT_S)
        assert not calls.acquire(blocking=False), "neither run nor inputs are durable"
        backend.may_write.set()
        assert calls.acquire(timeout=WAIT_S)
        assert backend.arrived.acquire(timeout=WAIT_S)
        while not any(row.kind == "accepted" for row in backend.entries(1, 9)):
            assert backend.arrived.acquire(timeout=WAIT_S)
        assert not handed_out.is_set()
        backend.may_write.set()
        assert handed_out.wait(WAIT_S)
        submission.result(WAIT_S)


def test_a_call_starts_when_what_its_attempt_reads_is_durable() -> None:
    backend = Held()
    made = threading.Event()
    system = Supervisor(backend)
    accounts = open_bank(system)
    read = threading.Event()

    def act(tx: Transaction) -> Any:
        assert tx[accounts]["alice"].balance == 5
        assert tx.snapshot_seq == 1
        read.set()
        return tx.call(outside)

    def outside() -> int:
        made.set()
        return backend._reached.total

    with acting(system, act):
        backend.may_write.clear()
        deposit = system.submit(Deposit(amount=5))
        while system.stats().committed_through < 1:
            pass
        submission = system.submit(Act())
        assert read.wait(WAIT_S)
        assert not made.is_set(), "the deposit is visible, and not durable"
        backend.may_write.set()
        assert submission.result(WAIT_S) >= 1
        assert deposit.result(WAIT_S) == 5


@pytest.mark.parametrize("register", [acting, acting_async])
@pytest.mark.parametrize("when", [starts, answers])
def test_if_the_journal_fails_while_a_call_waits_the_outcome_is_unknown_and_the_run_goes_on_after_a_restart(
    when: Any, register: Any
) -> None:
    backend = Held()
    backend.fails_at = when
    made: list[str] = []
    heard: list[str] = []
    has_heard = threading.Event()

    def outside() -> int:
        made.append(current_call_id())
        return 5

    async def outside_async() -> int:
        return outside()

    def act(tx: Transaction) -> Any:
        try:
            return tx.call(outside)
        except OutcomeUnknown as unknown:
            heard.append(str(unknown))
            has_heard.set()
            raise

    async def act_async(tx: Transaction) -> Any:
        try:
            return await tx.acall(outside_async)
        except OutcomeUnknown as unknown:
            heard.append(str(unknown))
            has_heard.set()
            raise

    handler: Any = act if register is acting else act_async
    with register(Supervisor(backend), handler) as system:
        submission = system.submit(Act(), idempotency_key="one")
        with pytest.raises(OutcomeUnknown):
            submission.result(WAIT_S)
        assert has_heard.wait(WAIT_S)
    assert len(made) == (when is answers)
    backend.fails_at = lambda group: False
    with register(Supervisor(backend), handler) as system:
        if when is answers:  # Else nothing of it was ever durable, and it was not acknowledged.
            assert system.submit(Act(), idempotency_key="one").result(WAIT_S) == 5
            assert len(made) == 2
            assert made[0] == made[1]
    assert len(heard) == 1
    assert "has no recorded answer: the journal failed, or the system was stopped" in heard[0]
    backend.open(write=False)
    states = [json.loads(row.body)["state"] for row in backend.commits(1, 9)]
    assert states == ["committed"] * (when is answers), "the attempt that got no answer ended in no record"


@pytest.mark.parametrize("register", [acting, acting_async])
def test_if_the_runtime_breaks_down_in_a_call_the_run_ends_in_no_record_although_the_journal_could_take_it(
    register: Any,
) -> None:
    backend = MemoryBackend()
    gate = Gate()
    made: list[str] = []
    over = threading.Event()

    def outside() -> int:
        made.append(current_call_id())
        gate.pass_through()
        return 5

    async def outside_async() -> int:
        made.append(current_call_id())
        await asyncio.to_thread(gate.pass_through)
        return 5

    def act(tx: Transaction) -> Any:
        try:
            return tx.call(outside)
        finally:
            over.set()

    async def act_async(tx: Transaction) -> Any:
        try:
            return await tx.acall(outside_async)
        finally:
            over.set()

    handler: Any = act if register is acting else act_async
    with register(Supervisor(backend, settings={"restart_intensity": 0}), handler) as system:
        submission = system.submit(Act(), idempotency_key="one")
        gate.await_arrivals()
        broken: Any = None
        system._running._inbox.put(AcceptTriggers(submissions=(broken,)))  # The sequencer crashes.
        with pytest.raises(OutcomeUnknown):
            submission.result(WAIT_S)
        gate.open()
        assert over.wait(WAIT_S)
    with register(Supervisor(backend), handler) as system:
        assert system.submit(Act(), idempotency_key="one").result(WAIT_S) == 5
    assert len(made) == 2
    assert made[0] == made[1]
    backend.open(write=False)
    assert [json.loads(row.body)["state"] for row in backend.commits(1, 9)] == ["committed"]


@pytest.mark.parametrize("register", [acting, acting_async])
def test_a_stop_leaves_no_call_waiting(register: Any) -> None:
    gate = Gate()
    heard: list[Any] = []
    over = threading.Event()

    def outside() -> int:
        gate.pass_through()
        return 5

    async def outside_async() -> int:
        await asyncio.to_thread(gate.pass_through)
        return 5

    def act(tx: Transaction) -> Any:
        try:
            return tx.call(outside)
        except BaseException as error:
            heard.append(error)
            raise
        finally:
            over.set()

    async def act_async(tx: Transaction) -> Any:
        try:
            return await tx.acall(outside_async)
        except BaseException as error:
            heard.append(error)
            raise
        finally:
            over.set()

    backend = MemoryBackend()
    system = register(Supervisor(backend), act if register is acting else act_async)
    with system:
        system.submit(Act())
        gate.await_arrivals()
        system.stop(grace=0)
        gate.open()
        assert over.wait(WAIT_S)
    assert type(heard[0]) in (OutcomeUnknown, asyncio.CancelledError)
    backend.open(write=False)
    assert list(backend.commits(1, 9)) == []


# Attempts -------------------------------------------------------------------------------------------------------------


def conflicting(system: Supervisor, call: Callable[[Transaction], Any]) -> tuple[Any, list[Any]]:
    """A plain handler whose first attempt reads what a lower seq then changes; the attempts' answers."""
    accounts = open_bank(system, alice=1)
    answers: list[Any] = []

    @system.on(Act, deadline=WAIT_S)
    def act(trigger: Act, tx: Transaction) -> Any:
        balance = tx[accounts]["alice"].balance
        answer = call(tx)
        answers.append((tx.attempt, answer))
        tx[accounts]["alice"] = Account(balance=balance + 1)
        return answer

    return accounts, answers


def test_an_attempt_that_was_abandoned_in_a_call_stops_there_and_the_next_gets_its_answer() -> None:
    system = threaded(3)
    below, in_call = Gate(), Gate()
    made: list[str] = []

    class Below(Trigger[None]):
        """Gets the lower seq, and writes late."""

    def outside() -> str:
        made.append(current_call_id())
        in_call.pass_through()
        return "answer"

    accounts, answers = conflicting(system, lambda tx: tx.call(outside))

    @system.on(Below, deadline=WAIT_S)
    def write_below(trigger: Below, tx: Transaction) -> None:
        below.pass_through()
        tx[accounts]["alice"] = Account(balance=10)

    with system:
        first = system.submit(Below())
        below.await_arrivals()
        second = system.submit(Act())
        in_call.await_arrivals()
        below.open()
        first.result(WAIT_S)
        in_call.open()
        assert second.result(WAIT_S) == "answer"
        assert answers == [(2, "answer")], "the first attempt went no further"
        assert len(made) == 1
        assert system.snapshot(2)[accounts]["alice"].balance == 11


def test_an_attempt_that_is_over_before_its_call_starts_makes_none() -> None:
    backend = Held()
    system = Supervisor(backend, settings={"threads": 3})
    below, before_call = Gate(), Gate()
    made: list[int] = []

    class Below(Trigger[None]):
        """Gets the lower seq, and writes late."""

    def call(tx: Transaction) -> None:
        if tx.attempt == 1:
            before_call.pass_through()
        tx.call(made.append, tx.attempt)

    accounts, _ = conflicting(system, call)

    @system.on(Below, deadline=WAIT_S)
    def write_below(trigger: Below, tx: Transaction) -> None:
        below.pass_through()
        tx[accounts]["alice"] = Account(balance=10)

    with system:
        system.submit(Below())
        below.await_arrivals()
        second = system.submit(Act())
        before_call.await_arrivals()
        backend.may_write.clear()
        before_call.open()
        assert backend.arrived.acquire(timeout=WAIT_S)
        below.open()
        while system.stats().committed_through < 1:
            pass
        backend.may_write.set()
        second.result(WAIT_S)
    assert made == [2]


def test_every_attempt_gets_an_equal_answer_of_its_own() -> None:
    system = threaded(3)
    below, after_call = Gate(), Gate()
    seen: list[Any] = []

    class Below(Trigger[None]):
        """Gets the lower seq, and writes late."""

    def outside() -> dict[str, list[int]]:
        return {"list": [1]}

    def fails() -> None:
        raise Plain("no", 1)

    def call(tx: Transaction) -> str:
        answer = tx.call(outside)
        seen.append(json.dumps(answer))
        answer["list"].append(tx.attempt)
        with pytest.raises(Plain) as caught:
            tx.call(fails)
        seen.append((type(caught.value), caught.value.args))
        if tx.attempt == 1:
            after_call.pass_through()
        return "done"

    accounts, _ = conflicting(system, call)

    @system.on(Below, deadline=WAIT_S)
    def write_below(trigger: Below, tx: Transaction) -> None:
        below.pass_through()
        tx[accounts]["alice"] = Account(balance=10)

    with system:
        first = system.submit(Below())
        below.await_arrivals()
        second = system.submit(Act())
        after_call.await_arrivals()
        below.open()
        first.result(WAIT_S)
        after_call.open()
        second.result(WAIT_S)
        assert system.record(2).attempts == 2
    assert seen == ['{"list": [1]}', (Plain, ("no", 1))] * 2


def test_a_call_that_hangs_is_joined_by_the_attempt_that_takes_over() -> None:
    system = threaded(4)
    below, in_call = Gate(), Gate()
    made: list[str] = []
    accounts = open_bank(system, alice=1)

    class Below(Trigger[None]):
        """Gets the lower seq, and writes late."""

    def outside() -> str:
        made.append(current_call_id())
        in_call.pass_through()
        return "answer"

    attempts: list[int] = []
    joining = threading.Event()

    @system.on(Act, deadline=0.2)
    def act(trigger: Act, tx: Transaction) -> str:
        attempts.append(tx.attempt)
        balance = tx[accounts]["alice"].balance
        if tx.attempt == 2:
            joining.set()
        answer = tx.call(outside)
        tx[accounts]["alice"] = Account(balance=balance + 1)
        return f"{answer} to attempt {tx.attempt}"

    @system.on(Below, deadline=WAIT_S)
    def write_below(trigger: Below, tx: Transaction) -> None:
        below.pass_through()
        tx[accounts]["alice"] = Account(balance=10)

    with system:
        first = system.submit(Below())
        below.await_arrivals()
        second = system.submit(Act())
        in_call.await_arrivals()
        while system.stats().pending_commits == 0:  # Until the deadline of the first attempt has passed.
            pass
        below.open()
        first.result(WAIT_S)
        assert joining.wait(WAIT_S)
        in_call.open()
        assert second.result(WAIT_S) == "answer to attempt 2"
        assert attempts == [1, 2]
        assert len(made) == 1


def test_a_call_that_hangs_past_the_deadline_ends_the_run_and_its_late_answer_is_dropped() -> None:
    backend = MemoryBackend()
    in_call, over = Gate(), threading.Event()

    def outside() -> str:
        in_call.pass_through()
        return "late"

    def act(tx: Transaction) -> str:
        try:
            return tx.call(outside)
        finally:
            over.set()

    with acting(Supervisor(backend), act, deadline=0.05) as system:
        with pytest.raises(DeadlineExceeded):
            system.ask(Act(), timeout=WAIT_S)
        in_call.open()
        assert over.wait(WAIT_S)
        assert system.record(1).state is State.DEADLINE
    backend.open(write=False)
    assert not [row for row in backend.entries(1, 99) if row.kind == "call" and '"call"' in row.body]


def test_a_coroutine_that_hangs_past_the_deadline_is_cancelled_with_its_run() -> None:
    cancelled: list[bool] = []

    async def outside() -> None:
        try:
            await asyncio.sleep(1e9)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with acting_async(simulated(), lambda tx: tx.acall(outside), deadline=5) as system:
        with pytest.raises(DeadlineExceeded):
            system.ask(Act())
        system.stats()
    assert cancelled == [True]


def test_an_invalidated_coroutine_does_not_cancel_its_call_and_the_next_attempt_joins_it() -> None:
    for seed in range(20):
        system = simulated(seed)
        accounts = open_bank(system, alice=1)
        made: list[str] = []
        attempts: list[int] = []
        finished: list[str] = []

        async def outside(made: list[str] = made, finished: list[str] = finished) -> str:
            made.append(current_call_id())
            await asyncio.sleep(100)
            finished.append("finished")
            return "answer"

        async def act(
            tx: Transaction, accounts: Any = accounts, attempts: Any = attempts, outside: Any = outside
        ) -> str:
            attempts.append(tx.attempt)
            balance = tx[accounts]["alice"].balance
            answer = await tx.acall(outside)
            tx[accounts]["alice"] = Account(balance=balance + 1)
            return str(answer)

        class Below(Trigger[None]):
            """Writes when the other is in its call."""

        @system.on(Below)
        async def write_below(trigger: Below, tx: Transaction, accounts: Any = accounts) -> None:
            await asyncio.sleep(1)
            tx[accounts]["alice"] = Account(balance=10)

        with acting_async(system, act, deadline=1e6):
            first, second = system.submit(Below()), system.submit(Act())
            first.result()
            assert second.result() == "answer"
            assert system.snapshot(2)[accounts]["alice"].balance == 11
        assert attempts == [1, 2]
        assert (len(made), finished) == (1, ["finished"])


# Time-outs of the handler's own, and replay ---------------------------------------------------------------------------


def test_a_handler_that_stops_waiting_cancels_the_call_and_replay_times_out_too() -> None:
    backend = MemoryBackend()
    ended: list[str] = []
    system = simulated(3, journal=backend)

    async def slow(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "in time"

    async def act(tx: Transaction) -> list[str]:
        heard = []
        for seconds in (1, 100):
            try:
                async with asyncio.timeout(10):
                    heard.append(await tx.acall(slow, seconds))
            except TimeoutError:
                heard.append("timed out")
        await asyncio.sleep(1)
        return [*heard, *ended]

    with acting_async(system, act, deadline=1000):
        assert system.ask(Act()) == ["in time", "timed out", "cancelled"]
        assert system.verify().executed == 1


def test_replay_cancels_what_the_handler_had_cancelled() -> None:
    made: list[str] = []

    async def slow(seconds: float, fails: bool = False) -> str:
        made.append(current_call_id())
        await asyncio.sleep(seconds)
        if fails:
            raise Plain("no")
        return "in time"

    async def cancels_itself() -> str:
        made.append(current_call_id())
        raise asyncio.CancelledError

    async def act(tx: Transaction) -> list[str]:
        heard: list[str] = []
        in_time: asyncio.Task[str] | None = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(tx.acall(slow, 100))
                group.create_task(tx.acall(slow, 2, fails=True))
                in_time = group.create_task(tx.acall(slow, 1))
                group.create_task(tx.acall(slow, 50))
        except* Plain as failures:
            assert in_time is not None
            heard += [str(failures.exceptions), in_time.result()]
        try:
            await tx.acall(cancels_itself)
        except asyncio.CancelledError:
            heard.append("cancelled")
        return heard

    for seed in range(10):
        made.clear()
        with acting_async(simulated(seed, journal=MemoryBackend()), act, deadline=1000) as system:
            assert system.ask(Act()) == ["(Plain('no'),)", "in time", "cancelled"]
            assert system.verify().executed == 1
        assert len(made) == 5


def test_replay_hands_answers_out_in_the_order_in_which_the_handler_got_them() -> None:
    system = simulated(3, journal=MemoryBackend())
    made = 0

    async def after(seconds: float) -> float:
        nonlocal made
        made += 1
        await asyncio.sleep(seconds)
        return seconds

    async def act(tx: Transaction) -> list[float]:
        return [await each for each in asyncio.as_completed([tx.acall(after, seconds) for seconds in (3, 1, 2)])]

    with acting_async(system, act):
        assert system.ask(Act()) == [1, 2, 3]
        assert system.verify().executed == 1
    assert made == 3


def test_replay_gives_rejected_and_failed_runs_their_answers() -> None:
    backend = MemoryBackend()
    made: list[str] = []

    def outside(fails: bool) -> str:
        made.append(current_call_id())
        if fails:
            raise Plain("no")
        return "answer"

    def rejects(tx: Transaction) -> None:
        raise Rejected(tx.call(outside, False))

    def fails(tx: Transaction) -> None:
        tx.call(outside, True)

    with acting(simulated(journal=backend), rejects, fails) as system:
        with pytest.raises(Rejected, match="answer"):
            system.ask(Act(what=0))
        with pytest.raises(HandlerFailed, match="Plain: no"):
            system.ask(Act(what=1))
        assert system.verify().executed == 2
    assert len(made) == 2
    backend.open(write=False)
    kept = [json.loads(row.body)["calls"] for row in backend.commits(1, 2)]
    assert [[call["id"] for call in calls] for calls in kept] == [[made[0]], [made[1]]]


def test_a_replayed_run_that_calls_something_else_has_diverged_and_calls_nothing() -> None:
    symbol = ["A"]
    made: list[str] = []

    def outside(symbol: str) -> str:
        made.append(symbol)
        return symbol

    with acting(simulated(journal=MemoryBackend()), lambda tx: tx.call(outside, symbol[0])) as system:
        system.ask(Act())
        symbol[0] = "B"
        with pytest.raises(ReplayDiverged):
            system.verify()
    assert made == ["A"]


# Recorded inputs ------------------------------------------------------------------------------------------------------


def test_recorded_inputs_are_equal_in_every_attempt_and_after_a_restart_of_a_run_that_had_called() -> None:
    backend = MemoryBackend()
    seen: list[Any] = []
    made: list[str] = []
    lives = [0]

    class Below(Trigger[None]):
        """Changes what the other has read."""

    def outside(prompt: str) -> str:
        made.append(current_call_id())
        return prompt

    def begin(seed: int) -> tuple[Supervisor, SimulatedDispatchers]:
        dispatchers = SimulatedDispatchers(seed)
        dispatchers.clock.advance_to(1000.0 * seed)
        system = Supervisor(backend, dispatchers=lambda settings: dispatchers)
        accounts = open_bank(system, alice=1)

        @system.on(Act, deadline=1e6)
        async def act(trigger: Act, tx: Transaction) -> str:
            peeked = tx.peek(accounts)["alice"].balance
            seen.append((tx.now, tx.random.random(), tx.uuid4(), peeked))
            changed = tx.changed(accounts, "alice")
            answer = tx.call(outside, f"{tx.now} {peeked}")
            if lives[0] == 0:
                await asyncio.sleep(1e5)
            tx[accounts]["alice"] = Account(balance=100)
            return f"{answer} {changed}"

        @system.on(Below)
        async def write_below(trigger: Below, tx: Transaction) -> None:
            await asyncio.sleep(1)
            tx[accounts]["alice"] = Account(balance=2)

        return system, dispatchers

    system, dispatchers = begin(1)
    system.start()
    system.submit(Below())
    system.submit(Act(), idempotency_key="it")
    dispatchers.run_until(lambda: len(seen) == 2 and system.stats().durable_through == 1, None)
    backend.close()  # The process is gone, in the second attempt, which reads what the first one did not.
    dispatchers.stop(0)
    lives[0] = 1
    system, dispatchers = begin(7)
    with system:
        answer = system.submit(Act(), idempotency_key="it").result()
        assert seen[0][3] == 1
        assert answer == f"{seen[0][0]} 1 True"
        assert system.verify().executed == 2
    assert len(seen) >= 3
    assert len(set(seen)) == 1
    assert len(made) == 1
