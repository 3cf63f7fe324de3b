"""The ``openai`` package, unchanged, as a client of this server."""

import base64
import io
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image

from comfysnap_schema.wire import Scope
from comfysnap_schema.workflow import load_workflows
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.gateway import GatewaySettings, KeyRecord, create_app, hash_key, new_key
from comfysnap_server.gateway.keys import Keys
from tests.paths import WORKFLOWS
from tests.server.backends.suite import png
from tests.servers import running

KEY = new_key()
READER = new_key()
ALIASES = {"gpt-image-1": "flux"}


@contextmanager
def serving(data: Path, step_seconds: float = 0, **settings: Any) -> Generator[str]:
    backend = LocalBackend(data, engine_options={"step_seconds": step_seconds})
    given = GatewaySettings.model_validate(
        {"auth": "keys", "openai": {"aliases": ALIASES}, **settings}
    )
    keys = Keys([
        KeyRecord(name="anna", owner="anna", hash=hash_key(KEY)),
        KeyRecord(name="reader", owner="anna", hash=hash_key(READER), scopes=(Scope.READ,)),
    ])  # fmt: skip
    app = create_app(backend, load_workflows(WORKFLOWS), given, default="flux", keys=keys)
    with running(app) as server:
        yield server.url


@contextmanager
def client_of(url: str, key: str = KEY) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key) as client:
        yield client


def jobs_of(url: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{url}/jobs", headers={"Authorization": f"Bearer {KEY}"})
    return answer.json()["jobs"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with serving(tmp_path_factory.mktemp("data"), max_body_bytes=64 * 1024) as url:
        yield url


@pytest.fixture
def client(url: str) -> Generator[openai.OpenAI]:
    with client_of(url) as client:
        yield client


def picture(data: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data or "")))


def test_an_image_comes_as_data_and_as_a_link_that_needs_no_key(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="flux", prompt="a fox", size="512x256", n=2, extra_body={"seed": 5, "steps": 2}
    )
    assert answer.data is not None
    assert len(answer.data) == 2
    for image in answer.data:
        assert picture(image.b64_json).size == (512, 256)
        content = httpx.get(image.url or "").content
        assert content == base64.b64decode(image.b64_json or "")
    assert answer.size == "512x256"
    assert answer.output_format == "png"


def test_the_inputs_reach_the_job(url: str, client: openai.OpenAI) -> None:
    raw = client.images.with_raw_response.generate(
        model="gpt-image-1", prompt="an owl", size="auto", quality="auto", style="vivid",
        extra_body={"seed": 7},
    )  # fmt: skip
    (job,) = [one for one in jobs_of(url) if raw.headers["location"].endswith(one["id"])]
    assert job["workflow"] == "flux"
    assert (job["inputs"]["prompt"], job["inputs"]["seed"]) == ("an owl", 7)


@pytest.mark.parametrize("wanted", ["url", "b64_json"])
def test_a_response_format_is_the_only_one(client: openai.OpenAI, wanted: Any) -> None:
    answer = client.images.generate(prompt="a fox", response_format=wanted)
    assert answer.data is not None
    present = answer.data[0].model_dump(exclude_none=True).keys()
    assert present == {wanted}


def test_an_output_format_is_converted_to(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a fox", output_format="jpeg", output_compression=40)
    assert answer.data is not None
    assert picture(answer.data[0].b64_json).format == "JPEG"
    assert answer.output_format == "jpeg"


def test_an_edit_uploads_its_image_and_converts_its_texts(url: str, client: openai.OpenAI) -> None:
    raw = client.images.with_raw_response.edit(
        model="img2img", image=("in.png", png(), "image/png"), prompt="a cat",
        extra_body={"strength": 0.4, "steps": 3},
    )  # fmt: skip
    answer = raw.parse()
    assert answer.data is not None
    assert picture(answer.data[0].b64_json).format == "PNG"
    (job,) = [one for one in jobs_of(url) if raw.headers["location"].endswith(one["id"])]
    assert (job["inputs"]["strength"], job["inputs"]["steps"]) == (0.4, 3)
    assert job["inputs"]["image"].keys() == {"sha256"}


def test_partial_images_come_before_the_whole(tmp_path: Path) -> None:
    with serving(tmp_path, 0.1) as url, client_of(url) as client:
        stream = client.images.generate(
            prompt="a fox", stream=True, partial_images=2, extra_body={"steps": 20}
        )
        *partial, last = list(stream)
    assert 1 <= len(partial) <= 2
    for index, event in enumerate(partial):
        assert isinstance(event, ImageGenPartialImageEvent)
        assert event.type == "image_generation.partial_image"
        assert event.partial_image_index == index
        assert picture(event.b64_json).format in ("JPEG", "PNG", "WEBP")
    assert isinstance(last, ImageGenCompletedEvent)
    assert picture(last.b64_json).format == "PNG"
    assert last.usage.total_tokens == 0


def test_models_are_workflows_for_images_and_aliases(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert names == {"flux", "img2img", "sdxl", "gpt-image-1"}
    assert client.models.retrieve("sdxl").owned_by == "comfysnap"


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"size": "513x512"}, "size", "multiple"),
        ({"size": "large"}, "size", "WIDTHxHEIGHT"),
        ({"n": 400}, "n", "at most"),
        ({"response_format": "png"}, "response_format", "b64_json"),
        ({"partial_images": 9}, "partial_images", "from 0 to 3"),
        ({"extra_body": {"stepz": 3}}, "stepz", "steps"),
        ({"extra_body": {"steps": "many"}}, "steps", "integer"),
        ({"model": "img2img"}, "image", "required"),
        ({"model": "img2img", "n": 2}, "n", "one image"),
    ],
)
def test_a_refusal_names_the_field(
    url: str, client: openai.OpenAI, fields: dict[str, Any], param: str, word: str
) -> None:
    before = len(jobs_of(url))
    body: dict[str, Any] = {"model": "flux", "prompt": "a fox", **fields}
    with pytest.raises(openai.BadRequestError) as error:
        client.images.generate(**body)
    assert error.value.param == param
    assert word in error.value.message
    assert error.value.code == "invalid_input"
    assert error.value.request_id
    assert len(jobs_of(url)) == before


