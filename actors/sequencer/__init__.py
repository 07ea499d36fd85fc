"""The sequencer: `waiting` (who is next), `window` (how many), `outside` (completion runs) are pure, `actor` the shell."""

from seqtor.actors.sequencer.actor import Sequencer
from seqtor.actors.sequencer.outside import OutsideRuns
from seqtor.actors.sequencer.waiting import AGEING_LIMIT, WaitingTriggers
from seqtor.actors.sequencer.window import Window

__all__ = ["AGEING_LIMIT", "OutsideRuns", "Sequencer", "WaitingTriggers", "Window"]
