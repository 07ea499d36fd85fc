"""Where the numbers of a system come from, and which source wins."""

from __future__ import annotations

import datetime
import pathlib
from typing import Any

import pytest
from pydantic import ValidationError

from seqtor import Bundle, RegistrationError, Settings, Supervisor, Transaction, Trigger


@pytest.fixture
def project(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A working folder with a pyproject.toml of its own, and an environment without settings."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SEQTOR_{name.upper()}", raising=False)
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nx = 1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(project: pathlib.Path, *lines: str) -> None:
    (project / "pyproject.toml").write_text("\n".join(("[tool.seqtor]", *lines)), encoding="utf-8")


def test_the_defaults_are_those_of_the_contract(project: pathlib.Path) -> None:
    settings = Supervisor().settings
    assert (settings.max_queued, settings.max_in_flight, settings.deadline) == (100_000, 10_000, 10.0)
    assert settings == Settings()


def test_the_program_goes_before_the_environment_and_that_before_pyproject(
    project: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, "max_queued = 1", "max_in_flight = 1", "records_max = 1")
    assert Supervisor().settings == Settings(max_queued=1, max_in_flight=1, records_max=1)
    monkeypatch.setenv("SEQTOR_MAX_QUEUED", "2")
    monkeypatch.setenv("SEQTOR_MAX_IN_FLIGHT", "2")
    assert Supervisor().settings == Settings(max_queued=2, max_in_flight=2, records_max=1)
    settings = Supervisor(settings={"max_queued": 3}).settings
    assert settings == Settings(max_queued=3, max_in_flight=2, records_max=1)


def test_settings_that_were_left_out_come_from_the_other_sources(
    project: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQTOR_MAX_QUEUED", "2")
    assert Supervisor(settings=Settings(records_max=7)).settings == Settings(max_queued=2, records_max=7)
    assert Supervisor(settings=Settings(max_queued=100_000)).settings == Settings(max_queued=100_000)
    assert Supervisor(settings={}).settings == Settings(max_queued=2)


def test_a_folder_above_is_where_pyproject_is_found_and_the_nearest_one_counts(
    project: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, "max_queued = 4")
    inner = project / "src" / "app"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert Supervisor().settings.max_queued == 4
    write(inner, "max_in_flight = 5")
    assert Supervisor().settings == Settings(max_in_flight=5)


def test_durations_are_seconds_or_timedeltas(project: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Supervisor(settings={"deadline": datetime.timedelta(minutes=2)}).settings.deadline == 120.0
    assert Supervisor(settings=Settings(stop_grace=datetime.timedelta(seconds=3))).settings.stop_grace == 3.0
    monkeypatch.setenv("SEQTOR_DEADLINE", "1.5")
    write(project, "stop_grace = 2")
    assert (Supervisor().settings.deadline, Supervisor().settings.stop_grace) == (1.5, 2.0)


def test_the_settings_of_a_system_cannot_be_changed(project: pathlib.Path) -> None:
    system = Supervisor()
    with pytest.raises(ValidationError, match="frozen"):
        system.settings.max_queued = 3  # type: ignore[misc]


def test_later_changes_to_the_mapping_that_was_passed_change_nothing(project: pathlib.Path) -> None:
    given = {"max_queued": 3}
    system = Supervisor(settings=given)
    given["max_queued"] = 4
    assert system.settings.max_queued == 3


def test_a_setting_that_there_is_not_is_refused_with_the_nearest_that_there_is() -> None:
    with pytest.raises(
        RegistrationError, match=r"^there is no setting 'max_qeued'; did you mean 'max_queued'\?; settings are"
    ):
        Settings(max_qeued=3)  # type: ignore[call-arg]


# What is wrong names its source -----------------------------------------------------------------------------------

WRONG: list[tuple[str, Any, str]] = [
    ("max_queued", 0, "greater than or equal to 1"),
    ("max_queued", "many", "valid integer"),
    ("max_in_flight", -1, "greater than or equal to 1"),
    ("threads", 1, "greater than or equal to 2"),
    ("deadline", -1, "greater than"),
    ("deadline", 0, "greater than 0"),
    ("stop_grace", "soon", "valid number"),
    ("records_max", 0, "greater than or equal to 1"),
]


@pytest.mark.parametrize(("name", "value", "problem"), WRONG)
def test_a_wrong_value_in_the_program_is_refused(project: pathlib.Path, name: str, value: Any, problem: str) -> None:
    with pytest.raises(RegistrationError, match=rf"settings=: {name}={value!r}: .*{problem}"):
        Supervisor(settings={name: value})


@pytest.mark.parametrize(("name", "value", "problem"), WRONG)
def test_a_wrong_value_in_the_environment_is_refused(
    project: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any, problem: str
) -> None:
    monkeypatch.setenv(f"SEQTOR_{name.upper()}", str(value))
    with pytest.raises(RegistrationError, match=rf"the environment: {name}='{value}': .*{problem}"):
        Supervisor()


@pytest.mark.parametrize(("name", "value", "problem"), WRONG)
def test_a_wrong_value_in_pyproject_is_refused(project: pathlib.Path, name: str, value: Any, problem: str) -> None:
    write(project, f"{name} = {value!r}")
    with pytest.raises(RegistrationError, match=rf"\[tool.seqtor\] in pyproject.toml: {name}={value!r}: .*{problem}"):
        Supervisor()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_duration_is_finite(project: pathlib.Path, value: float) -> None:
    with pytest.raises(RegistrationError, match="settings=: deadline="):
        Supervisor(settings={"deadline": value})


def test_an_unknown_name_is_refused_with_the_nearest_known_one(project: pathlib.Path) -> None:
    expected = (
        r"settings=: there is no setting 'max_queue'; did you mean 'max_queued'\?; settings are threads, max_queued"
    )
    with pytest.raises(RegistrationError, match=expected):
        Supervisor(settings={"max_queue": 3})
    write(project, "max_queue = 3")
    with pytest.raises(RegistrationError, match=r"\[tool.seqtor\] in pyproject.toml: there is no setting 'max_queue'"):
        Supervisor()


@pytest.mark.parametrize("given", [3, "max_queued=3", [("max_queued", 3)]])
def test_settings_are_settings_or_a_mapping(project: pathlib.Path, given: Any) -> None:
    with pytest.raises(RegistrationError, match="settings= takes Settings or a mapping of its fields, got"):
        Supervisor(settings=given)


def test_a_pyproject_that_cannot_be_read_is_named(project: pathlib.Path) -> None:
    (project / "pyproject.toml").write_text("[tool.seqtor\n", encoding="utf-8")
    with pytest.raises(RegistrationError, match=r"pyproject.toml is not valid TOML"):
        Supervisor()
    (project / "pyproject.toml").write_text("[tool]\nseqtor = 3\n", encoding="utf-8")
    with pytest.raises(RegistrationError, match=r"pyproject.toml: \[tool.seqtor\] must be a table, got 3"):
        Supervisor()


def test_a_setting_acts(project: pathlib.Path) -> None:
    write(project, "records_max = 2", "threads = 2")

    class Ping(Trigger[None]): ...

    bundle = Bundle()

    @bundle.on(Ping)
    def ping(trigger: Ping, tx: Transaction) -> None: ...

    system = Supervisor()
    system.include(bundle)
    with system:
        for submission in system.submit_many([Ping()] * 10):
            submission.result(10)
        with pytest.raises(LookupError, match="older than the 2 records"):
            system.record(1)
