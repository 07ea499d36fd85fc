"""Takes the place of the conftest.py in pykka's own test suite: the same fixtures, on seqtor's actors.

Owns the runtimes on which that suite runs. `test_pykka_suite.py` copies this file into the extracted suite, where
pykka's own conftest.py waits under the name `pykka_conftest.py`; nothing imports it here.
"""

from __future__ import annotations

import importlib
import threading
import time
from typing import Any

import pytest

from seqtor.actors.base import Actor
from seqtor.actors.dispatchers import ThreadedDispatchers
from seqtor.actors.futures import ReplyFuture

pykka_conftest: Any = importlib.import_module("tests.pykka_conftest")
globals().update({name: thing for name, thing in vars(pykka_conftest).items() if not name.startswith("__")})

# Actors of the suite wait for each other and for the test, each on a thread of the pool.
DISPATCHERS = ThreadedDispatchers(threads=8, name="pykka-suite")


class PoolActor(Actor):
    """An actor that `start()` puts on the pool, as a run actor would be."""

    _dispatcher = DISPATCHERS.pool


def runtime_of(name: str, actor_class: type[Actor]) -> Any:
    made = pykka_conftest.Runtime(
        name=name,
        actor_class=actor_class,
        event_class=threading.Event,
        future_class=ReplyFuture,
        sleep_func=time.sleep,
    )
    return pytest.param(made, id=name)


@pytest.fixture(scope="session", params=[runtime_of("elastic", Actor), runtime_of("pool", PoolActor)])
def runtime(request: pytest.FixtureRequest) -> Any:
    return request.param


def pytest_sessionstart() -> None:
    DISPATCHERS.start(lambda: 0)


def pytest_sessionfinish() -> None:
    stuck = DISPATCHERS.stop(timeout_s=10)
    assert not stuck, f"actors of the suite hold threads of the pool: {stuck}"
