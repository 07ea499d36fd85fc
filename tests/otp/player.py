"""Plays scenarios on our supervisors, on the simulated dispatcher, and notes the same events as `player.erl`."""

from __future__ import annotations

from typing import Any

from pykka import ActorDeadError

from seqtor.actors.base import Actor
from seqtor.actors.dispatchers import SimulatedDispatchers
from seqtor.tree import (
    ChildRefused,
    ChildSpec,
    Report,
    ReportKind,
    Restart,
    StartFailed,
    SupervisorRef,
    SupervisorSpec,
    Tree,
)
from seqtor.tree.running import start_supervisor
from tests.otp.scenarios import Leaf, Node, Scenario

__all__ = ["Player"]

STRATEGIES = {"simple_one_for_one": "dynamic"}
PASS_S = 2.1


class Player:
    """Plays one scenario; `trace` is what happened."""

    def __init__(self, seed: int) -> None:
        self.trace: list[list[Any]] = []
        self.starts: dict[str, int] = {}
        self.dispatchers = SimulatedDispatchers(seed)
        self.handles: dict[str, str] = {}  # Name of a dynamic child: its id.
        self._top: SupervisorRef

    def note(self, *event: Any) -> None:
        self.trace.append(list(event))

    def play(self, scenario: Scenario) -> list[list[Any]]:
        try:
            self._top = start_supervisor(
                self.spec(scenario.top), "top", dispatchers=self.dispatchers, on_report=self.on_report
            )
        except StartFailed:
            self.note("not_started")
            return self.trace
        self.settle()
        for step in scenario.steps:
            self.note("step", *[part for part in step if not isinstance(part, (tuple, Leaf))])
            self.act(*step)
            self.settle()
            if not self._top.is_alive():
                self.note("down")
                return self.trace
            self.note("state", *sorted(self.states(self._top.tree())))
        self.note("step", "stop")
        assert self._top.stop(60)
        self.note("down")
        return self.trace

    def act(self, verb: str, *arguments: Any) -> None:
        match verb, arguments:
            case "crash" | "exit", (name,):
                self.poke(name, verb)
            case "pass", ():
                self.dispatchers.run_until(lambda: False, PASS_S)
            case "start", (where, leaf):
                self.answer(lambda: self._top.start_child(self.child(leaf), under=self.above(where)))
            case "dynamic", (_, name, fails):
                self.answer(lambda: self.remember(name, self._top.start_dynamic(name, fails)))
            case _, (where, name):
                above = self.above(where)
                path = f"{above}/{name}" if above else self.handles.get(name, name)
                self.answer(lambda: getattr(self._top, f"{verb}_child")(path))

    def remember(self, name: str, handle: Any) -> None:
        self.handles[name] = handle.id

    def above(self, where: str) -> str:
        return "" if where == "top" else where

    def answer(self, request: Any) -> None:
        try:
            request()
        except ChildRefused as refused:
            # OTP's simple_one_for_one has a word of its own for what cannot be done with it.
            self.note(
                "answer", {"dynamic": "simple_one_for_one", "stopped": "noproc"}.get(refused.reason, refused.reason)
            )
        except StartFailed:
            self.note("answer", "failed")
        except LookupError:
            self.note("answer", "noproc")
        else:
            self.note("answer", "ok")

    def poke(self, name: str, what: str) -> None:
        """Have a worker end; supervisors are not poked."""
        name_or_id = self.handles.get(name, name)
        found = [path for path, _ in self.paths(self._top.tree(), "") if path.split("/")[-1] == name_or_id]
        try:
            handle = self._top.child(found[0])
            if handle.ref.actor_class is not Played:
                raise LookupError(name)
            handle.tell(what)
        except (LookupError, ActorDeadError):
            self.note("absent", name)

    def settle(self) -> None:
        """Until nothing happens any more; time passes only for a child that is to stop."""
        self.dispatchers.run_to_rest()
        while self._top.is_alive() and any(state == "stopping" for _, state in self.paths(self._top.tree(), "")):
            self.dispatchers.step()
            self.dispatchers.run_to_rest()

    def paths(self, tree: Tree, above: str) -> list[tuple[str, str]]:
        found = []
        for child in tree.children:
            found.append((above + child.name, child.state))
            if child.state == "running":
                found += self.paths(child, f"{above}{child.name}/")
        return found

    def states(self, tree: Tree) -> list[list[str]]:
        names = {id_: name for name, id_ in self.handles.items()}
        return [[names.get(path.split("/")[-1], path.split("/")[-1]), state] for path, state in self.paths(tree, "")]

    def on_report(self, report: Report) -> None:
        if report.kind is ReportKind.ABANDONED:
            names = {id_: name for name, id_ in self.handles.items()}
            self.note("killed", names.get(str(report.child), report.child))
        elif report.kind is ReportKind.GAVE_UP and not isinstance(report.error, StartFailed):
            self.note("gave_up", report.supervisor.split("/")[-1])

    def spec(self, node: Node) -> SupervisorSpec:
        dynamic = node.strategy == "simple_one_for_one"
        return SupervisorSpec(
            [self.recipe(child) if dynamic else self.child(child) for child in node.children],
            strategy=STRATEGIES.get(node.strategy, node.strategy),
            restart=Restart(node.intensity, node.period),
            auto_shutdown=node.auto_shutdown,
        )

    def child(self, child: Leaf | Node) -> ChildSpec:
        if isinstance(child, Node):
            return ChildSpec(child.id, self.spec(child), restart=child.restart, significant=child.significant)
        return ChildSpec(child.id, Played, args=(self, child.stuck, child.id, child.fails), **options(child))

    def recipe(self, leaf: Any) -> ChildSpec:
        return ChildSpec(leaf.id, Played, args=(self, leaf.stuck), **options(leaf))


def options(leaf: Leaf) -> dict[str, Any]:
    shutdown = leaf.shutdown / 1000 if isinstance(leaf.shutdown, int) else leaf.shutdown
    return {"restart": leaf.restart, "significant": leaf.significant, "shutdown": shutdown}


class Played(Actor):
    """A child that does what the scenario says."""

    def __init__(self, player: Player, stuck: bool, name: str, fails: tuple[int, ...]) -> None:
        super().__init__()
        self.player = player
        self.stuck = stuck
        self.name = name
        self.fails = fails
        self.exits = False

    def on_start(self) -> None:
        starts = self.player.starts
        starts[self.name] = starts.get(self.name, 0) + 1
        if starts[self.name] in self.fails:
            self.player.note("fail", self.name)
            raise RuntimeError("failed")
        self.player.note("start", self.name)

    def on_receive(self, message: Any) -> None:
        self.player.note(message, self.name)
        if message == "crash":
            raise RuntimeError("boom")
        self.exits = True
        self.stop()

    def on_stop(self) -> None:
        if not self.exits:
            self.player.note("stop", self.name)

    def _stop(self) -> None:
        if self.stuck:
            self.on_stop()  # And goes on: a blocking call would block the one thread there is.
        else:
            super()._stop()

    def _recycle(self) -> None:
        if self.stuck:
            self.on_stop()
        else:
            super()._recycle()
