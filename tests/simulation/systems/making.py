"""Makes the system of a plan: stores, handlers, effects, reactions and schedules that do as the plan says.

Owns how the small language is spoken to a real transaction, and `Outside`: what outlives processes but for the journal.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import immutables

from seqtor import (
    Access,
    Collection,
    Derived,
    Document,
    EffectContext,
    Facts,
    Files,
    Record,
    Rejected,
    Restart,
    Retry,
    SourceChange,
    StoreActor,
    StoreUnavailable,
    Supervisor,
    Table,
    Transaction,
    Trigger,
    current_call_id,
    on_cron,
    on_effect_failure,
    on_event,
    on_failure,
    on_result,
    on_status,
)
from seqtor.actors import Checkpoint, Commit, SimulatedDispatchers, Write
from seqtor.actors.journal.memory import MemoryBackend
from seqtor.messages.conditions import ANYTHING
from tests.simulation.systems.plan import DEADLINE_S, Handling, Plan, ReactionPlan
from tests.simulation.systems.programs import PAIR, Book, Doubtful, Flawed, answer_to, perform, written

__all__ = ["DOOMED_RUNS", "GUARDED", "LOOK_S", "OWN_MAX", "Made", "Noted", "Outside", "Replied", "type_of"]

LOOK_S = 600.0  # How often files and rows are looked at.
GUARDED = 13  # What no number in the guarded collection may be a multiple of.
OWN_MAX = 40  # What the store of our own refuses from there on.
DOOMED_RUNS = 2
FOREVER = Restart(intensity=1_000_000)
OFTEN = {"restart_intensity": 1_000_000, "deadline": 1e6, "deadline_completion": 1e6}


class Number(Record):
    """What is in the collections."""

    n: int = 0


class Row(Record):
    """What is in the table: `by` is the program that has written it."""

    n: int = 0
    by: int = -1


class Pair(Record):
    """The document."""

    left: int = 0
    right: int = 0


class Sums(Record):
    """What follows from the first collection."""

    count: int = 0
    amount: int = 0


class Work(Trigger[Any]):
    """Performs a program."""

    number: int
    group: str | None = None


class Noted(Trigger[str]):
    """What a reaction starts: which one, with which facts, and the number among those that it has returned."""

    reaction: str
    facts: tuple[str, ...]
    part: int = 0


class Replied(Trigger[None]):
    """What an effect returns: its key."""

    key: str


class Order(Record):
    """What an effect gets."""

    program: int


@functools.cache
def type_of(kind: int) -> type[Work]:
    """The trigger type of this number."""
    made: Any = type(f"Work{kind}", (Work,), {"__module__": __name__, "__doc__": "Performs a program."})
    return made  # type: ignore[no-any-return]


class Outside:
    """What is outside of the processes of one history. `wrongs` is what should not have happened there."""

    def __init__(self, plan: Plan, place: Path) -> None:
        self.place = place
        self.chance = random.Random(f"outside {plan.seed}")
        self.backend = MemoryBackend() if plan.journaled else None
        if self.backend is not None:
            self.backend._journal_id = f"{plan.seed:08x}" * 4  # So that run ids are the same each time.
        self.tries: Counter[str] = Counter()  # Of effects, by name and key.
        self.calls: Counter[str] = Counter()
        self.replied: set[str] = set()
        self.wrongs: list[str] = []
        self.settled = False  # From then on nothing is away.

    def is_durable(self, seq: int) -> bool:
        """Whether the journal has the record of this seq; in memory it is as durable as it can be."""
        return self.backend is None or next(self.backend.commits(seq, seq), None) is not None


class OwnView:
    """Numbers by key."""

    def __init__(self, access: Access[immutables.Map[str, int]]) -> None:
        self.access = access

    def get(self, key: str) -> int | None:
        self.access.read(key)
        return self.access.state.get(key)

    def all(self) -> dict[str, int]:
        self.access.read_range(None, None)
        return dict(self.access.state)

    def put(self, key: str, number: int | None) -> None:
        self.access.write(key, number)


class Own(StoreActor[immutables.Map[str, int], OwnView]):
    """A store of our own, which refuses large numbers, and is away now and then."""

    def __init__(self, outside: Outside, away: float) -> None:
        self._outside = outside
        self._away = away

    def recover(self, checkpoint: Checkpoint | None) -> immutables.Map[str, int]:
        if checkpoint is None:
            return immutables.Map()
        pairs = [line.rsplit("=", 1) for line in checkpoint.data.decode().splitlines()]
        return immutables.Map({key: int(number) for key, number in pairs})

    def validate(self, old: Any, new: immutables.Map[str, int], commit: Commit) -> None:
        if not self._outside.settled and self._outside.chance.random() < self._away:
            raise StoreUnavailable(retry_after=self._outside.chance.choice((0.1, 5.0)))
        if any(number >= OWN_MAX for number in new.values()):
            raise Rejected("too large")

    def checkpoint(self, state: immutables.Map[str, int]) -> bytes:
        return "\n".join(f"{key}={state[key]}" for key in sorted(state)).encode()

    @staticmethod
    def fold(state: immutables.Map[str, int], writes: Sequence[Write]) -> immutables.Map[str, int]:
        for key, number in writes:
            if number is None:
                state = state.delete(key) if key in state else state
            elif state.get(key) != number:
                state = state.set(key, int(number))
        return state

    @staticmethod
    def view(access: Access[immutables.Map[str, int]]) -> OwnView:
        return OwnView(access)


def _summed(numbers: Mapping[str, Number]) -> Sums:
    return Sums(count=len(numbers), amount=sum(each.n for each in numbers.values()))


def _folded(value: Sums, changes: Sequence[SourceChange]) -> Sums:
    count, amount = value.count, value.amount
    for change in changes:
        count += (change.new is not None) - (change.old is not None)
        amount += (change.new.n if change.new else 0) - (change.old.n if change.old else 0)
    return Sums(count=count, amount=amount)


class TxBook(Book):
    """A book that is a transaction."""

    def __init__(self, made: Made, tx: Transaction, number: int) -> None:
        self._made, self._tx, self._number = made, tx, number

    def get(self, store: str, key: str) -> int | None:
        view: Any = self._tx[self._made.refs[store]]
        if store in ("pair", "sums"):
            return int(getattr(view.fields, key))
        found = view.get(key)
        return None if found is None else number_of(store, found)

    def put(self, store: str, key: str, number: int | None) -> None:
        view: Any = self._tx[self._made.refs[store]]
        if store == "pair":
            view.update(**{key: number})
        elif store == "own":
            view.put(key, number)
        elif number is None:
            view.pop(key, None)
        elif store == "files":
            view[key] = f"{number} {self._number}"
        else:
            view[key] = Row(n=number, by=self._number) if store == "rows" else Number(n=number)

    def add(self, store: str, key: str, amount: int) -> None:
        view: Any = self._tx[self._made.refs[store]]
        if store == "pair":
            view.increment(**{key: amount})
        else:
            view.increment(key, n=amount)

    def all(self, store: str) -> Mapping[str, int]:
        view: Any = self._tx[self._made.refs[store]]
        if store == "pair":
            value = view.value
            return {key: getattr(value, key) for key in PAIR}
        found = view.all() if store == "own" else dict(view)
        return {key: number_of(store, each) for key, each in found.items()}

    def emit(self, code: str, payload: dict[str, Any]) -> None:
        self._tx.emit(code, payload)

    def effect(self, name: str) -> None:
        self._tx.effect(self._made.effects[name], Order(program=self._number))

    def submit(self, program: int, delay: float | None) -> None:
        self._tx.submit(self._made.trigger(program), delay=delay)


def number_of(store: str, found: Any) -> int:
    """The number in what a view gives."""
    if store == "own":
        return int(found)
    return int(found.split()[0]) if store == "files" else int(found.n)


class Made:
    """One process's system of a plan; `life` is which one."""

    def __init__(self, plan: Plan, outside: Outside, life: int, dispatchers: SimulatedDispatchers) -> None:
        self.plan, self.outside, self.life, self._dispatchers = plan, outside, life, dispatchers
        settings = OFTEN | plan.settings
        self.system = Supervisor(outside.backend, dispatchers=lambda _: dispatchers, settings=settings)
        self.refs = {name: self._store(name) for name in plan.stores}
        self.effects: dict[str, Any] = {name: self._effect(name) for name in ("place", "reply", "doomed")}
        self._note_handlers()
        for kind, handling in enumerate(plan.handlings):
            self._handler(kind, handling)
        for reaction in plan.reactions:
            self.system.when(self._condition(reaction), name=reaction.name)(_function_of(reaction))
        for schedule in plan.schedules:
            options = schedule.later if schedule.later is not None and life % 2 else schedule.options
            self.system.schedule(self.trigger(schedule.program), name=schedule.name, **options)
        for handler in self.system._handlers:  # Nobody is late who cannot say how long he may take.
            if handler.name.startswith("seqtor."):
                object.__setattr__(handler, "deadline_s", OFTEN["deadline"])

    def trigger(self, number: int) -> Work:
        """What performs a program."""
        program = self.plan.programs[number]
        group = "ab"[number % 2] if self.plan.handlings[program.kind].coalesces and number % 3 else None
        return type_of(program.kind)(number=number, group=group)

    def let_go(self) -> None:
        """The process is dead: what it had locked or opened is free."""
        for name in ("files", "rows"):
            if name in self.refs:
                self.refs[name].spec.args[1 if name == "files" else 2].close()

    def _store(self, name: str) -> Any:
        plan, place = self.plan, self.outside.place
        spec: Any
        if name == "collection":
            spec = Collection(Number)
        elif name == "guarded":
            spec = Collection(Number, invariants=[lambda book: all(each.n % GUARDED != 12 for each in book.values())])
        elif name == "pair":
            spec = Document(Pair)
        elif name == "own":
            spec = Own.spec(self.outside, plan.slow_store)
        elif name == "files":
            spec = Files(place / "files", look_every=LOOK_S)
        elif name == "rows":
            spec = Table(f"sqlite:///{place}/rows.db", Row, look_every=LOOK_S)
        else:
            source = self.system.stores["collection"]
            spec = Derived(Sums, [source], rebuild=_summed, fold=_folded if plan.fold else None, reconcile=7_200.0)
        return self.system.store(name, spec, restart=FOREVER)

    def _effect(self, name: str) -> Callable[..., Any]:
        outside = self.outside

        def carry_out(context: EffectContext, order: Order) -> Replied | None:
            key = f"{name} {context.key}"
            outside.tries[key] += 1
            if not outside.is_durable(context.seq):
                outside.wrongs.append(f"{key} was carried out before its commit was durable")
            if name == "doomed" or (name == "place" and outside.tries[key] % 3 == 1):
                raise Flawed(name)
            if name == "reply":
                outside.replied.add(context.key)
                return Replied(key=context.key)
            return None

        runs_max = DOOMED_RUNS if name == "doomed" else 5
        return self.system.effect(name, retry=Retry(runs_max, backoff=0.5))(carry_out)

    def _note_handlers(self) -> None:
        notes = self.system.store("notes", Collection(Number), restart=FOREVER)

        @self.system.on(Noted)
        def note(trigger: Noted, tx: Transaction) -> str:
            tx[notes].increment(trigger.reaction, n=1)
            return trigger.reaction

        @self.system.on(Replied)
        def reply(trigger: Replied, tx: Transaction) -> None:
            tx[notes].increment("replied", n=1)

    def _handler(self, kind: int, handling: Handling) -> None:
        outside, programs = self.outside, self.plan.programs

        def answer(question: int) -> int:
            outside.calls[current_call_id()] += 1
            return answer_to(question)

        async def answer_async(question: int) -> int:
            outside.calls[current_call_id()] += 1
            return answer_to(question)

        def execute(trigger: Work, tx: Transaction) -> Any:
            performing = perform(programs[trigger.number].steps, TxBook(self, tx, trigger.number))
            answered: Any = None
            try:
                while True:
                    what, given = performing.send(answered)
                    if what != "call":
                        self._dispatchers.sleep(math.inf if what == "hang" else given * 0.001)
                    answered = tx.call(answer, given) if what == "call" else 0
            except StopIteration as end:
                return end.value
            except Doubtful as doubt:
                raise Rejected(str(doubt)) from doubt

        async def execute_async(trigger: Work, tx: Transaction) -> Any:
            performing = perform(programs[trigger.number].steps, TxBook(self, tx, trigger.number))
            answered: Any = None
            try:
                while True:
                    what, given = performing.send(answered)
                    if what == "hang":
                        await asyncio.Event().wait()
                    elif what == "pause":
                        await asyncio.sleep(given * 0.001)
                    answered = await tx.acall(answer_async, given) if what == "call" else 0
            except StopIteration as end:
                return end.value
            except Doubtful as doubt:
                raise Rejected(str(doubt)) from doubt

        options: dict[str, Any] = {
            "sequence": "completion" if handling.by_completion else "arrival",
            "writes": self._footprint if handling.declares else None,
            "deadline": DEADLINE_S if handling.hangs else None,
            "coalesce": (lambda trigger: trigger.group) if handling.coalesces else None,
            "retry": Retry(handling.runs_max, backoff=handling.backoff) if handling.runs_max > 1 else None,
            "rate": handling.rate,
            "priority": handling.priority,
        }
        self.system.on(type_of(kind), **options)(execute_async if handling.is_async else execute)

    def _footprint(self, trigger: Work) -> list[Any]:
        return [(self.refs[store], key) for store, key in written(self.plan.programs[trigger.number].steps)]

    def _condition(self, plan: ReactionPlan) -> Any:
        about = plan.about
        if plan.what == "event":
            return on_event(about, where=_WHERES[plan.where])
        if plan.what == "status":
            return on_status(type_of(about), ("committed", "rejected", "retrying", "cancelled", "coalesced"))
        if plan.what == "result":
            return on_result(type_of(about), where=lambda result: len(result) % 2 == 0)
        if plan.what == "failure":
            return on_failure(type_of(about), *((Flawed,) if plan.where == "items" else ()))
        if plan.what == "effect":
            return on_effect_failure(self.effects["doomed"])
        if plan.what == "tick":
            return on_cron(about[0], about[1], misfire=about[2])
        if plan.what == "run":
            both = on_status(type_of(about[0]), "committed") & on_result(type_of(about[1]))
            return both if plan.within is None else both.within(plan.within)
        one, other = map(on_event, about)
        if plan.what == "either":
            return one | other
        both = (one & other).correlate(lambda fact: fact.payload["k"])
        return both if plan.within is None else both.within(plan.within)


def _is_even(payload: Any) -> bool:
    return bool(payload["n"] % 2 == 0)


def _raises(payload: Any) -> bool:
    if payload["n"] == 3:
        raise ValueError("no filter for this one")
    return True


_WHERES: dict[str, Any] = {"any": ANYTHING, "items": {"k": "x"}, "predicate": _is_even, "raises": _raises}


def _function_of(plan: ReactionPlan) -> Callable[[Facts], Any]:
    def react(facts: Facts) -> Any:
        ids = tuple(sorted(fact.id for fact in facts.all))
        if plan.answers == "none":
            return None
        if plan.answers == "raises" and refuses(ids):
            raise ValueError("nothing for these")
        return [Noted(reaction=plan.name, facts=ids, part=part) for part in range(2 if plan.answers == "two" else 1)]

    return react


def refuses(ids: tuple[str, ...]) -> bool:
    """Whether a reaction that raises does so for these facts."""
    return sum(map(ord, "".join(ids))) % 2 == 0
