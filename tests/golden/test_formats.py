"""The journals of every format that was released can be read, and go on; what is written now is the newest of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqtor import KeyReused, State
from seqtor.messages.records import FORMAT
from tests.golden.program import Add, dump, fresh, load, make_system

FILES = sorted(Path(__file__).parent.glob("format-*.jsonl"))
# The same format, without the library's own store of schedules.
OLDER = (Path(__file__).with_name("before-schedules.jsonl"),)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_there_is_a_file_for_every_format() -> None:
    assert [path.name for path in FILES] == [f"format-{number}.jsonl" for number in range(1, FORMAT + 1)]


def test_what_is_written_now_is_what_the_newest_format_says() -> None:
    assert list(dump(fresh())) == lines(FILES[-1]), (
        "records are written in another way than format "
        f"{FORMAT}: if journals of it can no longer be read, or say something else, it is a new format"
    )


@pytest.mark.parametrize("path", [*OLDER, *FILES], ids=lambda path: path.stem)
def test_a_journal_of_an_old_format_comes_back_and_goes_on(path: Path) -> None:
    backend = load(lines(path))
    with make_system(backend, seed=7) as system:
        items, totals, notes = (system.snapshot()[system.stores[name]] for name in ("items", "totals", "notes"))
        assert {key: (item.count, item.text) for key, item in items.items()} == {
            "first": (1, ""), "key": (3, "effect"), "kéy": (3, "bad"),
        }  # fmt: skip
        assert (totals.value.items, totals.value.ratio) == (3, 2.0)
        assert notes.all()["kéy"]["raw"] == b"\x00\xff"
        assert {key for key in notes.all() if key.startswith("seen")} == {"seen kéy", "seen 0"}
        letters = system.dead_letters()
        assert sorted((letter.error, letter.resubmitted_as is not None) for letter in letters) == [
            ("OSError: no paper", False), ("OSError: no paper", True),
            ("ValueError: cannot add key", False), ("ValueError: cannot add key", True),
        ]  # fmt: skip
        assert len({letter.id for letter in letters if letter.kind == "effect"}) == 1
        (retrying,) = system.runs(state=State.RETRYING)
        assert [record.retry_of for record in system.runs() if record.id == retrying.retried_as] == [retrying.id]
        assert system.ask(Add(key="key", how="flaky"), idempotency_key="8", timeout=60) == 2
        assert [system.record(seq).state for seq in range(3, 6)] == [State.COMMITTED, State.REJECTED, State.FAILED]
        assert system.ask(Add(key="key", how="call"), idempotency_key="2", timeout=60) == 2
        with pytest.raises(KeyReused):
            system.submit(Add(key="key"), idempotency_key="2")
        assert system.ask(Add(key="key"), timeout=60) == 4
        assert system.verify().executed >= 10
