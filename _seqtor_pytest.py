"""The pytest plugin of seqtor: the fixture `seqtor_run`.

Beside the package and not in it: pytest imports its plugins at every start, in every environment where seqtor is installed,
and this one imports nothing but pytest until a test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from seqtor.testing import SeqtorRun

__all__ = ["seqtor_run"]


@pytest.fixture
def seqtor_run() -> Iterator[SeqtorRun]:
    """Run the registrations of a system in memory and virtual time: `with seqtor_run(system, seed=0) as desk: ...`.

    What the test does not stop itself is stopped at its end.
    """
    from seqtor.testing import SeqtorRun

    runs = SeqtorRun()
    yield runs
    runs.stop_all()
