"""The trading book: every check, invariant and halt, the documents, the guard, and the import of the engine's log."""

from __future__ import annotations

import contextlib
import datetime
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import pytest

from examples.trade_state import documents
from examples.trade_state.__main__ import main
from examples.trade_state.book import DOCUMENTS, TradingBook, make_book
from examples.trade_state.importing import NotATradeLog, read_trade_log
from examples.trade_state.records import (
    CloseTrade,
    ImportTrades,
    OpenTrade,
    PartialClose,
    PartialExit,
    Trade,
    UpdateTrade,
)
from seqtor import JournalCorrupted, ReconcileDerived, Rejected, Transaction, Trigger
from seqtor.actors import SimulatedDispatchers
from seqtor.actors.journal.memory import MemoryBackend
from tests.seeds import seeds

ROOT = Path(__file__).parents[2]
UTC = datetime.UTC
MONDAY = datetime.datetime(2026, 6, 15, 10, tzinfo=UTC)


class Lose(Trigger[None]):
    """What no handler of the book does: trades are gone."""

    ids: tuple[str, ...]


class Desk:
    """A book on one thread, whose clock the test moves."""

    def __init__(self, folder: Path, seed: int = 1, journal: Any = None) -> None:
        self.folder = folder
        self.dispatchers = SimulatedDispatchers(seed)
        self.dispatchers.clock = type(self.dispatchers.clock)(MONDAY.timestamp())
        self.book: TradingBook = make_book(journal, folder, dispatchers=lambda _: self.dispatchers)

        @self.book.system.on(Lose)
        def lose(trigger: Lose, tx: Transaction) -> None:
            for each in trigger.ids:
                del tx[self.book.trades][each]

    def __enter__(self) -> Self:
        self.book.system.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.book.system.stop()

    def ask(self, trigger: Trigger[Any]) -> Any:
        return self.book.system.ask(trigger)

    def refusal(self, trigger: Trigger[Any]) -> str:
        with pytest.raises(Rejected) as refused:
            self.ask(trigger)
        return refused.value.code

    def pass_time(self, **duration: float) -> None:
        self.dispatchers.run_until(lambda: False, datetime.timedelta(**duration).total_seconds())

    @property
    def trades(self) -> dict[str, Trade]:
        return dict(self.book.system.snapshot()[self.book.trades].items())

    def require_documents(self) -> None:
        """The documents, in the system and as files, are what the book gives."""
        snapshot, book = self.book.system.snapshot(), self.trades
        for name, ref in self.book.documents.items():
            expected = DOCUMENTS[name][1](book)
            assert snapshot[ref].value == expected
            kept = (self.folder / f"{name}.json").read_text(encoding="utf-8")
            assert kept == expected.model_dump_json(indent=2) + "\n", name


def values(*parts: Any) -> tuple[Any, ...]:
    """Of several types, to be compared with numbers of any."""
    return parts


def wanted(symbol: str = "GOLD", **changes: Any) -> OpenTrade:
    trade = {
        "symbol": symbol,
        "direction": "LONG",
        "entry_price": Decimal(100),
        "stop_price": Decimal(90),
        "target_price": Decimal(130),
        "size": Decimal(1),
        **changes,
    }
    return OpenTrade(**trade)


def trade(number: int = 1, **changes: Any) -> Trade:
    """A closed trade that has won 10."""
    values = {
        "id": f"T{number:03}",
        "symbol": f"S{number}",
        "direction": "LONG",
        "entry_price": Decimal(100),
        "stop_price": Decimal(90),
        "original_stop": Decimal(90),
        "target_price": Decimal(130),
        "size": Decimal(1),
        "original_size": Decimal(1),
        "entry_time": MONDAY - datetime.timedelta(days=60),
        "status": "CLOSED",
        "exit_price": Decimal(110),
        "exit_time": MONDAY - datetime.timedelta(days=50 - number / 100),
        "pnl_usd": Decimal(10),
        **changes,
    }
    return Trade(**values)


def opened(number: int = 1, **changes: Any) -> Trade:
    return trade(number, **{"status": "OPEN", "exit_price": None, "exit_time": None, "pnl_usd": None, **changes})


