"""Reads the `trade_log.json` of the Trade State Engine.

Owns its format: `{"trades": [...], "next_id": n}`, numbers as floats. Promises: a file that cannot be read, or lacks what a
trade needs, is refused as a whole, and the error names every such trade; it is never taken for an empty book.
"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .records import ImportTrades, Trade

__all__ = ["NotATradeLog", "read_trade_log"]

SHOWN_MAX = 10
OPTIONAL_TEXTS = ("setup_type", "grade", "notes", "lessons")


class NotATradeLog(ValueError):
    """The file is none, or a trade in it is not complete."""


def read_trade_log(path: Path) -> ImportTrades:
    """The trades of a file, ready to be submitted. Raises NotATradeLog, OSError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal, parse_int=Decimal)
    except ValueError as error:
        raise NotATradeLog(f"{path} is not JSON: {error}") from error
    found = content.get("trades") if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise NotATradeLog(f'{path} is no trade log: it has no list "trades"')
    trades, wrong = [], []
    for number, each in enumerate(found, 1):
        try:
            trades.append(_trade(each))
        except _NotATrade as error:
            wrong.append(f"  trade {number} ({error.args[0]}): {error.args[1]}")
    if wrong:
        shown = "\n".join([*wrong[:SHOWN_MAX], *(["  ..."] if len(wrong) > SHOWN_MAX else [])])
        raise NotATradeLog(f"{path}: {len(wrong)} of {len(found)} trades cannot be taken, so none was:\n{shown}")
    return ImportTrades(trades=tuple(trades))


class _NotATrade(ValueError):
    """Which one, and why."""


def _trade(kept: Any) -> Trade:
    if not isinstance(kept, dict):
        raise _NotATrade(str(kept)[:40], "is no object")
    trade = {name: value for name, value in kept.items() if name in Trade.model_fields}
    trade["direction"] = str(trade.get("direction", "")).upper()
    trade["setup_type"] = trade.get("setup_type") or kept.get("setup")
    # The engine may have written a trade before it had these.
    trade["original_stop"] = trade.get("original_stop") or trade.get("stop_price")
    trade["original_size"] = trade.get("original_size") or trade.get("size")
    trade["partial_exits"] = trade.get("partial_exits") or ()
    for name in OPTIONAL_TEXTS:
        trade[name] = trade.get(name) or ""
    try:
        return Trade.model_validate(trade)
    except ValidationError as error:
        said = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()]
        raise _NotATrade(kept.get("id", "without an id"), "; ".join(said)) from error
