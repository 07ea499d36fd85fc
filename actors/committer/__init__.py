"""The committer: `state` is the pure commit order, `history` and `stalls` its indexes, `actor` the shell."""

from seqtor.actors.committer.actor import Committer
from seqtor.actors.committer.state import CommitOrder

__all__ = ["CommitOrder", "Committer"]
