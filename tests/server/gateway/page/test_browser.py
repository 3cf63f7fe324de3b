"""The pages in Chromium, under their content security policy, in front of a real backend."""

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from comfysnap_schema.workflow import Workflow, load_workflows
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.gateway import AuthMode, GatewaySettings, create_app, hash_key, new_key
from tests.chromium import CHROMIUM, Page, chromium
from tests.contract.processes import new_mark, serving
from tests.paths import ROOT, WORKFLOWS
from tests.s3_server import BUCKET, s3_server
from tests.servers import running
from tests.typescript.workflows import lists

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

KEY = new_key()
AXE = ROOT / "tests" / "accessibility" / "node_modules" / "axe-core" / "axe.min.js"

KINDS_GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    "3": {"class_type": "MakeMesh", "inputs": {"text": "a cup"}},
    "4": {"class_type": "SaveGLB", "inputs": {"mesh": ["3", 0]}},
    "5": {"class_type": "MakeAudio", "inputs": {"seconds": 1}},
    "6": {"class_type": "SaveAudio", "inputs": {"audio": ["5", 0]}},
    "7": {"class_type": "PreviewAny", "inputs": {"source": "plain"}},
    "8": {"class_type": "SaveWEBM", "inputs": {"images": ["1", 0], "fps": 8.0}},
}
HTML = "<img src=x onerror=document.title='broken'>"
KINDS = f"""
name = "kinds"
title = "{HTML}"
description = "{HTML} and `code`"
[inputs.text]
path = "7.inputs.source"
description = "{HTML}"
[inputs.subject]
path = "3.inputs.text"
[outputs.images]
node = "2"
many = true
[outputs.model]
node = "4"
kind = "3d"
[outputs.audio]
node = "6"
kind = "audio"
[outputs.text]
node = "7"
kind = "text"
[outputs.video]
node = "8"
kind = "video"
"""

