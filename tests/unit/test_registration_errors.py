"""What cannot work fails where it is registered, and the text says what to change."""

from __future__ import annotations

import datetime
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict

from seqtor import (
    Access,
    Bundle,
    Collection,
    Document,
    Priority,
    Record,
    RegistrationError,
    StoreActor,
    Supervisor,
    Transaction,
    Trigger,
)
from tests.programs import Account, Deposit, simulated


class Ping(Trigger[None]):
    """Asks for nothing."""


make_type: Any = type(Trigger)  # A class statement as a call.


def answer(trigger: Any, tx: Transaction) -> None:
    """A handler that will do."""


# Triggers and handlers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [int, Account, Trigger, Ping(), "Ping", None, answer])
def test_on_takes_only_a_subclass_of_trigger(given: Any) -> None:
    with pytest.raises(
        RegistrationError, match=r"on\(\) takes a subclass of Trigger, got .*write @system.on\(MyTrigger\)"
    ):
        simulated().on(given)
    with pytest.raises(RegistrationError, match=r"on\(\) takes a subclass of Trigger"):
        Bundle().on(given)


@pytest.mark.parametrize(
    "handler",
    [
        lambda: None,
        lambda trigger: None,
        lambda trigger, tx, more: None,
        lambda trigger, *, tx: None,
        lambda **named: None,
    ],
)
def test_a_handler_that_cannot_be_called_with_trigger_and_tx_is_refused(handler: Any) -> None:
    expected = r"is called with \(trigger, tx\): def .*\(trigger: Ping, tx: Transaction\)"
    with pytest.raises(RegistrationError, match=expected):
        simulated().on(Ping)(handler)
    with pytest.raises(RegistrationError, match=expected):
        Bundle().on(Ping)(handler)


@pytest.mark.parametrize(
    "handler",
    [lambda trigger, tx: None, lambda *both: None, lambda trigger, tx, more=1: None, lambda a, b: None],
)
def test_a_handler_that_can_be_called_with_trigger_and_tx_is_taken_and_returned_unchanged(handler: Any) -> None:
    assert simulated().on(Ping)(handler) is handler


def test_a_generator_function_is_no_handler() -> None:
    def generates(trigger: Ping, tx: Transaction) -> Any:
        yield 1

    async def generates_later(trigger: Ping, tx: Transaction) -> Any:
        yield 1

    for handler in (generates, generates_later):
        with pytest.raises(RegistrationError, match=r"generates.* is a generator: return the result"):
            simulated().on(Ping)(handler)


@pytest.mark.parametrize("handler", [None, 3, "answer"])
def test_what_cannot_be_called_is_no_handler(handler: Any) -> None:
    with pytest.raises(RegistrationError, match="the handler of Ping must be a function, got"):
        simulated().on(Ping)(handler)


def test_a_second_handler_for_one_type_is_refused_and_both_are_named() -> None:
    system = simulated()

    @system.on(Ping)
    def first(trigger: Ping, tx: Transaction) -> None: ...

    def second(trigger: Ping, tx: Transaction) -> None: ...

    with pytest.raises(RegistrationError, match=r"Ping has the handler .*first already, so .*second cannot"):
        system.on(Ping)(second)


def test_a_second_handler_for_one_type_is_refused_in_a_bundle_too() -> None:
    bundle = Bundle()
    bundle.on(Ping)(answer)
    with pytest.raises(RegistrationError, match="Ping has the handler answer already"):
        bundle.on(Ping)(answer)


def test_two_types_of_one_name_are_refused_and_the_class_statement_is_shown() -> None:
    def make() -> type[Trigger[None]]:
        class Ping(Trigger[None]): ...

        return Ping

    system = simulated()
    system.on(Ping)(answer)
    with pytest.raises(RegistrationError, match=r"two trigger types are called 'Ping': .*Trigger, name=\"\.\.\.\""):
        system.on(make())(answer)


def test_a_name_in_the_class_statement_tells_two_types_apart() -> None:
    class Other(Trigger[None], name="other-ping"): ...

    class Another(Trigger[None], name="Ping"): ...

    system = simulated()
    system.on(Ping)(answer)
    system.on(Other)(answer)
    with pytest.raises(RegistrationError, match="two trigger types are called 'Ping'"):
        system.on(Another)(answer)


class Loose(BaseModel):
    """A model that can be changed in place."""

    x: int = 0


class HasList(Record):
    """A record with a list in it."""

    tags: list[str] = []  # noqa: RUF012


