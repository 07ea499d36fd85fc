"""The handler of the trigger that holds a derived store against its sources.

Owns the decision whether it is what they give, and the guard. Run like any other handler, in the order: what it finds and
mends is a commit of its own. Promises: a derived store that was healed is what `rebuild` makes of its sources at that seq;
one whose sources have lost more than half of what is counted is not touched until somebody says that this is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from seqtor.actors.journal.encoding import model_json
from seqtor.actors.schedules.plans import make_plan
from seqtor.actors.stores.derived import COUNTED, HELD, RECONCILED, UNREADABLE, Derived, DerivedState
from seqtor.messages.derived import DRIFT, GUARD, Reconciled, ReconcileDerived
from seqtor.messages.errors import RegistrationError, Rejected
from seqtor.messages.events import OURS, make_alarm
from seqtor.messages.schedules import ScheduledTrigger, ScheduleRegistered
from seqtor.messages.stores import Write

if TYPE_CHECKING:
    from seqtor.actors.stores.contract import StoreRef
    from seqtor.actors.transactions import Transaction

__all__ = ["DEADLINE_S", "Reconciling", "reconciliation_of", "reconciliations"]

DEADLINE_S = 300.0  # It looks at everything.


def reconciliation_of(name: Any, spec: Any) -> ScheduleRegistered | None:
    """The schedule by which a store is reconciled, if there is any. Raises RegistrationError for a bad duration."""
    if not isinstance(spec, Derived) or spec.reconcile is None:
        return None
    try:
        plan = make_plan(every=spec.reconcile)
    except ValueError as error:
        raise RegistrationError(f"store {name!r}: reconcile: {error}") from error
    kept = ScheduledTrigger(
        type=ReconcileDerived.trigger_name, payload_json=model_json(ReconcileDerived(derived=str(name)))
    )
    return ScheduleRegistered(schedule=f"{OURS}reconcile {name}", plan=plan, trigger=kept)


def reconciliations(stores: Iterable[StoreRef[Any]]) -> Iterator[ScheduleRegistered]:
    """The schedules by which stores are reconciled."""
    for ref in stores:
        registered = reconciliation_of(ref.name, ref.spec)
        if registered is not None:
            yield registered


class Reconciling:
    """The handler of one system; `stores` are those of its program."""

    def __init__(self, stores: Callable[[], Sequence[StoreRef[Any]]]) -> None:
        self._stores = stores

    def reconcile(self, trigger: ReconcileDerived, tx: Transaction) -> Reconciled:
        """Compute anew, compare, mend."""
        ref = next((each for each in self._stores() if each.name == trigger.derived), None)
        if ref is None or not isinstance(ref.spec, Derived):
            raise Rejected(f"there is no derived store {trigger.derived!r}", "unknown_store")
        spec: Derived[Any] = ref.spec
        state: DerivedState[Any] = tx.whole(ref)
        found, writes = examined(spec, state, [tx.whole(source) for source in spec.sources], trigger)
        tx.put(ref, [*writes, Write(RECONCILED, tx.now.timestamp())])
        if found.outcome == "refused":
            tx.submit(make_alarm(GUARD, {"derived": ref.name, "before": found.before, "counted": found.counted}))
        elif found.outcome != "same":
            tx.submit(make_alarm(DRIFT, {"derived": ref.name, "fields": found.fields, "why": found.why}))
        return found


def examined(
    spec: Derived[Any], state: DerivedState[Any], sources: Sequence[Any], trigger: ReconcileDerived
) -> tuple[Reconciled, list[Write]]:
    """What is to be said of a derived store, and to be written to it. Pure."""
    before = state.counted
    try:
        counted = spec.counted(sources)
        lost = spec.loss(state, counted)
        if lost and not trigger.accept_loss:
            return Reconciled(outcome="refused", before=before, counted=counted, why=lost), [Write(HELD, lost)]
        value = spec.built(sources)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        return Reconciled(outcome="unreadable", before=before, why=why), [Write(UNREADABLE, why)]
    differences = spec.differences(state, value)
    fields = tuple([write.key for write in differences if write.key != UNREADABLE])
    found = Reconciled(
        outcome="healed" if differences else "same", fields=fields, before=before, counted=counted, why=state.unreadable
    )
    return found, [*differences, Write(COUNTED, counted), Write(HELD, "")]
