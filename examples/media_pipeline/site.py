"""The world outside: what the feeds hold, and who takes deliveries. Fixed, so that the result can be checked."""

from __future__ import annotations

from examples.media_pipeline.records import Kind

__all__ = ["FEEDS", "UNREACHABLE", "deliver", "feed_at", "text_of"]

# By feed: URL, kind, words.
FEEDS: dict[str, list[tuple[str, Kind, int]]] = {
    "world": [
        ("https://news.example/election", "text", 900),
        ("https://news.example/flood", "text", 640),
        ("https://news.example/brief", "text", 80),
        ("https://news.example/speech", "video", 1_200),
    ],
    "local": [
        ("https://news.example/bridge", "text", 450),
        ("https://news.example/council", "video", 700),
    ],
}
UNREACHABLE = "https://news.example/flood"
WORDS = {url: words for articles in FEEDS.values() for url, _, words in articles}


def feed_at(feed: str) -> list[tuple[str, Kind]]:
    """The articles of a feed: URL and kind."""
    return [(url, kind) for url, kind, _ in FEEDS[feed]]


def text_of(url: str) -> int:
    """How many words there are."""
    return WORDS[url]


def deliver(url: str) -> str:
    """Hand an article to the readers. Raises ConnectionError."""
    if url == UNREACHABLE:
        raise ConnectionError("the readers of the flood are cut off")
    return "delivered"
