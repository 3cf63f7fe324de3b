"""A redeploy over the records of an earlier version: no job is lost, and ended ones stay.

``earlier_records.json`` has what the version of November 2026 wrote, before owners had lists and
outputs had shards: a job in each state, the index with all of them, and an output file. Records are
kept for days, so this test can go when no deployment of that time is left.
"""

import base64
import json
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from modal._serialization import serialize

from tests.control_plane import ControlPlane
from tests.paths import WORKFLOWS

pytestmark = pytest.mark.modal

SETTINGS = f"""
name = "earlier"
workflows = {str(WORKFLOWS)!r}
[deploy]
engine = "simulated"
workflows = ["hello"]
auth = "proxy"
max_containers = 2
"""
WORKER = "Worker.*"


def earlier() -> dict[str, Any]:
    """What was written, as if it was a minute ago."""
    text = Path(__file__).with_name("earlier_records.json").read_text()
    written = json.loads(text)["at"].replace("+00:00", "Z")
    now = (datetime.now(UTC) - timedelta(minutes=1)).isoformat().replace("+00:00", "Z")
    return json.loads(text.replace(written, now))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "comfysnap.toml").write_text(SETTINGS)
    return tmp_path / "comfysnap.toml"


@pytest.fixture
def plane(project: Path) -> Iterator[ControlPlane]:
    with ControlPlane() as running:
        deploy(running, project)
        yield running


@pytest.fixture
def http(plane: ControlPlane) -> Iterator[httpx.Client]:
    key, secret = plane.web.key
    headers = {"Modal-Key": key, "Modal-Secret": secret}
    url = plane.function("gateway").web_url
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        yield client


def deploy(plane: ControlPlane, project: Path) -> None:
    variables = {
        "COMFYSNAP_PROJECT": str(project),
        "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
    }
    plane.add_container_environment(variables)
    plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)


def write(plane: ControlPlane, found: dict[str, Any]) -> None:
    """Put the records and the file where that version had them, and its calls into the queue."""
    jobs = found["jobs"]
    for name in ("queued", "preempted", "lost"):  # the containers of the last two are gone
        job_id = found["ids"][name]
        call = plane.spawn(WORKER, pickle.dumps(((job_id, None), {})), method="run")
        for key in jobs:
            jobs[key] = jobs[key].replace(f"fc-{name}", call.id)
    for kind in ("jobs", "index"):
        entries = plane.stores.dicts[plane.state.named_id("di", f"earlier-{kind}")]
        entries.update({serialize(key): serialize(text) for key, text in found[kind].items()})
    volume = plane.volumes.committed(plane.state.named["vo", "earlier-files"])
    for name, content in found["files"].items():
        path = volume / name
        path.parent.mkdir(parents=True)
        path.write_bytes(base64.b64decode(content))


def final(http: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job once it has ended."""
    while (job := http.get(f"/check_status/{job_id}?wait=25").json()).get("finished_at") is None:
        pass
    return job


def test_a_redeploy_over_earlier_records_loses_no_job(
    plane: ControlPlane, project: Path, http: httpx.Client
) -> None:
    plane.hold(WORKER)
    http.get("/workflows")  # a gateway creates the Dicts
    found = earlier()
    write(plane, found)
    deploy(plane, project)
    plane.hold(WORKER, held=False)
    ids = found["ids"]
    jobs = {name: final(http, ids[name]) for name in ids}
    assert {name: job["status"] for name, job in jobs.items()} == {
        "ended": "succeeded",
        "queued": "succeeded",
        "preempted": "succeeded",
        "lost": "failed",
        "unspawned": "succeeded",
        "cancelled": "cancelled",
    }, plane.logs()
    assert jobs["lost"]["error"]["code"] == "worker_lost"
    assert [jobs[name]["attempt"] for name in ("ended", "queued", "preempted")] == [1, 1, 1]

    def check() -> None:
        listed = http.get("/jobs", params={"label": "from:before"}).json()["jobs"]
        assert {job["id"]: job for job in listed} == {job["id"]: job for job in jobs.values()}
        for name in ("ended", "queued", "preempted", "unspawned"):
            (image,) = jobs[name]["outputs"]["images"]
            content = http.get(image["url"]).content
            assert content.startswith(b"\x89PNG")
            assert len(content) == image["size"]

    check()
    plane.scale_to_zero("gateway")
    plane.run_scheduled("sweep")
    check()
