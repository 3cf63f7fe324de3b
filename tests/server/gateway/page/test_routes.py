"""The pages as files: open to everybody, the same for every server, and cached."""

import re
from collections.abc import AsyncGenerator
from importlib.resources import files

import httpx
import pytest

from comfysnap_schema.workflow import Workflow
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.keys import hash_key, new_key
from comfysnap_server.gateway.settings import GatewaySettings
from tests.server.gateway.fakes import FakeBackend


@pytest.fixture
async def http(workflows: dict[str, Workflow]) -> AsyncGenerator[httpx.AsyncClient]:
    settings = GatewaySettings(auth="keys", keys={"anna": hash_key(new_key())})
    transport = httpx.ASGITransport(create_app(FakeBackend(), workflows, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.mark.parametrize(("path", "root"), [("/", "./"), ("/w/flux", "../"), ("/w/other", "../")])
async def test_pages_need_no_key_and_say_nothing_of_the_server(
    http: httpx.AsyncClient, path: str, root: str
) -> None:
    page = await http.get(path)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert not re.search("flux|hello|other", page.text)
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert re.findall(r'(?:href|src)="(?!#)([^"]*)', page.text)
    for address in re.findall(r'(?:href|src)="(?!#)([^"]*)', page.text):
        assert address.startswith(root), address
    assert "{" not in page.text


async def test_what_pages_load_is_kept_for_ever_until_it_changes(http: httpx.AsyncClient) -> None:
    page = await http.get("/w/flux")
    again = await http.get("/w/flux", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert page.headers["cache-control"] == "no-cache"
    found = re.findall(r'"\.\./(page/[0-9a-f]{16})/([a-z._]+)"', page.text)
    version = found[0][0]
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for _, name in found:
        file = await http.get(f"/{version}/{name}")
        assert file.headers["content-type"].startswith(kinds[name[name.rindex(".") :]])
        assert "immutable" in file.headers["cache-control"]
        other = await http.get(f"/page/0000/{name}")  # of a deployment that is being replaced
        assert (other.content, other.headers["cache-control"]) == (file.content, "no-cache")


async def test_every_module_that_is_imported_is_served(http: httpx.AsyncClient) -> None:
    seen: set[str] = set()
    left = ["list.js", "workflow.js"]
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        module = await http.get(f"/page/0/{name}")
        assert module.status_code == 200, name
        left += re.findall(r'^(?:import .*|} )from "\./([^"]+)";$', module.text, re.MULTILINE)
    assert len(seen) > 15


def test_all_files_together_are_small() -> None:
    static = files("comfysnap_server.gateway.page") / "static"
    assert sum(len(file.read_bytes()) for file in static.iterdir()) < 200_000


@pytest.mark.parametrize(
    "path", ["/page/0/", "/page/0/list.html", "/page/0/..", "/page/0/no.js", "/page/x", "/w/", "/w"]
)
async def test_other_paths_are_not_pages(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code in (401, 404)


async def test_head_is_answered_and_nothing_can_be_sent(http: httpx.AsyncClient) -> None:
    assert (await http.head("/")).status_code == 200
    assert (await http.post("/")).status_code == 405
