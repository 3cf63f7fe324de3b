"""Following a job."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from comfysnap_client import (
    Client,
    DeadlineExceeded,
    JobEvent,
    JobRecord,
    NotFound,
    PollPolicy,
    Progress,
    polling,
    sse,
)
from comfysnap_client.polling import LongPolls, Polled
from comfysnap_client.retry import Deadline
from tests.client.fakes import DrawInput, DrawOutput, FakeServer, problem, rejecting, responding

FOX = DrawInput(prompt="a fox")


def types(events: list[JobEvent]) -> list[str]:
    return [str(event.type) for event in events]


def half_done(fraction: float) -> dict[str, object]:
    return {"fraction": fraction, "node": "3", "node_class": "KSampler"}


async def test_events_come_until_done(client: Client, server: FakeServer) -> None:
    server.outputs = None
    job = await client.infer_async(FOX)
    events: list[JobEvent] = []
    async for event in job.events():
        events.append(event)
        if event.type == "progress":
            job_now = server.jobs[job.id]["status"]
            if job_now == "queued":
                await server.finish(job.id, status="running", progress=half_done(0.5))
            elif job_now == "running":
                await server.finish(job.id, outputs={})
    assert types(events) == ["status", "progress", "status", "progress", "done"]
    assert job.record is not None
    assert job.record.is_final


async def test_an_interrupted_stream_resumes_after_the_last_event(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    job = await client.infer_async(FOX)

    async def cut(_request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            event = {"type": "status", "job": server.jobs[job.id]}
            yield f"retry: 1\nid: 1\ndata: {json.dumps(event)}\n\ndata: not an event\n\n"
            await server.finish(job.id, outputs={})

        return StreamingResponse(body(), media_type="text/event-stream")

    server.on("/events", cut, rejecting(503, "unavailable"))
    events = [event async for event in job.events()]
    assert types(events) == ["status", "done"]
    assert server.requests_to("/events")[-1].headers["last-event-id"] == "1"


@pytest.mark.parametrize(
    "response",
    [problem(404, "not_found"), problem(405, "method_not_allowed"), PlainTextResponse("no stream")],
)
async def test_without_a_stream_polls_report_the_same_events(
    client: Client, server: FakeServer, response: Response
) -> None:
    server.outputs = None
    server.on("/events", responding(response))
    job = await client.infer_async(FOX)
    server.on("/check_status", rejecting(503, "unavailable"))
    events: list[JobEvent] = []
    async for event in job.events():
        events.append(event)
        if event.type == "status" and server.jobs[job.id]["status"] == "queued":
            await server.finish(job.id, status="running", progress=half_done(0.5))
        elif event.type == "progress":
            await server.finish(job.id, outputs={})
    assert types(events) == ["status", "status", "progress", "done"]
    assert [r.query_params.get("after") for r in server.requests_to("/check_status")][-1] == "2"


async def test_empty_streams_fall_back_to_polls(client: Client, server: FakeServer) -> None:
    empty = StreamingResponse(iter(()), media_type="text/event-stream")
    server.on("/events", responding(empty), responding(empty))
    job = await client.infer_async(FOX)
    assert types([event async for event in job.events()])[-1] == "done"
    assert len(server.requests_to("/events")) == 2


async def test_an_oversized_event_falls_back_to_polls(
    client: Client, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    lines = iter([b"data: " + b"x" * 300 + b"\n"] * 5)
    server.on("/events", responding(StreamingResponse(lines, media_type="text/event-stream")))
    job = await client.infer_async(FOX)
    assert types([event async for event in job.events()])[-1] == "done"
    assert len(server.requests_to("/events")) == 1


async def test_an_unknown_job_has_no_events(client: Client, server: FakeServer) -> None:
    server.on("/events", rejecting(404, "unknown_job"))
    with pytest.raises(NotFound):
        [event async for event in client.job("job_x", DrawOutput).events()]

    server.on("/events", rejecting(404, "not_found"))
    with pytest.raises(NotFound):
        [event async for event in client.job("job_x", DrawOutput).events()]


async def test_leaving_the_events_early_closes_the_stream(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    job = await client.infer_async(FOX)
    async with aclosing(job.events()) as events:
        assert (await anext(events)).type == "status"
        assert server.open_streams == 1
    await server.until(lambda: server.open_streams == 0)


async def test_progress_reaches_the_callback_and_a_failing_callback_does_not_end_the_wait(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    shown = asyncio.Event()

    def show(progress: Progress) -> None:
        if progress.fraction == 0.5:
            shown.set()

    waiting = asyncio.create_task(client.infer_sync(FOX, on_progress=show))
    await server.requested("/check_status")
    job_id = next(iter(server.jobs))
    await server.finish(job_id, status="running", progress=half_done(0.5))
    async with asyncio.timeout(60):
        await shown.wait()
    await server.finish(job_id, outputs={"text": "done"})
    assert (await waiting).text == "done"
    assert server.requests_to("/events") == []

    def fail(_progress: Progress) -> None:
        raise ZeroDivisionError

    server.outputs = {"text": "again"}
    job = await client.infer_async(FOX)
    server.outputs = None
    assert (await client.job(job.id, DrawOutput).result(on_progress=fail)).text == "again"


async def test_a_finished_job_still_reports_its_progress(
    client: Client, server: FakeServer
) -> None:
    server.outputs = {"text": "done"}
    job = await client.infer_async(FOX)
    await job.wait()
    seen: list[Progress] = []
    await job.result(on_progress=seen.append)
    assert job.record is not None
    assert seen == [job.record.progress]


async def test_events_already_reported_are_not_repeated(client: Client, server: FakeServer) -> None:
    server.outputs = None
    job = await client.infer_async(FOX)
    queued = {"type": "status", "job": server.jobs[job.id]}
    half = {"type": "progress", "progress": half_done(0.5)}

    async def twice(_request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            for event in (queued, half, queued, half):
                yield f"data: {json.dumps(event)}\n\n"
            await server.finish(job.id, outputs={})
            yield f"data: {json.dumps({'type': 'done', 'job': server.jobs[job.id]})}\n\n"

        return StreamingResponse(body(), media_type="text/event-stream")

    server.on("/events", twice)
    assert types([event async for event in job.events()]) == ["status", "progress", "done"]


async def test_polls_report_progress_within_one_status(client: Client, server: FakeServer) -> None:
    server.outputs = None
    server.on("/events", rejecting(404, "not_found"))
    job = await client.infer_async(FOX)
    await server.finish(job.id, status="running", progress=half_done(0.25))
    seen: list[float] = []
    async for event in job.events():
        if event.progress is not None:
            seen.append(event.progress.fraction)
            if event.progress.fraction == 0.25:
                await server.finish(job.id, status="running", progress=half_done(0.5))
            else:
                await server.finish(job.id, outputs={})
    assert seen == [0.25, 0.5]


class Clock:
    """A clock that only the test advances."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


