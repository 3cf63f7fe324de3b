"""The mock kit, beyond what the downstream project uses."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest

from comfysnap_client import (
    Client,
    ConnectionFailed,
    ContractMismatch,
    ErrorCode,
    InvalidInput,
    JobEvent,
    JobExpired,
    JobStatus,
    Lora,
    NotFound,
    Progress,
    RetryPolicy,
    untyped,
)
from comfysnap_client.testing import MockServer, mock_server
from comfysnap_schema.models import Field, WorkflowInput
from comfysnap_schema.wire.errors import FieldProblem
from comfysnap_schema.wire.files import FileInput, OutputFile
from tests.client.fakes import DrawInput, DrawOutput

FOX = DrawInput(prompt="a fox")
BIG = b"x" * 300_000


class Other(DrawInput):
    """The same workflow, generated from a different contract."""

    __contract__ = "01d"


async def test_requests_are_validated_against_the_model(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).succeeds(DrawOutput())
    async with comfysnap_server.client() as client:
        with pytest.raises(InvalidInput) as caught:
            await client.infer_sync(untyped("draw", {"promt": "x", "steps": "many"}))
        assert {found.field for found in caught.value.fields} == {"prompt", "promt", "steps"}
        with pytest.raises(NotFound):
            await client.infer_sync(untyped("drew", {}))
        with pytest.raises(ContractMismatch):
            await client.infer_sync(Other(prompt="x"))
    assert comfysnap_server.calls == []


async def test_requests_are_recorded_without_credentials(
    comfysnap_server: MockServer,
) -> None:
    comfysnap_server.on(DrawInput).succeeds(DrawOutput())
    async with Client(comfysnap_server.url, api_key="sesame") as client:
        inputs = DrawInput(prompt="x", image=b"small", mask=BIG)
        job = await client.infer_async(inputs, labels={"team": "a"}, previews=True)
        await client.infer_async(DrawInput.model_validate({"prompt": "x", "image": "https://a/b"}))
    call = comfysnap_server.calls[0]
    assert (call.workflow, call.job_id) == ("draw", job.id)
    assert call.params == [("previews", "true"), ("label", "team:a")]
    assert "sesame" not in str(call.headers)
    assert job.record is not None
    assert job.record.labels == {"team": "a"}
    assert [request.split()[0] for request in comfysnap_server.requests] == [
        "HEAD", "PUT", "POST", "POST",
    ]  # fmt: skip


class ManyInput(WorkflowInput[DrawOutput]):
    """A workflow with lists."""

    __workflow__ = "many"
    __contract__ = "0123456789abcdef"

    images: Annotated[list[FileInput], Field(max_length=3)]
    loras: Annotated[list[Lora], Field(max_length=8)]


async def test_lists_are_validated_and_recorded(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(ManyInput).succeeds(DrawOutput())
    given = ManyInput(images=[b"a", BIG, "https://a/b"], loras=[Lora(name="ink", strength=0.5)])
    async with comfysnap_server.client() as client:
        job = await client.infer_async(given)
        with pytest.raises(InvalidInput) as caught:
            await client.infer_sync(untyped("many", {"images": [b"a"] * 4, "loras": []}))
    assert [found.field for found in caught.value.fields] == ["images"]
    assert job.record is not None
    file = {"sha256": "0" * 64}
    assert job.record.inputs["images"] == [
        file,
        {"sha256": hashlib.sha256(BIG).hexdigest()},
        {"url": "https://a/b"},
    ]
    assert job.record.inputs["loras"] == [{"name": "ink", "strength": 0.5}]
    assert comfysnap_server.inputs_of(ManyInput)[0].loras[0].name == "ink"


async def test_each_status_request_without_wait_advances_one_step(
    comfysnap_server: MockServer,
) -> None:
    half = Progress(fraction=0.5, node="3")
    comfysnap_server.on(DrawInput).succeeds(DrawOutput(text="x"), progress=[half])
    async with comfysnap_server.client() as client:
        job = await client.infer_async(FOX)
        seen = [await job.status() for _ in range(3)]
        assert [record.status for record in seen] == ["running", "succeeded", "succeeded"]
        assert seen[0].progress == half
        assert [event.type for event in [event async for event in job.events()]] == [
            "status", "progress", "status", "progress", "output", "output", "done",
        ]  # fmt: skip
        assert (await job.cancel()).status == JobStatus.SUCCEEDED


async def test_a_job_takes_its_scripted_time_and_can_be_cancelled(
    comfysnap_server: MockServer,
) -> None:
    comfysnap_server.on(DrawInput).succeeds(DrawOutput(), seconds=0.1).hangs(
        progress=[Progress(fraction=0.1)]
    )
    streams = asyncio.Queue[httpx.Request]()

    async def hook(request: httpx.Request) -> None:
        if request.url.path.startswith("/events/"):
            streams.put_nowait(request)

    async with Client(comfysnap_server.url, event_hooks={"request": [hook]}) as client:
        started = asyncio.get_running_loop().time()
        await client.infer_sync(FOX)
        assert asyncio.get_running_loop().time() - started >= 0.1

        job = await client.infer_async(FOX)
        following = asyncio.create_task(_types(job.events()))
        async with asyncio.timeout(60):
            for _ in range(2):  # the second stream has nothing to report
                await streams.get()
        record = await client.cancel(job.id)
        assert record.status == JobStatus.CANCELLED
        assert record.error is not None
        assert record.error.code == ErrorCode.JOB_CANCELLED
        assert (await following)[-1] == "done"


async def _types(events: AsyncIterator[JobEvent]) -> list[str]:
    return [str(event.type) async for event in events]


async def test_a_job_can_fail_with_any_status(comfysnap_server: MockServer) -> None:
    few = FieldProblem(field="steps", message="too few")
    comfysnap_server.on(DrawInput).fails(
        ErrorCode.JOB_EXPIRED, status=JobStatus.EXPIRED, fields=[few]
    )
    async with comfysnap_server.client() as client:
        with pytest.raises(JobExpired) as caught:
            await client.infer_sync(FOX)
    assert caught.value.fields == (few,)


async def test_submits_can_be_delayed_dropped_or_rejected(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).with_delay(0.05).answers(
        503, retry_after=None
    ).drops_connections()
    comfysnap_server.on(DrawInput).succeeds(DrawOutput())
    async with comfysnap_server.client() as client:
        started = asyncio.get_running_loop().time()
        await client.infer_sync(FOX)
        assert asyncio.get_running_loop().time() - started >= 0.15
    assert len(comfysnap_server.calls) == 1

    comfysnap_server.on(DrawInput).drops_connections(1)
    async with Client(comfysnap_server.url, retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(ConnectionFailed):
            await client.infer_async(FOX)


async def test_files_of_any_kind_can_be_downloaded(comfysnap_server: MockServer) -> None:
    file = comfysnap_server.file("notes.txt", b"hello", content_type="text/plain")
    assert type(file) is OutputFile
    async with httpx.AsyncClient(base_url=comfysnap_server.url) as http:
        response = await http.get(file.url)
        assert (response.content, response.headers["content-type"]) == (b"hello", "text/plain")
        assert (await http.get("/outputs/none/x")).status_code == 404
        assert (await http.get("/nothing")).status_code == 404


async def test_unknown_jobs_are_unknown_everywhere(comfysnap_server: MockServer) -> None:
    async with comfysnap_server.client() as client:
        job = client.job("job_x")
        with pytest.raises(NotFound):
            await job.status()
        with pytest.raises(NotFound):
            await job.cancel()
        with pytest.raises(NotFound):
            await anext(job.events())


async def test_a_submit_without_a_scripted_outcome_fails_the_test() -> None:
    with mock_server("http://other.test/prefix") as server:
        server.on(DrawInput)
        async with server.client() as client:
            with pytest.raises(AssertionError):
                await client.infer_async(FOX)


async def test_any_http_client_is_answered(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).hangs()
    async with httpx.AsyncClient(base_url=comfysnap_server.url) as http:
        submitted = await http.post("/infer_async/draw", json={"prompt": "x"})
        again = await http.post("/infer_async/draw", json={"prompt": "x"})
        path = f"/check_status/{submitted.json()['id']}"
        news = await http.get(path, params={"wait": 20, "after": -1})
    assert submitted.json()["id"] != again.json()["id"]
    assert news.json()["status"] == "queued"


async def test_a_delivered_submit_whose_response_is_lost_creates_one_job(
    comfysnap_server: MockServer,
) -> None:
    comfysnap_server.on(DrawInput).drops_connections(delivered=True).answers(
        429, retry_after=0
    ).succeeds(DrawOutput())
    async with comfysnap_server.client() as client:
        await client.infer_sync(FOX)
    assert comfysnap_server.inputs_of(DrawInput) == [FOX]
    assert len(comfysnap_server.calls) == 1


async def test_the_former_names_still_work(comfysnap_server: MockServer) -> None:
    half = Progress(fraction=0.5)
    scenario = comfysnap_server.on(DrawInput)
    scenario.is_slow(0).succeeds(DrawOutput(), after=[half]).fails(after=[half]).hangs(after=[half])
    async with comfysnap_server.client() as client:
        jobs = [await client.infer_async(FOX) for _ in range(3)]
        assert [(await job.status()).progress for job in jobs] == [half] * 3
