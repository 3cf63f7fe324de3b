"""``comfysnap mcp`` as a host starts it: a process that speaks MCP on stdin and stdout."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult, ImageContent, ResourceLink, TextContent

from comfysnap_schema.workflow import load_workflows
from comfysnap_server.gateway import GatewaySettings
from tests.contract.processes import COMMAND, environment, new_mark, serving
from tests.paths import ROOT, WORKFLOWS
from tests.server.gateway.mcp.test_calls import ANNA, ERAS, FOX, SLOW
from tests.server.gateway.mcp.test_calls import serving as serving_with_keys

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

FAST = "--engine-option=step_seconds=0"
DOCUMENT = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of ``comfysnap serve``, whose samplers take 0.2 s a step."""
    data = tmp_path_factory.mktemp("data")
    with serving(new_mark(), data, "--engine-option=step_seconds=0.2") as (_, url):
        yield url


def host(url: str, era: str, **variables: str) -> Client:
    program, *arguments = COMMAND
    given = environment("none") | {"COMFYSNAP_URL": url} | variables
    parameters = StdioServerParameters(command=program, args=[*arguments, "mcp"], env=given)
    return Client(parameters, mode=era)


def bridge(url: str, *, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "mcp", f"--url={url}"],
        env=environment("none") | variables,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def text_of(result: CallToolResult) -> str:
    found = result.content[0]
    assert isinstance(found, TextContent)
    return found.text


def last_job(url: str) -> dict[str, Any]:
    return httpx.get(f"{url}/jobs", params={"limit": 1}).json()["jobs"][0]


def final(url: str, job: str) -> dict[str, Any]:
    return httpx.get(f"{url}/check_status/{job}", params={"wait": 20}, timeout=30).json()


@pytest.mark.parametrize("era", ERAS)
async def test_a_host_has_the_tools_of_the_server(url: str, era: str) -> None:
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with host(url, era) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        result = await client.call_tool(
            "flux", FOX, progress_callback=note, meta={"comfysnap/idempotency_key": era}
        )
        again = await client.call_tool("flux", FOX, meta={"comfysnap/idempotency_key": era})
        wrong = await client.call_tool("flux", {**FOX, "steps": 400})
    assert tools == {*load_workflows(WORKFLOWS), "get_job", "cancel_job"}
    assert [type(one) for one in result.content] == [TextContent, ImageContent, ResourceLink]
    assert result.structured_content is not None
    assert result.structured_content["job"] == last_job(url)["id"]
    assert again.structured_content is not None
    assert again.structured_content["job"] == result.structured_content["job"]
    assert seen == sorted(set(seen))
    assert seen[-1] == 100
    assert wrong.is_error
    assert "steps: must be at most 50" in text_of(wrong)


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_that_the_host_cancels_cancels_its_job(url: str, era: str) -> None:
    begun = asyncio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        begun.set()

    async with host(url, era) as client:
        call = asyncio.create_task(client.call_tool("flux", SLOW, progress_callback=note))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        ended = await asyncio.to_thread(final, url, last_job(url)["id"])
        assert ended["status"] == "cancelled"


async def test_a_server_that_is_gone_is_an_error_until_it_is_back(tmp_path: Path) -> None:
    with serving(new_mark(), tmp_path, FAST) as (process, url):
        async with host(url, "legacy") as client:
            assert not (await client.call_tool("flux", FOX)).is_error
            port = url.rpartition(":")[2]
            process.terminate()
            await asyncio.to_thread(process.wait, 30)
            gone = await client.call_tool("flux", FOX)
            assert gone.is_error
            assert f"flux failed: {url}/mcp: " in text_of(gone)
            with serving(new_mark(), tmp_path, FAST, f"--port={port}"):
                assert not (await client.call_tool("flux", FOX)).is_error


def test_a_server_that_cannot_be_used_is_one_line_and_an_exit_code(
    tmp_path: Path, url: str
) -> None:
    unknown = bridge("http://127.0.0.1:9")
    assert (unknown.returncode, unknown.stdout) == (3, "")
    assert unknown.stderr.startswith("error: http://127.0.0.1:9/mcp: ")
    assert unknown.stderr.count("\n") == 1
    with serving_with_keys(tmp_path / "keys") as private:
        refused = bridge(private)
        assert (refused.returncode, refused.stderr.count("\n")) == (3, 1)
        assert "set COMFYSNAP_API_KEY, or MODAL_KEY and MODAL_SECRET" in refused.stderr
        assert bridge(private, COMFYSNAP_API_KEY=ANNA).returncode == 0
    with serving_with_keys(tmp_path / "off", auth="none", mcp={"enabled": False}) as silent:
        missing = bridge(silent)
        assert (missing.returncode, missing.stderr.count("\n")) == (3, 1)
        assert "this server does not offer MCP" in missing.stderr
    assert bridge("ftp://x").returncode == 2
    assert bridge(url, MODAL_KEY="wk-\n").returncode == 2


def test_it_ends_with_stdin_and_with_ctrl_c(url: str) -> None:
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize",
             "params": {"protocolVersion": "2025-11-25", "capabilities": {},
                        "clientInfo": {"name": "test", "version": "1"}}}  # fmt: skip
    done = bridge(url, stdin=f"{json.dumps(hello)}\n")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert "get_job" in json.loads(line)["result"]["instructions"]
    process = subprocess.Popen(
        [*COMMAND, "mcp", f"--url={url}"],
        env=environment("none"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{json.dumps(hello)}\n")
    process.stdin.flush()
    assert "get_job" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.communicate()[1] == ""


async def test_the_settings_of_the_document_start_a_host(url: str) -> None:
    desktop, *others = map(json.loads, blocks("json"))
    (server,) = desktop["mcpServers"].values()
    program = Path(sys.executable).with_name(server["command"])
    arguments = [word.replace("http://127.0.0.1:8000", url) for word in server["args"]]
    given = environment("none") | server["env"]
    parameters = StdioServerParameters(command=str(program), args=arguments, env=given)
    async with Client(parameters, mode="legacy") as client:
        assert "flux" in {tool.name for tool in (await client.list_tools()).tools}
    for other in others:
        ((found,),) = [servers.values() for servers in other.values()]
        assert found["url"] == "http://127.0.0.1:8000/mcp"


def test_the_program_of_the_document_runs(url: str) -> None:
    (program,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", program.replace("http://127.0.0.1:8000", url)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert httpx.get(done.stdout.strip()).headers["content-type"] == "image/png"


def test_the_settings_of_the_document_are_valid() -> None:
    (table,) = map(tomllib.loads, blocks("toml"))
    settings = GatewaySettings.model_validate(table["serve"])
    assert (settings.mcp.enabled, settings.mcp.max_wait) == (True, 45)
