"""The MCP SDK's own client against a real server, in both eras of the protocol."""

import asyncio
import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent, ResourceLink, TextContent
from PIL import Image

from comfysnap_schema.wire import JobStatus, Scope
from comfysnap_schema.workflow import Workflow, load_workflows
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.backends.protocol import NO_BUDGET, OwnerBudget, SubmitResult
from comfysnap_server.gateway import GatewaySettings, KeyRecord, create_app, hash_key, new_key
from comfysnap_server.gateway.keys import Keys
from comfysnap_server.jobs.request import JobRequest
from tests.paths import WORKFLOWS
from tests.server.gateway.fakes import FakeBackend
from tests.servers import running

ERAS = ("legacy", "2026-07-28")
ANNA, READER, LIMITED, ADMIN, BOB = (new_key() for _ in range(5))
RECORDS = [
    KeyRecord(name="anna", owner="anna", hash=hash_key(ANNA)),
    KeyRecord(name="reader", owner="anna", hash=hash_key(READER), scopes=(Scope.READ,)),
    KeyRecord(name="limited", owner="carl", hash=hash_key(LIMITED), max_unfinished_jobs=1),
    KeyRecord(name="root", owner="root", hash=hash_key(ADMIN), scopes=(Scope.ADMIN,)),
    KeyRecord(name="bob", owner="bob", hash=hash_key(BOB)),
]
FOX = {"prompt": "a fox", "width": 512, "height": 256, "steps": 4}
SLOW = {"prompt": "a snail", "steps": 50}
FUZZ = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
) | st.sampled_from(["sha256:" + "0" * 64, "http://[", "http://127.0.0.1/outputs/x", "1"])


@contextmanager
def serving(data: Path, step_seconds: float = 0, **settings: Any) -> Generator[str]:
    backend = LocalBackend(data, engine_options={"step_seconds": step_seconds})
    given = GatewaySettings.model_validate({"auth": "keys", **settings})
    app = create_app(backend, load_workflows(WORKFLOWS), given, keys=Keys(RECORDS))
    with running(app) as server:
        yield server.url


@asynccontextmanager
async def client_of(url: str, era: str = ERAS[1], key: str = ANNA) -> AsyncGenerator[Client]:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=era) as client,
    ):
        yield client


def http_of(url: str, key: str = ANNA) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)


def without_key(link: str) -> httpx.Response:
    return httpx.get(link)


def jobs_of(url: str, key: str = ANNA) -> list[dict[str, Any]]:
    with http_of(url, key) as http:
        return http.get("/jobs").json()["jobs"]


def final(url: str, job: str) -> dict[str, Any]:
    with http_of(url) as http:
        return http.get(f"/check_status/{job}", params={"wait": 20}).json()


def text_of(result: CallToolResult) -> str:
    found = result.content[0]
    assert isinstance(found, TextContent)
    return found.text


