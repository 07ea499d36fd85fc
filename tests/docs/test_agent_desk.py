"""The agent desk as a process of its own, and real WebSocket clients of it.

The model's questions go through a FIFO where a test has to know that an agent is in the middle of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from seqtor import Supervisor
from tests.programs import WAIT_S

pytest.importorskip("uvicorn", reason="the gateway needs the extra [examples]")

from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from examples.agent_desk import frames
from examples.agent_desk.chat import OPEN_MAX, Chat
from examples.agent_desk.client import SYMBOLS, ask, feed
from examples.agent_desk.desk import POSITION_MAX, Desk, make_desk
from examples.agent_desk.exchange import Exchange
from examples.agent_desk.frames import BYTES_MAX
from examples.agent_desk.market import Market
from examples.agent_desk.model import Model, Wish, wish_in
from examples.agent_desk.records import Ask, PlaceOrder

ROOT = Path(__file__).parents[2]
NEVER = "3600"
TICKS = 300


class Served:
    """One life of the desk in a folder."""

    def __init__(self, folder: Path, *options: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "examples.agent_desk", "--port", "0", "--journal", folder / "desk.db",
                "--orders", folder / "orders.jsonl", "--questions", folder / "questions", *options,
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONWARNINGS": "error", **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the desk did not start: {self.process.communicate()[1]}")
        self.url = line.split()[1].rpartition("/")[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Signal it; returns the exit code and what it said on standard error."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, said

    def chat(self, client: str) -> connect:
        return connect(f"{self.url}/chat?client={client}")

    async def feed(self, count: int) -> list[dict[str, Any]]:
        """Let the market send ticks, 200 a second; returns once all are durable."""
        return await feed(f"{self.url}/market", per_second=200, count=count)


class Questions:
    """The test's end of the FIFO that the model notes its questions in."""

    def __init__(self, folder: Path) -> None:
        os.mkfifo(folder / "questions")
        self._file = os.open(folder / "questions", os.O_RDWR)  # For writing too, so that no life of the desk ends it.
        self._rest = b""

    def wait(self) -> tuple[str, str]:
        """Wait for the next question: what it is, and the id of its call."""
        while b"\n" not in self._rest:
            assert self._has_more(WAIT_S), "the model was not asked"
            self._rest += os.read(self._file, 4096)
        line, _, self._rest = self._rest.partition(b"\n")
        kind, call_id = line.decode().split()
        return kind, call_id

    def are_none(self) -> bool:
        """Whether nothing was asked that was not waited for."""
        return not self._rest and not self._has_more(0)

    def close(self) -> None:
        os.close(self._file)

    def _has_more(self, timeout_s: float) -> bool:
        poll = select.poll()  # Not `select`, which takes no descriptor above 1023.
        poll.register(self._file, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))


@pytest.fixture
def questions(tmp_path: Path) -> Iterator[Questions]:
    made = Questions(tmp_path)
    yield made
    made.close()


@contextlib.contextmanager
def looked_into(folder: Path) -> Iterator[Desk]:
    """The desk in this process, once the other one has ended."""
    desk = make_desk(folder / "desk.db", Model(folder / "asked here"), Exchange(folder / "orders.jsonl"))
    with desk.system:
        yield desk
    assert not (folder / "asked here").exists()


def placed(folder: Path) -> dict[str, dict[str, Any]]:
    """What the exchange has, by order; each order is there once, under a key of its own."""
    lines = [json.loads(line) for line in (folder / "orders.jsonl").read_text("utf-8").splitlines()]
    by_order = {line["order_id"]: line for line in lines}
    assert len(lines) == len(by_order) == len({line["key"] for line in lines})
    return by_order


