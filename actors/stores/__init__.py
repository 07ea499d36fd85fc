"""Stores: actors that own named state. `contract` is what they are written against; the others are built in."""

from seqtor.actors.stores.access import Access
from seqtor.actors.stores.collection import Collection, CollectionView
from seqtor.actors.stores.contract import StoreActor, StoreRef, StoreSpec
from seqtor.actors.stores.derived import Derived, DerivedView
from seqtor.actors.stores.document import Document, DocumentView
from seqtor.actors.stores.files import Files, FilesView
from seqtor.actors.stores.invariants import each
from seqtor.actors.stores.table import Table
from seqtor.messages.stores import Checkpoint, Commit, Write

__all__ = [
    "Access",
    "Checkpoint",
    "Collection",
    "CollectionView",
    "Commit",
    "Derived",
    "DerivedView",
    "Document",
    "DocumentView",
    "Files",
    "FilesView",
    "StoreActor",
    "StoreRef",
    "StoreSpec",
    "Table",
    "Write",
    "each",
]
