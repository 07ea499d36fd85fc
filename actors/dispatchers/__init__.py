"""Dispatchers give threads to actors: `core`, `pool`, `loop`, `dedicated` for real, and `simulated`."""

from seqtor.actors.dispatchers.contract import Dispatcher, Dispatchers
from seqtor.actors.dispatchers.elastic import ElasticDispatcher
from seqtor.actors.dispatchers.simulated import NothingCanHappen, SimulatedDispatchers
from seqtor.actors.dispatchers.threaded import ThreadedDispatchers

__all__ = [
    "Dispatcher",
    "Dispatchers",
    "ElasticDispatcher",
    "NothingCanHappen",
    "SimulatedDispatchers",
    "ThreadedDispatchers",
]