async def frames_of(chat: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    async for received in chat:
        yield json.loads(received)


async def await_frame(chat: ClientConnection, **wanted: Any) -> dict[str, Any]:
    """Skip frames until one says this."""
    async with asyncio.timeout(WAIT_S):
        async for frame in frames_of(chat):
            if wanted.items() <= frame.items():
                return frame
    raise AssertionError(f"the chat was closed without {wanted}")


def test_many_agents_decide_on_the_price_of_their_place_in_the_order_while_prices_stream_in(tmp_path: Path) -> None:
    async def trade(client: str, number: int) -> list[dict[str, Any]]:
        async with served.chat(client) as chat:
            symbol, stages = SYMBOLS[number % len(SYMBOLS)], []
            first = await ask(chat, f"buy 10 {symbol}", message_id="1", on_frame=stages.append)
            second = await ask(chat, f"please sell 3 {symbol} for 0.01", message_id="2")
            kinds = [frame["type"] for frame in stages]
            assert (kinds[0], kinds[-1]) == ("accepted", "answer")
            assert {"progress"} == set(kinds[1:-1])
            return [first, second]

    async def refusals() -> list[str]:
        async with served.chat("eve") as chat:
            asked = (
                "buy 5 ACME below 1.00",
                f"buy {POSITION_MAX + 1} ACME",
                "sell 1 NOSUCH",
                "what is the weather like?",
            )
            frames = [await ask(chat, text, message_id=str(number)) for number, text in enumerate(asked)]
            return [frame.get("code", frame["type"]) for frame in frames]

    def at_the_terminal() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "examples.agent_desk.client", "chat", "--desk", served.url],
            cwd=ROOT,
            input="\nhow are you?\n",
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=True,
        )
        return done.stdout + done.stderr

    async def all_at_once() -> tuple[list[dict[str, Any]], list[str], list[dict[str, Any]]]:
        before = await served.feed(len(SYMBOLS))
        streaming = asyncio.create_task(served.feed(TICKS))
        refusing = asyncio.create_task(refusals())
        answered = await asyncio.gather(*(trade(f"c{each}", each) for each in range(6)))
        assert "  answer: Say what to trade" in await asyncio.to_thread(at_the_terminal)
        return [frame for both in answered for frame in both], await refusing, before + await streaming

    with Served(tmp_path, "--read-seconds", "0.05", "--advise-seconds", "0.5") as served:
        answers, refused, ticks = asyncio.run(asyncio.wait_for(all_at_once(), 3 * WAIT_S))
        assert served.end(signal.SIGTERM) == (0, "")

    assert refused == ["price_moved", "position_limit", "no_price", "answer"]
    assert [frame["type"] for frame in ticks] == ["priced"] * (TICKS + len(SYMBOLS))
    assert [frame["type"] for frame in answers] == ["answer"] * 12
    with looked_into(tmp_path) as desk:
        system, at_end = desk.system, desk.system.snapshot()
        for frame in answers:
            order = frame["order"]
            priced = system.snapshot(frame["seq"] - 1)[desk.prices][order["symbol"]]
            assert order["cents"] == priced.cents, "the price of its own place in the order"
            kept = at_end[desk.orders][frame["order_id"]]
            assert kept.model_dump(exclude={"reference"}) == {k: v for k, v in order.items() if k != "reference"}
            assert kept.reference == placed(tmp_path)[frame["order_id"]]["reference"]
        assert placed(tmp_path).keys() == set(at_end[desk.orders])
        assert {symbol: held.quantity for symbol, held in at_end[desk.positions].items()} == dict.fromkeys(SYMBOLS, 14)
        assert max(system.record(frame["seq"]).attempts for frame in answers) > 1, "a price has changed meanwhile"
        assert system.verify().executed > TICKS
    asked = [line.split()[0] for line in (tmp_path / "questions").read_text("utf-8").splitlines()]
    assert (asked.count("read"), asked.count("advise")) == (12 + 4 + 1, 12 + 2), (
        "once each, however often it was executed"
    )


