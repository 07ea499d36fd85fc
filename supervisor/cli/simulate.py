"""`simulate`: plays histories of a program in virtual time, and shows the first in which something does not hold.

Owns the search over seeds and cores, and what is said of it. Promises: nothing outside is touched unless `--real` says
so; what is found is told with the command that finds it again; Ctrl-C ends the search with what it has come to.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import pathlib
import shlex
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Annotated, Any, NamedTuple, Self

import typer
from loguru import logger

from seqtor.actors.clock import SystemClock
from seqtor.actors.handlers import did_you_mean
from seqtor.cli.options import AsJson, ExitCode, WrongUsage, exit_codes, find_system, traceback_of, usage_error
from seqtor.cli.output import Progress, note, say, say_json
from seqtor.system import Supervisor
from seqtor.testing.given import NotGiven
from seqtor.testing.instead import StandIns
from seqtor.testing.simulating.drawing import CannotDraw
from seqtor.testing.simulating.searching import (
    TRIGGERS,
    Finding,
    Program,
    Simulated,
    WrongWorkload,
    require_invariant,
    require_workload,
)
from seqtor.testing.simulating.telling import cut

__all__ = ["simulate"]

FOUND_MAX = 10  # So many failing seeds end the search: the first is shown, the others are named.
HOW = "seqtor simulate MODULE:SYSTEM"


class Wanted(NamedTuple):
    """What is to be simulated, as the command names it: another process can make the same of it."""

    system: str
    workload: str | None
    stand_ins: str | None
    invariants: tuple[str, ...]
    triggers: int
    real: bool

    def program(self, look: Callable[[], None] = lambda: None) -> Program:
        """Import it. Raises WrongUsage, and whatever the modules raise."""
        first = find_system(self.system, None, HOW)
        named = _named(self.system)
        # A function makes a system for each history; one that is made at the import is shared by all of them.
        is_factory = callable(named) and not isinstance(named, Supervisor)
        workload = None if self.workload is None else _function(self.workload, "--workload")
        if workload is not None:
            require_workload(workload, f"--workload {self.workload}")
        invariants = [_function(each, "--invariant") for each in self.invariants]
        for each, invariant in zip(self.invariants, invariants, strict=True):
            require_invariant(invariant, f"--invariant {each}")
        return Program(
            (lambda: find_system(self.system, None, HOW)) if is_factory else lambda: first,
            workload,
            triggers=self.triggers,
            instead=self._instead(),
            invariants=invariants,
            look=look,
        )

    def _instead(self) -> Callable[[], StandIns]:
        if self.stand_ins is None:
            return lambda: StandIns(missing=None if self.real else [])
        given = _named(self.stand_ins)

        def instead() -> StandIns:
            made = given() if callable(given) and not isinstance(given, StandIns) else given
            if not isinstance(made, StandIns):
                raise WrongUsage(f"{self.stand_ins} is a {type(made).__name__}, expected seqtor.testing.StandIns")
            return made._replace(missing=None if self.real else [])

        instead()
        return instead

    def again(self, seed: int) -> str:
        """The command that plays one seed again."""
        words = ["seqtor", "simulate", self.system, "--seeds", "1", "--first", str(seed)]
        for option, value in (("--workload", self.workload), ("--stand-ins", self.stand_ins)):
            words += [] if value is None else [option, value]
        for each in self.invariants:
            words += ["--invariant", each]
        words += [] if self.triggers == TRIGGERS else ["--triggers", str(self.triggers)]
        return shlex.join([*words, *(["--real"] if self.real else [])])


def _named(place: str) -> Any:
    """What MODULE:NAME names. Raises WrongUsage."""
    module, colon, name = place.partition(":")
    if not colon or not name:
        raise WrongUsage(f"expected MODULE:NAME, such as bank:work, got {place!r}")
    folder = str(pathlib.Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise WrongUsage(f"there is no module {error.name!r} in {folder} or among what is installed") from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise WrongUsage(f"the module {module} has no {name!r}{did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    return found


def _function(place: str, option: str) -> Any:
    found = _named(place)
    if not callable(found):
        raise WrongUsage(f"{option} {place} is a {type(found).__name__}, expected a function")
    return found


class Interrupts:
    """Ctrl-C while a search plays in this process: it is looked at between steps, as no message may be left halfway.

    A second one interrupts at once. Only on the main thread; elsewhere signals are not ours.
    """

    def __init__(self) -> None:
        self.count = 0
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt

    def look(self) -> None:
        """Raise KeyboardInterrupt if there was one."""
        if self.count:
            raise KeyboardInterrupt


class Search:
    """What the seeds that were played have come to."""

    def __init__(self) -> None:
        self.histories = self.seqs = self.crashes = self.processes = 0
        self.virtual_s = 0.0
        self.states: Counter[str] = Counter()
        self.failing: dict[int, Simulated] = {}

    def take(self, found: Simulated) -> None:
        """Count one."""
        self.histories += 1
        self.seqs += found.seqs
        self.crashes += found.crashes
        self.processes += found.processes - 1
        self.virtual_s += found.virtual_s
        self.states += found.states
        if found.violations:
            self.failing[found.seed] = found

    def summary(self, seconds: float) -> str:
        """What was played, in a line."""
        states = ", ".join(f"{count:,} {state}" for state, count in self.states.most_common())
        found = f"{len(self.failing)} failed" if self.failing else "nothing found"
        return (
            f"{self.histories:,} histories in {seconds:.0f} s, {self.seqs:,} seqs ({states or 'none'}), "
            f"{self.virtual_s / 3600:.1f} simulated hours, {self.crashes:,} actors and {self.processes:,} processes died: "
            f"{found}"
        )


def simulate(
    system: Annotated[
        str, typer.Argument(envvar="SEQTOR_SYSTEM", metavar="MODULE:SYSTEM", help="The program's Supervisor.")
    ],
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="How many histories.")] = 100,
    first: Annotated[int, typer.Option("--first", metavar="N", min=0, help="The first seed.")] = 0,
    workload: Annotated[
        str | None,
        typer.Option(
            "--workload",
            metavar="MODULE:FUNCTION",
            help="Gives triggers: f(random) -> triggers. Default: drawn from schemas.",
        ),
    ] = None,
    invariant: Annotated[
        list[str] | None,
        typer.Option(
            "--invariant", metavar="MODULE:FUNCTION", help="f(snapshot), at every state; False or raising breaks it."
        ),
    ] = None,
    stand_ins: Annotated[
        str | None,
        typer.Option(
            "--stand-ins", metavar="MODULE:NAME", help="A seqtor.testing.StandIns, or a function that makes it."
        ),
    ] = None,
    real: Annotated[
        bool, typer.Option("--real", help="Call, open and carry out for real what nothing stands in for.")
    ] = False,
    triggers: Annotated[
        int, typer.Option("--triggers", metavar="N", min=1, help="In each history, at most.")
    ] = TRIGGERS,
    cores: Annotated[int, typer.Option("--cores", metavar="N", min=1, help="Processes that play.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Play histories of a system in virtual time: other orders, crashes, deaths of the process; show what does not hold."""
    wanted = Wanted(system, workload, stand_ins, tuple(invariant or ()), triggers, real)
    with exit_codes():
        try:
            interrupts = Interrupts()
            try:
                program = wanted.program(interrupts.look)
            except TypeError as wrong:  # Of a function that is to make the system or the stand-ins.
                raise WrongUsage(str(wrong)) from None
            program.plan(first)
            if not program.repeats(first):
                note("seqtor: the workload gives other triggers for the same seed: take all chance from its argument")
            _simulate(program, wanted, range(first, first + seeds), cores, interrupts, as_json=as_json)
        except (WrongUsage, CannotDraw) as wrong:
            raise usage_error(str(wrong)) from None
        except WrongWorkload as wrong:
            cause = wrong.__cause__
            raise usage_error(
                f"{wrong}\n{traceback_of(cause)}" if isinstance(cause, Exception) else str(wrong)
            ) from None
        except NotGiven as missing:
            raise usage_error(
                f"{missing} in a StandIns that --stand-ins names; or let everything outside be touched in each history, "
                "with --real"
            ) from None


