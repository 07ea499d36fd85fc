"""The reactor: what has happened is matched against the conditions of reactions, and what they say is run."""

from seqtor.actors.reactor.facts import Facts, MatchedFact
from seqtor.actors.reactor.reactions import Composite, Reaction, Reactions
from seqtor.actors.reactor.ticks import on_cron

__all__ = ["Composite", "Facts", "MatchedFact", "Reaction", "Reactions", "on_cron"]