def test_a_kill_in_the_middle_of_an_agents_question_loses_no_answer_and_repeats_no_order(
    tmp_path: Path, questions: Questions
) -> None:
    message = {"id": "m1", "text": "buy 10 ACME"}

    async def ask_and_feed() -> None:
        await served.feed(len(SYMBOLS))
        async with served.chat("alice") as chat:
            await chat.send(json.dumps(message))
            asked.append(await asyncio.to_thread(questions.wait))
            asked.append(await asyncio.to_thread(questions.wait))
            assert len(await served.feed(30)) == 30, "no tick waits for the agent"
            served.process.kill()
            with pytest.raises(ConnectionClosed):
                await await_frame(chat, type="answer")

    async def ask_again() -> dict[str, Any]:
        async with served.chat("alice") as chat:
            answer = await ask(chat, message["text"], message_id=message["id"])
            served.process.kill()  # The order may be under way to the exchange, or noted there, or not yet.
            return answer

    asked: list[tuple[str, str]] = []
    quick = ("--read-seconds", "0", "--advise-seconds")
    with Served(tmp_path, *quick, NEVER) as served:
        asyncio.run(asyncio.wait_for(ask_and_feed(), WAIT_S))
    with Served(tmp_path, *quick, "0.05") as served:
        asked.append(questions.wait())  # It goes on by itself.
        answer = asyncio.run(asyncio.wait_for(ask_again(), WAIT_S))
    with looked_into(tmp_path) as desk:
        again = desk.system.submit(Ask(client="alice", text=message["text"]), idempotency_key="alice/m1")
        assert again.result(WAIT_S).order_id == answer["order_id"]
        assert again.seq == answer["seq"]

    assert [kind for kind, _ in asked] == ["read", "advise", "advise"]
    assert asked[1] == asked[2], "the question that was in flight, under the same id"
    assert questions.are_none(), "an answered question is not asked again"
    (order_id,) = placed(tmp_path)
    assert order_id == answer["order_id"]
    with looked_into(tmp_path) as desk:
        at_end = desk.system.snapshot()
        assert at_end[desk.orders][order_id].reference == placed(tmp_path)[order_id]["reference"]
        assert at_end[desk.positions]["ACME"].quantity == 10
        assert answer["order"]["cents"] == desk.system.snapshot(answer["seq"] - 1)[desk.prices]["ACME"].cents
        assert desk.system.verify().executed > 30


def test_bad_frames_full_queues_and_lost_clients_hold_up_nobody(tmp_path: Path) -> None:
    async def say(chat: ClientConnection, number: int) -> None:
        await chat.send(json.dumps({"id": f"{number}", "text": "hello"}))

    async def misbehave() -> None:
        async with served.chat("alice") as alice, served.chat("bob") as bob:
            bad: list[str | bytes] = ["{", "[]", '{"id": "1"}', '{"id": "1", "text": ""}', b'{"id": "1", "text": "x"}']
            for frame in [*bad, '{"id": "1", "text": "x", "more": 1}', '{"id": "a b", "text": "x"}']:
                await alice.send(frame)
                assert (await await_frame(alice, type="error"))["code"] == "bad_frame"

            await say(alice, 0)
            await await_frame(alice, id="0", type="progress")
            await alice.send(json.dumps({"id": "0", "text": "something else"}))
            assert (await await_frame(alice, id="0", type="error"))["code"] == "key_reused"
            # The first one has the only slot, and keeps it.
            for number in range(1, OPEN_MAX):
                await say(alice, number)
                await await_frame(alice, id=f"{number}", type="accepted")
            await say(alice, OPEN_MAX)
            assert (await await_frame(alice, id=f"{OPEN_MAX}"))["code"] == "too_many_open"
            await say(bob, 1)
            await await_frame(bob, id="1", type="accepted")
            await say(bob, 2)
            refused = await await_frame(bob, id="2")
            assert (refused["type"], refused["code"]) == ("error", "overloaded")
            assert refused["retry_after"] > 0
            tick = {"symbol": "ACME", "price": "100.001", "time": "2026-01-01T00:00:00Z"}
            async with connect(f"{served.url}/market") as market:
                await market.send(json.dumps(tick))
                assert (await await_frame(market, type="error"))["text"].startswith("price: ")
                await market.send(json.dumps({**tick, "price": "100.00"}))
                assert (await await_frame(market, type="error"))["code"] == "overloaded"

            alice.transport.abort()
            await bob.send("x" * (BYTES_MAX + 1))
            with pytest.raises(ConnectionClosed) as closed:
                await await_frame(bob, type="answer")
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009
        with pytest.raises(InvalidStatus):
            await served.chat("../etc").__aenter__()
        async with served.chat("alice") as again:
            await say(again, 0)
            await await_frame(again, id="0", type="accepted")

    limits = {"SEQTOR_MAX_IN_FLIGHT": "1", "SEQTOR_MAX_QUEUED": str(OPEN_MAX)}
    with Served(tmp_path, "--read-seconds", NEVER, "--grace", "0.1", **limits) as served:
        asyncio.run(asyncio.wait_for(misbehave(), WAIT_S))
        code, said = served.end(signal.SIGTERM)
    assert code == 0, said
    assert "Traceback" not in said


