"""Scopes, budgets and limits of keys, and the file that has them."""

import dataclasses
import json
import logging
import os
import stat
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.backends.protocol import OwnerBudget, PurgeRequest
from comfysnap_server.gateway import (
    GatewaySettings,
    KeyFile,
    KeyRecord,
    Keys,
    KeyStoreError,
    KeyTable,
    WatchedKeys,
    create_app,
    hash_key,
)
from tests.server.gateway.fakes import FakeBackend

UPLOAD = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
"""SHA-256 of ``x``."""


def record(name: str, **settings: Any) -> KeyRecord:
    """A key whose text is its name."""
    values = {"name": name, "owner": name, "hash": hash_key(name), **settings}
    return KeyRecord.model_validate(values)


Serve = Callable[..., Any]


@pytest.fixture
def serve(backend: FakeBackend, workflow: Workflow) -> Serve:
    """A client of a gateway with these keys."""

    @asynccontextmanager
    async def serve(
        *records: KeyRecord, keys: Keys | None = None, **settings: Any
    ) -> AsyncGenerator[httpx.AsyncClient]:
        app = create_app(
            backend, {"draw": workflow}, GatewaySettings(auth="keys", **settings),
            keys=keys or Keys(records),
        )  # fmt: skip
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            yield http

    return serve


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def submit(http: httpx.AsyncClient, key: str) -> httpx.Response:
    return await http.post("/infer_async", json={"prompt": "x"}, headers=bearer(key))


async def test_a_reading_key_sees_the_jobs_of_its_owner_and_changes_nothing(
    serve: Serve, backend: FakeBackend
) -> None:
    reader = record("reader", owner="anna", scopes=["read"])
    async with serve(record("anna"), reader) as http:
        job = (await submit(http, "anna")).json()["id"]
        for path in ("/jobs", f"/check_status/{job}", "/workflows", "/limits"):
            assert (await http.get(path, headers=bearer("reader"))).status_code == 200
        for method, path in (
            ("POST", "/infer_async"), ("POST", "/infer_sync/draw"), ("POST", f"/cancel/{job}"),
            ("PUT", f"/files/{UPLOAD}"), ("DELETE", "/anything"),
        ):  # fmt: skip
            answer = await http.request(method, path, headers=bearer("reader"), content=b"{}")
            problem = answer.json()
            assert (answer.status_code, problem["code"]) == (403, "missing_scope"), path
            assert problem["scope"] == "infer"
            assert "'infer'" in problem["detail"]
            assert 'scope="infer"' in answer.headers["www-authenticate"]
    assert len(backend.jobs) == 1
    assert not backend.files
    assert not backend.jobs[job].is_final


async def test_an_admin_sees_and_cancels_the_jobs_of_all_owners(serve: Serve) -> None:
    async with serve(record("anna"), record("ben"), record("boss", scopes=["admin"])) as http:
        job = (await submit(http, "anna")).json()["id"]
        boss = bearer("boss")
        assert (await http.get("/jobs", headers=boss)).json()["jobs"] == []
        listed = await http.get("/jobs?owner=anna", headers=boss)
        assert [entry["id"] for entry in listed.json()["jobs"]] == [job]
        assert (await http.get(f"/check_status/{job}?wait=0.01", headers=boss)).is_success
        assert (await http.get("/limits?owner=anna", headers=boss)).json()["budgets"][
            "max_unfinished_jobs"
        ]["used"] == 1
        cancelled = await http.post(f"/cancel/{job}", headers=boss)
        assert cancelled.json()["status"] == "cancelled"
        done = await http.get(f"/events/{job}", headers=boss)
        assert "event: done" in done.text
        unknown = await http.get(f"/check_status/job_{'0' * 26}", headers=boss)
        assert unknown.json()["code"] == "unknown_job"


async def test_who_is_no_admin_cannot_ask_for_other_owners(serve: Serve) -> None:
    async with serve(record("anna"), record("ben")) as http:
        assert (await http.get("/jobs?owner=anna", headers=bearer("anna"))).status_code == 200
        for path in ("/jobs?owner=anna", "/limits?owner=anna"):
            answer = await http.get(path, headers=bearer("ben"))
            assert answer.status_code == 403
            assert answer.json()["scope"] == "admin"


async def test_an_admin_key_alone_submits_nothing(serve: Serve, backend: FakeBackend) -> None:
    async with serve(record("boss", scopes=["admin"])) as http:
        assert (await submit(http, "boss")).json()["code"] == "missing_scope"
    assert not backend.jobs


async def test_an_admin_lists_the_jobs_of_all_owners(serve: Serve) -> None:
    admin = record("boss", scopes=["admin"])
    async with serve(record("anna"), record("ben"), admin) as http:
        jobs = {name: (await submit(http, name)).json()["id"] for name in ("anna", "ben")}
        refused = await http.get("/jobs?owner=*", headers=bearer("anna"))
        page = (await http.get("/jobs?owner=*", headers=bearer("boss"))).json()
        own = (await http.get("/jobs", headers=bearer("anna"))).json()
    assert (refused.status_code, refused.json()["scope"]) == (403, "admin")
    assert page["owners"] == {job_id: name for name, job_id in jobs.items()}
    assert {job["id"] for job in page["jobs"]} == set(jobs.values())
    assert ([job["id"] for job in own["jobs"]], own["owners"]) == ([jobs["anna"]], {})


