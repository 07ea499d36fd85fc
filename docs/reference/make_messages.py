"""Write messages.md, beside this file, from the catalogue of messages.

Run it with `.venv/bin/python docs/reference/make_messages.py`. Owns the shape of that page; what it says is in the
docstrings and fields of `messages/`.
"""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path
from typing import Any

from seqtor.messages import CATALOGUE

PAGE = Path(__file__).with_name("messages.md")
HEAD = """\
# Messages

All messages between actors, in the order of a run's life. This page is made from `messages/catalogue.py` by
`docs/reference/make_messages.py`; change the docstrings and run it again. A test compares the two.

Messages are frozen and keyword-only; those that are built for every run are named tuples. `Twice` is what happens if
the recipient gets the same message a second time.
"""


def page() -> str:
    """Return the whole page."""
    rows = ["| message | from | to |", "|---|---|---|"]
    for kind in CATALOGUE:
        sender, recipient = way_of(kind)
        rows.append(f"| [{kind.__name__}](#{kind.__name__.lower()}) | {sender} | {recipient} |")
    return "\n".join([HEAD, *rows, "", *map(section, CATALOGUE)])


def way_of(kind: type) -> tuple[str, str]:
    """Return who sends a message and who gets it, as its docstring says."""
    text = " ".join(inspect.getdoc(kind).split())  # type: ignore[union-attr]
    found = re.match(r"From: (?P<sender>.+?)\. To: (?P<recipient>.+?)(?: \(|, which|, as |[.:])", text)
    if found is None:
        raise ValueError(f"{kind.__name__}: its docstring must start with 'From: ... . To: ... .', it is {text!r}")
    return found["sender"], found["recipient"]


def section(kind: type) -> str:
    """Return one message: its docstring and its fields."""
    lines = [f"## {kind.__name__}", "", inspect.getdoc(kind) or "", ""]
    defaults = defaults_of(kind)
    for name, annotation in inspect.get_annotations(kind).items():
        default = f" = {defaults[name]!r}" if name in defaults else ""
        lines.append(f"* `{name}: {text_of(annotation)}{default}`")
    lines.append("" if lines[-1] else "(no fields)\n")
    return "\n".join(lines)


def defaults_of(kind: Any) -> dict[str, Any]:
    """Return the fields that have a default."""
    parameters = inspect.signature(kind).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


def text_of(annotation: Any) -> str:
    """Return an annotation as it is written in the source."""
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
