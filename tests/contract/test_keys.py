"""``comfysnap keys`` beside a running server, and links in a browser's way."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from comfysnap_client import blocking, untyped
from comfysnap_schema.cli import build_app
from comfysnap_server.gateway import hash_key
from tests.contract.processes import new_mark, serving

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

HELLO = {"width": 32, "height": 32}


def keys(data: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``comfysnap keys``."""
    done = CliRunner().invoke(build_app(), ["keys", *arguments, f"--data={data}"])
    return done.exit_code, done.stdout, done.stderr


def add(data: Path, *arguments: str) -> str:
    """The key that ``comfysnap keys add`` prints."""
    code, output, _ = keys(data, "add", *arguments)
    assert code == 0
    return output.strip().rpartition(" ")[2]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def root_key(data: Path) -> str:
    return add(data, "root", "--scope=admin", "--scope=infer", "--scope=read")


@pytest.fixture
def url(data: Path, root_key: str) -> Iterator[str]:
    assert root_key
    with serving(new_mark(), data, "--auth=keys") as (_, url):
        yield url


def test_a_running_server_takes_added_keys_and_refuses_revoked_ones(data: Path, url: str) -> None:
    assert httpx.get(f"{url}/jobs").status_code == 401
    key = add(data, "anna")
    assert httpx.get(f"{url}/jobs", headers=bearer(key)).status_code == 200
    next_key = add(data, "anna-next", "--owner=anna")
    done = httpx.post(f"{url}/infer_sync/hello", json=HELLO, headers=bearer(key), timeout=30).json()
    assert keys(data, "revoke", "anna")[0] == 0
    assert httpx.get(f"{url}/jobs", headers=bearer(key)).status_code == 401
    listed = httpx.get(f"{url}/jobs", headers=bearer(next_key)).json()["jobs"]
    assert [job["id"] for job in listed] == [done["id"]]


def test_budgets_of_a_key_hold_on_a_running_server(data: Path, url: str) -> None:
    key = add(data, "small", "--max-stored-bytes=2KiB", "--max-unfinished-jobs=1")
    with blocking.Client(url, api_key=key) as client:
        budgets = client.limits().budgets
    assert budgets["max_unfinished_jobs"].limit == 1
    assert budgets["max_stored_bytes"].limit == 2048
    content = b"x" * 4096
    digest = "a9d40d41c0f5d9df1f4c1ad4e0b6c9ddd8ad5e1d1b5ec4a6e2ca9c9c0d2b1c7a"
    answer = httpx.put(f"{url}/files/{digest}", content=content, headers=bearer(key))
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (429, "quota_exceeded")
    assert (problem["budget"], problem["limit"]) == ("max_stored_bytes", 2048)
    assert int(answer.headers["retry-after"]) > 0


def test_links_open_an_output_and_the_events_without_a_key(
    data: Path, url: str, root_key: str
) -> None:
    with blocking.Client(url, api_key=root_key) as client:
        job = client.infer_async(untyped("hello", HELLO))
        output: Any = job.result(timeout=30)
        (picture,) = output.files()
        image_url, events_url = job.link(picture), job.link()
    opened = httpx.get(image_url)
    assert opened.content.startswith(b"\x89PNG")
    assert opened.headers["referrer-policy"] == "no-referrer"
    assert "event: done" in httpx.get(events_url).text
    assert httpx.get(image_url.partition("?")[0]).status_code == 401
    assert (data / "link.key").stat().st_mode & 0o777 == 0o600


def test_a_link_still_opens_after_a_restart(data: Path, root_key: str) -> None:
    with serving(new_mark(), data, "--auth=keys") as (_, url):
        done = httpx.post(
            f"{url}/infer_sync/hello", json=HELLO, headers=bearer(root_key), timeout=30
        ).json()
        body = {"job_id": done["id"]}
        link = httpx.post(f"{url}/links", json=body, headers=bearer(root_key)).json()["url"]
    with serving(new_mark(), data, "--auth=keys") as (_, url):
        assert "event: done" in httpx.get(url + link).text


def test_the_list_shows_everything_but_the_key(data: Path) -> None:
    key = add(data, "phone", "--owner=anna", "--scope=read", "--requests-per-minute=30",
              "--max-stored-bytes=20GiB", "--expires-in=90d")  # fmt: skip
    code, output, _ = keys(data, "list", "--json")
    (shown,) = json.loads(output)
    assert code == 0
    assert key[-4:] == shown.pop("ends_with")
    created, expires = (shown.pop(name) for name in ("created", "expires"))
    assert created < expires
    assert shown == {
        "name": "phone", "owner": "anna", "scopes": ["read"], "requests_per_minute": 30,
        "max_stored_bytes": 20 * 1024**3,
    }  # fmt: skip
    _, text, _ = keys(data, "list")
    for part in ("phone", "anna", "read", key[-4:]):
        assert part in text
    for printed in (output, text):
        assert key not in printed
        assert hash_key(key) not in printed
    assert hash_key(key) in (data / "keys.json").read_text()


def test_add_prints_the_key_as_json(data: Path) -> None:
    _, output, _ = keys(data, "add", "anna", "--json")
    printed = json.loads(output)
    assert printed["key"].startswith("cs_")
    assert printed["name"] == printed["owner"] == "anna"
    assert "hash" not in printed


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [(("add", "root"), 1, "root"), (("revoke", "nobody"), 1, "root"), (("add", "a b"), 2, "a b"),
     (("add", "x", "--owner=a/b"), 2, "a/b"), (("add", "x", "--expires-in=soon"), 2, "soon"),
     (("add", "x", "--max-stored-bytes=lots"), 2, "lots"),
     (("add", "x", "--max-stored-bytes=0"), 2, "'0'")],
)  # fmt: skip
@pytest.mark.usefixtures("root_key")
def test_a_wrong_argument_is_an_error_that_names_it(
    data: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    before = (data / "keys.json").read_text()
    found, _, error = keys(data, *arguments)
    assert found == code
    assert error.startswith("error: ")
    assert text in error
    assert (data / "keys.json").read_text() == before


def test_serve_with_keys_and_none_says_how_to_add_one(data: Path) -> None:
    done = CliRunner().invoke(
        build_app(), ["serve", "--auth=keys", "--engine=simulated", f"--data={data}"]
    )
    assert done.exit_code == 2
    assert "comfysnap keys add" in done.output


def test_a_keys_file_elsewhere_is_used_by_both_commands(tmp_path: Path, data: Path) -> None:
    file = tmp_path / "elsewhere.json"
    _, output, _ = keys(data, "add", "anna", f"--keys={file}", "--json")
    key = json.loads(output)["key"]
    with serving(new_mark(), data, "--auth=keys", f"--keys={file}") as (_, url):
        assert httpx.get(f"{url}/jobs", headers=bearer(key)).status_code == 200
    assert not (data / "keys.json").exists()


def test_an_expired_key_is_refused_by_a_running_server(data: Path, url: str) -> None:
    key = add(data, "short", "--expires-in=1s")
    limit = time.monotonic() + 60
    while (status := httpx.get(f"{url}/jobs", headers=bearer(key)).status_code) == 200:
        assert time.monotonic() < limit
    assert status == 401
