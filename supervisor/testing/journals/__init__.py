"""`JournalContract`: the suite that every journal backend must pass, ours and one's own.

Subclass it in a test file and override the fixture `reach`; pytest runs every promise of `Backend` on it. Each call of what
`reach` returns gives a backend as another program would make it, of the same journal; there is none yet at the first.
"""

from seqtor.testing.journals.appending import AppendingContract
from seqtor.testing.journals.bounding import BoundingContract
from seqtor.testing.journals.overtaking import OvertakingContract
from seqtor.testing.journals.rows import Reach

__all__ = ["JournalContract", "Reach"]


class JournalContract(AppendingContract, BoundingContract, OvertakingContract):
    """All of it."""
