import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from comfysnap_schema.wire.jobs import JobEvent, JobStatus
from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.gateway import long_polls
from comfysnap_server.gateway.app import create_app, drain
from comfysnap_server.gateway.settings import GatewaySettings
from tests.server.gateway.fakes import FakeBackend


async def submit(http: httpx.AsyncClient, query: str = "") -> str:
    return (await http.post(f"/infer_async{query}", json={"prompt": "x"})).json()["id"]


async def test_a_status_is_told_at_once_without_wait(http: httpx.AsyncClient) -> None:
    job = await submit(http)
    answer = await http.get(f"/check_status/{job}")
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    assert answer.headers["cache-control"] == "no-store"


async def test_a_wait_ends_when_the_job_is_final(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    job = await submit(http)
    call = asyncio.create_task(http.get(f"/check_status/{job}?wait=25"))
    await backend.update(job, status=JobStatus.RUNNING)
    await backend.update(job, status=JobStatus.SUCCEEDED)
    assert (await call).json()["status"] == "succeeded"


async def test_a_wait_after_a_version_ends_at_the_next(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    job = await submit(http)
    call = asyncio.create_task(http.get(f"/check_status/{job}?wait=25&after=1"))
    await backend.update(job, status=JobStatus.RUNNING)
    assert (await call).json()["status"] == "running"
    at_once = await http.get(f"/check_status/{job}?wait=25&after=1")
    assert at_once.json()["version"] == 2


async def test_a_wait_that_runs_out_tells_the_job_as_it_is(http: httpx.AsyncClient) -> None:
    job = await submit(http)
    answer = await http.get(f"/check_status/{job}?wait=0.01")
    assert answer.json()["status"] == "queued"


@pytest.mark.parametrize("query", ["wait=-1", "wait=nan", "wait=x", "after=-1", "wat=3"])
async def test_a_wrong_wait_is_refused(http: httpx.AsyncClient, query: str) -> None:
    job = await submit(http)
    answer = await http.get(f"/check_status/{job}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/check_status/{}"), ("POST", "/cancel/{}"), ("GET", "/events/{}"),
     ("GET", "/outputs/{}/fox.png"), ("HEAD", "/outputs/{}/fox.png")],
)  # fmt: skip
@pytest.mark.parametrize(
    "job_id",
    ["job_00000000000000000000000000", "..%5c..%5cpasswd", "%2e%2e", "x" * 5000, "job_%00"],
)
async def test_an_unknown_or_malformed_job_id_is_404(
    http: httpx.AsyncClient, method: str, path: str, job_id: str
) -> None:
    answer = await http.request(method, path.format(job_id))
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    if method != "HEAD":
        assert answer.json()["code"] == "unknown_job"


async def test_a_job_id_with_a_slash_reaches_no_route(http: httpx.AsyncClient) -> None:
    answer = await http.get("/check_status/..%2f..%2fetc%2fpasswd")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_cancelling_twice_changes_nothing(http: httpx.AsyncClient) -> None:
    job = await submit(http)
    first = await http.post(f"/cancel/{job}")
    again = await http.post(f"/cancel/{job}")
    assert first.json()["status"] == "cancelled"
    assert again.json() == first.json()


async def test_jobs_are_listed_newest_first_by_status_workflow_and_label(
    http: httpx.AsyncClient,
) -> None:
    red = await submit(http, "?label=team:red")
    await asyncio.sleep(0.002)  # ids are sortable by the millisecond
    blue = await submit(http, "?label=team:blue&label=n:1")
    await http.post(f"/cancel/{red}")

    async def listed(query: str) -> list[str]:
        return [job["id"] for job in (await http.get(f"/jobs{query}")).json()["jobs"]]

    assert await listed("") == [blue, red]
    assert await listed("?status=cancelled") == [red]
    assert await listed("?label=team:blue&label=n:1") == [blue]
    assert await listed("?workflow=paint") == []
    assert await listed("?limit=1") == [blue]


