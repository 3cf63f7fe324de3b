"""The job as it travels."""

from datetime import UTC, datetime
from typing import Any

import pytest

from comfysnap_schema.wire.errors import ErrorCode, Problem
from comfysnap_schema.wire.jobs import JobRecord, JobStatus


def record(status: str) -> JobRecord:
    data: dict[str, Any] = {
        "id": "job_0123456789abcdef0123456789",
        "workflow": "flux",
        "status": status,
        "version": 1,
        "created_at": datetime.now(UTC).isoformat(),
        "from_a_newer_server": True,
    }
    return JobRecord.model_validate(data)


@pytest.mark.parametrize("status", list(JobStatus))
def test_a_job_is_final_in_all_but_two_states(status: JobStatus) -> None:
    final = status not in (JobStatus.QUEUED, JobStatus.RUNNING)
    assert status.is_final is final
    assert record(status).is_final is final
    assert isinstance(record(status).status, JobStatus)


def test_a_status_of_a_newer_server_is_kept_and_not_final() -> None:
    job = record("paused")
    assert job.status == "paused"
    assert not job.is_final


def test_an_error_code_of_a_newer_server_is_kept() -> None:
    assert Problem.model_validate({"title": "x", "code": "new_code"}).code == "new_code"
    known = Problem.model_validate({"title": "x", "code": "not_found"}).code
    assert known is ErrorCode.NOT_FOUND
