"""The public API."""

import importlib
import inspect
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import comfysnap_client
from comfysnap_client import Client, ComfysnapError, blocking, testing
from comfysnap_client.errors import APIError, JobError
from tests.client.fakes import DrawInput, FakeServer, rejecting

PUBLIC = [
    "NO_RETRY", "APIError", "Client", "ComfysnapError", "ConnectionFailed", "ContractMismatch",
    "DeadlineExceeded", "DownloadFailed", "ErrorCode", "IdempotencyMismatch", "InvalidInput",
    "InvalidWebhook", "Job", "JobCancelled", "JobError", "JobEvent", "JobExpired", "JobFailed",
    "JobOutput", "JobRecord", "JobStatus", "JobTimedOut", "Lora", "MapResult", "ModelUrl",
    "NotFound", "OnProgress", "OutputExpired", "Phase",
    "PollPolicy", "Progress", "RateLimited", "RetryPolicy", "ServerError", "TooLarge",
    "Unauthorized", "UnexpectedResponse", "UntypedOutput", "WebhookEvent",
    "job_id_of", "untyped", "verify_webhook",
]  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert comfysnap_client.__all__ == PUBLIC
    assert testing.__all__ == ["Call", "MockServer", "Scenario", "WebhookRequest", "mock_server"]
    assert blocking.__all__ == ["Client", "Job"]
    for name in PUBLIC:
        assert getattr(comfysnap_client, name) is not None
    assert not hasattr(comfysnap_client, "Clinet")


def described() -> list[tuple[str, Any]]:
    modules = [comfysnap_client, testing, blocking]
    found = [(name, getattr(module, name)) for module in modules for name in module.__all__]
    return [(name, thing) for name, thing in found if inspect.isclass(thing) or callable(thing)]


@pytest.mark.parametrize(("name", "thing"), described(), ids=[name for name, _ in described()])
def test_every_public_name_has_a_docstring(name: str, thing: Any) -> None:
    assert name == "OnProgress" or (thing.__doc__ or "").strip()
    if not inspect.isclass(thing) or not thing.__module__.startswith("comfysnap_client"):
        return
    for method, function in inspect.getmembers(thing, inspect.isfunction):
        if not method.startswith("_") and function.__module__.startswith("comfysnap_client"):
            assert (function.__doc__ or "").strip(), f"{name}.{method}"


def subclasses(kind: type[Any]) -> list[type[Any]]:
    return [one for sub in kind.__subclasses__() for one in (sub, *subclasses(sub))]


def test_the_error_tree_in_the_docstring_is_complete() -> None:
    drawn = importlib.import_module("comfysnap_client.errors").__doc__ or ""
    for error in subclasses(ComfysnapError):
        assert f"─ {error.__name__}" in drawn
    assert set(APIError.__subclasses__()) & set(JobError.__subclasses__()) == set()