Serve = Callable[..., str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a server; return its address."""
    opened = ExitStack()

    def serve(
        workflows: dict[str, Workflow] | None = None,
        *,
        auth: AuthMode = "none",
        step_seconds: float = 0.0,
        prepared: Callable[[FastAPI], None] | None = None,
    ) -> str:
        settings = GatewaySettings(auth=auth, keys={"anna": hash_key(KEY)})
        backend = LocalBackend(tmp_path / "data", engine_options={"step_seconds": step_seconds})
        app = create_app(backend, workflows or load_workflows(WORKFLOWS), settings)
        if prepared:
            prepared(app)
        return opened.enter_context(running(app)).url

    with opened:
        yield serve


@pytest.fixture
def page(tmp_path: Path) -> Generator[Page]:
    with chromium(tmp_path / "profile") as page:
        page.look(width=1280)
        yield page
        assert page.violations == []


def kinds(folder: Path) -> Workflow:
    """A workflow with outputs of every kind."""
    folder = folder / "kinds"
    folder.mkdir()
    (folder / "graph.json").write_text(json.dumps(KINDS_GRAPH))
    (folder / "workflow.toml").write_text(KINDS)
    return Workflow.load(folder)


def open_workflow(page: Page, address: str) -> None:
    page.open(address)
    page.wait("document.querySelector('.run .primary')")


def fill(page: Page, name: str, value: str) -> None:
    page.eval(
        f"(() => {{ const input = document.querySelector('[data-field={name}]')"
        ".querySelector('textarea, select, input:not([type=range]):not([type=file])');"
        f"input.value = {json.dumps(value)};"
        "input.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def click(page: Page, selector: str) -> None:
    page.wait(f"document.querySelector({json.dumps(selector)})")
    page.eval(f"document.querySelector({json.dumps(selector)}).click()")


def wait_for_status(page: Page, status: str) -> None:
    page.wait(f"document.querySelector('.job')?.dataset.status === '{status}'")


def wait_for_pictures(page: Page, selector: str, count: int) -> None:
    page.wait(
        f"[...document.querySelectorAll('{selector}')].filter(one => one.naturalWidth).length"
        f" === {count}"
    )


def run(page: Page, status: str = "succeeded") -> str:
    """Run the form; return the id of the job."""
    click(page, ".run .primary")
    wait_for_status(page, status)
    return page.eval("location.hash.slice(1)")


def job_of(server: str, job_id: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.get(f"{server}/check_status/{job_id}", headers=headers).json()


def serious_faults(page: Page) -> list[str]:
    if not AXE.is_file():
        pytest.skip("axe is not installed: run `make typescript`")
    page.eval(AXE.read_text(encoding="utf-8") + "; 0")
    found = page.eval("axe.run()")
    return [
        f"{fault['impact']} {fault['id']}: {node['html']}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def test_a_workflow_is_chosen_filled_in_run_watched_and_downloaded(
    serve: Serve, page: Page, tmp_path: Path
) -> None:
    server = serve(step_seconds=2)
    page.open(server)
    page.wait("document.querySelectorAll('.workflows li').length === 5")
    click(page, ".workflows a[href='w/flux']")
    open_workflow(page, f"{server}/w/flux")
    fill(page, "prompt", "a fox in the snow")
    fill(page, "count", "2")
    click(page, ".run .primary")
    wait_for_status(page, "running")
    wait_for_pictures(page, ".preview:not([hidden])", 1)
    assert "Sampler" in page.eval("document.querySelector('.job-head').innerText")
    assert page.eval("document.querySelector('progress').value") > 0
    wait_for_status(page, "succeeded")
    wait_for_pictures(page, ".output img", 2)
    assert page.eval("document.querySelectorAll('.history li').length") == 1
    job = job_of(server, page.eval("location.hash.slice(1)"))
    assert job["inputs"] | {"seed": 0} == {
        "prompt": "a fox in the snow", "seed": 0, "width": 1024, "height": 1024, "steps": 4,
        "count": 2,
    }  # fmt: skip
    page.downloads(tmp_path)
    click(page, "figcaption a")
    saved = tmp_path / job["outputs"]["images"][0]["name"]
    wait_for_file(saved, job["outputs"]["images"][0]["sha256"])
    loaded = page.eval("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith((server, "data:", "blob:"))] == []


def wait_for_file(path: Path, sha256: str) -> None:
    end = time.monotonic() + 60
    while not (path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256):
        assert time.monotonic() < end, list(path.parent.iterdir())
        time.sleep(0.02)


def test_a_job_is_cancelled(serve: Serve, page: Page) -> None:
    server = serve(step_seconds=5)
    open_workflow(page, f"{server}/w/flux")
    fill(page, "prompt", "a fox")
    click(page, ".run .primary")
    wait_for_status(page, "running")
    click(page, ".job-head .danger")
    wait_for_status(page, "cancelled")
    assert "Cancelled" in page.eval("document.querySelector('.job [role=status]').textContent")


LATE_CANCEL = """
const asked = window.fetch;
window.late = false;
window.fetch = async (...request) => {
  const response = await asked(...request);
  if (!String(request[0]).includes('/cancel/')) return response;
  const ended = () => document.querySelector('.job')?.dataset.status === 'cancelled';
  while (!ended()) await new Promise((resolve) => setTimeout(resolve, 10));
  setTimeout(() => { window.late = true; }, 100);
  return response;
};
0
"""


def test_an_end_is_not_undone_by_an_older_answer(serve: Serve, page: Page) -> None:
    server = serve(step_seconds=5)
    open_workflow(page, f"{server}/w/flux")
    page.eval(LATE_CANCEL)
    fill(page, "prompt", "a fox")
    click(page, ".run .primary")
    wait_for_status(page, "running")
    click(page, ".job-head .danger")
    page.wait("window.late")
    assert page.eval("document.querySelector('.job').dataset.status") == "cancelled"
    assert "Running" not in page.eval("document.querySelector('.history').innerText")


def test_jobs_that_wait_say_how_many_are_ahead(serve: Serve, page: Page) -> None:
    server = serve(step_seconds=20)
    body = {"prompt": "x"}
    first, _ = [httpx.post(f"{server}/infer_async/flux", json=body).json() for _ in range(2)]
    open_workflow(page, f"{server}/w/flux")
    fill(page, "prompt", "a fox")
    click(page, ".run .primary")
    wait_for_status(page, "queued")
    page.wait("document.querySelector('.job-head').innerText.includes('2 jobs ahead')")
    httpx.post(f"{server}/cancel/{first['id']}").raise_for_status()
    page.wait("document.querySelector('.job-head').innerText.includes('1 job ahead')")
    click(page, ".job-head .danger")
    wait_for_status(page, "cancelled")


def test_a_key_is_typed_in_and_kept_in_the_tab(serve: Serve, page: Page) -> None:
    server = serve(auth="keys")
    page.open(f"{server}/w/hello")
    for key in ("wrong", KEY):
        page.wait("document.querySelector('.access input')")
        page.eval(f"document.querySelector('.access input').value = '{key}'")
        click(page, ".access .primary")
        if key == "wrong":
            page.wait("document.querySelector('.access .error')")
    page.wait("document.querySelector('.run .primary')")
    run(page)
    wait_for_pictures(page, ".output img, .thumb img", 2)
    page.open(f"{server}/")
    page.wait("document.querySelector('.workflows')")
    assert page.eval("[localStorage.length, document.cookie]") == [0, ""]
    click(page, "#forget")
    page.wait("document.querySelector('.access')")
    assert page.eval("sessionStorage.length") == 0


def test_files_of_a_key_are_played_and_downloaded(serve: Serve, page: Page, tmp_path: Path) -> None:
    server = serve(auth="keys")
    page.open(f"{server}/w/video")
    page.wait("document.querySelector('.access input')")
    page.eval(f"document.querySelector('.access input').value = '{KEY}'")
    click(page, ".access .primary")
    page.wait("document.querySelector('.run .primary')")
    fill(page, "prompt", "a boat")
    fill(page, "frames", "5")
    job = job_of(server, run(page))
    page.wait("document.querySelector('.output video').readyState > 0")
    page.downloads(tmp_path)
    click(page, "figcaption a")
    wait_for_file(tmp_path / job["outputs"]["video"]["name"], job["outputs"]["video"]["sha256"])


def test_outputs_of_every_kind_are_shown_and_text_is_only_text(
    serve: Serve, page: Page, tmp_path: Path
) -> None:
    server = serve({"kinds": kinds(tmp_path)})
    open_workflow(page, f"{server}/w/kinds")
    fill(page, "text", HTML)
    run(page)
    wait_for_pictures(page, ".output img", 2)
    page.wait("document.querySelector('.output audio').readyState > 0")
    page.wait("document.querySelector('.output video').readyState > 0")
    shown = page.eval("document.querySelector('main').innerText")
    assert "3D model, binary glTF" in shown
    assert shown.count(HTML) >= 4  # title, description, field, output
    assert page.eval("document.querySelector('pre').textContent") == HTML
    assert page.eval("document.querySelectorAll('img[src=x]').length") == 0
    assert page.eval("document.title") == HTML


def test_what_is_wrong_is_said_at_the_field(serve: Serve, page: Page) -> None:
    server = serve()
    open_workflow(page, f"{server}/w/img2img")
    fill(page, "steps", "0")
    click(page, ".run .primary")
    assert invalid_fields(page) == {
        "image": "Image needs a value", "prompt": "Prompt needs a value",
        "steps": "Steps must be at least 1",
    }  # fmt: skip
    focused = page.eval("document.activeElement.closest('.field').dataset.field")
    assert focused == "image"
    fill(page, "prompt", "a fox")
    fill(page, "steps", "2")
    click(page, ".drop button:nth-of-type(2)")
    page.eval("document.querySelector('dialog input').value = 'http://127.0.0.1:9/a.png'")
    click(page, "dialog .primary")
    click(page, ".run .primary")  # the server refuses the address
    page.wait("document.querySelector('[data-field=image] .error:not([hidden])')")
    (field,) = invalid_fields(page)
    assert field == "image"
    described = page.eval(
        "document.activeElement.getAttribute('aria-describedby').split(' ')"
        ".map(id => document.getElementById(id).textContent).join(' ')"
    )
    assert invalid_fields(page)["image"] in described


def invalid_fields(page: Page) -> dict[str, str]:
    return page.eval(
        "Object.fromEntries([...document.querySelectorAll('.field:has([aria-invalid])')]"
        ".map(field => [field.dataset.field, field.querySelector('.error').textContent]))"
    )


@pytest.mark.parametrize("way", ["chosen", "dropped", "pasted", "photographed"])
def test_files_are(serve: Serve, page: Page, tmp_path: Path, way: str) -> None:
    server = serve()
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 48), "red").save(photo)
    open_workflow(page, f"{server}/w/img2img")
    fill(page, "prompt", "a fox")
    fill(page, "steps", "2")
    if way == "chosen":
        page.set_files("[data-field=image] input[type=file]", photo)
    elif way == "photographed":
        click(page, ".drop button")
        page.wait("document.querySelector('dialog.camera video')?.videoWidth")
        click(page, "dialog.camera .primary")
    else:
        kind = "drop" if way == "dropped" else "paste"
        data = "dataTransfer" if way == "dropped" else "clipboardData"
        event = "DragEvent" if way == "dropped" else "ClipboardEvent"
        page.eval(
            "(() => { const transfer = new DataTransfer();"
            f"transfer.items.add(new File([new Uint8Array({list(photo.read_bytes())})],"
            " 'photo.png', {type: 'image/png'}));"
            f"document.querySelector('h1').dispatchEvent(new {event}('{kind}',"
            f" {{bubbles: true, cancelable: true, {data}: transfer}})); }})()"
        )
    wait_for_pictures(page, ".files img", 1)
    job = job_of(server, run(page))
    digest = job["inputs"]["image"]["sha256"]
    if way != "photographed":
        assert digest == hashlib.sha256(photo.read_bytes()).hexdigest()
    click(page, "#code-tab-curl")
    assert f"/files/{digest}" in page.eval("document.querySelector('[role=tabpanel]').textContent")


def test_a_file_is_uploaded_on_plain_http_too(serve: Serve, page: Page, tmp_path: Path) -> None:
    server = serve()
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 48), "red").save(photo)
    open_workflow(page, f"{server}/w/img2img")
    page.eval("Object.defineProperty(crypto, 'subtle', {value: undefined})")
    page.eval("Object.defineProperty(crypto, 'randomUUID', {value: undefined})")
    fill(page, "prompt", "a fox")
    fill(page, "steps", "2")
    page.set_files("[data-field=image] input[type=file]", photo)
    wait_for_pictures(page, ".files img", 1)
    job = job_of(server, run(page))
    assert job["inputs"]["image"]["sha256"] == hashlib.sha256(photo.read_bytes()).hexdigest()


def test_an_earlier_job_goes_back_into_the_form_with_its_exact_seed(
    serve: Serve, page: Page
) -> None:
    server = serve()
    open_workflow(page, f"{server}/w/flux")
    for prompt, seed in (("first", "18446744073709551615"), ("second", "")):
        fill(page, "prompt", prompt)
        fill(page, "seed", seed)
        fill(page, "steps", "2")
        run(page)
        page.wait(f"document.querySelector('.history li').innerText.includes('{prompt}')")
    drawn = page.eval("document.querySelector('.seed').firstChild.textContent").split()[-1]
    assert f"seed={drawn}," in page.eval("document.querySelector('[role=tabpanel]').textContent")
    fill(page, "prompt", "third")
    assert drawn not in page.eval("document.querySelector('[role=tabpanel]').textContent")
    click(page, ".seed button")
    assert page.eval("document.querySelector('[data-field=seed] input').value") == drawn
    click(page, ".history li:nth-child(2) button")
    page.wait("document.querySelector('[data-field=prompt] textarea').value === 'first'")
    assert page.eval("document.querySelector('[data-field=seed] input').value") == str(2**64 - 1)
    job = job_of(server, run(page))
    assert (job["inputs"]["prompt"], job["inputs"]["seed"]) == ("first", 2**64 - 1)
    page.open(f"{server}/")
    page.wait("document.querySelector('.workflows')")
    page.open(f"{server}/w/flux#{job['id']}")
    wait_for_status(page, "succeeded")
    assert page.eval("document.querySelector('[data-field=prompt] textarea').value") == "first"


def test_lists_models_and_loras_are_sent(serve: Serve, page: Page, tmp_path: Path) -> None:
    workflow = lists(tmp_path)
    server = serve({workflow.name: workflow})
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red" if name == "a.png" else "blue").save(tmp_path / name)
    open_workflow(page, f"{server}/w/lists")
    page.set_files("[data-field=images] input[type=file]", tmp_path / "a.png", tmp_path / "b.png")
    wait_for_pictures(page, ".files img", 2)
    fill(page, "checkpoint", "sd.safetensors")
    click(page, "[data-field=loras] > .stack > button")
    fill(page, "loras", "ink.safetensors")
    page.eval("document.querySelector('[data-field=loras] .number').value = '0.5'")
    click(page, "[data-field=sizes] li:nth-child(2) button")
    click(page, "[data-field=sizes] > .stack > button")
    page.eval("document.querySelector('[data-field=sizes] li:nth-child(2) input').value = '128'")
    click(page, ".run .primary")
    page.wait("location.hash")
    inputs = job_of(server, page.eval("location.hash.slice(1)"))["inputs"]
    digests = [
        hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.png", "b.png")
    ]
    assert inputs["images"] == [{"sha256": digest} for digest in digests]
    assert (inputs["checkpoint"], inputs["sizes"]) == ("sd.safetensors", [64, 128])
    assert inputs["loras"] == [{"name": "ink.safetensors", "strength": 0.5}]


class CutStreams:
    """Cuts the first event stream once it is followed, and then offers none."""

    def __init__(self, app: ASGIApp, requests: list[str], followed: threading.Event) -> None:
        self._app = app
        self._requests = requests
        self._followed = followed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path.startswith("/events/"):
            await self._stream(scope, receive, send)
        else:
            self._requests.append(path)
            await self._app(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        known = dict(scope["headers"]).get(b"last-event-id", b"").decode()
        self._requests.append(f"events {known}")
        if len([one for one in self._requests if one.startswith("events")]) > 1:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body"})
            return

        async def cut(message: Message) -> None:
            await send(message)
            if self._followed.is_set():
                raise ConnectionError

        with suppress(ConnectionError, ExceptionGroup):
            await self._app(scope, receive, cut)


def test_a_job_is_followed_without_event_streams(serve: Serve, page: Page) -> None:
    requests: list[str] = []
    followed = threading.Event()

    def cut(app: FastAPI) -> None:
        app.add_middleware(CutStreams, requests=requests, followed=followed)

    server = serve(step_seconds=2, prepared=cut)
    open_workflow(page, f"{server}/w/flux")
    fill(page, "prompt", "a fox")
    click(page, ".run .primary")
    page.wait("document.querySelector('progress')?.value > 0")
    followed.set()
    wait_for_status(page, "succeeded")
    wait_for_pictures(page, ".output img", 1)
    streams = [one for one in requests if one.startswith("events")]
    assert streams[0] == "events "
    assert streams[1].removeprefix("events ").isdigit()
    assert any(path.startswith("/check_status/") for path in requests)


def test_the_keyboard_is_enough(serve: Serve, page: Page) -> None:
    server = serve()
    open_workflow(page, f"{server}/w/hello")
    page.eval("document.querySelector('[data-field=width] input[type=text]').focus()")
    page.press("Enter", modifiers=2)
    wait_for_status(page, "succeeded")
    page.eval("document.querySelector('#code-tab-python').focus()")
    page.press("ArrowRight")
    assert page.eval("document.activeElement.textContent") == "TypeScript"
    assert "comfysnap/client" in page.eval("document.querySelector('[role=tabpanel]').textContent")


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
)
def test_pages_are_accessible_and_fit(serve: Serve, page: Page, width: int, scheme: str) -> None:
    server = serve()
    page.look(width=width, scheme=scheme)
    page.open(server)
    page.wait("document.querySelector('.workflows')")
    assert serious_faults(page) == []
    open_workflow(page, f"{server}/w/sdxl")
    click(page, ".run .primary")  # with an error
    assert invalid_fields(page)
    page.eval("document.querySelector('details').open = true")
    assert serious_faults(page) == []
    fill(page, "prompt", "a fox")
    fill(page, "steps", "2")
    fill(page, "refine_from_step", "1")
    run(page)
    wait_for_pictures(page, ".output img", 1)
    assert serious_faults(page) == []
    assert page.eval("document.scrollingElement.scrollWidth") <= width


def test_outputs_lists_and_dialogs_are_accessible(serve: Serve, page: Page, tmp_path: Path) -> None:
    server = serve({"kinds": kinds(tmp_path), "lists": lists(tmp_path)})
    open_workflow(page, f"{server}/w/kinds")
    run(page)
    wait_for_pictures(page, ".output img", 2)
    assert serious_faults(page) == []
    click(page, ".output .picture")
    assert serious_faults(page) == []
    page.open(server)
    page.wait("document.querySelector('.workflows')")
    open_workflow(page, f"{server}/w/lists")
    for name in ("loras", "styles"):
        click(page, f"[data-field={name}] > .stack > button")
    assert serious_faults(page) == []
    click(page, ".drop button:nth-of-type(2)")
    assert serious_faults(page) == []


def test_the_form_for_the_key_is_accessible(serve: Serve, page: Page) -> None:
    page.open(serve(auth="keys"))
    page.wait("document.querySelector('.access')")
    assert serious_faults(page) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="starts a process")
def test_pictures_in_a_bucket_are_shown(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "first")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "first secret")
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as bucket:
        (tmp_path / "comfysnap.toml").write_text(
            f'workflows = "{WORKFLOWS}"\n[serve.outputs]\nstore = "s3://{BUCKET}/out"\n'
            f'region = "auto"\nendpoint = "{bucket.url}"\n'
        )
        with serving(new_mark(), tmp_path / "data", f"--project={tmp_path}") as (_, server):
            open_workflow(page, f"{server}/w/hello")
            run(page)
            wait_for_pictures(page, ".output img, .thumb img", 2)
            shown = page.eval("document.querySelector('.output img').src")
            assert shown.startswith(bucket.url)


def test_an_unknown_workflow_is_named(serve: Serve, page: Page) -> None:
    page.open(f"{serve()}/w/nothing")
    page.wait("document.querySelector('[role=alert]')?.innerText.includes('nothing')")
