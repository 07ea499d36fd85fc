"""The system: the book, its handlers, the documents as files, and the alarms. Read this first.

`make_book` makes one; everything that a handler decides is in `rules.py`, everything that follows is in `documents.py`.
"""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from seqtor import (
    Collection,
    CollectionView,
    Derived,
    DerivedView,
    EventFact,
    Facts,
    Rejected,
    StoreRef,
    Supervisor,
    Transaction,
    on_event,
)

from . import documents, rules
from .documents import cents
from .records import (
    Alarm,
    CloseTrade,
    Equity,
    ImportTrades,
    OpenTrade,
    PartialClose,
    PartialExit,
    Portfolio,
    RaiseAlarm,
    RiskState,
    SetupPerformance,
    Trade,
    UpdateTrade,
)

__all__ = ["TradingBook", "make_book"]

RECONCILE = datetime.timedelta(minutes=15)
SIZE = Decimal("0.000001")  # What sizes are rounded to.


class TradingBook(NamedTuple):
    """A system and its stores."""

    system: Supervisor
    trades: StoreRef[CollectionView[Trade]]
    alarms: StoreRef[CollectionView[Alarm]]
    portfolio: StoreRef[DerivedView[Portfolio]]
    equity: StoreRef[DerivedView[Equity]]
    risk_state: StoreRef[DerivedView[RiskState]]
    setup_performance: StoreRef[DerivedView[SetupPerformance]]

    @property
    def documents(self) -> dict[str, StoreRef[DerivedView[Any]]]:
        """What follows from the trades, by name."""
        return {
            "portfolio": self.portfolio,
            "equity": self.equity,
            "risk_state": self.risk_state,
            "setup_performance": self.setup_performance,
        }


def make_book(journal: Any, folder: Path, **options: Any) -> TradingBook:
    """A book that is kept in `journal`, with its documents in `folder`; `options` are the Supervisor's."""
    system = Supervisor(journal, name="trade_state", **options)
    trades = system.store("trades", Collection(Trade, invariants=rules.INVARIANTS))
    alarms = system.store("alarms", Collection(Alarm))
    made = TradingBook(
        system,
        trades,
        alarms,
        **{name: _document(system, trades, folder, name) for name in DOCUMENTS},
    )
    _register(made)
    return made


DOCUMENTS: dict[str, tuple[type[Any], Any]] = {
    "portfolio": (Portfolio, documents.portfolio),
    "equity": (Equity, documents.equity),
    "risk_state": (RiskState, documents.risk_state),
    "setup_performance": (SetupPerformance, documents.setup_performance),
}


def _document(system: Supervisor, trades: Any, folder: Path, name: str) -> Any:
    model, rebuild = DOCUMENTS[name]
    recipe = Derived(
        model,
        [trades],
        rebuild=rebuild,
        reconcile=RECONCILE,
        guard=documents.closed_count,
        export=folder / f"{name}.json",
    )
    return system.store(name, recipe)


def _register(book: TradingBook) -> None:
    system, trades, alarms = book.system, book.trades, book.alarms

    @system.on(OpenTrade)
    def open_trade(trigger: OpenTrade, tx: Transaction) -> Trade:
        known = dict(tx[trades].items())
        rules.require_may_open(trigger, known, tx.now)
        trade = Trade(
            id=_next_id(known),
            symbol=trigger.symbol,
            direction=trigger.direction,
            entry_price=trigger.entry_price,
            stop_price=trigger.stop_price,
            original_stop=trigger.stop_price,
            target_price=trigger.target_price,
            size=trigger.size,
            original_size=trigger.size,
            entry_time=tx.now,
            setup_type=trigger.setup_type,
            grade=trigger.grade,
            notes=trigger.notes,
        )
        tx[trades][trade.id] = trade
        return trade

    @system.on(CloseTrade)
    def close_trade(trigger: CloseTrade, tx: Transaction) -> Trade:
        trade = rules.require_open(tx[trades], trigger.id)
        rules.require_positive("exit_price", trigger.exit_price)
        gain = trade.gain(trigger.exit_price)
        risk = abs(trade.entry_price - trade.original_stop)
        closed = trade.replace(
            status="CLOSED",
            exit_price=trigger.exit_price,
            exit_time=tx.now,
            exit_reason=trigger.exit_reason,
            lessons=trigger.lessons,
            pnl_usd=cents(gain * trade.size),
            pnl_pct=cents(100 * gain / trade.entry_price),
            r_multiple=cents(gain / risk) if risk else Decimal(0),
        )
        tx[trades][trade.id] = closed
        return closed

    @system.on(PartialClose)
    def partial_close(trigger: PartialClose, tx: Transaction) -> Trade:
        trade = rules.require_open(tx[trades], trigger.id)
        rules.require_positive("exit_price", trigger.exit_price)
        if not 0 < trigger.fraction < 1:
            raise Rejected("a partial close takes a fraction between 0 and 1", "fraction", fraction=trigger.fraction)
        size = (trade.size * trigger.fraction).quantize(SIZE)
        if not 0 < size < trade.size:
            raise Rejected("nothing would be closed, or nothing be left", "fraction", size=size, of=trade.size)
        part = PartialExit(
            exit_price=trigger.exit_price,
            size_closed=size,
            pnl_usd=cents(trade.gain(trigger.exit_price) * size),
            reason=trigger.reason,
            timestamp=tx.now,
        )
        left = trade.replace(size=trade.size - size, partial_exits=(*trade.partial_exits, part))
        tx[trades][trade.id] = left
        return left

    @system.on(UpdateTrade)
    def update_trade(trigger: UpdateTrade, tx: Transaction) -> Trade:
        trade = rules.require_open(tx[trades], trigger.id)
        updated = trade.replace(**trigger.model_dump(exclude={"id"}, exclude_none=True))
        rules.require_may_change(updated)
        tx[trades][trade.id] = updated
        return updated

    @system.on(ImportTrades)
    def import_trades(trigger: ImportTrades, tx: Transaction) -> int:
        book = tx[trades]
        if len(book):
            raise Rejected("trades are imported into an empty book only", "not_empty", trades=len(book))
        for number, trade in enumerate(trigger.trades):
            # One that has the id of another gets a key of its own, so that the invariant sees both.
            book[trade.id if trade.id not in book else f"{trade.id}#{number}"] = trade
        return len(trigger.trades)

    @system.on(RaiseAlarm)
    def raise_alarm(trigger: RaiseAlarm, tx: Transaction) -> None:
        tx[alarms][str(tx.uuid4())] = Alarm(code=trigger.code, said=trigger.said, at=tx.now)

    @system.when(on_event("seqtor.guard"))
    @system.when(on_event("seqtor.drift"))
    def alarm(facts: Facts) -> RaiseAlarm:
        [event] = facts.all
        assert isinstance(event, EventFact)
        return RaiseAlarm(code=event.code, said=f"{event.payload}")


def _next_id(book: dict[str, Trade]) -> str:
    """T001, T002, ...: one above the highest."""
    numbers = [int(key[1:]) for key in book if key[:1] == "T" and key[1:].isdigit()]
    return f"T{max(numbers, default=0) + 1:03d}"