@pytest.mark.parametrize(
    ("annotation", "advice"),
    [
        (list[int], "tuple[X, ...]"),
        (Sequence[int], "tuple[X, ...]"),
        (dict[str, int], "nested Record"),
        (Mapping[str, int], "nested Record"),
        (set[int], "frozenset[X]"),
        (tuple[list[int], ...], "tuple[X, ...]"),
        (int | list[int] | None, "tuple[X, ...]"),
        (Annotated[list[int], AfterValidator(lambda value: value)], "tuple[X, ...]"),
        (Loose, "frozen=True"),
        (HasList, "tuple[X, ...]"),
        (tuple[HasList, int], "tuple[X, ...]"),
    ],
)
def test_a_mutable_field_is_refused_at_registration_with_what_to_use_instead(annotation: Any, advice: str) -> None:
    namespace = {"__annotations__": {"held": annotation}, "__module__": __name__}
    kind = make_type("Held", (Trigger,), namespace)
    with pytest.raises(RegistrationError, match=re.escape(advice)) as caught:
        simulated().on(kind)(answer)
    assert "a trigger is immutable, but Held.held" in str(caught.value)
    with pytest.raises(RegistrationError, match=re.escape(advice)):
        Bundle().on(kind)(answer)


def test_a_trigger_type_that_is_not_frozen_is_refused() -> None:
    class Thawed(Trigger[None]):
        model_config = ConfigDict(frozen=False)
        x: int = 0

    with pytest.raises(RegistrationError, match=r"a trigger is immutable, but Thawed .*frozen"):
        simulated().on(Thawed)(answer)


def test_a_trigger_type_that_takes_any_further_field_is_refused() -> None:
    class Open(Trigger[None]):
        model_config = ConfigDict(extra="allow")

    with pytest.raises(RegistrationError, match=r"a trigger is immutable, but Open .*extra"):
        simulated().on(Open)(answer)


@pytest.mark.parametrize("priority", ["high", 7, -1, 1.5])
def test_a_priority_that_is_none_is_refused_as_an_option(priority: Any) -> None:
    with pytest.raises(RegistrationError, match=r"priority must be one of Priority.URGENT, .* got"):
        simulated().on(Ping, priority=priority)(answer)
    with pytest.raises(RegistrationError, match=r"priority must be one of"):
        Bundle().on(Ping, priority=priority)(answer)


def test_a_priority_that_is_none_is_refused_as_a_class_attribute() -> None:
    class Pressing(Trigger[None]):
        priority: ClassVar[Any] = "high"

    with pytest.raises(RegistrationError, match=r"Pressing.priority must be one of Priority.URGENT, .* got 'high'"):
        simulated().on(Pressing)(answer)


def test_a_priority_that_is_a_field_is_refused_because_it_would_be_ignored() -> None:
    fields = {"__annotations__": {"priority": Priority}, "priority": Priority.HIGH, "__module__": __name__}
    with pytest.warns(UserWarning, match="shadows an attribute"):
        kind = make_type("Pressing", (Trigger,), fields)
    with pytest.raises(RegistrationError, match=r"Pressing.priority is a field.*class attribute"):
        simulated().on(kind)(answer)


@pytest.mark.parametrize("deadline", [0, -1, "5", float("nan"), float("inf"), True, datetime.timedelta(0)])
def test_a_deadline_that_is_no_time_above_zero_is_refused(deadline: Any) -> None:
    with pytest.raises(RegistrationError, match="deadline must be"):
        simulated().on(Ping, deadline=deadline)(answer)
    with pytest.raises(RegistrationError, match="deadline must be"):
        Bundle().on(Ping, deadline=deadline)(answer)


# Stores ------------------------------------------------------------------------------------------------------------


def test_a_store_name_used_twice_is_refused() -> None:
    system = simulated()
    system.store("accounts", Collection(Account))
    with pytest.raises(
        RegistrationError, match="there is a store called 'accounts' already: give this one another name"
    ):
        system.store("accounts", Collection(Account))


@pytest.mark.parametrize("name", ["", None, 3, b"accounts"])
def test_a_store_name_is_a_text(name: Any) -> None:
    with pytest.raises(RegistrationError, match="a store's name is a non-empty string, got"):
        simulated().store(name, Collection(Account))


class Plain(StoreActor[int, int]):
    """A store that will do."""

    @staticmethod
    def fold(state: int, writes: Any) -> int:
        return state

    @staticmethod
    def view(access: Access[int]) -> int:
        return access.state


def test_a_store_class_without_spec_is_refused() -> None:
    given: Any = Plain
    with pytest.raises(RegistrationError, match=r"pass Plain.spec\(\.\.\.\), not the class itself"):
        simulated().store("plain", given)


@pytest.mark.parametrize("spec", [Account, {"a": Account()}, None, Account()])
def test_what_is_no_recipe_of_a_store_is_refused(spec: Any) -> None:
    with pytest.raises(RegistrationError, match=r"store 'accounts': expected Collection\(Model\), Document\(Model\)"):
        simulated().store("accounts", spec)


def test_a_store_class_without_fold_or_view_is_refused() -> None:
    class NoFold(StoreActor[int, int]):
        view = staticmethod(Plain.view)

    class NoView(StoreActor[int, int]):
        fold = staticmethod(Plain.fold)

    with pytest.raises(RegistrationError, match="NoFold must define the static method fold"):
        NoFold.spec()
    with pytest.raises(RegistrationError, match="NoView must define the static method view"):
        NoView.spec()


