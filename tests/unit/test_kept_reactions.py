"""What the journal keeps of facts while it writes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from seqtor import FailureFact, ResultFact, State, Trigger
from seqtor.actors.journal.kept_reactions import KeptReactions
from seqtor.messages.commits import EndedRun
from seqtor.messages.events import EventEmitted


class Act(Trigger[int]):
    """Has a result, or fails."""


def test_the_journal_knows_the_facts_of_a_run_before_its_submission_is_settled() -> None:
    """The journal is told first; what it does not know then is lost with a checkpoint, or matched twice behind one."""
    kept = KeptReactions()
    kept.watch({"event e", "result Act", "failure Act"}, 1)
    triggers: tuple[Trigger[Any], ...] = (EventEmitted(code="e"), Act(), Act())
    for seq, trigger in enumerate(triggers, 1):
        error = ValueError("wrong") if seq == 3 else None
        submission: Any = SimpleNamespace(
            id=f"run{seq}", handler=SimpleNamespace(name=type(trigger).trigger_name), trigger=trigger, cause=None,
            origin=None, ended_as=None, error=None, recorded_result=None,
        )  # fmt: skip
        state = State.FAILED if error else State.COMMITTED
        kept.ended(EndedRun(submission, seq, 1, state, 5, error, (), 0.0, 0, 0, None, (), None), 10.0)
    assert list(kept.facts) == ["run1", "run2/result", "run3/failure"]
    result, failure = kept.facts["run2/result"], kept.facts["run3/failure"]
    assert isinstance(result, ResultFact)
    assert result.result == 5
    assert isinstance(failure, FailureFact)
    assert failure.message == "wrong"