async def test_only_an_admin_purges_and_says_how_old(
    serve: Serve, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "comfysnap.gateway")
    admin = record("boss", scopes=["admin"])
    async with serve(record("anna"), admin) as http:
        refused = await http.post("/purge?older_than=0", headers=bearer("anna"))
        vague = await http.post("/purge", headers=bearer("boss"))
        wanted = "/purge?older_than=3600&owner=anna&files=false"
        counted = await http.post(f"{wanted}&dry_run=true", headers=bearer("boss"))
        assert "purged" not in caplog.text
        done = await http.post(wanted, headers=bearer("boss"))
    assert (refused.status_code, refused.json()["scope"]) == (403, "admin")
    assert vague.json()["fields"][0]["field"] == "older_than"
    assert counted.status_code == 200
    assert done.json() == {
        "jobs": 2, "job_bytes": 300, "files": 1, "file_bytes": 4, "complete": True
    }  # fmt: skip
    asked = PurgeRequest(older_than=3600, owner="anna", files=False)
    assert backend.purges == [dataclasses.replace(asked, dry_run=True), asked]
    assert "purged" in caplog.text


async def test_requests_a_minute_are_counted_by_key_and_refused_with_the_wait(
    serve: Serve,
) -> None:
    limited = record("limited", owner="anna", requests_per_minute=3)
    async with serve(limited, record("anna")) as http:
        answers = [await http.get("/jobs", headers=bearer("limited")) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        problem = answers[-1].json()
        assert problem["code"] == "rate_limited"
        assert (problem["budget"], problem["limit"]) == ("requests_per_minute", 3)
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        for _ in range(10):
            assert (await http.get("/jobs", headers=bearer("anna"))).status_code == 200
        assert (await http.get("/health")).status_code == 200


async def test_answers_say_what_is_left_of_a_request_budget(serve: Serve) -> None:
    limited = record("limited", requests_per_minute=2)
    async with serve(limited, record("anna")) as http:
        answers = [await http.get("/jobs", headers=bearer("limited")) for _ in range(3)]
        other = await http.get("/jobs", headers=bearer("anna"))
    left = [answer.headers["ratelimit"].partition(";t=")[0] for answer in answers]
    assert left == [f'"requests_per_minute";r={number}' for number in (1, 0, 0)]
    assert answers[-1].status_code == 429
    assert answers[-1].headers["ratelimit-policy"] == '"requests_per_minute";q=2;w=60'
    assert "ratelimit" not in other.headers


async def test_two_keys_of_one_name_are_counted_apart(serve: Serve) -> None:
    same = {"name": "anna"}
    first = record("first", requests_per_minute=1).model_copy(update=same)
    second = record("second", requests_per_minute=2).model_copy(update=same)
    async with serve(first, second) as http:
        answers = [await http.get("/jobs", headers=bearer(k)) for k in ("first", "second") * 3]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 200, 429, 429]


async def test_the_server_s_requests_a_minute_hold_for_keys_that_name_none(serve: Serve) -> None:
    generous = record("generous", requests_per_minute=100)
    async with serve(record("anna"), generous, requests_per_minute=2) as http:
        for key, expected in (("anna", [200, 200, 429]), ("generous", [200, 200, 200])):
            answers = [await http.get("/jobs", headers=bearer(key)) for _ in range(3)]
            assert [answer.status_code for answer in answers] == expected


async def test_the_budgets_of_a_key_reach_the_backend(serve: Serve, backend: FakeBackend) -> None:
    async with serve(record("anna", max_unfinished_jobs=7, max_stored_bytes=99)) as http:
        assert (await submit(http, "anna")).status_code == 202
        answer = await http.put(f"/files/{UPLOAD}", headers=bearer("anna"), content=b"x")
        assert answer.status_code == 204
        inline = {"prompt": "x", "image": {"data": "eA==", "content_type": "image/png"}}
        backend.files.clear()
        answer = await http.post("/infer_async", json=inline, headers=bearer("anna"))
        assert answer.status_code == 202
    budget = OwnerBudget(max_unfinished_jobs=7, max_stored_bytes=99)
    assert backend.budgets == [budget] * 4


