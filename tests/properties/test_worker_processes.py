"""Random programs in worker processes end as if they had run one after another, like those on threads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.execution import Case, cases, examples, submitted
from tests.properties.in_processes import run_in_processes
from tests.properties.language import stores

crowded: st.SearchStrategy[Case] = st.builds(
    Case,
    stores=stores,
    submitted=st.lists(submitted, min_size=24, max_size=32).map(tuple),
    threads=st.integers(2, 4),
    horizon=st.none(),
)


@examples(4, shrink=False)
@given(case=cases)
def test_any_program_in_worker_processes_equals_the_serial_order(case: Case) -> None:
    run_in_processes(case)


@examples(6, shrink=False)
@given(case=crowded)
def test_many_programs_in_worker_processes_equal_the_serial_order(case: Case) -> None:
    run_in_processes(case)
