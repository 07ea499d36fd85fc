"""Effects: what a commit does to the outside world once it is durable."""

from seqtor.actors.effects.actor import Effects
from seqtor.actors.effects.execution import EffectContext, Workshop
from seqtor.actors.effects.functions import EffectFunction, EffectFunctions, make_effect_function

__all__ = ["EffectContext", "EffectFunction", "EffectFunctions", "Effects", "Workshop", "make_effect_function"]
