import base64
import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult, ImageContent, ResourceLink
from PIL import Image

from comfysnap_schema.wire import JobRecord, JobStatus, Problem
from comfysnap_server.gateway.adapters import AdapterJobs
from comfysnap_server.gateway.links import Links, ProcessLinkKey
from comfysnap_server.gateway.mcp.results import MAX_BYTES, JobResults
from comfysnap_server.jobs.request import JobRequest
from tests.server.gateway.fakes import FakeBackend

JOB = "job_01kb3v8gkqm4abcdefghjkmnpq"


def file(name: str, kind: str = "image", content_type: str = "image/png") -> dict[str, Any]:
    return {"name": name, "kind": kind, "content_type": content_type, "size": 1000,
            "sha256": "0" * 64, "url": f"/outputs/{JOB}/{name}"}  # fmt: skip


async def result_of(backend: FakeBackend, **changes: Any) -> CallToolResult:
    """The result of a job that succeeded with these outputs."""
    job = JobRecord.model_validate(
        {
            "id": JOB, "workflow": "draw", "status": JobStatus.SUCCEEDED, "version": 2,
            "created_at": datetime.now(UTC), **changes,
        }
    )  # fmt: skip
    backend.jobs[JOB] = job
    backend.requests[JOB] = JobRequest.model_construct(owner="local")
    results = JobResults(AdapterJobs(backend, Links(ProcessLinkKey())), {})
    result = await results.result("local", job, "http://127.0.0.1:8000/")
    size = len(json.dumps(result.model_dump(mode="json", by_alias=True)))
    assert size < MAX_BYTES
    return result


def preview_of(result: CallToolResult) -> Image.Image | None:
    found = [one for one in result.content if isinstance(one, ImageContent)]
    return Image.open(io.BytesIO(base64.b64decode(found[0].data))) if found else None


def links_of(result: CallToolResult) -> list[str]:
    return [one.uri for one in result.content if isinstance(one, ResourceLink)]


def noise(mode: str, width: int, height: int) -> bytes:
    size = len(mode) * width * height
    buffer = io.BytesIO()
    image = Image.frombytes(mode, (width, height), os.urandom(size))
    image.save(buffer, "png", compress_level=0)
    return buffer.getvalue()


@pytest.mark.parametrize(("mode", "form"), [("RGB", "JPEG"), ("RGBA", "WEBP")])
async def test_a_preview_is_small_whatever_the_picture_is(
    backend: FakeBackend, tmp_path: Path, mode: str, form: str
) -> None:
    backend.add_output(tmp_path / "a.png", noise(mode, 1500, 3000), "image/png")
    result = await result_of(backend, outputs={"images": [file("a.png"), file("b.png")]})
    preview = preview_of(result)
    assert preview is not None
    assert preview.format == form
    assert max(preview.size) <= 1024
    assert preview.height == pytest.approx(2 * preview.width, abs=2)
    assert len(links_of(result)) == 2


async def test_a_large_preview_leaves_room_for_texts_and_links(
    backend: FakeBackend, tmp_path: Path
) -> None:
    backend.add_output(tmp_path / "0.png", noise("RGB", 1024, 1024), "image/png")
    outputs = {
        "images": [file(f"{n}.png") for n in range(200)],
        "text": "\N{GRINNING FACE}" * 1_000_000,
        "lines": ["\N{SNOWMAN}" * 3_000] * 100,
        "data": {"values": list(range(100_000))},
    }
    result = await result_of(backend, outputs=outputs)
    assert preview_of(result) is not None
    assert len(links_of(result)) == 32
    found = (result.structured_content or {})["outputs"]
    assert len(found["images"]) == 32
    assert found["text"].endswith("(1000000 characters)")
    assert 0 < len(found["lines"]) < 100
    assert "168 more files" in result.content[0].model_dump()["text"]


async def test_small_texts_and_json_are_returned_as_they_are(backend: FakeBackend) -> None:
    outputs = {"text": "a fox", "lines": ["a", "b"], "data": {"a": [1, None]}, "none": []}
    result = await result_of(backend, outputs=outputs)
    assert (result.structured_content or {})["outputs"] == outputs
    assert "text: a fox\nlines: a\nlines: b\n" in result.content[0].model_dump()["text"]


@pytest.mark.parametrize(
    ("content", "kind"), [(b"\x89PNG nothing", "image"), (b"ftyp", "video"), (None, "image")]
)
async def test_what_cannot_be_shown_is_linked(
    backend: FakeBackend, tmp_path: Path, content: bytes | None, kind: str
) -> None:
    if content is not None:
        backend.add_output(tmp_path / "a.png", content, "image/png")
    result = await result_of(backend, outputs={"images": file("a.png", kind)})
    assert preview_of(result) is None
    assert links_of(result) == [(result.structured_content or {})["outputs"]["images"]["url"]]


async def test_a_job_that_failed_keeps_what_was_complete(
    backend: FakeBackend, tmp_path: Path
) -> None:
    backend.add_output(tmp_path / "a.png", noise("RGB", 8, 8), "image/png")
    error = Problem.model_validate(
        {
            "title": "failed", "code": "node_failed", "detail": "the sampler failed",
            "fields": [{"field": "steps", "message": "is too large"}],
        }
    )  # fmt: skip
    result = await result_of(
        backend, status=JobStatus.FAILED, error=error, outputs={"images": [file("a.png")]}
    )
    assert result.is_error
    text = result.content[0].model_dump()["text"]
    assert "node_failed: the sampler failed\n- steps: is too large" in text
    assert len(links_of(result)) == 1
