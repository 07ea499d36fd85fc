"""Where the command `seqtor` begins: it says what to install if what it needs is missing.

Owns nothing else, so that it can be imported without the extra.
"""

from __future__ import annotations

import importlib.util
import os
import sys

__all__ = ["main"]

NEEDS = ("typer", "rich")
WRONG_USAGE = 2


def main() -> None:
    """Run the command line with the arguments of this process; ends it with the command's exit code."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(f'seqtor: the command line needs {" and ".join(missing)}: pip install "seqtor[cli]"\n')
        raise SystemExit(WRONG_USAGE)
    from seqtor.cli.app import app

    try:
        app()
    except BrokenPipeError:  # Whoever read the output has seen enough, such as `head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
