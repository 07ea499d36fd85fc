"""What a program prints in a process of its own, with a hash seed of its own: what follows from a seed is the same there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["printed"]

ROOT = Path(__file__).parents[1]


def printed(hash_seed: str, *arguments: str) -> str:
    """What `python ARGUMENTS` prints there; raises CalledProcessError if it fails."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return ran.stdout
