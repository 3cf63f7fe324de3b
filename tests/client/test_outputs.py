"""Outputs of a job, as they are complete."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from comfysnap_client import (
    Client,
    ErrorCode,
    JobFailed,
    JobOutput,
    JobStatus,
    Progress,
    UnexpectedResponse,
    blocking,
)
from comfysnap_client.testing import MockServer
from comfysnap_schema.wire.files import ImageFile, Kind
from tests.client.fakes import DrawInput, DrawOutput, FakeServer, rejecting

FOX = DrawInput(prompt="a fox")


async def test_an_output_comes_with_its_file_while_the_job_runs(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    job = await client.infer_async(FOX)
    early = {"images": [server.stored("a.png", b"first")]}
    await server.finish(job.id, status="running", outputs=early)
    seen: list[JobOutput] = []
    async for output in job.outputs():
        seen.append(output)
        if output.name == "images":
            (file,) = output.files
            assert isinstance(file, ImageFile)
            assert await file.read() == b"first"
            assert server.jobs[job.id]["status"] == "running"
            await server.finish(job.id, outputs={**early, "text": "a fox"})
    assert [output.name for output in seen] == ["images", "text"]
    assert (seen[1].value, seen[1].files) == ("a fox", [])


@pytest.mark.parametrize("streams", [True, False])
async def test_each_output_comes_once_also_after_a_reconnect(
    client: Client, server: FakeServer, streams: bool
) -> None:
    server.outputs = None
    job = await client.infer_async(FOX)
    first = {"type": "output", "output": {"name": "text", "value": "one"}}
    again = {"type": "output", "output": {"name": "text", "value": "another"}}

    def cut(*events: dict[str, Any], **changes: Any) -> Any:
        async def handler(_request: Request) -> Response:
            async def body() -> AsyncIterator[str]:
                for event in events:
                    yield f"retry: 1\ndata: {json.dumps(event)}\n\n"
                await server.finish(job.id, **changes)

            return StreamingResponse(body(), media_type="text/event-stream")

        return handler

    server.on(
        "/events",
        cut(first, status="running", outputs={"text": "one"}),
        cut(first, first, again, status="running", outputs={"text": "another"}),
        cut(status="succeeded", outputs={"text": "another", "more": 5}),
        *([] if streams else [rejecting(404, "not_found")]),
    )
    outputs = [(output.name, output.value) async for output in job.outputs()]
    assert outputs == [("text", "one"), ("text", "another"), ("more", 5)]


async def test_outputs_of_a_finished_job_come_at_once(client: Client, server: FakeServer) -> None:
    server.outputs = {"images": [server.stored("a.png", b"a"), server.stored("b.png", b"b")]}
    job = await client.infer_async(FOX)
    await job.wait()
    again = client.job(job.id, DrawOutput)
    (output,) = [output async for output in again.outputs()]
    assert [file.name for file in output.files] == ["a.png", "b.png"]


async def test_a_failed_job_raises_after_the_outputs_that_it_completed(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    job = await client.infer_async(FOX)
    problem = {"title": "x", "code": "node_failed"}
    await server.finish(job.id, status="failed", outputs={"text": "one"}, error=problem)
    seen: list[str] = []

    async def collect() -> None:
        async for output in job.outputs():
            seen.append(output.name)

    with pytest.raises(JobFailed) as caught:
        await collect()
    assert (seen, caught.value.code) == (["text"], ErrorCode.NODE_FAILED)


async def test_an_invalid_file_is_an_unexpected_response(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    job = await client.infer_async(FOX)
    file = {"name": "x", "kind": "image", "url": "/x", "sha256": "0"}
    await server.finish(job.id, outputs={"images": [file]})
    with pytest.raises(UnexpectedResponse):
        await anext(job.outputs())


async def test_the_mock_server_plays_early_outputs(comfysnap_server: MockServer) -> None:
    image = comfysnap_server.image()
    output = DrawOutput(images=(image,), text="a fox")
    half = Progress(fraction=0.5)
    comfysnap_server.on(DrawInput).succeeds(output, progress=[half], early=["text"])
    async with comfysnap_server.client() as client:
        job = await client.infer_async(FOX)
        steps = [await job.status() for _ in range(3)]
        assert [(record.status, record.outputs) for record in steps[:2]] == [
            (JobStatus.RUNNING, None),
            (JobStatus.RUNNING, {"text": "a fox"}),
        ]
        assert steps[1].progress == half
        assert steps[2].status == JobStatus.SUCCEEDED
        async with aclosing(job.outputs()) as outputs:
            names = [output.name async for output in outputs]
    assert names == ["text", "images"]


def test_the_blocking_client_iterates_over_outputs(comfysnap_server: MockServer) -> None:
    image = comfysnap_server.file("a.png", b"a", model=ImageFile, kind=Kind.IMAGE)
    scenario = comfysnap_server.on(DrawInput)
    scenario.fails(early={"images": [image]}).hangs(early={"text": "x"})
    seen: list[bytes] = []

    def collect(job: blocking.Job[DrawOutput]) -> None:
        for output in job.outputs():
            seen.extend(client.read(file) for file in output.files)

    with blocking.Client(comfysnap_server.url) as client:
        with pytest.raises(JobFailed):
            collect(client.infer_async(FOX))
        assert seen == [b"a"]
        hanging = client.infer_async(FOX)
        for output in hanging.outputs():
            assert output.value == "x"
            break
        hanging.cancel()


def test_an_early_output_must_be_one_of_the_outputs(comfysnap_server: MockServer) -> None:
    with pytest.raises(KeyError):
        comfysnap_server.on(DrawInput).succeeds(DrawOutput(), early=["image"])
