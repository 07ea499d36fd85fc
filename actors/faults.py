"""Named points at which a test has something go wrong, or looks: a table of names, and one global.

Owns the names. `fault` does nothing while nobody listens; it is called once a group, a file or a try, never once a run. What
arms points is `seqtor.testing.faults`; nothing else of the runtime may know whether any is armed.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["POINTS", "fault", "listen"]

POINTS: dict[str, str] = {
    # The journal. What is raised by its medium is final; an actor that crashes is started again.
    "journal.create.before_sync": "a new journal is complete, under its own name or not, and its folder is not synced",
    "journal.recovery.begin": "the journal is open in a new epoch; nothing was read yet. Also after a crash of its actor",
    "journal.recovery.end": "everything was read and checked; no actor has been told",
    "journal.append.before": "the journal's actor is about to write a group: what is raised here is a crash of the actor",
    "journal.append.before_sync": "the group is about to become durable: what is raised here is an error of the medium",
    "journal.append.after": "the group is durable, and nobody knows: what is raised here is a crash of the actor",
    "journal.copy.before": "what is in SQLite's log is about to be copied into the database: an error of the medium",
    "journal.copy.after": "it was copied",
    "journal.checkpoint.before_part": "a part of a checkpoint is about to be written: an error of the medium",
    "journal.checkpoint.before_finish": "all parts are durable, the checkpoint does not count yet: an error of the medium",
    "journal.checkpoint.after": "the checkpoint counts: a crash of the actor",
    "journal.trim.before": "some rows that no promise covers are about to be deleted: an error of the medium",
    "journal.trim.after": "they were deleted, others may follow: a crash of the actor",
    # `Files`: a store that raises is suspended and tried again.
    "files.plan.before": "the versions of some files are about to be noted in the manifest",
    "files.plan.after": "they were noted, and no file has changed",
    "files.write.before": "a new version is about to be written beside its place",
    "files.write.before_sync": "it was written, and is not synced",
    "files.rename.before": "it is synced, and about to be exchanged for what is in its place (or that is about to go)",
    "files.rename.after": "it is in its place, and the folder is not synced",
    "files.sync.before": "all files of a group are in their places, and the folders are about to be synced",
    "files.sync.after": "the folders are synced, and the manifest does not say so",
    "files.settle.before": "the manifest is about to be told up to which seq everything is there",
    "files.settle.after": "it was told",
    # `Table`: as `Files`.
    "table.write.before": "a group of rows is about to be written",
    "table.write.before_commit": "the rows are written, and the transaction is not committed",
    "table.write.after": "the transaction is committed",
    # The JSON file of a `Derived`: an OSError means that it is tried again.
    "export.write.before": "the new content is about to be written beside the file",
    "export.write.before_sync": "it was written, and is not synced",
    "export.rename.before": "it is synced, and about to get the name of the file",
    "export.rename.after": "it has the name, and the folder is not synced",
    # All stores that write outside, those of users too.
    "outside.persist.before": "a group of durable commits is about to be handed to the store's `persist`",
    "outside.persist.after": "`persist` has returned, and nobody knows",
    # Effects: what is raised here counts as raised by the function.
    "effects.try.before": "an effect is about to be tried",
    "effects.try.after": "the function has returned, and nobody knows: it is tried again if this raises",
}
"""Every point, and what holds when it is reached. In the order in which a program comes by them, by part."""

_listener: Callable[[str], None] | None = None


def fault(point: str) -> None:
    """Be at a point. Raises what a test wants to have raised there."""
    if _listener is not None:
        _listener(point)


def listen(listener: Callable[[str], None] | None) -> None:
    """Have this called at every point, on the thread that is there; None: nobody."""
    global _listener  # noqa: PLW0603 - one for the process, as the points are
    _listener = listener