def test_too_many_images_for_a_workflow_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.images.edit(model="img2img", image=[png(), png()], prompt="a cat")
    assert error.value.param == "image"


def test_errors_before_a_route_have_the_same_shape(url: str, client: openai.OpenAI) -> None:
    with client_of(url, "wrong") as stranger, pytest.raises(openai.AuthenticationError) as refused:
        stranger.models.list()
    assert refused.value.code == "invalid_api_key"
    with client_of(url, READER) as reader, pytest.raises(openai.PermissionDeniedError) as denied:
        reader.images.generate(prompt="a fox")
    assert denied.value.code == "missing_scope"
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(model="dall-e-3", prompt="a fox")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.APIStatusError) as large:
        client.images.generate(prompt="a" * 100_000)
    assert (large.value.status_code, large.value.code) == (413, "body_too_large")
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="flux", messages=[])
    assert unknown.value.code == "not_found"


def test_a_job_that_does_not_succeed_is_not_run_again(tmp_path: Path) -> None:
    with serving(tmp_path, 0.2, default_timeout=0.3) as url, client_of(url) as client:
        with pytest.raises(openai.APIStatusError) as error:
            client.images.generate(prompt="a fox", extra_body={"steps": 50})
        (job,) = jobs_of(url)
        assert (error.value.status_code, error.value.code) == (504, "job_timed_out")
        assert job["id"] in error.value.message
        stream = client.images.generate(prompt="an owl", stream=True, extra_body={"steps": 50})
        with pytest.raises(openai.APIError) as failed:
            list(stream)
        assert failed.value.code == "job_timed_out"
        assert len(jobs_of(url)) == 2


def test_a_job_that_takes_too_long_for_a_request_is_named(tmp_path: Path) -> None:
    with serving(tmp_path, 0.2, max_sync_wait=0.2) as url, client_of(url) as client:
        with pytest.raises(openai.InternalServerError) as error:
            client.images.generate(prompt="a fox", extra_body={"steps": 50})
        (job,) = jobs_of(url)
        assert job["id"] in error.value.message
        assert error.value.status_code == 504


@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_cancels_the_job(tmp_path: Path, stream: bool) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"prompt": "a fox", "steps": 50, "stream": stream}
    with serving(tmp_path, 0.2) as url, httpx.Client(base_url=url, headers=headers) as http:
        if stream:
            with http.stream("POST", "/v1/images/generations", json=body) as answer:
                assert answer.status_code == 200
        else:
            request = http.build_request("POST", "/v1/images/generations", json=body)
            head = f"POST {request.url.path} HTTP/1.1\r\n".encode()
            head += b"".join(b"%s: %s\r\n" % pair for pair in request.headers.raw)
            port = request.url.port or 80
            with socket.create_connection((request.url.host, port)) as connection:
                connection.sendall(head + b"\r\n" + request.read())
                while not http.get("/jobs").json()["jobs"]:
                    pass
        (job,) = http.get("/jobs").json()["jobs"]
        final = http.get(f"/check_status/{job['id']}", params={"wait": 20}, timeout=30).json()
        assert final["status"] == "cancelled"


def test_the_routes_can_be_turned_off(tmp_path: Path) -> None:
    with serving(tmp_path, openai={"enabled": False}) as url, client_of(url) as client:
        with pytest.raises(openai.NotFoundError):
            client.models.list()
        assert not httpx.get(f"{url}/v1/models").is_success