def _simulate(
    program: Program, wanted: Wanted, seeds: range, cores: int, interrupts: Interrupts, *, as_json: bool
) -> None:
    logger.disable("seqtor")
    search, began = Search(), SystemClock.monotonic()
    interrupted = False
    try:
        # With more cores it is only waited here: the interrupt ends that.
        with interrupts if cores == 1 else contextlib.nullcontext(), Progress("simulate") as progress:
            for each in _played(program, wanted, seeds, cores):
                search.take(each)
                progress(search.histories, len(seeds))
                if len(search.failing) >= FOUND_MAX or each.stands:
                    break
    except KeyboardInterrupt:
        interrupted = True
    seconds = SystemClock.monotonic() - began
    if search.histories and not search.states["committed"]:
        note("seqtor: no run has committed: nothing was looked at but refusals")
    finding = None
    if search.failing and not interrupted:
        shown = search.failing[min(search.failing)]
        note(f"seqtor: seed {shown.seed} fails{'' if shown.stands else ', and is made smaller'}")
        try:
            with interrupts:
                finding = program.find(shown)
        except KeyboardInterrupt:
            interrupted = True
    interrupted = interrupted or interrupts.count > 0
    if as_json:
        say_json(_as_json(wanted, search, finding, seconds, interrupted=interrupted))
    else:
        _say(wanted, search, finding, seconds, interrupted=interrupted)
    if interrupted:
        raise typer.Exit(ExitCode.STOPPED_AT_ONCE)
    if search.failing:
        raise typer.Exit(ExitCode.FOUND)


