"""`python -m benchmarks [FIGURES...]`: one JSON object per line on standard output, progress on standard error.

One figure runs in this process; several run in a process each, so that none inherits the memory of another. Exits with
0 even if a target is missed (that is data), 1 if a figure could not be measured, 2 if there is no such figure.
"""

from __future__ import annotations

import argparse
import difflib
import json
import subprocess
import sys

from benchmarks.figures import FIGURES
from benchmarks.measure import progress
from benchmarks.placement import VARIABLE, place


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure seqtor. Prints one JSON object per figure.",
        epilog=f"{VARIABLE}=0 pins the process to core 0. benchmarks/README.md says what each figure is.",
    )
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"{', '.join(FIGURES)}; all by default")
    names: list[str] = parser.parse_args().figures or list(FIGURES)
    for name in names:
        if name not in FIGURES:
            parser.error(unknown(name))
    place()
    if len(names) > 1:
        exits = [subprocess.run([sys.executable, "-m", "benchmarks", name], check=False).returncode for name in names]
        return int(any(exits))
    name, figure = names[0], FIGURES[names[0]]
    progress(f"{name}: {(figure.measure.__doc__ or '').strip()}")
    print(json.dumps(figure.line(name, figure.measure()), ensure_ascii=False), flush=True)
    return 0


def unknown(name: str) -> str:
    """What to say about a figure that does not exist."""
    close = difflib.get_close_matches(name.lower(), [known.lower() for known in FIGURES], n=1)
    meant = [known for known in FIGURES if known.lower() in close]
    hint = f"did you mean {meant[0]!r}?" if meant else f"there are {', '.join(FIGURES)}"
    return f"unknown figure {name!r}: {hint}"


if __name__ == "__main__":
    sys.exit(main())
