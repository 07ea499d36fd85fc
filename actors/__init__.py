"""The actors of the runtime, and the stores that can be plugged in."""

from seqtor.actors.base import Actor, Ref
from seqtor.actors.dispatchers import SimulatedDispatchers, ThreadedDispatchers
from seqtor.actors.stores import (
    Access,
    Checkpoint,
    Collection,
    CollectionView,
    Commit,
    Document,
    DocumentView,
    StoreActor,
    StoreRef,
    StoreSpec,
    Write,
)

__all__ = [
    "Access",
    "Actor",
    "Checkpoint",
    "Collection",
    "CollectionView",
    "Commit",
    "Document",
    "DocumentView",
    "Ref",
    "SimulatedDispatchers",
    "StoreActor",
    "StoreRef",
    "StoreSpec",
    "ThreadedDispatchers",
    "Write",
]
