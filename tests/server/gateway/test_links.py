"""Links that open one output or one event stream without a key."""

import logging
import stat
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfysnap_schema.wire import ErrorCode, JobStatus, Link, LinkRequest
from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.errors import BackendError
from comfysnap_server.gateway import GatewaySettings, Keys, LinkKeyFile, create_app
from comfysnap_server.gateway.links import Links, ProcessLinkKey
from tests.server.gateway.fakes import FakeBackend
from tests.server.gateway.test_keys import bearer, record, submit

PICTURE = "a picture #1.png"
PAGE = "https://app.example"


@pytest.fixture
async def http(
    backend: FakeBackend, workflow: Workflow, tmp_path: Path
) -> AsyncGenerator[httpx.AsyncClient]:
    """A gateway with keys, for pages of ``PAGE``, whose jobs all have ``PICTURE``."""
    backend.add_output(tmp_path / PICTURE, b"picture", "image/png")
    app = create_app(
        backend, {"draw": workflow}, GatewaySettings(auth="keys", origins=(PAGE,)),
        keys=Keys([record("anna"), record("ben"), record("reader", owner="anna", scopes=["read"])]),
        link_key=LinkKeyFile(tmp_path / "link.key"),
    )  # fmt: skip
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
async def job(http: httpx.AsyncClient, backend: FakeBackend) -> str:
    """A finished job of ``anna``."""
    job = (await submit(http, "anna")).json()["id"]
    await backend.update(job, status=JobStatus.SUCCEEDED)
    return job


async def link(http: httpx.AsyncClient, job: str, key: str = "anna", **wanted: object) -> Link:
    body = {"job_id": job, **wanted}
    answer = await http.post("/links", json=body, headers=bearer(key))
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return Link.model_validate_json(answer.content)


async def test_an_image_opens_without_a_header(http: httpx.AsyncClient, job: str) -> None:
    made = await link(http, job, output=PICTURE)
    answer = await http.get(made.url)
    assert (answer.status_code, answer.content) == (200, b"picture")
    assert answer.headers["referrer-policy"] == "no-referrer"
    cached, _, seconds = answer.headers["cache-control"].partition(", max-age=")
    assert cached == "private"
    assert 590 <= int(seconds) <= 600
    assert (await http.head(made.url)).status_code == 200
    part = await http.get(made.url, headers={"Range": "bytes=0-2"})
    assert (part.status_code, part.content) == (206, b"pic")


async def test_an_event_stream_opens_from_another_page_and_resumes(
    http: httpx.AsyncClient, job: str, backend: FakeBackend
) -> None:
    made = await link(http, job)
    answer = await http.get(made.url, headers={"Origin": PAGE})
    assert "event: done" in answer.text
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["referrer-policy"] == "no-referrer"
    version = backend.jobs[job].version
    earlier = await http.get(made.url, headers={"Last-Event-ID": str(version - 1)})
    assert "event: done" in earlier.text
    again = await http.get(made.url, headers={"Last-Event-ID": str(version)})
    assert (again.status_code, again.content) == (204, b"")


async def test_a_link_opens_nothing_else(http: httpx.AsyncClient, job: str) -> None:
    other = (await submit(http, "anna")).json()["id"]
    picture, events = await link(http, job, output=PICTURE), await link(http, job)
    token = picture.url.partition("?")[2]
    for path in (
        f"/events/{job}?{token}", f"/outputs/{other}/a%20picture%20%231.png?{token}",
        f"/outputs/{job}/another.png?{token}", f"/check_status/{job}?{token}", f"/jobs?{token}",
        f"/outputs/{job}/a%20picture%20%231.png?{events.url.partition('?')[2]}",
        f"/outputs/{job}%2Fa%20picture%20%231.png/?{token}",
    ):  # fmt: skip
        answer = await http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path
    assert (await http.post(f"/cancel/{job}?{token}")).status_code == 401
    assert (await http.post(picture.url)).status_code == 401


async def test_a_link_is_for_the_jobs_of_the_caller(http: httpx.AsyncClient, job: str) -> None:
    answer = await http.post("/links", json={"job_id": job}, headers=bearer("ben"))
    assert answer.json()["code"] == "unknown_job"
    assert (await http.post("/links", json={"job_id": job})).status_code == 401
    read = await link(http, job, "reader", output=PICTURE)
    assert (await http.get(read.url)).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [({"expires_in": 3601}, "expires_in"), ({"expires_in": 0}, "expires_in"),
     ({"output": "a/b"}, "output"), ({"output": ""}, "output"), ({"job_id": "x"}, "job_id"),
     ({"events": True}, "events")],
)  # fmt: skip
async def test_a_wrong_field_is_named(
    http: httpx.AsyncClient, job: str, body: dict[str, object], field: str
) -> None:
    answer = await http.post("/links", json={"job_id": job, **body}, headers=bearer("anna"))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [found["field"] for found in answer.json()["fields"]] == [field]


