"""A call that is cancelled or times out leaves no job, task or connection behind."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from comfysnap_client import Client, DeadlineExceeded, OnProgress, PollPolicy, job_id_of
from tests.client.fakes import (
    QUICK,
    DrawInput,
    DrawOutput,
    FakeServer,
    holding,
    names,
    problem,
    responding,
)

FOX = DrawInput(prompt="a fox")


async def cancel_during(
    client: Client, work: Coroutine[Any, Any, Any], when: Awaitable[None], server: FakeServer
) -> BaseException:
    """Cancel ``work`` after ``when`` and return the exception, once nothing is left running."""
    before = asyncio.all_tasks()
    task = asyncio.create_task(work)
    await when
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert time.monotonic() - started < 60
    await client.aclose()
    servers = ("uvicorn", "starlette")  # the fake's own, which end a moment later

    def left() -> list[asyncio.Task[Any]]:
        return [t for t in asyncio.all_tasks() - before if not any(s in repr(t) for s in servers)]

    if ending := left():  # generators inside httpx end in a task of one turn of the loop
        await asyncio.wait(ending, timeout=60)
    assert left() == []
    if server.connections:
        async with asyncio.timeout(60):
            await server.connections.closed.wait()
    return caught.value


def statuses(server: FakeServer) -> list[str]:
    return [job["status"] for job in server.jobs.values()]


async def test_a_call_cancelled_while_connecting_sends_nothing() -> None:
    with socket.socket() as full, socket.socket() as filler:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
        connecting = asyncio.Event()

        async def hook(request: httpx.Request) -> None:
            observe = request.extensions["trace"]

            async def trace(name: str, info: dict[str, Any]) -> None:
                await observe(name, info)
                if name == "connection.connect_tcp.started":
                    connecting.set()

            request.extensions["trace"] = trace

        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        async with Client(url, event_hooks={"request": [hook]}, connect_timeout=1000) as client:
            task = asyncio.create_task(client.infer_sync(FOX))
            await connecting.wait()
            task.cancel()
            async with asyncio.timeout(60):
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
        assert job_id_of(caught.value) is None


async def test_a_submit_cancelled_before_the_job_exists_is_replayed_and_cancelled(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    go_on = asyncio.Event()
    server.on("/infer_async", holding(go_on))
    error = await cancel_during(
        client,
        client.infer_sync(FOX),
        server.requested("/infer_async"),
        server,
    )
    go_on.set()

    assert statuses(server) == ["cancelled"]
    assert job_id_of(error) == next(iter(server.jobs))
    keys = {request.headers["idempotency-key"] for request in server.requests_to("/infer_async")}
    assert len(keys) == 1


async def test_a_call_cancelled_while_receiving_the_response_cancels_the_job(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    never = asyncio.Event()

    async def half(request: Request) -> Response:
        whole = await server.accept(request, "draw")

        async def body() -> AsyncIterator[bytes]:
            yield bytes(whole.body)[:20]
            async with server.seen:
                server.seen.notify_all()
            await never.wait()

        return StreamingResponse(body(), 202)

    server.on("/infer_async", half)
    error = await cancel_during(
        client, client.infer_sync(FOX), server.until(lambda: bool(server.jobs)), server
    )
    never.set()

    assert statuses(server) == ["cancelled"]
    assert job_id_of(error) == next(iter(server.jobs))


@pytest.mark.parametrize("on_progress", [None, id], ids=["polling", "following progress"])
async def test_a_call_cancelled_while_waiting_cancels_the_job(
    client: Client, server: FakeServer, on_progress: OnProgress | None
) -> None:
    server.outputs = None
    work = client.infer_sync(FOX, on_progress=on_progress)
    error = await cancel_during(client, work, server.requested("/check_status"), server)

    assert statuses(server) == ["cancelled"]
    assert job_id_of(error) == next(iter(server.jobs))


async def test_a_cancelled_download_leaves_no_partial_file(
    client: Client, server: FakeServer, tmp_path: Path
) -> None:
    never = asyncio.Event()

    async def slow(_request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"x" * 2_000_000
            await never.wait()

        return StreamingResponse(body(), headers={"content-length": "3000000"})

    server.outputs = {"images": [{**server.stored("fox.png", b"x" * 3_000_000)}]}
    output = await client.infer_sync(FOX)
    server.on("/outputs", slow)

    await cancel_during(
        client,
        output.images[0].save(tmp_path),
        part_written(tmp_path),
        server,
    )
    never.set()

    assert names(tmp_path) == []


async def part_written(folder: Path) -> None:
    def size() -> int:
        return sum(path.stat().st_size for path in folder.iterdir())

    async with asyncio.timeout(60):
        while size() == 0:  # noqa: ASYNC110 -- a growing file has no event
            await asyncio.sleep(0.01)


async def test_a_timeout_cancels_the_job_and_carries_it(client: Client, server: FakeServer) -> None:
    server.outputs = None

    async def at_once(_request: Request) -> Response:
        return JSONResponse(next(iter(server.jobs.values())))

    server.on("/check_status", at_once)
    with pytest.raises(DeadlineExceeded) as caught:
        await client.infer_sync(FOX, timeout=1)

    assert statuses(server) == ["cancelled"]
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert error.job_id == next(iter(server.jobs))
    assert error.record is not None
    assert error.record.id == error.job_id
    assert server.requests[0].query_params["timeout"] == "1.000"


async def test_a_timeout_can_leave_the_job_running_for_a_later_wait(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    with pytest.raises(DeadlineExceeded) as caught:
        await client.infer_sync(FOX, timeout=1, cancel_on_timeout=False)
    assert statuses(server) == ["queued"]
    assert "timeout" not in server.requests[0].query_params

    job_id = caught.value.job_id
    assert job_id is not None
    await server.finish(job_id, outputs={"text": "later"})
    assert (await client.job(job_id, DrawOutput).result()).text == "later"


async def test_a_timeout_while_submitting_replays_and_cancels(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    go_on = asyncio.Event()
    server.on("/infer_async", holding(go_on))
    with pytest.raises(DeadlineExceeded) as caught:
        await client.infer_async(FOX, timeout=0.2)
    go_on.set()

    assert statuses(server) == ["cancelled"]
    assert caught.value.job_id == next(iter(server.jobs))
    assert caught.value.idempotency_key == server.requests[0].headers["idempotency-key"]


async def test_an_outer_timeout_carries_the_job(client: Client, server: FakeServer) -> None:
    server.outputs = None
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(1):
            await client.infer_sync(FOX)

    assert job_id_of(caught.value) == next(iter(server.jobs))
    assert statuses(server) == ["cancelled"]


async def test_the_job_continues_while_another_task_waits_for_it(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    job = await client.infer_async(FOX)
    patient = asyncio.create_task(job.result())
    with pytest.raises(DeadlineExceeded):
        await job.result(timeout=0.2)
    assert statuses(server) == ["queued"]

    await server.finish(job.id, outputs={"text": "done"})
    assert (await patient).text == "done"


async def test_a_failed_cancellation_does_not_hide_the_timeout(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    server.on("/cancel", responding(problem(404, "unknown_job")))
    with pytest.raises(DeadlineExceeded):
        await client.infer_sync(FOX, timeout=0.2)


async def test_cancelling_twice_returns_at_once_and_still_cancels_the_job(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    go_on = asyncio.Event()
    server.on("/cancel", holding(go_on))
    task = asyncio.create_task(client.infer_sync(FOX))
    await server.requested("/check_status")
    task.cancel()
    await server.requested("/cancel")
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert job_id_of(caught.value) == next(iter(server.jobs))

    go_on.set()
    await client.aclose()
    assert statuses(server) == ["cancelled"]


async def test_a_slow_response_cannot_exceed_the_deadline(server: FakeServer) -> None:
    async def drip(_request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await asyncio.sleep(0.02)  # the slowness under test

        return StreamingResponse(body())

    server.on("/check_status", drip)
    async with Client(server.url, retry=QUICK, polling=PollPolicy(hold=0)) as client:
        with pytest.raises(DeadlineExceeded):
            await client.check_status("job_x", timeout=0.3)


async def test_a_failed_replay_does_not_hide_the_timeout(
    client: Client, server: FakeServer
) -> None:
    go_on = asyncio.Event()
    server.on("/infer_async", holding(go_on), responding(problem(401, "unauthorized")))
    with pytest.raises(DeadlineExceeded) as caught:
        await client.infer_async(FOX, timeout=0.2)
    go_on.set()
    assert caught.value.job_id is None


def test_the_job_is_found_among_other_notes() -> None:
    error = RuntimeError()
    error.add_note("seen on Monday")
    assert job_id_of(error) is None
    error.add_note("comfysnap job: job_1")
    assert job_id_of(error) == "job_1"


async def test_a_finished_job_of_a_lost_submit_is_not_cancelled(
    client: Client, server: FakeServer
) -> None:
    go_on = asyncio.Event()
    server.on("/infer_async", holding(go_on))
    with pytest.raises(DeadlineExceeded) as caught:
        await client.infer_async(FOX, timeout=0.2)
    go_on.set()

    assert statuses(server) == ["succeeded"]
    assert caught.value.job_id == next(iter(server.jobs))
    assert not server.requests_to("/cancel")
