"""What the pipeline keeps, and the triggers that change it."""

from __future__ import annotations

from typing import Literal

from seqtor import Record, Trigger

__all__ = [
    "Alert",
    "Article",
    "Desk",
    "FetchArticle",
    "Kind",
    "Publish",
    "ReadFeed",
    "Summarise",
    "Transcribe",
    "Withdraw",
]

Kind = Literal["text", "video"]


class Article(Record):
    """One article, and how far it has come."""

    kind: Kind
    stage: str = "found"
    words: int = 0


class Desk(Record):
    """What the people at the desk are told."""

    alerts: int = 0
    newest: str = ""


class ReadFeed(Trigger[int]):
    """Looks for new articles; how many there are."""

    feed: str


class FetchArticle(Trigger[int]):
    """Fetches the text of an article; its words. Rejected if it has none."""

    url: str
    kind: Kind


class Transcribe(Trigger[int]):
    """Writes down what is said in a video; its words."""

    url: str


class Summarise(Trigger[str]):
    """Makes an article short; answers with its URL."""

    url: str


class Publish(Trigger[None]):
    """Delivers an article to the readers."""

    url: str


class Withdraw(Trigger[None]):
    """Takes back what could not be delivered."""

    url: str
    why: str


class Alert(Trigger[None]):
    """Tells the desk that something was given up."""

    text: str
