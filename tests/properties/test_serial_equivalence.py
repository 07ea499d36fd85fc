"""Random programs, executed in parallel, end as if they had run one after another: state, results and errors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.execution import Case, cases, examples, run_simulated, run_threaded


@examples(150)
@given(case=cases, seed=st.integers(0, 2**32 - 1))
def test_any_program_under_any_schedule_equals_the_serial_order(case: Case, seed: int) -> None:
    run_simulated(case, seed)


@examples(40, shrink=False)
@given(case=cases)
def test_any_program_on_real_threads_equals_the_serial_order(case: Case) -> None:
    run_threaded(case)
