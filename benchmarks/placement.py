"""On which cores the threads run, and how that is said.

Owns the variable SEQTOR_BENCH_CORES. Promises that every line says what the kernel allows this process, whoever set it:
threads that hand work to each other cost several times more on two cores than on one.
"""

from __future__ import annotations

import os

__all__ = ["VARIABLE", "is_pinned", "place", "placement"]

VARIABLE = "SEQTOR_BENCH_CORES"


def place() -> None:
    """Pin this process, and all threads and processes it starts later, if the variable says so ("0", "0,1").

    Raises SystemExit if it names no cores of this machine.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return
    try:
        os.sched_setaffinity(0, {int(core) for core in text.split(",")})
    except (ValueError, OSError) as error:
        raise SystemExit(f"{VARIABLE}={text!r}: expected numbers of cores of this machine, such as 0 or 0,1") from error


def placement() -> str:
    """How threads are placed, for the output."""
    allowed = sorted(os.sched_getaffinity(0))
    cores = ",".join(map(str, allowed))
    if len(allowed) < (os.cpu_count() or 1):
        return f"pinned to {'core' if len(allowed) == 1 else 'cores'} {cores}"
    return f"not pinned, cores {cores}"


def is_pinned() -> bool:
    """Whether this process runs, or will once it is placed, on one core."""
    return len(os.sched_getaffinity(0)) == 1 or os.environ.get(VARIABLE, "").strip().isdigit()
