import hashlib
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from comfysnap_client import Client, InvalidInput, JobCancelled, NotFound
from comfysnap_schema.base import WorkflowInput
from comfysnap_schema.wire.files import ImageFile
from comfysnap_schema.wire.jobs import JobStatus
from comfysnap_schema.workflows.flux import FluxInput, FluxOutput
from comfysnap_schema.workflows.hello import HelloInput
from comfysnap_schema.workflows.img2img import Img2imgInput
from comfysnap_schema.workflows.sdxl import SdxlInput
from comfysnap_schema.workflows.video import VideoInput


async def test_a_typed_input_becomes_a_typed_file_on_disk(client: Client, tmp_path: Path) -> None:
    output = await client.infer_sync(FluxInput(prompt="a fox", width=256, height=512, count=2))
    path = await output.images[0].save(tmp_path)
    assert len(output.images) == 2
    assert hashlib.sha256(path.read_bytes()).hexdigest() == output.images[0].sha256
    with Image.open(path) as image:
        assert image.size == (256, 512)


@pytest.mark.parametrize(
    "inputs",
    [HelloInput(width=64, height=32), SdxlInput(prompt="a fox"), VideoInput(prompt="a fox")],
)
async def test_every_workflow_of_the_project_runs(
    client: Client, inputs: WorkflowInput[Any]
) -> None:
    job = await client.infer_async(inputs)
    record = await job.wait()
    assert (record.status, record.error) == (JobStatus.SUCCEEDED, None)


async def test_hello_returns_the_computed_text(client: Client) -> None:
    output = await client.infer_sync(HelloInput(color=0xFF8000, width=64, height=32))
    with Image.open(io.BytesIO(await output.images[0].read())) as image:
        assert image.size == (64, 32)
        assert image.getpixel((5, 5)) == (255, 128, 0)


@pytest.mark.parametrize("kind", ["path", "bytes", "open file", "large path"])
async def test_an_image_is_uploaded_to_the_server(
    client: Client, tmp_path: Path, kind: str
) -> None:
    size = (64, 64) if kind != "large path" else (1024, 1024)
    path = tmp_path / "in.png"
    Image.effect_noise(size, 90).convert("RGB").save(path)
    with path.open("rb") as opened:
        image = {"bytes": path.read_bytes(), "open file": opened}.get(kind, path)
        output = await client.infer_sync(Img2imgInput(prompt="a fox", image=image))
    assert output.image.size > 0


async def test_a_job_can_be_resumed_by_its_id(client: Client) -> None:
    job = await client.infer_async(FluxInput(prompt="a fox", seed=7), labels={"team": "red"})
    again = client.job(job.id, FluxOutput)
    output = await again.result()
    assert output.images[0].name
    record = await client.check_status(job.id)
    assert (record.inputs["seed"], record.labels) == (7, {"team": "red"})
    assert record.timings.run is not None
    assert [entry.id async for entry in client.jobs(labels={"team": "red"})] == [job.id]


async def test_random_seeds_are_returned_and_differ(client: Client) -> None:
    jobs = [await client.infer_async(FluxInput(prompt="a fox")) for _ in range(2)]
    one, other = [(await job.wait()).inputs["seed"] for job in jobs]
    assert one != other


async def test_an_idempotency_key_runs_once(client: Client) -> None:
    first = await client.infer_async(FluxInput(prompt="a fox", seed=1), idempotency_key="k")
    again = await client.infer_async(FluxInput(prompt="a fox", seed=1), idempotency_key="k")
    assert again.id == first.id


async def test_inputs_that_only_the_server_rejects_are_errors_by_field(client: Client) -> None:
    inputs = FluxInput.model_construct(prompt="x" * 9000, steps=99)
    with pytest.raises(InvalidInput) as caught:
        await client.infer_async(inputs)
    assert {found.field for found in caught.value.fields} == {"prompt", "steps"}


async def test_an_unknown_job_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound):
        await client.check_status("job_00000000000000000000000000")


