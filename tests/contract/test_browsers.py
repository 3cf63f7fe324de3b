"""docs/browsers.md in Chromium: a page of another site calls a server with keys."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.workflow import load_workflows
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.gateway import GatewaySettings, create_app, hash_key, new_key
from tests.chromium import CHROMIUM, Page, chromium
from tests.paths import ROOT, WORKFLOWS
from tests.servers import running
from tests.typescript.test_browser import pages

KEY = new_key()
DOCUMENT = (ROOT / "docs" / "browsers.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

PRELUDE = """
const headers = { Authorization: `Bearer ${key}` };
async function post(path, body) {
  const json = { ...headers, "Content-Type": "application/json" };
  const sent = { method: "POST", headers: json, body: JSON.stringify(body) };
  const answer = await fetch(server + path, sent);
  return { status: answer.status, headers: answer.headers, body: await answer.json() };
}
const link = async (body) => server + (await post("/links", body)).body.url;
"""


@pytest.fixture
def site(tmp_path: Path) -> Generator[str]:
    """The origin of a site of strangers, with the page of the document."""
    folder = tmp_path / "site"
    folder.mkdir()
    (example,) = re.findall(r"```html\n(.*?)```", DOCUMENT, re.DOTALL)
    (folder / "page.html").write_text(example)
    (folder / "empty.html").write_text("<!doctype html><link rel=icon href=data:,>")
    with pages(folder) as (origin, _):
        yield origin.replace("127.0.0.1", "localhost")


@contextmanager
def serving(data: Path, origins: tuple[str, ...]) -> Generator[str]:
    backend = LocalBackend(data, engine_options={"step_seconds": 0.1})
    settings = GatewaySettings(auth="keys", keys={"anna": hash_key(KEY)}, origins=origins)
    with running(create_app(backend, load_workflows(WORKFLOWS), settings)) as server:
        yield server.url


@pytest.fixture
def server(site: str, tmp_path: Path) -> Generator[str]:
    with serving(tmp_path / "data", (site,)) as url:
        yield url


@pytest.fixture
def page(site: str, tmp_path: Path) -> Generator[Page]:
    with chromium(tmp_path / "profile") as page:
        page.open(f"{site}/empty.html")
        page.wait("document.readyState === 'complete' && location.href.includes('empty')")
        yield page


def script(page: Page, server: str, body: str) -> Any:
    """What an async script of the page returns."""
    known = f"const [server, key] = {[server, KEY]};"
    return page.eval(f"(async () => {{ {known} {PRELUDE} {body} }})()")


def test_the_page_of_the_document_draws(page: Page, site: str, server: str) -> None:
    page.open(f"{site}/page.html")
    page.wait("document.querySelector('[name=prompt]')")
    page.eval(f"document.querySelector('[name=server]').value = '{server}'")
    page.eval("document.querySelector('button').click()")
    page.wait("document.querySelector('p').textContent.includes('key')")
    page.eval(f"document.querySelector('[name=key]').value = '{KEY}'")
    page.eval("document.querySelector('button').click()")
    page.wait("document.querySelector('p').textContent === 'succeeded'")
    page.wait("document.querySelector('img').naturalWidth === 1024")
    assert page.eval("document.querySelector('progress').value") > 0


def test_a_page_reads_the_headers_of_a_submit(page: Page, server: str) -> None:
    found = script(page, server, """
        const { status, headers: sent, body } = await post("/infer_async/hello", {});
        const known = ["location", "x-request-id"].map((name) => sent.get(name));
        const wrong = await post("/infer_async/hello", { width: 1 });
        return [status, body.id, ...known, wrong.status, wrong.body.fields[0].field];
    """)  # fmt: skip
    status, job, location, request, *wrong = found
    assert (status, location) == (202, f"/check_status/{job}")
    assert request.startswith("req_")
    assert wrong == [422, "width"]


def test_a_page_sends_a_file_and_reads_a_result(page: Page, server: str) -> None:
    blocks = re.findall(r"```js\n(.*?)```", DOCUMENT, re.DOTALL)
    upload = blocks[0].replace("await post(", "const submitted = await post(")
    found = script(page, server, """
        const canvas = document.createElement("canvas");
        const file = await new Promise((resolve) => canvas.toBlob(resolve));
        UPLOAD
        const job = submitted.body;
        const end = await fetch(`${server}/check_status/${job.id}?wait=25`, { headers });
        const [image] = Object.values((await end.json()).outputs).flat();
        const output = await fetch(`${server}/outputs/${job.id}/${image.name}`, { headers });
        const picture = new Image();
        picture.src = await link({ job_id: job.id, output: image.name });
        await picture.decode();
        const closed = new Image();
        closed.src = `${server}/outputs/${job.id}/${image.name}`;
        const refused = await closed.decode().catch(() => "refused");
        const tagged = output.headers.get("etag").includes(image.sha256);
        return [tagged, picture.naturalWidth > 0, refused];
    """.replace("UPLOAD", upload))  # fmt: skip
    assert found == [True, True, "refused"]


def test_an_event_source_stops_after_done(page: Page, server: str) -> None:
    found = script(page, server, """
        const inputs = { prompt: "x", steps: 50 };  // or it would end before it is followed
        const job = (await post("/infer_async/flux?previews=true", inputs)).body;
        const url = await link({ job_id: job.id });
        const events = new EventSource(url);
        const seen = [];
        for (const type of ["status", "progress", "preview", "output", "done"])
          events.addEventListener(type, (event) => seen.push([type, event.lastEventId]));
        let opened = 0;
        events.addEventListener("open", () => { opened += 1; });
        await new Promise((resolve) => events.addEventListener("error", () => {
          if (events.readyState === EventSource.CLOSED) resolve();
        }));
        const last = seen.at(-1)[1];
        const again = await fetch(url, { headers: { "Last-Event-ID": last } });
        return [seen.map(([type]) => type), opened, again.status];
    """)  # fmt: skip
    types, opened, again = found
    assert {"progress", "preview", "output"} <= set(types)
    assert (types[-1], types.count("done"), types.count("output")) == ("done", 1, 1)
    assert (opened, again) == (1, 204)


def test_a_link_that_is_not_valid_stops_an_event_source(page: Page, server: str) -> None:
    assert script(page, server, """
        const job = (await post("/infer_async/hello", {})).body;
        const events = new EventSource(`${await link({ job_id: job.id })}x`);
        await new Promise((resolve) => events.addEventListener("error", resolve));
        return events.readyState;
    """) == 2  # fmt: skip


def test_a_page_that_is_not_allowed_cannot_call(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path / "other", ("https://app.example.com",)) as url:
        assert script(page, url, """
            const tried = [post("/infer_async/hello", {}), fetch(`${server}/jobs`, { headers })];
            return (await Promise.allSettled(tried)).map(({ reason }) => reason?.name);
        """) == ["TypeError", "TypeError"]  # fmt: skip
        assert script(page, url, """
            const events = new EventSource(`${server}/events/job_0000000000000000`);
            await new Promise((resolve) => events.addEventListener("error", resolve));
            return events.readyState;
        """) == 2  # fmt: skip
