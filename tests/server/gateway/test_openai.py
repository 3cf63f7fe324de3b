import asyncio
import base64
import json
import shutil
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfysnap_schema.wire import JobStatus
from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.backends.protocol import OutputLink
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.settings import GatewaySettings, OpenAISettings
from tests.server.backends.suite import png
from tests.server.gateway.conftest import GRAPH, SPEC
from tests.server.gateway.fakes import FakeBackend

FUZZ = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FORM = "multipart/form-data; boundary=x"
FIELDS = ["prompt", "model", "size", "n", "response_format", "output_format", "partial_images",
          "quality", "steps", "image", "output_compression"]  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["auto", "16x16", 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)

Ask = Callable[..., httpx.Response]

EDIT = """
[inputs.pictures]
each = ["10.inputs.image", "11.inputs.image"]
kind = "image"
required = false
[inputs.where]
path = "12.inputs.image"
kind = "mask"
required = false
"""


@pytest.fixture
def edit(workflow: Workflow) -> Workflow:
    """A workflow that takes two pictures and a mask."""
    load = {"class_type": "LoadImage", "inputs": {"image": "example.png"}}
    mask = {"class_type": "LoadImageMask", "inputs": {"image": "example.png", "channel": "red"}}
    (workflow.folder / "graph.json").write_text(json.dumps({**GRAPH, "11": load, "12": mask}))
    head, _, tail = SPEC.partition("[inputs.image]")
    spec = head + EDIT + "[outputs" + tail.partition("[outputs")[2]
    (workflow.folder / "workflow.toml").write_text(spec)
    return Workflow.load(workflow.folder)


@pytest.fixture
async def editor(backend: FakeBackend, edit: Workflow) -> AsyncGenerator[httpx.AsyncClient]:
    app = create_app(backend, {"draw": edit}, GatewaySettings(max_sync_wait=0.01))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        yield client


async def test_pictures_and_a_mask_go_to_the_inputs_of_their_kind(
    backend: FakeBackend, editor: httpx.AsyncClient
) -> None:
    files = [("image[]", b"one"), ("image[]", b"two"), ("mask", b"three")]
    answer = await editor.post("/v1/images/edits", data={"prompt": "12", "steps": "7"}, files=files)
    assert answer.status_code == 504, answer.text  # nobody runs it
    (request,) = backend.requests.values()
    assert request.inputs["prompt"] == "12"
    assert request.inputs["steps"] == 7
    pictures: Any = request.inputs["pictures"]
    where: Any = request.inputs["where"]
    contents = [backend.files[f"local/{file['sha256']}"] for file in (*pictures, where)]
    assert contents == [b"one", b"two", b"three"]


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ([("image", b"1"), ("image", b"2"), ("image", b"3")], "image"),
        ([("mask", b"1"), ("mask", b"2")], "mask"),
        ([("markup", b"1")], "markup"),
    ],
)
async def test_files_that_the_workflow_does_not_take_are_refused(
    backend: FakeBackend, editor: httpx.AsyncClient, files: list[tuple[str, bytes]], param: str
) -> None:
    answer = await editor.post("/v1/images/edits", data={"prompt": "x"}, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not backend.requests


def form(*texts: tuple[str, bytes]) -> bytes:
    parts = (
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), text)
        for name, text in texts
    )
    return b"".join(parts) + b"--x--\r\n"


@pytest.mark.parametrize(
    "value",
    [b"[" * 100_000, b"9" * 5000, b"[" + b"[]," * 60_000 + b"[]]", b"NaN", b"1e999"],
    ids=["deep", "digits", "values", "nan", "infinite"],
)
async def test_a_text_of_a_form_that_is_costly_to_parse_is_taken_as_text(
    editor: httpx.AsyncClient, value: bytes
) -> None:
    body = form(("prompt", b"x"), ("steps", value))
    answer = await editor.post("/v1/images/edits", content=body, headers={"Content-Type": FORM})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "steps")
    assert f'not "{value[:5].decode()}' in error["message"]


async def test_the_texts_of_a_form_are_bounded_together(
    backend: FakeBackend, edit: Workflow
) -> None:
    app = create_app(backend, {"draw": edit}, GatewaySettings(max_body_bytes=1000))
    transport = httpx.ASGITransport(app)
    body = form(*((f"field{number}", b"x" * 600) for number in range(2)))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http:
        answer = await http.post("/v1/images/edits", content=body, headers={"Content-Type": FORM})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        small = form(("prompt", b"x" * 600), ("steps", b"7"))
        answer = await http.post("/v1/images/edits", content=small, headers={"Content-Type": FORM})
        assert answer.status_code != 413


