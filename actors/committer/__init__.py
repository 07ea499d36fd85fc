"""The committer: `order` is the pure commit order, `actor` the shell around it, `judge` runs the users' code in a commit.

Of the order, `states` are the states that have come of it, `turn` is the commit that is being asked about, `reruns` and
`stalls` say who executes again and who waits for whom, `history` and `aged` what was written lately and before, `footprints`
who may overtake, `decisions` what the shell has to do.
"""

from seqtor.actors.committer.actor import Committer
from seqtor.actors.committer.order import CommitOrder

__all__ = ["CommitOrder", "Committer"]
