"""Bugs that are planted into the runtime, one at a time, to show that the search finds them.

Owns the list. A bug is a change of the source of one function: what is replaced must be there, so that a plant that no
longer changes anything fails.
"""

from __future__ import annotations

import inspect
import textwrap
from typing import Any, NamedTuple

import pytest

from seqtor.actors.calls import Calls
from seqtor.actors.committer.footprints import Footprints
from seqtor.actors.committer.history import History
from seqtor.actors.committer.order import CommitOrder
from seqtor.actors.committer.reruns import Reruns
from seqtor.actors.committer.states import States
from seqtor.actors.coordinator import Coordinator
from seqtor.actors.effects.actor import Effects
from seqtor.actors.journal.actor import Journal
from seqtor.actors.journal.kept_reactions import KeptReactions
from seqtor.actors.journal.open_runs import OpenRuns
from seqtor.actors.journal.sqlite import SqliteBackend
from seqtor.actors.rates import Bucket
from seqtor.actors.reactor import matching
from seqtor.actors.retries import Retry
from seqtor.actors.schedules import changes, decisions
from seqtor.actors.schedules.actor import Scheduler
from seqtor.actors.sequencer.actor import Sequencer
from seqtor.actors.sequencer.groups import Group
from seqtor.actors.sequencer.waiting import WaitingTriggers
from seqtor.actors.stores import export
from seqtor.actors.stores.files import FilesStore
from seqtor.actors.stores.folder import Folder
from seqtor.actors.stores.outside import Outside
from seqtor.actors.submissions import Submission
from seqtor.outside import OutsideStores

__all__ = ["DISK_PLANTS", "PLANTS", "RARE_PLANTS", "SYSTEM_PLANTS", "Plant"]


class Plant(NamedTuple):
    """A bug: in the source of a function, `old` is replaced by `new`."""

    name: str
    owner: Any  # A class, or a module.
    function: str
    old: str
    new: str

    def into(self, patch: pytest.MonkeyPatch) -> None:
        """Plant it."""
        original: Any = inspect.getattr_static(self.owner, self.function)
        function: Any = original.fget if isinstance(original, property) else original
        source = textwrap.dedent(inspect.getsource(function))
        assert self.old in source, f"{self.name}: {self.owner.__name__}.{self.function} has changed"
        found: dict[str, Any] = {}
        code = compile(
            "from __future__ import annotations\n" + source.replace(self.old, self.new, 1), self.name, "exec"
        )
        exec(code, {**inspect.unwrap(function).__globals__, "__name__": function.__module__}, found)
        planted = property(found[self.function]) if isinstance(original, property) else found[self.function]
        patch.setattr(self.owner, self.function, planted)
        for kind, method in getattr(self.owner, "_methods", {}).items():  # An actor looks its methods up once.
            if method is original:
                patch.setitem(self.owner._methods, kind, planted)


PLANTS = (
    # Conflicts.
    Plant("only what was also written is validated", CommitOrder, "_stale",
          "stale(intent.accesses,", "stale([each for each in intent.accesses if each.writes],"),
    Plant("ranges are not validated", History, "stale", "if access.ranges or access.whole:", "if False:"),
    Plant("a write is noted one seq too early", CommitOrder, "_commit",
          "self._history.note(seq, store,", "self._history.note(seq - 1, store,"),
    Plant("an intent that waits does not hear of later commits", CommitOrder, "_wait",
          "self._readers.add(intent.seq, intent.accesses)", "pass"),
    Plant("an older epoch's intent is accepted", CommitOrder, "offer", "intent.epoch != self.epoch", "False"),
    Plant("a run that stalled is not woken", Reruns, "_is_last_awaited", "return left == 0", "return left < 0"),
    Plant("who waits to be the head is not woken", Reruns, "freed", "found.append(head)", "pass"),
    # Overtaking.
    Plant("what was overtaken conflicts with who has overtaken it", History, "stale",
          "if writer is not None and writer > seq:", "if False:"),
    Plant("an overtaker is folded into the state without the others", States, "as_of",
          "return self.states if seq == self.next_seq else self.newest", "return self.states"),
    Plant("who has written below is forgotten", States, "end",
          "self._writers = with_writer(self._writers, seq, changes)", "pass"),
    Plant("who reads what a lower one may write overtakes it", Footprints, "blocker",
          "*_touched(accesses, by_key)", "*_touched([each._replace(keys={}) for each in accesses], by_key)"),
    Plant("who has declared nothing is overtaken", Footprints, "blocker", "if through + 1 < seq:", "if False:"),
    Plant("the overtaken are not folded into the newest state", States, "_bring_newest",
          "self._specs[store].fold(self.newest[store], writes) if apart", "self.newest[store] if apart"),
    Plant("what has overtaken is not folded in when it is caught up with", States, "_catch_up",
          "if not together:", "if False:"),
    # The queue.
    Plant("the oldest of a group goes on instead of the newest", Group, "newest_last",
          "lambda each: each.event_time", "lambda each: -each.event_time"),
    Plant("who is taken back stays in the queue", WaitingTriggers, "drop", "self._dropped.add(submission)", "pass"),
    Plant("a rate is not kept", Bucket, "take", "self._tokens -= 1", "pass"),
    Plant("who becomes one is not told its seq", Submission, "take_over", "absorbed.seq = self.seq", "pass"),
    Plant("what was told before a crash is told twice", Journal, "on_runs_ended", "if told.has(runs[0].seq):", "if False:"),
    Plant("effects go out before their commit is durable", Coordinator, "_end_all",
          "if answers_at_once:", "ended.released is None or self._release(ended)\n        if answers_at_once:"),
    Plant("the end of an effect is not recorded", Effects, "on_effect_recorded", "self._ended(", "(lambda *_: None)("),
    # The journal.
    Plant("an accepted trigger gets no row", Journal, "_take_rowless", "count -= 1", "taken.pop(); count -= 1"),
    Plant("a cancel is not written", Journal, "on_end_triggers",
          "self._ending.append((submission, message.ended_at))", "pass"),
    Plant("a checkpoint forgets the calls of open runs", OpenRuns, "found",
          "calls=tuple(call for calls in self.calls.values() for call in calls)", "calls=()"),
    # Slow work.
    Plant("an agent that was replaced is given a seq", Sequencer, "_is_current", "return current and", "return True or"),
    Plant("an answer is not recorded", Calls, "_record", "if journal is None or self._closed:", "if True:"),
)  # fmt: skip