async def test_a_wrong_status_filter_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.get("/jobs?status=sleeping")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_events_tell_each_state_and_end_with_done(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    job = await submit(http)
    await backend.update(job, status=JobStatus.RUNNING)
    call = asyncio.create_task(http.get(f"/events/{job}"))
    await backend.until_held(1)
    await backend.update(job, status=JobStatus.SUCCEEDED)
    answer = await call
    lines = [line for line in answer.text.splitlines() if not line.startswith("data")]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert lines == ["id: 2", "event: status", "", "id: 3", "event: done", ""]


async def test_events_resume_after_the_last_id(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    job = await submit(http)
    call = asyncio.create_task(http.get(f"/events/{job}", headers={"Last-Event-ID": "1"}))
    await backend.until_held(1)
    await backend.update(job, status=JobStatus.SUCCEEDED)
    text = (await call).text
    assert "event: status" not in text
    assert text.splitlines()[:2] == ["id: 2", "event: done"]


async def test_only_done_names_the_version_that_ends_a_stream(
    http: httpx.AsyncClient, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await submit(http)
    await backend.update(job, status=JobStatus.SUCCEEDED)

    async def events(_: str, job_id: str, *, after: int | None) -> AsyncIterator[JobEvent]:
        for type_ in ("status", "done"):  # as when the job ends while its state is sent
            yield JobEvent(type=type_, job=backend.jobs[job_id])

    monkeypatch.setattr(backend, "events", events)
    text = (await http.get(f"/events/{job}")).text
    lines = [line for line in text.splitlines() if line and not line.startswith("data")]
    assert lines == ["event: status", f"id: {backend.jobs[job].version}", "event: done"]


@pytest.mark.parametrize("last", ["fox", "", "-1", "9" * 400, "\u0663"])
async def test_a_senseless_last_event_id_is_ignored(
    http: httpx.AsyncClient, backend: FakeBackend, last: str
) -> None:
    job = await submit(http)
    await backend.update(job, status=JobStatus.SUCCEEDED)
    answer = await http.get(f"/events/{job}", headers={b"Last-Event-ID": last.encode()})
    assert "event: done" in answer.text


async def test_too_many_held_requests_are_refused(backend: FakeBackend, workflow: Workflow) -> None:
    app = create_app(backend, {workflow.name: workflow}, GatewaySettings(max_waits=1))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        job = await submit(http)
        first = asyncio.create_task(http.get(f"/check_status/{job}?wait=25"))
        await backend.until_held(1)
        second = await http.get(f"/check_status/{job}?wait=25")
        assert (second.status_code, second.json()["code"]) == (429, "rate_limited")
        assert second.headers["retry-after"] == "1"
        await backend.update(job, status=JobStatus.SUCCEEDED)
        assert (await first).status_code == 200
        assert (await http.get(f"/check_status/{job}?wait=25")).status_code == 200


@pytest.mark.parametrize("held_long", [False, True])
async def test_where_no_more_are_held_one_is_answered_early(
    backend: FakeBackend, workflow: Workflow, monkeypatch: pytest.MonkeyPatch, held_long: bool
) -> None:
    monkeypatch.setattr(long_polls, "_SHORTEST_HOLD_S", 0.0 if held_long else 60.0)
    app = create_app(backend, {workflow.name: workflow}, GatewaySettings(max_held=1))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        job = await submit(http)
        older = asyncio.create_task(http.get(f"/check_status/{job}?wait=25"))
        await backend.until_held(1)
        newer = asyncio.create_task(http.get(f"/events/{job}"))
        early, other = (older, newer) if held_long else (newer, older)
        assert (await asyncio.wait_for(early, 20)).status_code == 200
        assert not other.done()
        await backend.update(job, status=JobStatus.SUCCEEDED)
        assert (await other).status_code == 200


async def test_a_server_that_stops_ends_held_requests_with_what_it_knows(
    backend: FakeBackend, workflow: Workflow
) -> None:
    app = create_app(backend, {workflow.name: workflow}, GatewaySettings())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        job = await submit(http)
        calls = [
            asyncio.create_task(http.get(f"/check_status/{job}?wait=25")),
            asyncio.create_task(http.post("/infer_sync", json={"prompt": "x"})),
            asyncio.create_task(http.get(f"/events/{job}")),
        ]
        await backend.until_held(3)
        drain(app)
        drain(app)
        status, sync, events = await asyncio.wait_for(asyncio.gather(*calls), 20)
        assert status.json()["status"] == "queued"
        assert (sync.status_code, sync.json()["status"]) == (202, "queued")
        assert "event: done" not in events.text
        late = await asyncio.wait_for(http.get(f"/check_status/{job}?wait=25"), 20)
        assert late.json()["status"] == "queued"
