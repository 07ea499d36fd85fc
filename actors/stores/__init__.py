"""Stores: actors that own named state. `contract` is what they are written against; the others are built in."""

from seqtor.actors.stores.access import Access
from seqtor.actors.stores.collection import Collection, CollectionView
from seqtor.actors.stores.contract import StoreActor, StoreRef, StoreSpec
from seqtor.actors.stores.document import Document, DocumentView
from seqtor.messages.stores import Checkpoint, Commit, Write

__all__ = [
    "Access",
    "Checkpoint",
    "Collection",
    "CollectionView",
    "Commit",
    "Document",
    "DocumentView",
    "StoreActor",
    "StoreRef",
    "StoreSpec",
    "Write",
]
