"""`make otp-traces`: play the scenarios on OTP and keep what happened, as data beside this file.

Owns the way from scenarios to Erlang terms. Needs `erl` and `erlc`; installs nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.otp.scenarios import SCENARIOS, Leaf, Node, Scenario

HERE = Path(__file__).parent
TRACES = HERE / "traces.json"


def term(value: Any) -> str:
    """A Python value as an Erlang term; texts are atoms."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return value
        case tuple():
            return f"[{', '.join(map(term, value))}]"
        case Leaf():
            parts = (value.id, value.restart, value.shutdown, value.significant, value.fails, value.stuck)
            return f"{{{', '.join(map(term, parts))}}}"
        case Node():
            tree = f"{{tree, {value.id}, {value.restart}, {term(value.significant)}, {supervisor(value)}}}"
            return supervisor(value) if value.id == "top" else tree
        case _:
            raise TypeError(f"{value!r} has no Erlang form")


def supervisor(node: Node) -> str:
    parts = (node.strategy, node.intensity, node.period, node.auto_shutdown, node.children)
    return f"{{{', '.join(map(term, parts))}}}"


def scenario_term(scenario: Scenario) -> str:
    steps = ", ".join(f"{{{', '.join(map(term, step))}}}" for step in scenario.steps)
    return f'{{"{scenario.name}", {term(scenario.top)}, [{steps}]}}.'


def record() -> dict[str, Any]:
    """What OTP did in each scenario."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "scenarios").write_text("\n".join(map(scenario_term, SCENARIOS)) + "\n")
        subprocess.run(["erlc", "-o", folder, HERE / "player.erl"], check=True)
        # One scheduler: messages of several processes to the collector arrive in the order in which they were sent.
        play = [
            "erl",
            "-noshell",
            "+S",
            "1",
            "-pa",
            folder,
            "-run",
            "player",
            "main",
            place / "scenarios",
            place / "traces",
        ]
        subprocess.run(play, check=True, timeout=600, env={**os.environ, "ERL_CRASH_DUMP_BYTES": "0"})
        return dict(json.loads(line) for line in (place / "traces").read_text().splitlines())


def main() -> None:
    if shutil.which("erl") is None or shutil.which("erlc") is None:
        sys.exit("make otp-traces needs Erlang/OTP: apt-get install erlang-base")
    show = 'io:format("~s", [erlang:system_info(otp_release)]), halt().'
    release = subprocess.run(["erl", "-noshell", "-eval", show], check=True, capture_output=True, text=True).stdout
    first, second = record(), record()
    changing = [name for name in first if first[name] != second[name]]
    if changing:
        sys.exit(f"these scenarios do not end the same way each time on OTP {release}: {changing}")
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(trace)}" for name, trace in first.items())
    TRACES.write_text(f'{{"otp": "{release}", "traces": {{\n{lines}\n}}}}\n')
    print(f"{len(first)} scenarios recorded on OTP {release}")


if __name__ == "__main__":
    main()
