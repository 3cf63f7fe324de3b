"""ComfyUI's own editor in a headless browser, with a loopback server that plays its ComfyUI."""

import json
import mimetypes
import shutil
import socketserver
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, Final
from urllib.parse import unquote, urlsplit

Json = dict[str, Any]
Ask = Callable[[Any], Json]
"""Takes what the script needs; returns what it makes of it."""

FRONTEND: Final = "comfyui_frontend_package"
START_S: Final = 60.0

_ANSWERS: Final[Mapping[str, Any]] = {
    "/users": {"storage": "server", "migrated": True},
    "/settings": {
        "Comfy.TutorialCompleted": True,
        "Comfy.VueNodes.Enabled": False,
        "Comfy.Workflow.ShowMissingNodesWarning": False,
        "Comfy.Workflow.ShowMissingModelsWarning": False,
    },
    "/system_stats": {"system": {"os": "linux", "comfyui_version": "0.33.0"}, "devices": []},
    "/queue": {"queue_running": [], "queue_pending": []},
    "/prompt": {"exec_info": {"queue_remaining": 0}},
    "/jobs": {"jobs": [], "pagination": {"total": 0, "offset": 0, "limit": 0, "has_more": False}},
    "/extensions": [],
    "/embeddings": [],
    "/experiment/models": [],
    "/userdata": [],
    "/v2/userdata": [],
    "/features": {},
    "/history": {},
    "/i18n": {},
    "/workflow_templates": {},
    "/global_subgraphs": {},
    "/node_replacements": {},
}
"""What the editor asks when it starts, beside its own files and ``/object_info``."""

GRAPH: Final = """async (drawing) => {
    Math.random = () => 0
    await window.app.loadGraphData(drawing, true, false)
    for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame)
    return (await window.app.graphToPrompt()).output
}"""
"""Takes a UI export; returns the API-format graph that the editor would send."""

GROUP: Final = """async ([drawing, ids, name]) => {
    Math.random = () => 0
    const frame = () => new Promise(requestAnimationFrame)
    await window.app.loadGraphData(drawing, true, false)
    const nodes = ids.map((id) => window.app.graph.getNodeById(id))
    window.app.canvas.selectNodes(nodes)
    const made = window.comfyAPI.groupNode.GroupNodeHandler.fromNodes(nodes)
    let field = null
    while (!(field = document.querySelector("[role=dialog] input"))) await frame()
    field.value = name
    field.dispatchEvent(new Event("input", {bubbles: true}))
    while (document.querySelector("[role=dialog] input")) {
        for (const button of document.querySelectorAll("[role=dialog] button"))
            if (/confirm|ok/i.test(button.textContent)) button.click()
        await frame()
    }
    for (const widget of (await made).widgets ?? []) {
        if (widget.type === "number") widget.value += 1
        if (widget.type === "customtext") widget.value += ", and more"
    }
    await frame()
    const saved = JSON.parse(JSON.stringify(window.app.graph.serialize()))
    return {saved, graph: (await window.app.graphToPrompt()).output}
}"""
"""Takes a UI export, ids of its nodes and a name; makes a group node of these nodes with other
values, as editors did until 1.34, and returns the export, saved, and its graph."""


def missing() -> str | None:
    """What the comparison needs and this machine lacks, if anything."""
    packages = [name for name in (FRONTEND, "playwright") if find_spec(name) is None]
    if packages:
        return f"no {' and '.join(packages)}; uv run --group editor ..."
    return None if shutil.which("chromium") else "no chromium on the PATH"


@contextmanager
def open_editor(object_info: Json, script: str = GRAPH) -> Generator[Ask]:
    """Start the editor with the node classes of a ComfyUI."""
    playwright: Any = import_module("playwright.sync_api")
    known = json.dumps(next(iter(object_info)))
    with _serve(object_info) as url, playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(url)
        graph = "!!(window.app?.rootGraph ?? window.app?.graph)"
        ready = f"() => {graph} && {known} in LiteGraph.registered_node_types"
        page.wait_for_function(ready, timeout=START_S * 1000)
        yield partial(page.evaluate, script)
        browser.close()


@contextmanager
def _serve(object_info: Json) -> Generator[str]:
    package = find_spec(FRONTEND)
    assert package is not None
    assert package.origin is not None
    static = Path(package.origin).parent / "static"
    body = json.dumps(object_info).encode()
    with _Server(("127.0.0.1", 0), partial(_Handler, static.resolve(), body)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser closes connections as it likes."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(
        self,
        static: Path,
        object_info: bytes,
        request: Any,
        client_address: Any,
        server: socketserver.BaseServer,
    ) -> None:
        self._static = static
        self._object_info = object_info
        super().__init__(request, client_address, server)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        route = path.removeprefix("/api")
        if route == "/object_info":
            self._send(200, "application/json", self._object_info)
        elif route in _ANSWERS:
            self._send(200, "application/json", json.dumps(_ANSWERS[route]).encode())
        else:
            self._send_file(self._static / (path.lstrip("/") or "index.html"))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self._send(200, "application/json", b"{}")

    def _send_file(self, path: Path) -> None:
        path = path.resolve()
        if not path.is_relative_to(self._static) or not path.is_file():
            self._send(404, "text/plain", b"not found")
            return
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self._send(200, kind, path.read_bytes())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the output to the comparison."""