async def test_limits_show_each_budget_with_its_use(serve: Serve) -> None:
    key = record("phone", owner="anna", requests_per_minute=3, max_unfinished_jobs=5)
    async with serve(key, max_body_bytes=1000) as http:
        await submit(http, "phone")
        limits = (await http.get("/limits", headers=bearer("phone"))).json()
    assert (limits["owner"], limits["key"], limits["scopes"]) == (
        "anna",
        "phone",
        ["infer", "read"],
    )
    assert limits["max_body_bytes"] == 1000
    budgets = limits["budgets"]
    rate = budgets["requests_per_minute"]
    assert (rate["limit"], rate["at_once"], rate["used"]) == (3, 3, 2)
    assert 20 < rate["reset_s"] <= 40
    assert budgets["max_unfinished_jobs"] == {
        "limit": 5, "used": 1, "at_once": None, "reset_s": None,
    }  # fmt: skip
    assert budgets["max_queued_bytes"]["used"] == 7
    assert set(budgets["max_stored_bytes"].values()) == {None}


async def test_limits_without_keys_are_those_of_the_one_owner(http: httpx.AsyncClient) -> None:
    limits = (await http.get("/limits")).json()
    assert (limits["owner"], limits["key"]) == ("local", None)
    assert limits["budgets"]["requests_per_minute"]["limit"] is None


async def test_an_expired_key_is_refused(serve: Serve) -> None:
    now = datetime.now(UTC)
    old = record("old", expires=now - timedelta(seconds=1))
    async with serve(old, record("new", expires=now + timedelta(hours=1))) as http:
        assert (await http.get("/jobs", headers=bearer("old"))).status_code == 401
        assert (await http.get("/jobs", headers=bearer("new"))).status_code == 200


async def test_keys_that_are_added_and_revoked_count_at_the_next_request(
    serve: Serve, tmp_path: Path
) -> None:
    file = KeyFile(tmp_path / "keys.json")
    fixed = record("fixed")
    async with serve(keys=WatchedKeys(file.path, [fixed])) as http:

        async def statuses() -> list[int]:
            keys = ("fixed", "anna", "ben")
            return [(await http.get("/jobs", headers=bearer(key))).status_code for key in keys]

        assert await statuses() == [200, 401, 401]
        file.add(record("anna"))
        assert await statuses() == [200, 200, 401]
        file.add(record("ben"))
        assert await statuses() == [200, 200, 200]
        file.revoke("anna")
        assert await statuses() == [200, 401, 200]
        file.path.unlink()
        assert await statuses() == [200, 401, 401]


def test_a_damaged_file_keeps_the_keys_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.add(record("anna"))
    keys = WatchedKeys(file.path)
    file.path.write_text('{"keys": [{"na')
    with caplog.at_level(logging.ERROR, "comfysnap.gateway"):
        assert all(keys.find("anna") for _ in range(3))
    assert len(caplog.records) == 1
    assert str(file.path) in caplog.text
    with pytest.raises(KeyStoreError) as caught:
        file.add(record("ben"))
    assert caught.value.code == "invalid_keys"
    file.path.write_text(KeyTable(keys=(record("ben"),)).to_json())
    assert keys.find("ben")
    assert keys.find("anna") is None


def test_the_file_is_private_and_has_no_key_in_it(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "new" / "keys.json")
    old = os.umask(0)
    try:
        file.add(record("sesame", owner="anna"))
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    stored = json.loads(file.path.read_text())["keys"][0]
    assert stored["hash"] == hash_key("sesame")


def test_keys_that_are_added_at_once_are_all_kept(tmp_path: Path) -> None:
    def add(number: int) -> None:
        KeyFile(tmp_path / "keys.json").add(record(f"key{number}"))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(24)))
    assert len(KeyFile(tmp_path / "keys.json").read().keys) == 24
    assert {path.name for path in tmp_path.iterdir()} <= {"keys.json", "keys.json.lock"}


def test_a_name_is_unique_and_an_unknown_one_is_an_error(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.add(record("anna"))
    with pytest.raises(KeyStoreError) as caught:
        file.add(record("anna", hash=hash_key("another")))
    assert caught.value.code == "duplicate_key"
    with pytest.raises(KeyStoreError) as caught:
        file.revoke("ben")
    assert caught.value.code == "unknown_key"
    assert "anna" in str(caught.value)


def test_the_older_format_is_read_with_names_from_the_owners() -> None:
    text = json.dumps({"anna": hash_key("1"), "ben": [hash_key("2"), hash_key("3")]})
    records = KeyTable.parse(text).keys
    assert [(key.name, key.owner) for key in records] == [
        ("anna", "anna"), ("ben", "ben"), ("ben-2", "ben"),
    ]  # fmt: skip
    assert {scope.value for scope in records[0].scopes} == {"infer", "read"}
    assert KeyTable.parse(KeyTable(keys=records).to_json()).keys == records


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", '{"anna": "not a hash"}', '{"version": 2, "keys": []}',
     '{"keys": [{"name": "a"}]}', '{"version": 1, "keys": [], "more": 1}'],
)  # fmt: skip
def test_what_is_no_list_of_keys_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        KeyTable.parse(text)


def test_two_keys_of_one_name_in_a_file_are_refused() -> None:
    twice = KeyTable(keys=(record("a"), record("a", hash=hash_key("b"))))
    with pytest.raises(ValueError, match="name"):
        KeyTable.parse(twice.to_json())
