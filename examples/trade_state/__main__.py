"""The command: `python -m examples.trade_state [import FILE | show]`.

Without a word it plays: twenty open at once, some close, the documents are damaged, and all is checked. Exit code 0 if what
it checks holds, 1 if not, 2 if a file cannot be imported or a book cannot be opened.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from seqtor import ReconcileDerived, Rejected, SeqtorError

from . import book as books
from .importing import NotATradeLog, read_trade_log
from .records import CloseTrade, OpenTrade

SYMBOLS = [f"S{number:02}" for number in range(20)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the words say."""
    options = _parser().parse_args(arguments)
    try:
        if options.word == "import":
            return import_log(options.file, options.journal, options.documents)
        if options.word == "show":
            return show(options.journal, options.documents)
        with tempfile.TemporaryDirectory() as folder:
            return play(Path(folder))
    except (SeqtorError, OSError, NotATradeLog) as failure:
        print(f"{type(failure).__name__}: {failure}", file=sys.stderr)
        return 2


def import_log(file: Path, journal: str, documents: Path) -> int:
    """Take the trades of an engine's log into a book; a second time changes nothing."""
    trigger = read_trade_log(file)
    key = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    book = books.make_book(journal, documents)
    with book.system as system:
        count = system.submit(trigger, idempotency_key=key).result()
        print(f"{count} trades from {file} are in {journal}")
    return 0


def show(journal: str, documents: Path) -> int:
    """Print the documents."""
    book = books.make_book(journal, documents)
    with book.system as system:
        snapshot = system.snapshot()
        for name, ref in book.documents.items():
            print(f"{name}: {snapshot[ref].value.model_dump_json(indent=2)}")
    return 0


def play(folder: Path) -> int:
    """Twenty at once, closes, damage; returns the exit code."""
    book = books.make_book(str(folder / "book.db"), folder / "documents")
    with book.system as system:
        wanted = [
            OpenTrade(
                symbol=symbol, direction="LONG", entry_price=Decimal(100), stop_price=Decimal(99),
                target_price=Decimal(103), size=Decimal(1), setup_type="demo",
            )
            for symbol in SYMBOLS
        ]  # fmt: skip
        opened, refused = [], 0
        for submission in system.submit_many(wanted):
            try:
                opened.append(submission.result(30))
            except Rejected:
                refused += 1
        print(f"20 wanted to open at once: {len(opened)} are open, {refused} were refused")
        for number, trade in enumerate(opened[:3]):
            closed = system.ask(CloseTrade(id=trade.id, exit_price=Decimal(101 + number)))
            print(f"{closed.id} {closed.symbol} closed: {closed.pnl_usd} ({closed.r_multiple} R)")
        files = sorted((folder / "documents").glob("*.json"))
        for file in files:
            file.write_text("garbled", encoding="utf-8")
        for name in book.documents:
            system.ask(ReconcileDerived(derived=name))
        print(f"equity {system.snapshot()[book.equity].value.current_equity}")
    again = books.make_book(str(folder / "book.db"), folder / "documents")
    with again.system as system:
        snapshot = system.snapshot()
        same = all(
            (folder / "documents" / f"{name}.json").read_text(encoding="utf-8")
            == rebuild(snapshot[again.trades]).model_dump_json(indent=2) + "\n"
            for name, (_, rebuild) in books.DOCUMENTS.items()
        )
        print(f"{len(files)} documents were garbled, and are {'' if same else 'NOT '}right again")
        print(system.verify())
    return 0 if same and len(opened) == 7 and len(files) == 4 else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.trade_state", description="A trading book.")
    words = parser.add_subparsers(dest="word", metavar="WORD")
    importing = words.add_parser("import", help="take the trades of an engine's trade_log.json into an empty book")
    importing.add_argument("file", type=Path, metavar="FILE")
    showing = words.add_parser("show", help="print the documents of a book")
    for word in (importing, showing):
        word.add_argument("--journal", default="trades.db", help="where the book is (default: %(default)s)")
        word.add_argument("--documents", type=Path, default=Path("state"), help="where they go (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