async def test_a_damaged_token_is_refused_even_with_a_key(
    http: httpx.AsyncClient, job: str
) -> None:
    made = await link(http, job, output=PICTURE)
    for url in (made.url[:-1], made.url + "A", made.url[:-4] + "AAAA", made.url + "%00"):
        answer = await http.get(url, headers=bearer("anna"))
        assert answer.status_code == 401
        assert "link" in answer.json()["detail"]


async def test_no_log_line_has_the_token(
    http: httpx.AsyncClient, job: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = await link(http, job, output=PICTURE)
    with caplog.at_level(logging.DEBUG):
        await http.get(made.url)
        await http.get(made.url[:-1])
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("comfysnap")]
    assert len(ours) == 2
    assert not [line for line in ours if "token" in line or made.url[-20:-1] in line]


async def test_links_work_without_keys(
    backend: FakeBackend, workflow: Workflow, tmp_path: Path
) -> None:
    backend.add_output(tmp_path / PICTURE, b"picture", "image/png")
    app = create_app(backend, {"draw": workflow}, GatewaySettings())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        job = (await http.post("/infer_async", json={"prompt": "x"})).json()["id"]
        made = await link(http, job, output=PICTURE)
        assert (await http.get(made.url)).content == b"picture"
        assert (await http.get(made.url[:-1])).status_code == 401


JOB = f"job_{'0' * 26}"


async def opened(links: Links, made: Link, path: str) -> bool:
    return await links.opened(path, made.url.partition("token=")[2]) is not None


async def test_a_link_ends_with_its_time() -> None:
    now = 1_800_000_000.0
    links = Links(ProcessLinkKey(), lambda: now)
    made = await links.sign("anna", LinkRequest(job_id=JOB, expires_in=60))
    assert made.expires_at == datetime.fromtimestamp(now + 60, UTC)
    now += 59
    assert await opened(links, made, f"/events/{JOB}")
    now += 1
    assert not await opened(links, made, f"/events/{JOB}")


async def test_a_link_of_more_than_an_hour_opens_nothing() -> None:
    key = ProcessLinkKey()
    late, early = Links(key, lambda: 5000.0), Links(key, lambda: 1000.0)
    made = await late.sign("anna", LinkRequest(job_id=JOB, expires_in=3600))
    assert await opened(late, made, f"/events/{JOB}")
    assert not await opened(early, made, f"/events/{JOB}")


async def test_the_key_file_is_private_shared_and_ends_links_when_deleted(tmp_path: Path) -> None:
    path = tmp_path / "link.key"
    links = Links(LinkKeyFile(path))
    made = await links.sign("anna", LinkRequest(job_id=JOB))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await opened(Links(LinkKeyFile(path)), made, f"/events/{JOB}")
    path.unlink()
    assert not await opened(Links(LinkKeyFile(path)), made, f"/events/{JOB}")


class LostKey:
    """A signing key that the server cannot read now."""

    async def read(self) -> bytes:
        raise BackendError(ErrorCode.UNAVAILABLE, "no answer", retry_after=5)


async def test_a_key_that_cannot_be_read_makes_links_unavailable(
    backend: FakeBackend, workflow: Workflow
) -> None:
    app = create_app(backend, {"draw": workflow}, GatewaySettings(), link_key=LostKey())
    transport = httpx.ASGITransport(app)
    made = await Links(ProcessLinkKey()).sign("local", LinkRequest(job_id=JOB))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        answer = await http.get(made.url)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "5"
        assert (await http.get("/jobs")).status_code == 200


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(owner=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), data=st.data())
async def test_only_the_signed_owner_path_and_expiry_open(owner: str, data: st.DataObject) -> None:
    links = Links(ProcessLinkKey())
    made = await links.sign(owner, LinkRequest(job_id=JOB))
    token = made.url.partition("token=")[2]
    found = await links.opened(f"/events/{JOB}", token)
    assert found is not None
    assert found[0] == owner
    at = data.draw(st.integers(0, len(token) - 1))
    changed = token[:at] + data.draw(st.sampled_from("Az0-_.")) + token[at + 1 :]
    if changed != token:
        assert await links.opened(f"/events/{JOB}", changed) is None
