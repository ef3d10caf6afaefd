"""Every fault, one after the other and side by side: `make test-faults`. Takes about 25 minutes on two cores."""

import pytest

from tests.faults.fault_bench import MATRIX, Row

# The first test waits for all that happen side by side.
pytestmark = pytest.mark.timeout(3600)


@pytest.mark.parametrize("fault", MATRIX.faults)
def test_nothing_is_paid_twice_and_no_paid_image_is_lost(fault: str, outcomes: dict[str, Row | str]):
    outcome = outcomes[fault]
    assert isinstance(outcome, Row), outcome
    assert outcome.mistakes() == []


def test_kills_at_random_moments_cost_nothing(seeded: Row):
    assert seeded.mistakes() == []