# Found by the histories on the simulated disk.
DISK_PLANTS = (
    Plant("the journal is not synced", SqliteBackend, "_prepare_to_write", '"synchronous", "FULL"', '"synchronous", "OFF"'),
    Plant("an error of a commit is kept from the journal's actor", SqliteBackend, "_writing",
          "raise self._failure from error", "self._failure = None"),
    Plant("effects go out before their commit is durable", Coordinator, "_end_all",
          "if answers_at_once:", "ended.released is None or self._release(ended)\n        if answers_at_once:"),
    Plant("a file is renamed before it is synced", Folder, "prepare", "files.fsync(descriptor)", "pass"),
    Plant("the folder of a file is not synced", Folder, "_sync_touched", "sync_folder(self._files, directory)", "pass"),
    Plant("the seq of a folder is noted before its files are there", FilesStore, "persist",
          "self._bring(last, known)", "self._seq = commits[-1].seq; self._bring(last, known)"),
    Plant("an exported file is renamed before it is synced", export, "write_atomically", "files.fsync(fd)", "pass"),
)  # fmt: skip

# On the disk, too, and so rare in its histories that a test brings them about: tests/unit/test_files_after_failures.py.
RARE_PLANTS = (
    Plant("what was swapped out and deleted comes back", Folder, "put", "self._touched.add(self._aside)", "pass"),
    Plant("folders that were made before a death are not synced", Folder, "open", "self._touched.update(", "set().update("),
    Plant("the manifest says what is not synced", Folder, "_note", "self._sync_touched()", "pass"),
    Plant("what was planned is forgotten before it is there", Folder, "_note", "{*planned, *self._planned}", "{*planned}"),
    Plant("the journal is trimmed before everything is outside for good", OutsideStores, "through",
          "outside.kept", "outside.through"),
)  # fmt: skip

SYSTEM_PLANTS = (  # To be found among random systems.
    # Reactions.
    Plant("what is matched is matched again after a restart", KeptReactions, "note",
          "self.facts.pop(fact, None)", "self.facts.get(fact)"),
    Plant("the journal looks at a submission that is not settled yet", KeptReactions, "ended", ", ended):", "):"),
    Plant("what waits for its other half is forgotten at a death", KeptReactions, "note",
          "self.waiting[each.composite, each.key, each.fact.id] = each", "pass"),
    Plant("a window is never over", matching, "_expire", "each.at < oldest", "False"),
    # Schedules.
    Plant("slots that wait are forgotten", changes, "decide", "queued=queued", "queued=()"),
    Plant("the newest of those that are late is not the one that is made up for", decisions, "_caught_up",
          "late[-1:]", "late[:1]"),
    Plant("a look at the schedules leaves its timer", Scheduler, "on_look_at_schedules",
          "now = self._clock.time()", "self._timer = None; now = self._clock.time()"),
    # Stores that write outside, and derived ones.
    Plant("an edit from outside is overwritten", FilesStore, "_is_foreign",
          "return not self._folder.was_planned(key, found)", "return False"),
    Plant("the first commit of a group is not written outside", Outside, "take",
          "if commit.seq > self.told]", "if commit.seq > self.told + 1]"),
    # Retries.
    Plant("there is one try too many", Retry, "tries_again", "run_number < self.max_runs", "run_number <= self.max_runs"),
    Plant("a retry is forgotten at a death", OpenRuns, "ended",
          "self.submissions[released.retry.id] = released.retry", "pass"),
    # Messages that come twice.
    Plant("a run that is told to begin twice begins twice", Coordinator, "on_begin_runs", " and not run.begun", ""),
)  # fmt: skip