def _played(program: Program, wanted: Wanted, seeds: range, cores: int) -> Iterator[Simulated]:
    if cores == 1:
        yield from map(program.simulate, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(cores, _begin, (wanted, sys.path)) as pool:
        yield from pool.imap_unordered(_play, seeds)


_program: Program


def _begin(wanted: Wanted, path: list[str]) -> None:
    """Make a process of the pool ready to play."""
    global _program  # noqa: PLW0603 - what a process of the pool has for all its seeds.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The command ends the pool.
    logger.disable("seqtor")
    sys.path[:] = path
    _program = wanted.program()


def _play(seed: int) -> Simulated:
    return _program.simulate(seed)


def _say(wanted: Wanted, search: Search, finding: Finding | None, seconds: float, *, interrupted: bool) -> None:
    if finding is not None:
        smaller = ""
        if finding.sizes is not None:
            sizes = [f"{now} of {before} {what}" for what, (before, now) in finding.sizes._asdict().items()]
            smaller = f", made smaller ({', '.join(sizes)})"
        say(f"seed {finding.seed} fails{smaller}:")
        for line in finding.lines:
            say(f"  {line}" if line else "")
        say("")
    for seed in sorted(search.failing):
        violation = str(search.failing[seed].violations[0])
        say(f"seed {seed}: {violation if finding is None else cut(violation)}")  # In full it was told, with its advice.
        say(f"  again: {wanted.again(seed)}")
    say(f"{'stopped after ' if interrupted else ''}{search.summary(seconds)}")


def _as_json(
    wanted: Wanted, search: Search, finding: Finding | None, seconds: float, *, interrupted: bool
) -> dict[str, Any]:
    return {
        "histories": search.histories,
        "interrupted": interrupted,
        "seconds": round(seconds, 3),
        "seqs": search.seqs,
        "states": dict(search.states),
        "simulated_s": search.virtual_s,
        "actors_crashed": search.crashes,
        "processes_died": search.processes,
        "failing": [
            {
                "seed": seed,
                "again": wanted.again(seed),
                "violations": [violation._asdict() for violation in search.failing[seed].violations],
            }
            for seed in sorted(search.failing)
        ],
        "smallest": None
        if finding is None
        else {
            "seed": finding.seed,
            "trace": finding.lines,
            "violations": [each._asdict() for each in finding.violations],
        },
    }