@pytest.mark.parametrize("cursor", ["abc", "-1", "%00", "9" * 500, "' OR 1=1"])
async def test_an_invalid_cursor_is_a_client_error(url: str, cursor: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        response = await http.get("/jobs", params={"cursor": cursor})
    assert response.status_code == 422


async def test_a_queued_job_that_is_cancelled_never_starts(slow: Client) -> None:
    running = await slow.infer_async(FluxInput(prompt="first", steps=50))
    queued = await slow.infer_async(FluxInput(prompt="second"))
    assert (await queued.cancel()).status == JobStatus.CANCELLED
    record = await queued.wait()
    assert (record.started_at, record.attempt) == (None, 0)
    await running.cancel()
    assert (await running.wait()).status == JobStatus.CANCELLED


async def test_a_running_job_that_is_cancelled_stops_at_the_next_step(slow: Client) -> None:
    job = await slow.infer_async(FluxInput(prompt="a fox", steps=50))
    async for event in job.events():
        if event.progress is not None and event.progress.step:
            assert event.progress.node_class
            break
    await job.cancel()
    with pytest.raises(JobCancelled):
        await job.result(timeout=60)
    assert (await job.cancel()).status == JobStatus.CANCELLED


async def test_progress_never_decreases_and_ends_with_done(slow: Client) -> None:
    job = await slow.infer_async(FluxInput(prompt="a fox", steps=10), previews=True)
    events = [event async for event in job.events()]
    fractions = [event.progress.fraction for event in events if event.progress is not None]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) >= 3  # quick states may come as one event
    assert any(event.preview is not None for event in events)
    assert events[-1].type == "done"


async def test_resumed_events_start_with_the_newer_state(slow_url: str, slow: Client) -> None:
    job = await slow.infer_async(FluxInput(prompt="a fox", steps=3))
    final = await job.wait()
    async with httpx.AsyncClient(base_url=slow_url) as http:
        headers = {"Last-Event-ID": str(final.version - 1)}
        text = (await http.get(f"/events/{job.id}", headers=headers)).text
    events = [line for line in text.splitlines() if line.startswith("event:")]
    assert events == ["event: output", "event: done"]


async def test_outputs_come_typed_and_can_be_read(client: Client) -> None:
    job = await client.infer_async(FluxInput(prompt="a fox", width=256, height=256, count=2))
    outputs = [output async for output in job.outputs()]
    assert [output.name for output in outputs] == ["images"]
    first, second = outputs[0].files
    assert isinstance(first, ImageFile)
    assert (await second.read()).startswith(b"\x89PNG")


async def test_a_broken_download_is_resumed(client: Client, url: str) -> None:
    output = await client.infer_sync(FluxInput(prompt="a fox"))
    file = output.images[0]
    async with httpx.AsyncClient(base_url=url) as http:
        whole = (await http.get(file.url)).content
        rest = await http.get(
            file.url, headers={"Range": "bytes=100-", "If-Range": f'"{file.sha256}"'}
        )
    assert (rest.status_code, rest.content) == (206, whole[100:])
    assert hashlib.sha256(whole).hexdigest() == file.sha256


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    "form", [["-H", "Content-Type: application/json"], [], ["-H", "Content-Type:"]]
)
def test_curl_reaches_the_default_workflow(url: str, form: list[str]) -> None:
    body = '{"prompt": "A beautiful landscape", "width": 256, "height": 256}'

    def curl(*arguments: str) -> str:
        command = ["curl", "-sS", "--max-time", "60", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    sync = curl("-X", "POST", f"{url}/infer_sync", *form, "-d", body)
    assert '"status":"succeeded"' in sync
    accepted = httpx.Response(200, text=curl(f"{url}/infer_async", *form, "-d", body)).json()
    status = curl(f"{url}/check_status/{accepted['id']}?wait=25")
    assert '"workflow":"flux"' in status
    assert '"status":"succeeded"' in status
    assert accepted["id"] in curl("-X", "POST", f"{url}/cancel/{accepted['id']}")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_gets_a_clear_error_for_fifty_megabytes(url: str, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_bytes(b'{"prompt": "' + b"x" * 50 * 1024 * 1024 + b'"}')
    command = ["curl", "-sS", "--max-time", "60", f"{url}/infer_sync", "--data-binary", f"@{body}"]
    for transfer in ([], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect:"]):
        answer = subprocess.run([*command, *transfer], check=True, capture_output=True, text=True)
        assert '"code":"body_too_large"' in answer.stdout
