"""The short cut of the fault matrix that every test run takes. The whole of it: `make test-faults`."""

import pytest

from tests.faults.fault_bench import Row

pytestmark = pytest.mark.system

SHORT_CUT = [
    "worker_post_in_flight",
    "lost_answer_cut_after",
    "runner_saving",
    "triggerer_killed",
]


@pytest.mark.parametrize("fault", SHORT_CUT)
def test_nothing_is_paid_twice_and_no_paid_image_is_lost(fault: str, outcomes: dict[str, Row | str]):
    outcome = outcomes[fault]
    assert isinstance(outcome, Row), outcome
    assert outcome.mistakes() == []