def test_importing_the_plug_ins_loads_no_http_library() -> None:
    code = (
        "import sys, comfysnap_client.cli, comfysnap_client.pytest_plugin\n"
        "assert 'httpx' not in sys.modules and 'respx' not in sys.modules\n"
        "assert 'rich.progress' not in sys.modules and 'asyncio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Client("ftp://x"), "base_url"),
        (lambda: Client("nothing"), "base_url"),
        (lambda: Client("http://"), "base_url"),
        (lambda: Client("http://a:b"), "base_url"),
        (lambda: Client("http://a:99999"), "base_url"),
        (lambda: Client("https://user:pass@host"), "base_url"),
        (lambda: Client("https://host?key=1"), "base_url"),
        (lambda: Client("https://host", modal_key="only"), "modal_secret"),
        (lambda: Client("https://host", api_key="a\nb"), "key"),
        (lambda: Client("https://host", timeout=-1), "timeout"),
        (lambda: Client("https://host", max_connections=1), "max_connections"),
        (lambda: Client.from_env(), "COMFYSNAP_URL"),
    ],
)
def test_an_invalid_argument_is_rejected_by_its_name(
    make: Callable[[], Client], argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMFYSNAP_URL", raising=False)
    with pytest.raises(ValueError, match=rf"\b{argument}\b") as caught:
        make()
    assert "pass" not in str(caught.value)


async def test_from_env_reads_address_and_keys(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYSNAP_URL", server.url)
    monkeypatch.setenv("COMFYSNAP_API_KEY", "sesame")
    monkeypatch.setenv("MODAL_KEY", "wk-1")
    monkeypatch.setenv("MODAL_SECRET", "ws-2")
    async with Client.from_env(api_key="other") as client:
        await client.infer_async(DrawInput(prompt="x"), labels={"team": "a"}, webhook="https://w")
    headers = server.requests[0].headers
    assert headers["authorization"] == "Bearer other"
    assert (headers["modal-key"], headers["modal-secret"]) == ("wk-1", "ws-2")
    assert headers["comfysnap-contract"] == "c0ffee"
    assert server.requests[0].query_params.multi_items() == [
        ("webhook", "https://w"), ("label", "team:a"),
    ]  # fmt: skip


async def test_a_path_prefix_is_kept(server: FakeServer) -> None:
    server.on("/prefix", rejecting(404, "unknown_job"))
    async with Client(f"{server.url}/prefix/") as client:
        with pytest.raises(ComfysnapError):
            await client.check_status("job_x")
    assert server.requests[0].url.path == "/prefix/check_status/job_x"


async def test_no_secret_in_any_log_repr_or_exception(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = {"api_key": "sesame-1", "modal_key": "wk-2", "modal_secret": "ws-3"}
    server.on("/infer_async", rejecting(503, "unavailable", retry_after="0"))
    async with Client(server.url, **secrets) as client:  # pyright: ignore[reportArgumentType] -- strings
        job = await client.infer_async(DrawInput(prompt="x"))
        await job.result()
        server.on("/check_status", rejecting(401, "unauthorized"))
        with pytest.raises(ComfysnapError) as caught:
            await client.check_status(job.id)
        output = [caplog.text, repr(client), repr(job), repr(caught.value), str(caught.value)]
    output += [repr(vars(record)) for record in caplog.records]
    assert any(getattr(record, "job_id", None) == job.id for record in caplog.records)
    for secret in secrets.values():
        assert not any(secret in text for text in output)


@pytest.mark.parametrize("job_id", ["", "../x", "a/b", "a?b", "jöb", "a b"])
async def test_an_invalid_job_id_is_never_sent(server: FakeServer, job_id: str) -> None:
    async with Client(server.url) as client:
        with pytest.raises(ValueError, match="job ID"):
            await client.check_status(job_id)
    assert not server.requests


async def test_event_hooks_are_passed_to_httpx(server: FakeServer) -> None:
    seen: list[str] = []

    async def hook(request: httpx.Request) -> None:
        seen.append(request.method)
        request.headers["traceparent"] = "00-1-2-01"

    async with Client(server.url, event_hooks={"request": [hook]}) as client:
        await client.infer_async(DrawInput(prompt="x"))
    assert seen == ["POST"]
    assert server.requests[0].headers["traceparent"] == "00-1-2-01"


async def test_jobs_come_page_by_page_and_workflows_as_listed(server: FakeServer) -> None:
    async with Client(server.url) as client:
        ids = [(await client.infer_async(DrawInput(prompt="x"))).id for _ in range(5)]
        found = [
            job.id
            async for job in client.jobs(
                status=comfysnap_client.JobStatus.SUCCEEDED, workflow="draw", labels={"a": "b"}
            )
        ]
        assert found == ids[::-1]
        assert server.requests[-1].query_params.multi_items() == [
            ("label", "a:b"), ("status", "succeeded"), ("workflow", "draw"), ("cursor", "4"),
        ]  # fmt: skip
        assert [entry.name for entry in await client.workflows()] == ["draw"]
        assert (await client.workflow("draw")).contract == "c0ffee"
        server.on("/workflows", rejecting(200, "what"))
        with pytest.raises(comfysnap_client.UnexpectedResponse):
            await client.workflows()