# The cap, in any schedule --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(15))
def test_twenty_that_open_at_once_come_to_seven_in_any_order(tmp_path: Path, seed: int) -> None:
    with Desk(tmp_path, seed) as desk:
        codes = _open_twenty(desk.book)
        assert sorted(codes) == ["ok"] * 7 + ["position_cap"] * 13
        assert len(desk.trades) == 7


def test_twenty_that_open_at_once_come_to_seven_on_threads(tmp_path: Path) -> None:
    book = make_book(str(tmp_path / "book.db"), tmp_path / "state", settings={"threads": 8})
    with book.system as system:
        assert sorted(_open_twenty(book)) == ["ok"] * 7 + ["position_cap"] * 13
        assert len(system.snapshot()[book.trades]) == 7
        assert len({trade.id for trade in system.snapshot()[book.trades].values()}) == 7


def _open_twenty(book: TradingBook) -> list[str]:
    codes = []
    for submission in book.system.submit_many([wanted(f"S{number}") for number in range(20)]):
        try:
            submission.result(30)
        except Rejected as refused:
            codes.append(refused.code)
        else:
            codes.append("ok")
    return codes


# The checks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"symbol": ""}, "symbol"),
        ({"entry_price": Decimal(0)}, "not_positive"),
        ({"stop_price": Decimal(-1)}, "not_positive"),
        ({"target_price": Decimal(0)}, "not_positive"),
        ({"size": Decimal(0)}, "not_positive"),
        ({"stop_price": Decimal(100)}, "wrong_side"),
        ({"stop_price": Decimal(101)}, "wrong_side"),
        ({"target_price": Decimal(99)}, "wrong_side"),
        ({"direction": "SHORT"}, "wrong_side"),
    ],
)
def test_what_is_not_sound_is_not_opened(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    with Desk(tmp_path) as desk:
        assert desk.refusal(wanted(**changes)) == code
        assert desk.trades == {}


def test_a_trade_is_opened_once_for_each_symbol_under_the_next_id(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        first = desk.ask(wanted("GOLD"))
        assert (first.id, first.original_stop, first.entry_time) == ("T001", Decimal(90), MONDAY)
        assert desk.refusal(wanted("GOLD")) == "duplicate_symbol"
        short = wanted("OIL", direction="SHORT", stop_price=Decimal(110), target_price=Decimal(80))
        assert desk.ask(short).id == "T002"
        desk.ask(CloseTrade(id="T001", exit_price=Decimal(120)))
        assert desk.ask(wanted("GOLD")).id == "T003"


def test_a_group_may_risk_four_percent_of_the_realised_equity_and_not_a_cent_more(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        assert desk.ask(wanted("BTC", size=Decimal(15))).risk == 150
        assert desk.refusal(wanted("ETH", size=Decimal("5.001"))) == "group_risk", "200.01 of 5000"
        assert desk.ask(wanted("ETH", size=Decimal(5))).risk == 50, "200 of 5000"
        assert desk.ask(wanted("SOL", size=Decimal(20))).risk == 200, "another group"
        assert desk.ask(wanted("GOLD", size=Decimal(90))).risk == 900, "no group"


def test_a_part_of_a_group_that_was_closed_counts_as_it_was_opened(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.ask(wanted("BTC", size=Decimal(20)))
        desk.ask(PartialClose(id="T001", fraction=Decimal("0.5"), exit_price=Decimal(100)))
        desk.ask(UpdateTrade(id="T001", stop_price=Decimal(99)))
        assert desk.refusal(wanted("ETH", size=Decimal("0.1"))) == "group_risk"


def test_three_trades_of_a_symbol_that_brought_nothing_are_enough(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        for exit_price in (99, 100, 99):
            desk.ask(wanted("GOLD"))
            last = max(desk.trades)
            desk.ask(CloseTrade(id=last, exit_price=Decimal(exit_price)))
            desk.pass_time(hours=1)
        assert desk.refusal(wanted("GOLD")) == "losing_streak"
        assert desk.ask(wanted("OIL")).symbol == "OIL"


def test_a_trade_that_won_by_a_partial_exit_is_no_loss(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        for number in range(3):
            opened = desk.ask(wanted("GOLD", size=Decimal(2)))
            if number == 1:
                desk.ask(PartialClose(id=opened.id, fraction=Decimal("0.5"), exit_price=Decimal(110)))
            desk.ask(CloseTrade(id=opened.id, exit_price=Decimal(99)))
        assert desk.ask(wanted("GOLD")).id == "T004"


def test_the_checks_come_in_their_order(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        log = [trade(number, symbol="BTC", pnl_usd=Decimal(-1), exit_price=Decimal(99)) for number in (1, 2, 3)]
        log += [opened(number, original_size=Decimal(100)) for number in range(4, 10)]
        log.append(opened(10, symbol="ETH", original_size=Decimal(100)))
        desk.ask(ImportTrades(trades=tuple(log)))
        assert desk.refusal(wanted("ETH")) == "duplicate_symbol"
        assert desk.refusal(wanted("BTC")) == "position_cap"
        desk.ask(CloseTrade(id="T009", exit_price=Decimal(100)))
        assert desk.refusal(wanted("BTC")) == "group_risk"
        desk.ask(CloseTrade(id="T010", exit_price=Decimal(100)))
        assert desk.refusal(wanted("BTC")) == "losing_streak"


# Closing and changing ------------------------------------------------------------------------------------------------


def test_a_close_says_what_it_brought(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.ask(wanted(size=Decimal("2.5")))
        part = desk.ask(PartialClose(id="T001", fraction=Decimal("0.4"), exit_price=Decimal("104.005")))
        assert (part.size, part.partial_exits[0].size_closed, part.partial_exits[0].pnl_usd) == (
            Decimal("1.5"), Decimal(1), Decimal("4.01"),
        )  # fmt: skip
        closed = desk.ask(CloseTrade(id="T001", exit_price=Decimal(95), exit_reason="stop", lessons="none"))
        assert (closed.pnl_usd, closed.pnl_pct, closed.r_multiple) == (Decimal("-7.50"), Decimal(-5), Decimal("-0.50"))
        assert closed.net_pnl == Decimal("-3.49")
        assert desk.book.system.snapshot()[desk.book.equity].value.current_equity == Decimal("4996.51")


def test_what_cannot_be_closed_or_changed_is_rejected(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.ask(wanted())
        for fraction in ("0", "1", "-0.5", "1.5", "NaN", "0.0000001"):
            part = PartialClose.model_construct(
                id="T001", fraction=Decimal(fraction), exit_price=Decimal(100), reason=""
            )
            if fraction == "NaN":
                continue  # A trigger cannot hold it.
            assert desk.refusal(part) == "fraction", fraction
        assert desk.refusal(PartialClose(id="T001", fraction=Decimal("0.5"), exit_price=Decimal(0))) == "not_positive"
        assert desk.refusal(CloseTrade(id="T001", exit_price=Decimal(-1))) == "not_positive"
        assert desk.refusal(UpdateTrade(id="T001", stop_price=Decimal(0))) == "not_positive"
        assert desk.refusal(CloseTrade(id="T002", exit_price=Decimal(1))) == "unknown_trade"
        desk.ask(CloseTrade(id="T001", exit_price=Decimal(100)))
        assert desk.refusal(CloseTrade(id="T001", exit_price=Decimal(100))) == "closed"
        assert desk.refusal(UpdateTrade(id="T001", notes="it was a win")) == "closed"
        assert desk.refusal(PartialClose(id="T001", fraction=Decimal("0.5"), exit_price=Decimal(100))) == "closed"


def test_a_stop_may_follow_the_price(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.ask(wanted())
        changed = desk.ask(UpdateTrade(id="T001", stop_price=Decimal(105), notes="locked in"))
        assert (changed.stop_price, changed.original_stop, changed.notes) == (Decimal(105), Decimal(90), "locked in")


@pytest.mark.parametrize("direction", ["LONG", "SHORT"])
def test_a_stop_and_a_target_are_never_moved_past_each_other(tmp_path: Path, direction: str) -> None:
    with Desk(tmp_path) as desk:
        stop, target = (Decimal(90), Decimal(130)) if direction == "LONG" else (Decimal(130), Decimal(90))
        desk.ask(wanted(direction=direction, stop_price=stop, target_price=target))
        beyond = target + (target - stop)
        for change in ({"stop_price": target}, {"stop_price": beyond}, {"target_price": stop - (beyond - target)}):
            assert desk.refusal(UpdateTrade(id="T001", **change)) == "wrong_side"
        assert desk.ask(UpdateTrade(id="T001", target_price=beyond, stop_price=target)).stop_price == target


# Halts ---------------------------------------------------------------------------------------------------------------


def _lose(desk: Desk, amount: str, symbol: str) -> None:
    opened = desk.ask(wanted(symbol, entry_price=Decimal(1000), target_price=Decimal(2000)))
    desk.ask(CloseTrade(id=opened.id, exit_price=Decimal(1000) - Decimal(amount)))


def test_two_percent_in_a_day_halt_until_the_next(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        _lose(desk, "99.99", "A")
        _lose(desk, "0.01", "B")
        assert desk.refusal(wanted()) == "halted"
        assert desk.book.system.snapshot()[desk.book.risk_state].value.halted
        desk.pass_time(hours=13, minutes=59)
        assert desk.refusal(wanted()) == "halted"
        desk.pass_time(minutes=1)
        assert desk.ask(wanted()).symbol == "GOLD"


def test_a_cent_less_than_two_percent_does_not_halt(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        _lose(desk, "99.99", "A")
        assert desk.ask(wanted()).symbol == "GOLD"


def test_ten_percent_in_a_week_halt_until_monday(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        for day in range(5):
            _lose(desk, "100", f"S{day}")
            desk.pass_time(days=1)
        assert desk.refusal(wanted()) == "halted", "500 of 5000 since Monday"
        desk.pass_time(days=1, hours=13)
        assert desk.refusal(wanted()) == "halted", "on Sunday"
        desk.pass_time(hours=1)
        assert desk.ask(wanted()).symbol == "GOLD"


def test_a_fifth_of_all_halts_for_good(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        lost = trade(exit_price=Decimal(1), pnl_usd=Decimal(-1000))
        desk.ask(ImportTrades(trades=(lost,)))
        assert desk.refusal(wanted()) == "halted"
        assert documents.risk_state(desk.trades, MONDAY + datetime.timedelta(days=1000)).halted


# Invariants ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "invariant"),
    [
        ((trade(1), trade(1, symbol="X")), "each_trade_has_an_id_of_its_own"),
        ((opened(1, symbol=""),), "open_trades_are_complete"),
        ((opened(1, entry_price=Decimal(0)),), "open_trades_are_complete"),
        ((opened(1, stop_price=Decimal(0)),), "open_trades_are_complete"),
        ((opened(1, size=Decimal(0)),), "open_trades_are_complete"),
        ((opened(1, exit_price=Decimal(5)),), "open_trades_are_complete"),
        ((trade(1, exit_price=None),), "closed_trades_have_an_exit"),
        ((trade(1, pnl_usd=None),), "closed_trades_have_an_exit"),
        (tuple(opened(number) for number in range(8)), "the_position_cap_holds"),
        ((opened(1, symbol="X"), opened(2, symbol="X")), "no_symbol_is_open_twice"),
        ((trade(1, pnl_usd=Decimal("-0.02")),), "a_profit_has_the_sign_of_its_prices"),
        ((trade(1, exit_price=Decimal(95)),), "a_profit_has_the_sign_of_its_prices"),
        ((trade(1, direction="SHORT"),), "a_profit_has_the_sign_of_its_prices"),
    ],
)
def test_a_book_that_breaks_an_invariant_is_never_there(tmp_path: Path, broken: Any, invariant: str) -> None:
    with Desk(tmp_path) as desk:
        with pytest.raises(Rejected, match=f"invariant {invariant} does not hold"):
            desk.ask(ImportTrades(trades=broken))
        assert desk.trades == {}


def test_seven_open_and_a_cent_of_rounding_are_no_violation(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        sound = [opened(number) for number in range(7)]
        assert desk.ask(ImportTrades(trades=(*sound, trade(8, pnl_usd=Decimal("-0.01"))))) == 8


# The documents -------------------------------------------------------------------------------------------------------


def test_the_documents_say_what_the_book_says() -> None:
    day = datetime.timedelta(days=1)
    log = [
        trade(1, setup_type="a", pnl_usd=Decimal(10), exit_time=MONDAY - 7 * day),
        trade(2, setup_type="a", pnl_usd=Decimal(-30), exit_price=Decimal(70), exit_time=MONDAY - 6 * day),
        trade(3, pnl_usd=Decimal(0), exit_price=Decimal(100), exit_time=MONDAY - day),
        trade(4, setup_type="b", pnl_usd=Decimal(-5), exit_price=Decimal(95), exit_time=MONDAY),
        opened(
            5,
            size=Decimal("0.5"),
            partial_exits=(
                PartialExit(exit_price=Decimal(130), size_closed=Decimal("0.5"), pnl_usd=Decimal(15), timestamp=MONDAY),
            ),
        ),
    ]
    book = {each.id: each for each in log}
    portfolio, equity = documents.portfolio(book), documents.equity(book)
    assert (portfolio.current_equity, portfolio.total_trades) == (Decimal(4990), 4)
    assert (portfolio.winning_trades, portfolio.losing_trades) == (1, 2)
    assert [position.trade_id for position in portfolio.open_positions] == ["T005"]
    assert [values(each.date.day, each.equity) for each in equity.equity_curve] == [
        (8, 5010), (9, 4980), (14, 4980), (15, 4990),
    ]  # fmt: skip
    assert values(equity.peak_equity, equity.drawdown_percent, equity.max_drawdown_pct) == (
        5010, Decimal("-0.40"), Decimal("-0.60"),
    )  # fmt: skip
    assert values(equity.win_rate, equity.profit_factor, equity.avg_r) == (25, Decimal("0.29"), Decimal("-0.63"))
    assert (equity.current_streak, equity.max_win_streak, equity.max_loss_streak) == (-2, 1, 2)
    assert equity.last_5_results == ("W", "L", "BE", "L")
    assert (equity.portfolio_heat, equity.drawdown_status) == (Decimal("0.10"), "NORMAL")
    risk = documents.risk_state(book)
    assert values(risk.daily_start_value, risk.weekly_start_value, risk.current_value) == (4980, 4980, 4990)
    assert documents.risk_state(book, MONDAY + day).daily_start_value == 4990
    setups = {each.setup: each for each in documents.setup_performance(book).setups}
    assert list(setups) == ["Unknown", "b", "a"], "the highest expectancy first"
    assert values(setups["a"].win_rate, setups["a"].avg_win_r, setups["a"].avg_loss_r) == (50, 1, -3)
    assert values(setups["a"].expectancy, setups["a"].total_pnl, setups["a"].trades) == (-1, -20, ("T001", "T002"))


@pytest.mark.parametrize("seed", seeds(6))
def test_damaged_documents_are_right_after_one_cycle(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with Desk(tmp_path, seed, MemoryBackend()) as desk:
        old = {name: (tmp_path / f"{name}.json").read_bytes() for name in DOCUMENTS}
        for _ in range(8):
            _act(desk, chance)
            for name in chance.sample(sorted(DOCUMENTS), 2):
                _damage(tmp_path / f"{name}.json", chance, old[name])
            if chance.random() < 0.5:
                _act(desk, chance)
            desk.pass_time(minutes=15, seconds=1)
            desk.require_documents()
        assert {alarm.code for alarm in desk.book.system.snapshot()[desk.book.alarms].values()} == {"seqtor.drift"}
        desk.book.system.verify()


def _act(desk: Desk, chance: random.Random) -> None:
    still_open = [each.id for each in desk.trades.values() if each.is_open]
    act: Callable[[], Trigger[Any]] = chance.choice(
        [
            lambda: wanted(chance.choice(["BTC", "ETH", "GOLD", "OIL", "NVDA"]), setup_type=chance.choice("ab")),
            lambda: CloseTrade(id=chance.choice(still_open or ["T1"]), exit_price=Decimal(chance.randrange(90, 120))),
            lambda: PartialClose(
                id=chance.choice(still_open or ["T1"]), fraction=Decimal("0.5"), exit_price=Decimal(99)
            ),
        ]
    )
    with contextlib.suppress(Rejected):
        desk.ask(act())


def _damage(path: Path, chance: random.Random, old: bytes) -> None:
    kind = chance.choice(["delete", "truncate", "garble", "old"])
    content = path.read_bytes()
    if kind == "delete":
        path.unlink()
    elif kind == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[::-1] if kind == "garble" else old)


@pytest.mark.parametrize(("left", "refused"), [(10, False), (9, True)])
def test_a_book_that_has_lost_more_than_half_of_its_closed_trades_is_refused(
    tmp_path: Path, left: int, refused: bool
) -> None:
    with Desk(tmp_path, journal=MemoryBackend()) as desk:
        desk.ask(ImportTrades(trades=tuple(trade(number) for number in range(20))))
        desk.pass_time(minutes=15, seconds=1)
        desk.ask(Lose(ids=tuple(f"T{number:03}" for number in range(20 - left))))
        for file in tmp_path.glob("*.json"):
            file.unlink()  # The guard does not depend on them.
        desk.pass_time(minutes=15, seconds=1)
        codes = [alarm.code for alarm in desk.book.system.snapshot()[desk.book.alarms].values()]
        assert codes.count("seqtor.guard") == (4 if refused else 0)
        assert len(list(tmp_path.glob("*.json"))) == (0 if refused else 4)
        for name in DOCUMENTS:
            desk.ask(ReconcileDerived(derived=name, accept_loss=True))
        desk.dispatchers.run_to_rest()
        desk.require_documents()


# Opening and importing -----------------------------------------------------------------------------------------------

LOG = {
    "trades": [
        {
            "id": "T001", "symbol": "BTC", "direction": "long", "entry_price": 65000.1, "stop_price": 64000,
            "original_stop": 63500.0, "target_price": 68000, "size": 0.01, "original_size": 0.02,
            "entry_time": "2026-06-01T10:00:00+00:00", "exit_price": 66000.1, "exit_time": "2026-06-02T10:00:00+00:00",
            "exit_reason": "Target", "pnl_usd": 10.0, "pnl_pct": 1.54, "r_multiple": 0.67, "status": "CLOSED",
            "setup_type": "RSI_Div", "grade": "A", "notes": "", "lessons": "wait",
            "partial_exits": [{"exit_price": 65500.1, "size_closed": 0.01, "pnl_usd": 5.0, "reason": "Partial TP",
                               "timestamp": "2026-06-01T12:00:00+00:00"}],
        },
        {
            "id": "T002", "symbol": "AAPL", "direction": "SHORT", "entry_price": 200, "stop_price": 210,
            "target_price": 180, "size": 3, "entry_time": "2026-06-03T10:00:00+00:00", "exit_price": None,
            "exit_time": None, "exit_reason": None, "pnl_usd": None, "pnl_pct": None, "r_multiple": None,
            "status": "OPEN", "setup": "Gap", "strategy_version": 4,
        },
    ],
    "next_id": 3,
}  # fmt: skip


def test_the_engines_log_is_imported_once_and_to_the_digit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, journal, state = tmp_path / "trade_log.json", str(tmp_path / "trades.db"), tmp_path / "state"
    log.write_text(json.dumps(LOG))
    for _ in range(2):
        assert main(["import", str(log), "--journal", journal, "--documents", str(state)]) == 0
        assert "2 trades" in capsys.readouterr().out
    first, second = read_trade_log(log).trades
    assert values(first.entry_price, first.original_stop, first.net_pnl) == (Decimal("65000.1"), Decimal("63500.0"), 15)
    assert values(second.original_stop, second.original_size, second.setup_type) == (210, 3, "Gap")
    assert main(["show", "--journal", journal, "--documents", str(state)]) == 0
    assert '"current_equity": "5015.00"' in capsys.readouterr().out
    book = make_book(journal, state)
    with book.system as system:
        assert dict(system.snapshot()[book.trades].items()) == {"T001": first, "T002": second}
        assert system.ask(wanted("GOLD")).id == "T003"
    log.write_text(json.dumps({**LOG, "next_id": 4}))
    assert main(["import", str(log), "--journal", journal, "--documents", str(state)]) == 2
    assert "into an empty book only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ('{"trades": [', "is not JSON"),
        ("[]", 'no list "trades"'),
        ('{"next_id": 1}', 'no list "trades"'),
        ('{"trades": [3]}', r"trade 1 \(3\): is no object"),
        (json.dumps({"trades": [{**LOG["trades"][1], "entry_price": "dear"}]}), r"trade 1 \(T002\): entry_price"),  # type: ignore[index,dict-item]
        (json.dumps({"trades": [{**LOG["trades"][1], "direction": None}]}), r"trade 1 \(T002\): direction"),  # type: ignore[index,dict-item]
        (json.dumps({"trades": [{**LOG["trades"][1], "size": float("nan")}]}), r"trade 1 \(T002\): size: .* finite"),  # type: ignore[index,dict-item]
        (
            json.dumps({"trades": [{**LOG["trades"][1], "entry_time": "2026-06-03T10:00:00"}]}),  # type: ignore[index,dict-item]
            r"trade 1 \(T002\): entry_time: .* timezone",
        ),
    ],
)
def test_a_log_that_cannot_be_read_is_refused_and_not_taken_for_an_empty_one(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "trade_log.json"
    log.write_text(text)
    with pytest.raises(NotATradeLog, match=said):
        read_trade_log(log)
    words = ["import", str(log), "--journal", str(tmp_path / "trades.db"), "--documents", str(tmp_path / "state")]
    assert main(words) == 2
    assert "NotATradeLog" in capsys.readouterr().err
    assert not (tmp_path / "trades.db").exists()


def test_all_that_is_wrong_with_a_log_is_said_at_once(tmp_path: Path) -> None:
    sound: Any = LOG["trades"][1]  # type: ignore[index]
    wrong = [sound, {**sound, "size": "much", "entry_time": None}, {**sound, "stop_price": None}, {}]
    log = tmp_path / "trade_log.json"
    log.write_text(json.dumps({"trades": [*wrong, *[3] * 20]}))
    with pytest.raises(NotATradeLog) as refused:
        read_trade_log(log)
    first, *lines = str(refused.value).splitlines()
    assert first.endswith("23 of 24 trades cannot be taken, so none was:")
    assert lines[0].startswith("  trade 2 (T002): size: ")
    assert "; entry_time: " in lines[0]
    assert lines[1].startswith("  trade 3 (T002): stop_price: ")
    assert lines[2].startswith("  trade 4 (without an id): id: Field required; symbol: ")
    assert (len(lines), lines[-1]) == (11, "  ...")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("size", -3)], r"open_trades_are_complete .*key='T002'"),
        ([("id", "T002"), ("symbol", "X")], r"each_trade_has_an_id_of_its_own .*key='T002#1'"),
        ([("id", "T003")], "no_symbol_is_open_twice"),
    ],
)
def test_a_log_that_breaks_an_invariant_is_not_imported_and_the_command_says_where(
    tmp_path: Path, rows: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sound: Any = LOG["trades"][1]  # type: ignore[index]
    trades = [{**sound, **dict(rows)}] if rows[0][0] == "size" else [sound, {**sound, **dict(rows)}]
    log, journal = tmp_path / "trade_log.json", str(tmp_path / "trades.db")
    log.write_text(json.dumps({"trades": trades}))
    words = ["--journal", journal, "--documents", str(tmp_path / "state")]
    assert main(["import", str(log), *words]) == 2
    assert re.search(said, capsys.readouterr().err)
    log.write_text(json.dumps({"trades": [sound]}))
    assert main(["import", str(log), *words]) == 0, "the book is as empty as before"


def test_a_book_that_cannot_be_read_is_not_opened_as_an_empty_one(tmp_path: Path) -> None:
    journal = tmp_path / "trades.db"
    book = make_book(str(journal), tmp_path / "state")
    with book.system as system:
        system.ask(wanted())
    before = {file.name: file.read_bytes() for file in (tmp_path / "state").iterdir()}
    content = journal.read_bytes()
    journal.write_bytes(b"\0" * 512 + content[512:])
    with pytest.raises(JournalCorrupted):
        make_book(str(journal), tmp_path / "state").system.start()
    assert {file.name: file.read_bytes() for file in (tmp_path / "state").iterdir()} == before


def test_the_command_plays_and_checks_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.trade_state"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 wanted to open at once: 7 are open, 13 were refused" in done.stdout
    assert "4 documents were garbled, and are right again" in done.stdout
    assert done.stderr == ""
