"""The system: what handlers do, and which reactions connect them. Read this first.

No handler knows what comes behind it. Each reaction is one sentence: when this has happened, that runs.
"""

from __future__ import annotations

import datetime

from examples.media_pipeline.records import (
    Alert,
    Article,
    Desk,
    FetchArticle,
    Kind,
    Publish,
    ReadFeed,
    Summarise,
    Transcribe,
    Withdraw,
)
from examples.media_pipeline.site import deliver, feed_at, text_of
from seqtor import (
    Bundle,
    Collection,
    Document,
    EventFact,
    Facts,
    Rejected,
    ResultFact,
    State,
    StoreRef,
    Supervisor,
    Transaction,
    on_cron,
    on_event,
    on_failure,
    on_result,
    on_status,
)
from seqtor.actors import CollectionView, DocumentView

__all__ = ["make_pipeline", "system"]

WORDS_MIN = 300
reactions = Bundle()


# Reactions -----------------------------------------------------------------------------------------------------------

# The same work at certain times and on request: a run for each.
quarter_hour, requested = on_cron("*/15 * * * *", misfire="latest"), on_event("feed.requested")


@reactions.when(quarter_hour | requested)
def read_feed(facts: Facts) -> ReadFeed:
    asked = facts.get(requested)
    return ReadFeed(feed="world" if asked is None else asked.payload["feed"])


# One event, as many runs as there are articles.
@reactions.when(on_event("feed.read"))
def fetch_each(facts: Facts) -> list[FetchArticle]:
    return [FetchArticle(url=url, kind=kind) for url, kind in facts.event.payload["articles"]]


# A status, filtered by what the trigger said: a video has no text to fetch.
@reactions.when(on_status(FetchArticle, State.REJECTED, where={"kind": "video"}))
def transcribe(facts: Facts) -> Transcribe:
    return Transcribe(url=facts.status.trigger.url)


# Status and result of the same run together; or the result of another.
fetched = on_status(FetchArticle, State.COMMITTED, where={"kind": "text"})
long_enough = on_result(FetchArticle, where=lambda words: words >= WORDS_MIN)
transcribed = on_result(Transcribe)


@reactions.when((fetched & long_enough) | transcribed)
def summarise(facts: Facts) -> Summarise:
    article = facts.get(fetched)
    trigger = facts[transcribed].trigger if article is None else article.trigger
    assert isinstance(trigger, (FetchArticle, Transcribe))
    return Summarise(url=trigger.url)


# Two things that have nothing to do with each other but the article, within a day.
summarised, cleared = on_result(Summarise), on_event("rights.cleared")


def article_of(fact: ResultFact[str] | EventFact) -> str:
    return fact.payload["url"] if isinstance(fact, EventFact) else fact.result


@reactions.when((summarised & cleared).correlate(article_of).within(datetime.timedelta(days=1)))
def publish(facts: Facts) -> Publish:
    return Publish(url=facts[summarised].result)


# What failed is made good, once for each failure.
@reactions.when(on_failure(Publish, ConnectionError))
def withdraw(facts: Facts) -> Withdraw:
    return Withdraw(url=facts.failure.trigger.url, why=facts.failure.message)


# And somebody is told of everything that was given up.
@reactions.when(on_event("seqtor.dead_letter"))
def alert(facts: Facts) -> Alert:
    return Alert(text=facts.event.payload["error"])


# Handlers ------------------------------------------------------------------------------------------------------------


def make_pipeline(system: Supervisor) -> Supervisor:
    """Register stores, handlers and reactions."""
    articles: StoreRef[CollectionView[Article]] = system.store("articles", Collection(Article))
    desk: StoreRef[DocumentView[Desk]] = system.store("desk", Document(Desk))

    def move(tx: Transaction, url: str, stage: str) -> None:
        tx[articles][url] = tx[articles][url].replace(stage=stage)

    @system.on(ReadFeed)
    def read(trigger: ReadFeed, tx: Transaction) -> int:
        found = tx.call(feed_at, trigger.feed)
        new: list[tuple[str, Kind]] = [(url, kind) for url, kind in found if url not in tx[articles]]
        for url, kind in new:
            tx[articles][url] = Article(kind=kind)
        if new:
            tx.emit("feed.read", {"feed": trigger.feed, "articles": new})
        return len(new)

    @system.on(FetchArticle)
    def fetch(trigger: FetchArticle, tx: Transaction) -> int:
        if trigger.kind == "video":
            raise Rejected("a video has no text", url=trigger.url)
        words: int = tx.call(text_of, trigger.url)
        tx[articles][trigger.url] = tx[articles][trigger.url].replace(stage="fetched", words=words)
        return words

    @system.on(Transcribe)
    def write_down(trigger: Transcribe, tx: Transaction) -> int:
        words: int = tx.call(text_of, trigger.url)
        tx[articles][trigger.url] = tx[articles][trigger.url].replace(stage="transcribed", words=words)
        return words

    @system.on(Summarise)
    def make_short(trigger: Summarise, tx: Transaction) -> str:
        move(tx, trigger.url, "summarised")
        return trigger.url

    @system.on(Publish)
    def hand_out(trigger: Publish, tx: Transaction) -> None:
        move(tx, trigger.url, "published")  # If the delivery fails, nothing of this is written.
        tx.call(deliver, trigger.url)

    @system.on(Withdraw)
    def take_back(trigger: Withdraw, tx: Transaction) -> None:
        move(tx, trigger.url, f"withdrawn: {trigger.why}")

    @system.on(Alert)
    def tell(trigger: Alert, tx: Transaction) -> None:
        tx[desk].increment(alerts=1)
        tx[desk].update(newest=trigger.text)

    system.include(reactions)
    return system


system = make_pipeline(Supervisor("media.db"))
