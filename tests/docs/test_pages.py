"""The pages tell the truth: programs run and print what they say, links and paths lead somewhere."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from seqtor import Settings
from tests.docs.pages import PAGES, ROOT, Link, Program, anchors_of, links_of, programs_of, prose, read, spans_of

README = Path("README.md")
PROGRAMS = [program for page in PAGES for program in programs_of(page)]
LINKS = [link for page in PAGES for link in links_of(page)]
TOP_LEVEL = "actors|messages|supervisor|tests|examples|benchmarks|docs"
PATH = re.compile(rf"(?:{TOP_LEVEL})/[\w./-]*")


@cache
def functions_of(path: Path) -> frozenset[str]:
    """Names of the test functions of a file, those in classes too."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, functions) and node.name.startswith("test_")
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_every_program_runs_and_prints_what_the_page_says(program: Program, tmp_path: Path) -> None:
    file = tmp_path / ("test_program.py" if program.is_test_file else "program.py")
    file.write_text(program.text, encoding="utf-8")
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if program.is_test_file else ["-W", "error"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "SEQTOR_"))}
    done = subprocess.run(
        [sys.executable, *command, file],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, "a program prints nothing but what it says: the library is silent"
    if program.output is not None:
        assert done.stdout == program.output


def test_every_program_that_prints_says_what() -> None:
    assert not [str(program) for program in PROGRAMS if "print(" in program.text and program.output is None]


def test_the_readme_has_its_two_programs_and_two_commands() -> None:
    assert [program.output is not None for program in PROGRAMS if program.page == README] == [True, True]
    commands = re.search(r"```sh\n(.*?)```", read(README), re.DOTALL)
    assert commands is not None
    assert [line.split(" #")[0].strip() for line in commands[1].splitlines()] == ["make demo", "make test"]


def test_the_readme_keeps_its_order() -> None:
    assert re.findall(r"^## (.+)$", prose(README), re.MULTILINE) == [
        "What you get",
        "Two commands",
        "The first program",
        "The life of a run",
        "A conflict",
        "Promises",
        "What is not in this release",
        "More",
    ]


@pytest.mark.parametrize("link", LINKS, ids=str)
def test_every_link_leads_to_a_file_of_the_repository(link: Link) -> None:
    assert link.path.is_relative_to(ROOT)
    assert link.path.exists()
    if link.anchor and link.path.suffix == ".md":
        assert link.anchor in anchors_of(link.path.relative_to(ROOT))


def test_every_promise_links_to_a_test_that_exists() -> None:
    table = prose(README).partition("## Promises")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert rows
    assert not [row for row in rows if "[`test_" not in row], "each promise names the test that shows it"


@pytest.mark.parametrize("link", [link for link in LINKS if link.text.startswith("test_")], ids=str)
def test_a_link_that_names_a_test_names_one_of_its_file(link: Link) -> None:
    assert link.text in functions_of(link.path), f"{link.target} has no {link.text}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = {span for span in spans_of(page) if PATH.fullmatch(span)}
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_page_shows_no_path_of_a_machine(page: Path) -> None:
    assert not re.findall(r"(?:/home/|/root/|/work/|/tmp/|/Users/|C:\\)\S*", read(page))


def test_every_page_of_docs_is_listed_in_the_index() -> None:
    index = Path("docs/index.md")
    listed = {link.path.relative_to(ROOT) for link in LINKS if link.page == index}
    assert not [str(page) for page in PAGES if page.parts[0] == "docs" and page != index and page not in listed]


def test_the_architecture_fits_on_one_page() -> None:
    assert len(read(Path("ARCHITECTURE.md")).splitlines()) <= 100


def test_the_architecture_names_every_module_of_the_package() -> None:
    text = read(Path("ARCHITECTURE.md"))
    modules = {path for folder in ("actors", "supervisor") for path in (ROOT / folder).rglob("*.py")}
    # Parts of one role that no reader looks for by themselves.
    inner = {
        "invariants.py",
        "clock.py",
        "contract.py",
        "dead_letters.py",
        "ready_queue.py",
        "threaded.py",
        "timers.py",
    }
    inner |= {"model_kind.py", "sorted_keys.py", "__init__.py"}
    assert not sorted(path.name for path in modules if path.name not in text and path.name not in inner)


# The reference --------------------------------------------------------------------------------------------------------


def test_the_page_of_messages_is_current() -> None:
    maker = runpy.run_path(str(ROOT / "docs" / "reference" / "make_messages.py"))
    assert read(Path("docs/reference/messages.md")) == maker["page"](), "run docs/reference/make_messages.py"


def test_the_page_of_settings_names_each_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", prose(Path("docs/how-to/configure.md")), re.MULTILINE)
    said = {name: default.replace(",", "").removesuffix(" s") for name, default in rows}
    fields = Settings.model_fields
    assert list(said) == list(fields)
    for name, field in fields.items():
        if field.default is None:
            assert said[name] == "none", name
        elif isinstance(field.default, str):
            assert said[name] == f"`{field.default}`", name
        elif field.default_factory is None:
            assert float(said[name]) == field.default, name