def test_a_fold_with_self_is_refused() -> None:
    def fold(self: Any, state: int, writes: Any) -> int:
        return state

    kind: Any = type("WithSelf", (Plain,), {"fold": fold})
    with pytest.raises(RegistrationError, match=r"WithSelf.fold must be a @staticmethod: it has no self"):
        kind.spec()


def test_an_unknown_dispatcher_of_a_store_is_refused() -> None:
    kind: Any = type("Elsewhere", (Plain,), {"dispatcher": "gpu"})
    with pytest.raises(RegistrationError, match=r'Elsewhere.dispatcher is \'gpu\': it must be "core" or "dedicated"'):
        kind.spec()


@pytest.mark.parametrize("recipe", [Collection, Document])
def test_a_store_of_what_is_no_model_is_refused(recipe: Any) -> None:
    for model in (int, dict, Account(), "Account"):
        with pytest.raises(RegistrationError, match="a store keeps pydantic models: give it a Record subclass, got"):
            recipe(model)


def test_initial_content_that_does_not_fit_is_refused_with_its_place() -> None:
    wrong: Any = {"alice": 100}
    with pytest.raises(RegistrationError, match=r"initial\['alice'\]: the store keeps Account, got int: 100"):
        Collection(Account, initial=wrong)
    wrong = {1: Account()}
    with pytest.raises(RegistrationError, match="initial: keys are strings, got int 1"):
        Collection(Account, initial=wrong)
    wrong = Ping()
    with pytest.raises(RegistrationError, match="initial: the store keeps Account, got Ping"):
        Document(Account, initial=wrong)


def test_a_document_that_cannot_start_empty_needs_initial() -> None:
    class Person(Record):
        name: str

    with pytest.raises(RegistrationError, match=r"Document\(Person\) without initial= starts as Person\(\)"):
        Document(Person)


@pytest.mark.parametrize("recipe", [Collection, Document])
def test_an_invariant_that_cannot_be_called_is_refused(recipe: Any) -> None:
    with pytest.raises(RegistrationError, match="an invariant must be a function of the new state, got 'positive'"):
        recipe(Account, invariants=["positive"])


def test_initial_content_that_breaks_an_invariant_is_refused_at_the_start() -> None:
    def covered(book: Mapping[str, Account]) -> bool:
        return all(account.balance >= 0 for account in book.values())

    system = simulated()
    system.store("accounts", Collection(Account, initial={"a": Account(balance=-1)}, invariants=[covered]))
    expected = "store 'accounts': the initial content is not valid: invariant covered does not hold"
    with pytest.raises(RegistrationError, match=expected):
        system.start()
    system = simulated()
    system.store("total", Document(Account, initial=Account(balance=-1), invariants=[lambda total: total.balance >= 0]))
    with pytest.raises(RegistrationError, match="store 'total': the initial content is not valid"):
        system.start()


# The system --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("journal", "says"),
    [
        ("", "names no file"),
        ("folder/", "names no file"),
        ("sqlite://bank.db", "with three or four slashes"),
        ("mysql://localhost/bank", "there is no backend for mysql://"),
        (42, "pass a path"),
    ],
)
def test_what_names_no_journal_is_refused(journal: Any, says: str) -> None:
    with pytest.raises(RegistrationError, match=says):
        Supervisor(journal)


@pytest.mark.parametrize(
    "journal", ["bank.db", "sqlite:///bank.db", "postgresql://localhost/bank", pathlib.Path("bank.db")]
)
def test_the_constructor_opens_no_journal(
    journal: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Supervisor(journal)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_in_memory_may_be_named() -> None:
    with Supervisor("memory:") as system:
        assert system.stats().current_seq == 0


def test_registration_comes_before_the_start() -> None:
    system = simulated()
    with system:
        with pytest.raises(RegistrationError, match=r"store\(\) comes before the start: register everything"):
            system.store("late", Collection(Account))
        with pytest.raises(RegistrationError, match=r"on\(\) comes before the start"):
            system.on(Ping)(answer)
        bundle = Bundle()
        bundle.on(Ping)(answer)
        with pytest.raises(RegistrationError, match="before the start"):
            system.include(bundle)
    with pytest.raises(RegistrationError, match=r"store\(\) comes before the start"):
        system.store("late", Collection(Account))


def test_a_refused_registration_leaves_no_trace() -> None:
    system = simulated()
    with pytest.raises(RegistrationError):
        system.on(Deposit)(lambda: None)  # type: ignore[arg-type, misc]
    system.on(Deposit)(answer)
    with pytest.raises(RegistrationError):
        system.store("accounts", None)  # type: ignore[arg-type]
    system.store("accounts", Collection(Account))
    assert list(system.stores) == ["accounts"]
    with system:
        assert system.ask(Deposit()) is None


def test_every_error_of_registration_carries_its_code() -> None:
    with pytest.raises(RegistrationError) as caught:
        simulated().on(int)  # type: ignore[type-var]
    assert caught.value.code == "registration"
