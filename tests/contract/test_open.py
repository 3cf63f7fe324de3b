"""``comfysnap open`` as a process, before a gateway that asks for headers no browser can send."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from comfysnap_client import blocking
from comfysnap_schema.workflow import load_workflows
from comfysnap_schema.workflows import HelloInput
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.gateway import GatewaySettings, create_app
from tests.chromium import CHROMIUM, Page, chromium
from tests.contract.processes import COMMAND, environment, left_behind, new_mark
from tests.contract.test_docs_page import run_hello
from tests.paths import ROOT, WORKFLOWS
from tests.servers import running
from tests.typescript.test_browser import pages

TOKEN = {"MODAL_KEY": "wk-1", "MODAL_SECRET": "ws-1"}


class ProxyAuth:
    """What stands in front of a deployment with ``auth = "proxy"``: it knows one token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        known = (headers.get(b"modal-key"), headers.get(b"modal-secret")) == (b"wk-1", b"ws-1")
        app = self._app if known or scope["type"] != "http" else PlainTextResponse("who?", 401)
        await app(scope, receive, send)


@pytest.fixture
def deployment(tmp_path: Path) -> Generator[str]:
    backend = LocalBackend(tmp_path / "data")
    app = create_app(backend, load_workflows(WORKFLOWS), GatewaySettings(auth="proxy"))
    app.add_middleware(ProxyAuth)
    with running(app) as server:
        yield server.url


@contextmanager
def opened(url: str, *options: str, **env: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """The command, and the address that it printed."""
    mark = new_mark()
    process = subprocess.Popen(
        [*COMMAND, "open", "--url", url, *options],
        env=environment(mark) | TOKEN | env, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        with process:
            try:
                yield process, process.stdout.readline().split()[0]
            finally:
                process.kill()
    finally:
        assert left_behind(mark) == []


@pytest.fixture
def proxy(deployment: str) -> Generator[str]:
    with opened(deployment, "--no-browser") as (_, address):
        yield address


@pytest.fixture
def page(tmp_path: Path) -> Generator[Page]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with chromium(tmp_path / "profile") as page:
        yield page


def test_a_browser_uses_what_it_could_not_reach(deployment: str, proxy: str, page: Page) -> None:
    assert httpx.get(f"{deployment}/docs").status_code == 401
    page.open(f"{proxy}/docs")
    run_hello(page)
    events = page.eval("""(async () => {
        const headers = { "Content-Type": "application/json" };
        const sent = { method: "POST", headers, body: '{"prompt": "x"}' };
        const job = await (await fetch("/infer_async/flux", sent)).json();
        const events = new EventSource(`/events/${job.id}`);
        const outputs = await new Promise((resolve) => events.addEventListener("done",
            ({ data }) => resolve(JSON.parse(data).job.outputs)));
        events.close();
        const picture = new Image();
        picture.src = outputs.images[0].url;
        await picture.decode();
        return picture.naturalWidth;
    })()""")
    assert events == 1024


def test_a_page_of_another_origin_cannot_use_it(proxy: str, page: Page, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "page.html").write_text("<!doctype html><link rel=icon href=data:,>")
    with pages(tmp_path / "site") as (origin, _):
        for site in (origin, origin.replace("127.0.0.1", "localhost")):
            page.open(f"{site}/page.html")
            page.wait(f"location.href.startsWith('{site}') && document.readyState === 'complete'")
            refused = page.eval(f"""(async () => {{
                const post = (mode) => fetch("{proxy}/infer_async/hello", {{
                    method: "POST", mode, body: "{{}}", headers: {{ "Content-Type": "text/plain" }},
                }});
                const read = await post("cors").catch((error) => error.name);
                const blind = (await post("no-cors")).type;
                const image = Object.assign(new Image(), {{ src: "{proxy}/docs/favicon.png" }});
                return [read, blind, await image.decode().catch((error) => error.name)];
            }})()""")
            assert refused == ["TypeError", "opaque", "EncodingError"]
    assert httpx.get(f"{proxy}/jobs").json()["jobs"] == []


def test_the_client_works_through_it_too(proxy: str) -> None:
    with blocking.Client(proxy, timeout=60) as client:
        output = client.infer_sync(HelloInput(width=32))
        assert len(client.read(output.images[0])) == output.images[0].size


def test_the_browser_is_opened_and_ctrl_c_ends_it_with_one_line(
    deployment: str, tmp_path: Path
) -> None:
    browser = tmp_path / "browser.py"
    browser.write_text(
        "import os, sys\nwith open(sys.argv[1], 'w') as pipe: pipe.write(sys.argv[2])"
    )
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = f"{sys.executable} {browser} {pipe} %s"
    with opened(deployment, BROWSER=command) as (process, address):
        assert pipe.read_text() == address
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "stopped\n", "")


@pytest.mark.parametrize(
    ("options", "env", "says"),
    [
        (("--url", "my-app"), {}, "must start with http"),
        ((), {"COMFYSNAP_URL": ""}, "--url"),
        (("--url", "http://127.0.0.1:9"), {"MODAL_KEY": "wk-1"}, "MODAL_SECRET"),
    ],
)
def test_what_is_missing_is_named(options: tuple[str, ...], env: dict[str, str], says: str) -> None:
    ran = subprocess.run(
        [*COMMAND, "open", "--no-browser", *options],
        env=environment(new_mark()) | env | {"TERM": "dumb", "NO_COLOR": "1"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 2
    assert says in ran.stderr


def test_a_port_that_is_taken_is_one_line(deployment: str, proxy: str) -> None:
    port = proxy.rpartition(":")[2]
    ran = subprocess.run(
        [*COMMAND, "open", "--no-browser", "--url", deployment, "--port", port],
        env=environment(new_mark()), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1
