"""What is documented is what a deployment answers, whatever is asked."""

import pytest

from tests.server.backends.modal.fuzzing import fuzz_deployment

pytestmark = pytest.mark.modal

CASES = 250


def test_no_request_to_a_deployment_gets_an_undocumented_answer() -> None:
    report = fuzz_deployment(CASES, seed=7)
    assert report.faults == []
    assert report.job_ids
    assert len({line.partition(" ")[2] for line in report.answers}) >= 5
