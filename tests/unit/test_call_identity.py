"""What a call is known by: its function and its arguments, the same in every process."""

from __future__ import annotations

import datetime
import decimal
import functools
import json
import math
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from seqtor.actors.answers import identify
from tests.call_programs import (
    ROOT,
    Client,
    Pair,
    Place,
    Quote,
    Side,
    SpecialClient,
    WithClient,
    name_of,
    place_of,
    plain,
)


def test_a_function_is_known_by_its_module_and_qualified_name() -> None:
    def inner() -> None: ...

    assert name_of(plain) == "tests.call_programs.plain"
    assert name_of(inner) == f"{__name__}.{inner.__qualname__}"
    assert name_of(time.time) == "time.time"
    assert name_of(json.dumps) == "json.dumps"


def test_a_method_is_known_by_the_class_of_its_object() -> None:
    here = "tests.call_programs"
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

    assert name_of(wrapped) == "tests.call_programs.plain"


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
        "from tests.call_programs import Quote, place_of, plain\n"
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
