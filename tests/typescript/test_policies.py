"""Both clients decide as one table says: retries, pauses, deadlines, errors."""

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from comfysnap_client import (
    APIError,
    Client,
    ComfysnapError,
    JobError,
    PollPolicy,
    RetryPolicy,
)
from comfysnap_client.errors import api_error_type
from comfysnap_client.retry import Deadline, retry_after
from comfysnap_schema.wire import Problem
from tests.client.fakes import DrawInput
from tests.typescript.conftest import RunNode

FILE = Path(__file__).with_name("policies.json")
TABLE: dict[str, list[dict[str, Any]]] = json.loads(FILE.read_text())
EXPECTED = {
    "retries": "retried", "pauses": "pause", "retry_after": "seconds", "polls": "pause",
    "holds": "hold", "deadlines": "allows", "errors": "error",
}  # fmt: skip
"""What is expected of the cases of each part but the last."""


class Script:
    """Answers each case of ``calls`` as it says, and notes the requests."""

    def __init__(self) -> None:
        self.url = ""
        self.paths: dict[int, list[str]] = defaultdict(list)
        self.keys: dict[int, set[str]] = defaultdict(set)
        self.ended = threading.Event()
        self._lock = threading.Lock()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        _, case, route, *_ = handler.path.split("/")
        index = int(case)
        with self._lock:
            self.paths[index].append(f"{handler.command} {route}")
            if handler.command == "POST" and route == "infer_async":
                self.keys[index].add(handler.headers["Idempotency-Key"])
            step = len(self.paths[index]) - 1
        response = TABLE["calls"][index]["responses"][step]
        if "hang" in response:
            self.ended.wait(200)
        if "hang" in response or "drop" in response:
            handler.close_connection = True
            return
        kind, body = _body(response, version=step)
        handler.send_response(response.get("status", 200))
        headers = {"Content-Type": kind, "Content-Length": str(len(body))}
        for name, value in (headers | response.get("headers", {})).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)


def _body(response: dict[str, Any], version: int) -> tuple[str, bytes]:
    if "job" in response:
        error = {"title": "It failed", "code": response["code"]} if "code" in response else None
        job: dict[str, Any] = {
            "id": "job_1", "workflow": "draw", "status": response["job"], "version": version,
            "created_at": "2026-11-26T00:00:00Z", "error": error,
            "outputs": {"images": [], "text": "a"},
        }  # fmt: skip
        return "application/json", json.dumps(job).encode()
    if "code" in response:
        problem = {"title": "No", "code": response["code"], "status": response["status"]}
        return "application/problem+json", json.dumps(problem).encode()
    return "text/html", response.get("text", "").encode()


@contextmanager
def serving_the_script() -> Generator[Script]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            script.answer(self)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # every case begins at once

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        script.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


def retries(case: dict[str, Any]) -> RetryPolicy:
    return RetryPolicy(**case.get("policy", {}))


def decided(part: str, case: dict[str, Any]) -> object:
    """What the Python client decides in a case."""
    match part:
        case "retries":
            return RetryPolicy().retries(case["status"])
        case "pauses":
            return retries(case).pause(
                case["attempt"], case["elapsed"], retry_after=case.get("retry_after"),
                rand=case["rand"], reached=case.get("reached", True),
            )  # fmt: skip
        case "retry_after":
            return retry_after(case["headers"])
        case "polls":
            policy = PollPolicy(**case.get("policy", {}))
            return policy.pause(case["streak"], hint=case.get("hint"), rand=case["rand"])
        case "holds":
            return PollPolicy(**case.get("policy", {})).hold_among(case["jobs"], case["slots"])
        case "deadlines":
            try:
                return Deadline.after(float(case["timeout"])).allows(case["pause"])
            except ValueError:
                return "invalid"
        case _:
            problem = Problem.model_validate({"title": "x", "code": case["code"]})
            return api_error_type(problem, case["status"]).__name__


async def ended(url: str, index: int, case: dict[str, Any]) -> dict[str, Any]:
    """How a call of the Python client ends."""
    policy: dict[str, Any] = {"initial": 0.01, "maximum": 0.05, **case.get("policy", {})}
    async with Client(
        f"{url}/{index}",
        retry=RetryPolicy(**policy), polling=PollPolicy(initial=0.01, maximum=0.05),
        timeout=case.get("timeout", 60), cancel_on_timeout=case.get("cancel", True),
    ) as client:  # fmt: skip
        try:
            await client.infer_sync(DrawInput(prompt="a fox"))
        except ComfysnapError as error:
            code = str(error.code) if isinstance(error, APIError | JobError) else None
            return {
                "ends": type(error).__name__, "code": code, "attempts": error.attempts,
                "status": error.status, "retry_after": error.retry_after, "job": error.job_id,
            }  # fmt: skip
        return {"ends": "succeeded"}


def check_calls(results: list[dict[str, Any]], script: Script) -> None:
    for index, (case, result) in enumerate(zip(TABLE["calls"], results, strict=True)):
        name = case["name"]
        for key in ("ends", "code", "status", "attempts", "retry_after"):
            if key in case:
                assert result.get(key) == case[key], (name, key, result)
        assert script.paths[index] == case["paths"], (name, result)
        assert len(script.keys[index]) == case.get("keys", 1), name
        if "POST cancel" in case["paths"]:
            assert result["job"] == "job_1", name


def cases() -> Iterator[Any]:
    for part in EXPECTED:
        for index, case in enumerate(TABLE[part]):
            yield pytest.param(part, case, id=f"{part}-{index}")


@pytest.mark.parametrize(("part", "case"), [*cases()])
def test_the_python_client_decides_as_the_table_says(part: str, case: dict[str, Any]) -> None:
    assert decided(part, case) == case[EXPECTED[part]]


async def test_calls_of_the_python_client_end_as_the_table_says() -> None:
    with serving_the_script() as script:
        calls = [ended(script.url, index, case) for index, case in enumerate(TABLE["calls"])]
        check_calls(await asyncio.gather(*calls), script)


def test_the_typescript_client_decides_and_ends_as_the_table_says(run_node: RunNode) -> None:
    with serving_the_script() as script:
        results = cast("dict[str, list[Any]]", run_node("policies", FILE, script.url))
        for part, key in EXPECTED.items():
            assert results[part] == [case[key] for case in TABLE[part]], part
        check_calls(results["calls"], script)