async def test_the_files_of_a_form_leave_room_on_the_disk(
    editor: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tempfile.gettempdir())

    def nearly_full(_: object) -> Any:
        return usage._replace(free=1000)

    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    large = {"image": b"x" * (2 << 20)}
    answer = await editor.post("/v1/images/edits", data={"prompt": "x"}, files=large)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"]


async def test_an_edit_that_is_no_form_is_refused(editor: httpx.AsyncClient) -> None:
    answer = await editor.post("/v1/images/edits", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    part = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na fox\r\n'
    for content in (b"--x\r\nnonsense", part, b""):
        answer = await editor.post(
            "/v1/images/edits", content=content, headers={"Content-Type": FORM}
        )
        assert answer.status_code == 400
        assert "the form is not valid" in answer.json()["error"]["message"]


async def test_a_second_request_with_the_same_idempotency_key_is_the_same_job(
    backend: FakeBackend, editor: httpx.AsyncClient
) -> None:
    for _ in range(2):
        headers = {"Idempotency-Key": "k"}
        answer = await editor.post("/v1/images/generations", json={"prompt": "x"}, headers=headers)
        assert answer.status_code == 504
        assert answer.headers["x-should-retry"] == "false"
    assert len(backend.requests) == 1


async def test_an_image_in_a_bucket_is_fetched_and_linked_there(
    backend: FakeBackend, edit: Workflow, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(png())
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as bucket:
        threading.Thread(target=bucket.serve_forever).start()
        link = f"http://127.0.0.1:{bucket.server_port}/a.png"
        stored = Bucket(link)
        app = create_app(stored, {"draw": edit}, GatewaySettings())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            asked = asyncio.create_task(
                http.post("/v1/images/generations", json={"prompt": "a fox"})
            )
            await stored.submitted.wait()
            (job,) = stored.jobs
            file = {"name": "a.png", "kind": "image", "content_type": "image/png", "url": link,
                    "size": len(png()), "sha256": "0" * 64}  # fmt: skip
            await stored.update(job, status=JobStatus.SUCCEEDED, outputs={"images": [file]})
            (image,) = (await asked).json()["data"]
        bucket.shutdown()
    assert image == {"url": link, "b64_json": base64.b64encode(png()).decode()}


class Bucket(FakeBackend):
    """Keeps its files elsewhere."""

    def __init__(self, link: str) -> None:
        super().__init__()
        self._link = link

    async def open_output(self, owner: str, job_id: str, name: str) -> Any:
        return OutputLink(url=self._link)


async def test_an_alias_of_what_makes_no_images_is_reported(
    workflow: Workflow, caplog: pytest.LogCaptureFixture
) -> None:
    given = GatewaySettings(openai=OpenAISettings(aliases={"gpt-image-1": "paint"}))
    create_app(FakeBackend(), {"draw": workflow}, given)
    assert "gpt-image-1" in caplog.text


@pytest.fixture
def ask(edit: Workflow) -> Generator[Ask]:
    app = create_app(FakeBackend(), {"draw": edit}, GatewaySettings(max_sync_wait=0.001))
    transport = httpx.ASGITransport(app)
    with asyncio.Runner() as runner:
        http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        yield lambda *args, **options: runner.run(http.request(*args, **options))
        runner.run(http.aclose())


def is_told_well(answer: httpx.Response) -> bool:
    error = answer.json()["error"]
    return answer.status_code in (400, 404, 504) and error["code"] != "internal"


@FUZZ
@given(body=st.dictionaries(st.sampled_from(FIELDS) | st.text(), VALUES, max_size=6))
def test_any_request_is_accepted_or_refused_in_openais_shape(
    ask: Ask, body: dict[str, Any]
) -> None:
    answer = ask("POST", "/v1/images/generations", json=body)
    assert is_told_well(answer), (body, answer.text)


@FUZZ
@given(
    texts=st.dictionaries(st.sampled_from(FIELDS) | st.text(), st.text(), max_size=4),
    names=st.lists(st.sampled_from(["image", "image[]", "mask"]) | st.text(), max_size=3),
    cut=st.integers(0, 400),
)
def test_any_form_is_accepted_or_refused_in_openais_shape(
    ask: Ask, texts: dict[str, str], names: list[str], cut: int
) -> None:
    parts = [f'name="{name}"\r\n\r\n{text}' for name, text in texts.items()]
    parts += [f'name="{name}"; filename="a"\r\n\r\nx' for name in names]
    whole = "".join(f"--x\r\nContent-Disposition: form-data; {part}\r\n" for part in parts)
    body = (whole + "--x--").encode("utf-8", "replace")
    for content in (body, body[:cut]):
        answer = ask("POST", "/v1/images/edits", content=content, headers={"Content-Type": FORM})
        assert is_told_well(answer), (content, answer.text)
