"""What the pages of this repository hold: programs, what they print, and links.

Owns the reading of Markdown, as much of it as these pages use: fenced blocks, headings, inline links and code spans.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    sorted(
        path.relative_to(ROOT)
        for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[a-z]*/README.md"))
        if path.is_file()
    )
)

FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


class Program(NamedTuple):
    """A Python block; `output` is what the block marked `text output` after it says, None if there is none."""

    page: Path
    line: int
    text: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_test_file(self) -> bool:
        """Whether pytest runs it."""
        return "\ndef test_" in self.text


class Link(NamedTuple):
    """A link to a file of the repository: `[text](target#anchor)`."""

    page: Path
    text: str
    target: str
    anchor: str

    def __str__(self) -> str:
        return f"{self.page}: [{self.text}]({self.target}{'#' + self.anchor if self.anchor else ''})"

    @property
    def path(self) -> Path:
        """The file that it points to."""
        return (ROOT / self.page.parent / self.target).resolve() if self.target else ROOT / self.page


def read(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", read(page))


def programs_of(page: Path) -> Iterator[Program]:
    text = read(page)
    for block, following in pairwise([*FENCE.finditer(text), None]):
        if block is not None and block["info"] == "python":
            output = following["text"] if following is not None and following["info"] == "text output" else None
            yield Program(page, text.count("\n", 0, block.start()) + 1, block["text"], output)


def links_of(page: Path) -> Iterator[Link]:
    for found in LINK.finditer(prose(page)):
        target, _, anchor = found["target"].partition("#")
        if "://" not in target:
            yield Link(page, found["text"].replace("`", ""), target, anchor)


def spans_of(page: Path) -> Iterator[str]:
    yield from SPAN.findall(prose(page))


def anchors_of(page: Path) -> set[str]:
    """The anchors of the headings, as code hosts make them."""
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(prose(page)))
    return {text.strip().replace(" ", "-") for text in kept}
