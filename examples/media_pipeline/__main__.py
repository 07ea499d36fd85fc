"""An hour of the pipeline, in virtual time: `python -m examples.media_pipeline`.

Asks for a feed, clears rights, lets the quarter hours come, and compares what has become of every article with what should
have. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from examples.media_pipeline.pipeline import WORDS_MIN, make_pipeline
from examples.media_pipeline.site import FEEDS, UNREACHABLE
from seqtor import Supervisor
from seqtor.actors import SimulatedDispatchers
from seqtor.messages import Lineage

NOT_CLEARED = "https://news.example/speech"
HOUR_S = 3600.0


def main() -> int:
    """Play the hour, print it, check it."""
    dispatchers = SimulatedDispatchers(seed=1)  # One thread, and a clock that is turned on by hand.
    system = make_pipeline(Supervisor(dispatchers=lambda _: dispatchers))
    with system:
        system.emit("feed.requested", {"feed": "local"})
        for articles in FEEDS.values():
            for url, _, _ in articles:
                if url != NOT_CLEARED:
                    system.emit("rights.cleared", {"url": url})
        dispatchers.run_until(lambda: False, HOUR_S)

        snapshot = system.snapshot()
        stages = {url: article.stage for url, article in snapshot[system.stores["articles"]].items()}
        for url, stage in stages.items():
            print(f"{url:32} {stage}")

        [read, *_] = system.events(code="feed.read")[::-1]
        print(f"\nwhat followed from seq {read.seq}:")
        print("\n".join(drawn(system.lineage(read.seq))))

        print("\nreactions:")
        for reaction in reversed(system.reactions()):
            waits = len(reaction.half_met)
            print(f"{reaction.name:12} {reaction.started:3} runs, {waits} half met: {reaction.condition}")

        alerts = snapshot[system.stores["desk"]].value.alerts
        wrong = {url: stage for url, stage in expected().items() if stages.get(url) != stage}
        for url, stage in wrong.items():
            print(f"{url}: expected {stage}, got {stages.get(url)}", file=sys.stderr)
        if alerts != 1:
            print(f"expected one alert, got {alerts}", file=sys.stderr)
        return 1 if wrong or alerts != 1 else 0


def expected() -> dict[str, str]:
    """What should have become of every article."""
    found = {}
    for articles in FEEDS.values():
        for url, kind, words in articles:
            if kind == "text" and words < WORDS_MIN:
                found[url] = "fetched"
            elif url == NOT_CLEARED:
                found[url] = "summarised"
            elif url == UNREACHABLE:
                found[url] = "withdrawn: the readers of the flood are cut off"
            else:
                found[url] = "published"
    return found


def drawn(node: Lineage, depth: int = 0) -> Iterator[str]:
    """A tree, indented."""
    yield f"{'  ' * depth}{node.code or node.trigger} {node.state} (seq {node.seq})"
    for each in node.followed:
        yield from drawn(each, depth + 1)


if __name__ == "__main__":
    sys.exit(main())
