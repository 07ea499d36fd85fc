"""What the wheel holds, what the editable install sees, and which way imports run."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"supervisor": "seqtor", "actors": "seqtor.actors", "messages": "seqtor.messages"}
PLUGIN = "_seqtor_pytest.py"  # Beside the package, so that pytest does not import it: see there.
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def source_files(folder: str) -> Iterator[Path]:
    for path in sorted((ROOT / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
            yield path.relative_to(ROOT)


def installed_names() -> set[str]:
    """Every file of the three folders, by the path that it has in the wheel."""
    return {
        "/".join((*package.split("."), *path.parts[1:]))
        for folder, package in PACKAGES.items()
        for path in source_files(folder)
    }


def test_every_package_folder_is_listed_in_pyproject() -> None:
    found = {
        ".".join((package, *path.parent.parts[1:]))
        for folder, package in PACKAGES.items()
        for path in source_files(folder)
        if path.name == "__init__.py"
    }
    assert PYPROJECT["tool"]["setuptools"]["packages"] == sorted(found), (
        "[tool.setuptools] packages in pyproject.toml must list every folder that has an __init__.py, sorted"
    )


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for folder in PACKAGES for path in source_files(folder) if path.suffix == ".py"}
    assert not {str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()}


def test_the_editable_install_sees_every_file_and_no_other() -> None:
    spec = find_spec("seqtor")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    seen = {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if not path.is_dir() and "__pycache__" not in path.parts
    }
    assert seen == installed_names(), "files were added or removed since the last `make setup`: run it again"


def test_the_wheel_holds_seqtor_and_the_pytest_plugin_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert "seqtor/py.typed" in names
    assert names == installed_names() | {PLUGIN}, "what is not Python must be named in [tool.setuptools.package-data]"


def test_the_wheel_depends_on_seven_packages(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode().split("\n\n")[0].splitlines()
    required = {line.removeprefix("Requires-Dist: ") for line in metadata if line.startswith("Requires-Dist: ")}
    assert {line for line in required if "extra ==" not in line} == {
        "apsw>=3.54",
        "croniter<8,>=7",
        "immutables>=0.21",
        "loguru>=0.7",
        "pydantic<3,>=2.14",
        "pykka<5,>=4.5",
        "tzdata>=2025.2",
    }


def test_the_readme_is_the_description_on_pypi() -> None:
    assert ("readme" in PYPROJECT["project"]) == (ROOT / "README.md").exists()


@pytest.mark.parametrize(("folder", "above"), [("messages", ("actors", "supervisor")), ("actors", ("supervisor",))])
def test_imports_run_from_supervisor_to_actors_to_messages(folder: str, above: tuple[str, ...]) -> None:
    upward = [
        f"{path}:{line} imports {module}"
        for path in source_files(folder)
        if path.suffix == ".py"
        for line, module in imported_modules(ast.parse((ROOT / path).read_text("utf-8")))
        if owner(module) in above
    ]
    assert not upward


def imported_modules(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "seqtor":
            yield from ((node.lineno, f"seqtor.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""


def owner(module: str) -> str | None:
    """The folder that `module` comes from, None if it is not ours."""
    parts = module.split(".")
    if parts[0] != "seqtor":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in PACKAGES else "supervisor"