async def test_a_held_poll_is_followed_by_the_next_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(polling, "time", clock)
    policy_with_long_pauses = PollPolicy(hold=20, initial=60)
    record = {"id": "job_1", "workflow": "draw", "version": 1, "created_at": "2026-01-01T00:00:00Z"}
    statuses = iter(["queued", "queued", "succeeded"])

    async def held(job_id: str, *, hold: float, after: int | None) -> Polled:
        clock.now += hold
        return JobRecord.model_validate({**record, "status": next(statuses)}), None

    polls = LongPolls(held, policy_with_long_pauses, slots=1)
    final = await polls.wait("job_1", Deadline.after(5), lambda _: None)
    assert final.status == "succeeded"


async def test_a_timeout_error_within_a_poll_is_not_a_deadline() -> None:
    async def failing(job_id: str, *, hold: float, after: int | None) -> Polled:
        raise TimeoutError("mine")

    polls = LongPolls(failing, PollPolicy(), slots=1)
    with pytest.raises(TimeoutError) as caught:
        await polls.wait("job_1", Deadline.after(5), lambda _: None)
    assert not isinstance(caught.value, DeadlineExceeded)


async def test_a_follower_replaces_a_poll_that_would_not_report_changes(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    server.on("/events", rejecting(404, "not_found"))
    job = await client.infer_async(FOX)
    waiting = [asyncio.create_task(job.wait()) for _ in range(2)]
    await server.requested("/check_status", 1)
    assert "after" not in server.requests_to("/check_status")[0].query_params
    seen: list[str] = []
    async for event in job.events():
        seen.append(str(event.type))
        if event.type == "status" and event.job is not None and event.job.status == "queued":
            await server.finish(job.id, status="running")
        elif event.type == "status":
            await server.finish(job.id, outputs={})
    assert seen == ["status", "status", "done"]
    assert [record.status for record in await asyncio.gather(*waiting)] == ["succeeded"] * 2


async def test_events_do_not_keep_an_abandoned_job_alive(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    server.on("/events", rejecting(404, "not_found"))
    job = await client.infer_async(FOX)

    async def follow() -> list[JobEvent]:
        return [event async for event in job.events()]

    following = asyncio.create_task(follow())
    await server.requested("/check_status")
    with pytest.raises(DeadlineExceeded):
        await job.wait(timeout=0.1)
    assert types(await following)[-1] == "done"
    assert server.jobs[job.id]["status"] == "cancelled"


async def test_a_poll_that_fails_for_good_ends_every_wait(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    job = await client.infer_async(FOX)
    go_on = asyncio.Event()

    async def refuse(_request: Request) -> Response:
        await go_on.wait()
        return problem(404, "unknown_job")

    server.on("/check_status", refuse)
    waiting = [asyncio.create_task(job.wait()) for _ in range(3)]
    await server.requested("/check_status")
    go_on.set()
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [NotFound] * 3
    assert len(server.requests_to("/check_status")) == 1


async def test_a_follower_without_the_current_state_gets_it_at_once(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    server.on("/events", rejecting(404, "not_found"))
    job = await client.infer_async(FOX)
    waiting = asyncio.create_task(job.wait(on_progress=lambda progress: progress))
    await server.requested("/check_status", 1)
    assert server.requests_to("/check_status")[0].query_params["after"] == "1"
    async with asyncio.timeout(20), aclosing(job.events()) as events:
        assert (await anext(events)).type == "status"
    await server.finish(job.id, outputs={})
    assert (await waiting).status == "succeeded"


async def test_polls_for_fast_progress_are_spaced() -> None:
    policy = PollPolicy(initial=0.5)
    record = {"id": "job_1", "workflow": "draw", "created_at": "2026-01-01T00:00:00Z"}
    versions = iter(range(1, 5))

    async def busy(job_id: str, *, hold: float, after: int | None) -> Polled:
        version = next(versions)
        status = "succeeded" if version == 4 else "running"
        return JobRecord.model_validate({**record, "version": version, "status": status}), None

    started = asyncio.get_running_loop().time()
    polls = LongPolls(busy, policy, slots=1)
    seen = [changed.version async for changed in polls.follow("job_1")]
    assert seen == [1, 2, 3, 4]
    assert asyncio.get_running_loop().time() - started >= 0.14
