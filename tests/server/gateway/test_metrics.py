"""``/metrics`` in the format of Prometheus."""

from datetime import UTC, datetime

import httpx
from prometheus_client.parser import text_string_to_metric_families

from comfysnap_schema.wire import ErrorCode, JobRecord, JobStatus, Problem, Timings
from comfysnap_server.gateway.metrics import Metrics
from tests.server.gateway.fakes import FakeBackend


def samples(page: bytes) -> dict[tuple[str, ...], float]:
    """Name and label values, in the order of the label names, to the value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


async def test_requests_are_counted_by_route_and_refusals_by_code(http: httpx.AsyncClient) -> None:
    await http.post("/infer_async", json={"prompt": "x"})
    await http.post("/infer_async/draw", json={"steps": 1000})
    for number in range(3):
        await http.get(f"/check_status/job_{number}")
        await http.request("BREW", f"/coffee/{number}")
    answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = samples(answer.content)
    assert found["comfysnap_requests_total", "POST", "/infer_async", "202"] == 1
    assert found["comfysnap_requests_total", "POST", "/infer_async/{workflow}", "422"] == 1
    assert found["comfysnap_requests_total", "GET", "/check_status/{job_id}", "404"] == 3
    assert found["comfysnap_requests_total", "other", "none", "404"] == 3
    assert found["comfysnap_problems_total", "unknown_job"] == 3
    assert found["comfysnap_jobs_accepted_total", "draw"] == 1
    assert found["comfysnap_jobs_queued",] == 1
    assert found["comfysnap_held_requests",] == 0
    assert ("comfysnap_jobs_running",) not in found  # this backend does not know


async def test_a_replay_is_not_counted_as_accepted(http: httpx.AsyncClient) -> None:
    for _ in range(2):
        headers = {"Idempotency-Key": "k"}
        await http.post("/infer_async", json={"prompt": "x"}, headers=headers)
    found = samples((await http.get("/metrics")).content)
    assert found["comfysnap_jobs_accepted_total", "draw"] == 1


def test_the_end_of_a_job_is_counted_with_what_it_waited_for() -> None:
    metrics = Metrics()
    for status, code in ((JobStatus.SUCCEEDED, None), (JobStatus.FAILED, ErrorCode.OUT_OF_MEMORY)):
        metrics.ended(
            JobRecord(
                id="job_1", workflow="flux", status=status, version=3, created_at=datetime.now(UTC),
                error=Problem(title="x", code=code) if code else None,
                timings=Timings(queue=0.2, start=1.5, start_kind="restored", run=20.0),
            )
        )  # fmt: skip
    found = samples(metrics.page())
    assert found["comfysnap_jobs_ended_total", "", "succeeded", "flux"] == 1
    assert found["comfysnap_jobs_ended_total", "out_of_memory", "failed", "flux"] == 1
    assert found["comfysnap_job_run_seconds_sum", "flux"] == 40
    assert found["comfysnap_worker_start_seconds_bucket", "restored", "1.0"] == 0
    assert found["comfysnap_worker_start_seconds_bucket", "restored", "2.0"] == 2
    assert found["comfysnap_job_queue_seconds_count",] == 2


async def test_the_age_of_the_oldest_queued_job_is_told(backend: FakeBackend) -> None:
    metrics = Metrics()
    metrics.watch(backend, lambda: 7)
    found = samples(metrics.page())
    assert found["comfysnap_jobs_queued_oldest_seconds",] == 0
    assert found["comfysnap_held_requests",] == 7