def outcome(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, text_of(result)
    assert result.structured_content is not None
    return result.structured_content


def link_of(result: CallToolResult) -> str:
    (link,) = [one for one in result.content if isinstance(one, ResourceLink)]
    return link.uri


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with serving(tmp_path_factory.mktemp("data"), max_body_bytes=64 * 1024) as url:
        yield url


@pytest.fixture
def slow(tmp_path: Path) -> Generator[str]:
    """Where a job of 50 steps takes half a minute, and a call waits for a third of a second."""
    with serving(tmp_path, 0.6, mcp={"max_wait": 0.3}) as url:
        yield url


@pytest.mark.parametrize("era", ERAS)
async def test_every_workflow_is_a_tool(url: str, era: str) -> None:
    async with client_of(url, era) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert tools.keys() == {*load_workflows(WORKFLOWS), "get_job", "cancel_job"}
    assert tools["flux"].title == "FLUX.1 schnell, text to image"
    assert "the model is distilled" in (tools["flux"].description or "")
    assert tools["get_job"].annotations is not None
    assert tools["get_job"].annotations.read_only_hint


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_returns_a_text_a_preview_and_links_that_need_no_key(
    url: str, era: str
) -> None:
    async with client_of(url, era) as client:
        result = await client.call_tool("flux", {**FOX, "seed": 7})
    found = outcome(result)
    (file,) = found["outputs"]["images"]
    assert (found["status"], found["seeds"]) == ("succeeded", {"seed": 7})
    assert file["url"] == link_of(result)
    assert all(part in text_of(result) for part in (found["job"], file["url"], "seed 7"))
    preview = result.content[1]
    assert isinstance(preview, ImageContent)
    assert preview.mime_type == "image/jpeg"
    small = Image.open(io.BytesIO(base64.b64decode(preview.data)))
    whole = without_key(file["url"])
    assert (whole.headers["content-type"], len(whole.content)) == ("image/png", file["size"])
    assert small.size == Image.open(io.BytesIO(whole.content)).size == (512, 256)


@pytest.mark.parametrize("era", ERAS)
async def test_progress_rises_to_the_end(tmp_path: Path, era: str) -> None:
    seen: list[tuple[float, str]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert total == 100
        seen.append((progress, message or ""))

    with serving(tmp_path, 0.5) as url:
        async with client_of(url, era) as client:
            outcome(await client.call_tool("flux", FOX, progress_callback=note))
    values = [value for value, _ in seen]
    assert values == sorted(set(values))
    assert (values[0], values[-1]) == (0, 100)
    assert any("Sampler" in text for _, text in seen)


@pytest.mark.parametrize("era", ERAS)
async def test_a_long_job_is_returned_while_it_runs_and_can_be_asked_for_and_cancelled(
    slow: str, era: str
) -> None:
    async with client_of(slow, era) as client:
        started = await client.call_tool("flux", SLOW)
        found = outcome(started)
        assert found["status"] in ("queued", "running")
        assert f"Call get_job with job={found['job']}" in text_of(started)
        again = outcome(await client.call_tool("get_job", {"job": found["job"], "wait": 0}))
        assert (again["job"], again["status"] == "cancelled") == (found["job"], False)
        outcome(await client.call_tool("cancel_job", {"job": found["job"]}))
        assert final(slow, found["job"])["status"] == "cancelled"
        ended = await client.call_tool("get_job", {"job": found["job"]})
        assert ended.is_error
        assert "job_cancelled" in text_of(ended)
        outcome(await client.call_tool("cancel_job", {"job": found["job"]}))


async def test_a_job_that_ended_is_returned_whole_by_get_job(url: str) -> None:
    async with client_of(url) as client:
        made = await client.call_tool("flux", FOX)
        got = await client.call_tool("get_job", {"job": outcome(made)["job"]})
    assert outcome(got)["outputs"]["images"][0]["name"] == "flux_00001_.png"
    assert [type(one) for one in got.content] == [TextContent, ImageContent, ResourceLink]


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancelled_call_cancels_its_job(tmp_path: Path, era: str) -> None:
    begun = asyncio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        begun.set()

    with serving(tmp_path, 0.6) as url:
        async with client_of(url, era) as client:
            call = asyncio.create_task(client.call_tool("flux", SLOW, progress_callback=note))
            await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            (job,) = jobs_of(url)
            ended = await asyncio.to_thread(final, url, job["id"])
            assert ended["status"] == "cancelled"


def headers_of(era: str) -> dict[str, str]:
    headers = {"MCP-Protocol-Version": era, "Accept": "application/json, text/event-stream"}
    modern = {"Mcp-Method": "tools/call", "Mcp-Name": "flux"}
    return headers | (modern if era == ERAS[1] else {})


def slow_call(era: str, **meta: Any) -> dict[str, Any]:
    prefix = "io.modelcontextprotocol"
    modern: dict[str, Any] = {f"{prefix}/protocolVersion": era, f"{prefix}/clientCapabilities": {}}
    given = {"progressToken": 1, **meta, **(modern if era == ERAS[1] else {})}
    params = {"name": "flux", "arguments": SLOW, "_meta": given}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


@pytest.mark.parametrize("era", ["2025-11-25", "2026-07-28"])
def test_hanging_up_cancels_the_job_unless_the_caller_can_come_back(
    tmp_path: Path, era: str
) -> None:
    with serving(tmp_path, 0.6) as url, http_of(url) as http:
        for meta in ({}, {"comfysnap/idempotency_key": "once"}):
            body = slow_call(era, **meta)
            with http.stream("POST", "/mcp", json=body, headers=headers_of(era)) as answer:
                assert answer.status_code == 200
                assert any("notifications/progress" in line for line in answer.iter_lines())
        kept, gone = jobs_of(url)
        assert final(url, gone["id"])["status"] == "cancelled"
        http.post(f"/cancel/{kept['id']}")
        assert final(url, kept["id"])["cancel_requested_at"] > gone["created_at"]


def test_a_message_cancels_calls_of_its_own_session_alone(tmp_path: Path) -> None:
    era = "2025-11-25"
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    with serving(tmp_path, 0.6) as url, http_of(url) as http, http_of(url, BOB) as stranger:
        mine = {**headers_of(era), "Mcp-Session-Id": "mine"}
        with http.stream("POST", "/mcp", json=slow_call(era), headers=mine) as answer:
            lines = answer.iter_lines()
            assert any("notifications/progress" in line for line in lines)
            others = {**mine, "Mcp-Session-Id": "another"}
            assert http.post("/mcp", json=cancel, headers=others).status_code == 202
            assert stranger.post("/mcp", json=cancel, headers=mine).status_code == 202
            (job,) = jobs_of(url)
            assert job["cancel_requested_at"] is None
            assert http.post("/mcp", json=cancel, headers=mine).status_code == 202
            assert any("job_cancelled" in line for line in lines)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("tool", "arguments", "parts"),
    [
        ("flux", {"prompt": "x", "steps": 400}, ["steps: must be at most 50, not 400"]),
        ("flux", {"prompt": "x", "stepz": 4}, ["stepz: unknown input", "did you mean 'steps'?"]),
        ("flux", {}, ["prompt: is required"]),
        ("flux", {"prompt": None, "steps": "4"}, ["prompt: is required", "steps: must be of type"]),
        (
            "img2img",
            {"prompt": "x", "image": "a.png"},
            ["image: must be an http(s) URL", "sha256:"],
        ),
        ("img2img", {"prompt": "x", "image": 5}, ["image: must be an http(s) URL"]),
        ("img2img", {"prompt": "x", "image": "sha256:" + "0" * 64}, ["image", "not uploaded"]),
        ("img2img", {"prompt": "x", "image": "http://127.0.0.1/a.png"}, ["image"]),
        ("fluxx", {}, ["unknown tool 'fluxx'", "did you mean 'flux'?"]),
        ("paint", {}, ["unknown tool", "flux", "get_job"]),
        ("get_job", {}, ["job: must be"]),
        ("get_job", {"job": "job_0000000000000000000000"}, ["unknown_job"]),
        ("get_job", {"job": "../../x"}, ["unknown_job"]),
        ("get_job", {"job": "job_0000000000000000000000", "wait": "1"}, ["wait: must be"]),
        ("cancel_job", {"id": "x"}, ["id: unknown argument", "job"]),
    ],
)
async def test_what_a_model_can_mend_is_a_result_that_says_how(
    url: str, era: str, tool: str, arguments: dict[str, Any], parts: list[str]
) -> None:
    before = len(jobs_of(url))
    async with client_of(url, era) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert all(part in text_of(result) for part in parts), text_of(result)
    assert len(jobs_of(url)) == before


async def test_a_job_that_fails_is_an_error_with_its_reason(tmp_path: Path) -> None:
    with serving(tmp_path, 0.3, default_timeout=0.3) as url:
        async with client_of(url) as client:
            result = await client.call_tool("flux", SLOW)
    assert result.is_error
    assert "job_timed_out" in text_of(result)


async def test_a_call_makes_the_same_job_as_the_route(url: str) -> None:
    inputs = {**FOX, "seed": 11, "count": 1}
    async with client_of(url) as client:
        found = outcome(await client.call_tool("flux", inputs))
    with http_of(url) as http:
        other = http.post("/infer_sync/flux", json=inputs).json()
    rows = {job["id"]: job for job in jobs_of(url)}
    ours, theirs = rows[found["job"]], rows[other["id"]]
    same = ("workflow", "status", "inputs", "labels", "graph_hash", "attempt")
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    hashes = [job["outputs"]["images"][0]["sha256"] for job in (ours, theirs)]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("era", ERAS)
async def test_an_idempotency_key_is_that_of_the_route(url: str, era: str) -> None:
    meta: Any = {"comfysnap/idempotency_key": f"once-{era}"}
    async with client_of(url, era) as client:
        first = outcome(await client.call_tool("flux", FOX, meta=meta))
        second = outcome(await client.call_tool("flux", FOX, meta=meta))
        third = outcome(await client.call_tool("flux", FOX))
        wrong = await client.call_tool("flux", FOX, meta={"comfysnap/idempotency_key": "a b"})
    with http_of(url) as http:
        headers = {"Idempotency-Key": f"once-{era}"}
        fourth = http.post("/infer_async/flux", json=FOX, headers=headers)
    assert first["job"] == second["job"] == fourth.json()["id"] != third["job"]
    assert fourth.headers["Idempotency-Replayed"] == "true"
    assert "invalid _meta" in text_of(wrong)


async def test_the_link_of_a_result_is_the_input_of_another_tool(url: str) -> None:
    async with client_of(url) as client:
        link = link_of(await client.call_tool("flux", FOX))
        found = outcome(await client.call_tool("img2img", {"prompt": "a cat", "image": link}))
    drawn, redrawn = (
        job for name in ("flux", "img2img") for job in jobs_of(url)[:2] if job["workflow"] == name
    )
    assert redrawn["id"] == found["job"]
    assert redrawn["inputs"]["image"] == {"sha256": drawn["outputs"]["images"][0]["sha256"]}


async def test_the_link_of_a_stranger_is_no_input(url: str) -> None:
    async with client_of(url) as client:
        link = link_of(await client.call_tool("flux", FOX))
    async with client_of(url, key=BOB) as client:
        result = await client.call_tool("img2img", {"prompt": "a cat", "image": link})
    assert "image: unknown job" in text_of(result)


async def test_tools_are_those_that_a_key_may_call(url: str) -> None:
    async with client_of(url) as client:
        job = outcome(await client.call_tool("flux", FOX))["job"]
    async with client_of(url, key=READER) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["get_job"]
        assert outcome(await client.call_tool("get_job", {"job": job}))["job"] == job
        for name, arguments in (("flux", FOX), ("cancel_job", {"job": job})):
            refused = await client.call_tool(name, dict(arguments))
            assert "this key lacks the scope 'infer'" in text_of(refused)
    async with client_of(url, key=ADMIN) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == ["get_job", "cancel_job"]
        assert outcome(await client.call_tool("get_job", {"job": job}))["job"] == job


async def test_a_used_up_budget_is_told(slow: str) -> None:
    async with client_of(slow, key=LIMITED) as client:
        job = outcome(await client.call_tool("flux", SLOW))["job"]
        refused = await client.call_tool("flux", SLOW)
        assert refused.is_error
        assert "quota_exceeded" in text_of(refused)
        assert (refused.meta or {})["comfysnap/error"]["budget"] == "max_unfinished_jobs"
        outcome(await client.call_tool("cancel_job", {"job": job}))


@pytest.mark.parametrize("era", ERAS)
async def test_a_wrong_key_is_refused_by_the_gateway_in_json_rpc(url: str, era: str) -> None:
    refusal = pytest.RaisesExc(MCPError, match="send a valid key")
    with pytest.RaisesGroup(refusal, flatten_subgroups=True, allow_unwrapped=True):
        async with client_of(url, era, key="wrong") as client:
            await client.list_tools()
    with http_of(url, "wrong") as http:
        answer = http.post("/mcp", json={})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["data"]["code"] == "unauthorized"


def test_what_is_not_a_request_is_refused_in_json_rpc(url: str) -> None:
    with http_of(url) as http:
        cases = [
            (http.get("/mcp"), 405, -32600),
            (http.delete("/mcp"), 405, -32600),
            (http.post("/mcp", content=b"{"), 400, -32700),
            (http.post("/mcp", json={"x": "a" * 100_000}), 413, -32600),
            (http.post("/mcp", content=b"[]", headers={"Content-Type": "text/plain"}), 415, -32600),
        ]
    for answer, status, code in cases:
        body = answer.json()
        assert (answer.status_code, body["error"]["code"]) == (status, code), answer.text
        assert body["error"]["data"]["request_id"] == answer.headers["x-request-id"]
    assert cases[0][0].headers["allow"] == "POST"


async def test_too_many_waiting_calls_leave_the_job_running(tmp_path: Path) -> None:
    with serving(tmp_path, 0.6, max_waits=1) as url:
        begun = asyncio.Event()

        async def note(progress: float, total: float | None, message: str | None) -> None:
            begun.set()

        async with client_of(url) as client:
            first = asyncio.create_task(client.call_tool("flux", SLOW, progress_callback=note))
            await begun.wait()
            second = outcome(await client.call_tool("flux", SLOW))
            assert second["status"] in ("queued", "running")
            first.cancel()
            outcome(await client.call_tool("cancel_job", {"job": second["job"]}))


async def test_a_server_that_stops_ends_a_call_and_keeps_its_job(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path, engine_options={"step_seconds": 0.6})
    app = create_app(backend, load_workflows(WORKFLOWS), GatewaySettings())
    begun = asyncio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        begun.set()

    with running(app) as server:
        async with client_of(server.url) as client:
            await client.list_tools()  # or the client asks for them once it has the result
            call = asyncio.create_task(client.call_tool("flux", SLOW, progress_callback=note))
            await begun.wait()
            server.stop()
            found = outcome(await call)
    assert found["status"] in ("queued", "running")
    with serving(tmp_path, auth="none") as url:
        assert final(url, found["job"])["status"] != "cancelled"


async def test_an_accepted_job_is_named_when_its_result_cannot_be_sent(
    workflow: Workflow, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenKey:
        async def read(self) -> bytes:
            raise OSError("the key is gone")

    backend = EndsAtOnce()
    app = create_app(backend, {"draw": workflow}, GatewaySettings(), link_key=BrokenKey())
    with running(app) as server:
        async with client_of(server.url) as client:
            result = await client.call_tool("draw", {"prompt": "a fox"})
    (job,) = backend.jobs
    assert result.is_error
    assert f"Call get_job with job={job}" in text_of(result)
    assert "the key is gone" in caplog.text


class EndsAtOnce(FakeBackend):
    """Each job has succeeded when it is accepted, with one picture."""

    async def submit(self, request: JobRequest, budget: OwnerBudget = NO_BUDGET) -> SubmitResult:
        submitted = await super().submit(request, budget)
        file = {"name": "a.png", "kind": "image", "content_type": "image/png", "size": 1,
                "sha256": "0" * 64, "url": "/outputs/a.png"}  # fmt: skip
        changes: Any = {"status": JobStatus.SUCCEEDED, "outputs": {"images": [file]}}
        return SubmitResult(await self.update(submitted.job.id, **changes))


def test_mcp_can_be_turned_off(tmp_path: Path) -> None:
    with serving(tmp_path, mcp={"enabled": False}) as url, http_of(url) as http:
        answer = http.post("/mcp", json={})
        assert answer.status_code == 404
        assert "[serve.mcp]" in answer.json()["error"]["message"]


def test_nothing_of_mcp_is_imported_until_it_is_used() -> None:
    program = (
        "import sys; from comfysnap_server.gateway import GatewaySettings, create_app\n"
        "create_app(None, {}, GatewaySettings())\n"
        "print(sorted({'mcp', 'mcp_types', 'jsonschema', 'cryptography'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_server_without_the_extra_says_what_to_install(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("calls", "server"):
        monkeypatch.delitem(sys.modules, f"comfysnap_server.gateway.mcp.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    settings = GatewaySettings.model_validate({"mcp": {"enabled": True}})
    with pytest.raises(ValueError, match=r"pip install 'comfysnap-server\[mcp\]'"):
        create_app(FakeBackend(), {"draw": workflow}, settings)


def test_a_workflow_named_like_a_fixed_tool_is_reported(
    workflow: Workflow, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    app = create_app(FakeBackend(), {"get_job": workflow}, GatewaySettings())
    with running(app) as server:
        asyncio.run(names_of(server.url))
    assert "'get_job' is not an MCP tool" in caplog.text


async def names_of(url: str) -> None:
    async with client_of(url) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
    assert names == ["get_job", "cancel_job"]


@pytest.fixture
def post(workflow: Workflow) -> Generator[httpx.Client]:
    settings = GatewaySettings.model_validate({"mcp": {"max_wait": 0.001}})
    app = create_app(FakeBackend(), {"draw": workflow}, settings)
    with running(app) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        yield http


@FUZZ
@given(
    name=st.sampled_from(["draw", "get_job", "cancel_job"]) | st.text(),
    arguments=st.dictionaries(
        st.sampled_from(["prompt", "image", "seed", "job", "wait", "steps"]) | st.text(),
        VALUES,
        max_size=5,
    ),
)
def test_any_arguments_have_a_result_that_names_no_failure_of_the_server(
    post: httpx.Client, name: str, arguments: dict[str, Any]
) -> None:
    params = {"name": name, "arguments": arguments}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = post.post("/mcp", json=body, headers=headers_of("2025-11-25"))
    (data,) = re.findall(r"^data: ({.*)", answer.text, re.MULTILINE)
    result = json.loads(data)["result"]
    assert "the server's log" not in result["content"][0]["text"]
    assert result.get("isError") or result["structuredContent"]["job"]
