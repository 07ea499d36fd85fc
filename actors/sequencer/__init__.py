"""The sequencer: `waiting` (who is next) and `window` (how many) are pure, `actor` is the shell."""

from seqtor.actors.sequencer.actor import Sequencer
from seqtor.actors.sequencer.waiting import AGEING_LIMIT, WaitingTriggers
from seqtor.actors.sequencer.window import Window

__all__ = ["AGEING_LIMIT", "Sequencer", "WaitingTriggers", "Window"]
