"""``/docs`` in a browser, without a network, under its content security policy."""

from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from comfysnap_schema.workflow import load_workflows
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.gateway import AuthMode, GatewaySettings, create_app, hash_key, new_key
from tests.chromium import CHROMIUM, Page, chromium
from tests.paths import WORKFLOWS
from tests.servers import running

KEY = new_key()

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    auth: AuthMode = request.param
    settings = GatewaySettings(auth=auth, keys={"anna": hash_key(KEY)})
    backend = LocalBackend(tmp_path / "data")
    with running(create_app(backend, load_workflows(WORKFLOWS), settings, default="hello")) as app:
        yield app.url


@pytest.fixture
def page(tmp_path: Path) -> Generator[Page]:
    with chromium(tmp_path / "profile") as page:
        yield page


def run_hello(page: Page) -> None:
    """Open the operation, and run it as it is proposed."""
    operation = "document.querySelector('[id$=infer_sync_hello]')"
    page.wait(operation)
    page.eval(f"{operation}.querySelector('button').click()")
    for button in (".try-out__btn", ".execute"):
        page.wait(f"{operation}.querySelector('{button}')")
        page.eval(f"{operation}.querySelector('{button}').click()")
    page.wait(
        f"{operation}.querySelector('.live-responses-table')?.innerText.includes('succeeded')"
    )


@pytest.mark.parametrize("server", ["none"], indirect=True)
def test_swagger_ui_shows_and_calls_the_api(server: str, page: Page) -> None:
    page.open(f"{server}/docs")
    run_hello(page)
    assert page.eval("document.querySelectorAll('.opblock').length") > 20
    assert page.eval("[...document.querySelectorAll('.errors-wrapper')].length") == 0
    assert page.violations == []
    loaded = page.eval("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith((server, "data:"))] == []


@pytest.mark.parametrize("server", ["keys"], indirect=True)
def test_a_key_is_typed_into_the_page(server: str, page: Page) -> None:
    page.open(f"{server}/docs")
    page.wait("document.querySelector('#access')?.hidden === false")
    assert page.eval("document.querySelectorAll('.opblock').length") == 0
    for key in ("wrong", KEY):
        page.eval(f"document.querySelector('#key').value = '{key}'")
        page.eval("document.querySelector('#access button').click()")
        if key == "wrong":
            page.wait("document.querySelector('#message').innerText.includes('not valid')")
    run_hello(page)
    assert page.eval("document.querySelector('#access').hidden")
    assert page.eval("localStorage.length + sessionStorage.length") == 0
    assert page.violations == []


@pytest.mark.parametrize("server", ["none"], indirect=True)
def test_a_violation_of_the_policy_would_be_seen(server: str, page: Page) -> None:
    page.open(f"{server}/docs")
    page.wait("document.querySelector('.opblock')")
    page.eval(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: '1'}))"
    )
    assert page.violations


@pytest.mark.parametrize("server", ["keys"], indirect=True)
def test_the_page_needs_no_key_and_says_nothing_of_the_server(server: str) -> None:
    with httpx.Client(base_url=server) as http:
        shell = http.get("/docs")
        assert shell.status_code == 200
        assert "default-src 'none'" in shell.headers["content-security-policy"]
        assert "unsafe" not in shell.headers["content-security-policy"]
        assert "hello" not in shell.text
        for name in ("swagger-ui.js", "swagger-ui.css", "favicon.png", "page.js", "page.css"):
            answer = http.get(f"/docs/{name}")
            assert answer.status_code == 200
            same = http.get(f"/docs/{name}", headers={"If-None-Match": answer.headers["etag"]})
            assert (same.status_code, same.content) == (304, b"")
        for path in ("/openapi.json", "/docs/other", "/docs/"):
            assert http.get(path).status_code == 401