@pytest.mark.parametrize("kind", ["chat", "market"])
def test_a_client_that_does_not_read_is_given_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"} if len(sent) == 0 else {"type": "websocket.receive", "text": "no JSON"}

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] != "websocket.accept":  # As uvicorn does when the other side reads nothing.
            await asyncio.Event().wait()

    async def serve() -> None:
        socket = WebSocket({"type": "websocket"}, receive, send)
        await asyncio.wait_for(
            (Chat(system, socket, "alice") if kind == "chat" else Market(system, socket)).serve(), WAIT_S
        )

    sent: list[str] = []
    system = Supervisor()
    monkeypatch.setattr(frames, "SEND_S", 0.01)
    asyncio.run(serve())
    assert sent == ["websocket.accept", "websocket.send"]


def test_a_desk_that_cannot_start_says_why(tmp_path: Path) -> None:
    with looked_into(tmp_path):
        with pytest.raises(AssertionError, match="could not start") as refused:
            Served(tmp_path)
        assert "desk.db" in str(refused.value)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the disk of another process is full by prlimit")
def test_a_desk_whose_journal_fails_ends_with_an_exit_code_that_says_so(tmp_path: Path) -> None:
    async def change_a_price() -> None:
        with contextlib.suppress(ExceptionGroup):  # It may go before it can say that it does not know.
            for answer in await served.feed(1):
                assert (answer["type"], answer["code"]) == ("error", "outcome_unknown")

    with Served(tmp_path) as served:
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (0, 0))
        asyncio.run(asyncio.wait_for(change_a_price(), WAIT_S))
        _, said = served.process.communicate(timeout=WAIT_S)
        assert served.process.returncode == 70, said


def test_the_exchange_places_once_under_a_key_also_after_a_restart(tmp_path: Path) -> None:
    order = PlaceOrder(order_id="o", side="buy", quantity=1, symbol="ACME", cents=1)
    first = Exchange(tmp_path / "orders.jsonl")
    references = [first.place("a", order), first.place("b", order), first.place("a", order)]
    again = Exchange(tmp_path / "orders.jsonl")
    assert references == ["X-1", "X-2", "X-1"]
    assert [again.place(key, order) for key in ("a", "b", "c")] == ["X-1", "X-2", "X-3"]


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("please Buy 10 acme below 105.00", Wish(side="buy", quantity=10, symbol="ACME", limit_cents=10500)),
        ("sell 3 GLOBEX for 99", Wish(side="sell", quantity=3, symbol="GLOBEX", limit_cents=9900)),
        ("buy 1 ACME", Wish(side="buy", quantity=1, symbol="ACME")),
        ("buy 0 ACME", Wish()),
        ("hello", Wish()),
    ],
)
def test_the_model_finds_the_wish_in_a_text(text: str, wish: Wish) -> None:
    assert wish_in(text) == wish
