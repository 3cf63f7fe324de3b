"""Webhooks of a deployment: the function that sends them, the sweep, and the commands."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from comfysnap_server.jobs import SECRET_VARIABLE
from tests.contract.processes import COMMAND, environment
from tests.control_plane import ControlPlane
from tests.paths import WORKFLOWS
from tests.receiver import SECRET, Receiver, answer, receiving

pytestmark = pytest.mark.modal

SETTINGS = f"""
name = "hooked"
workflows = {str(WORKFLOWS)!r}
default = "hello"
[serve.webhooks]
hosts = ["127.0.0.1"]
[deploy]
engine = "simulated"
workflows = ["hello"]
auth = "none"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("hooked") / "comfysnap.toml"
    file.write_text(SETTINGS)
    return file


@pytest.fixture(scope="module")
def plane(project: Path) -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        variables = {
            "COMFYSNAP_PROJECT": str(project),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
        }
        plane.secret("hooked-webhooks", {SECRET_VARIABLE: SECRET})
        plane.add_container_environment(variables)
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        yield plane


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def submit(plane: ControlPlane, webhook: str) -> httpx.Response:
    url = f"{plane.function('gateway').web_url}/infer_async"
    return httpx.post(url, params={"webhook": webhook}, json={}, timeout=60)


def command(plane: ControlPlane, project: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, "webhooks", *words, "--deployed", f"--project={project}"],
        env=environment("none") | plane.client_environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def listed(plane: ControlPlane, project: Path, job_id: str, attempts: int) -> dict[str, Any]:
    """What the command says of a job, once it knows of so many attempts."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = command(plane, project, "list", "--json")
        assert done.returncode == 0, done.stderr
        for entry in json.loads(done.stdout):
            if entry["job"] == job_id and entry["attempts"] >= attempts:
                return entry
    raise AssertionError(f"{job_id} was not tried {attempts} times")


def make_due(plane: ControlPlane, job_id: str) -> None:
    program = (
        "import json, modal\n"
        "entries = modal.Dict.from_name('hooked-webhooks')\n"
        f"entry = json.loads(entries['{job_id}']) | {{'due_at': 0}}\n"
        f"entries['{job_id}'] = json.dumps(entry)\n"
    )
    modal = environment("none") | plane.client_environment
    subprocess.run([sys.executable, "-c", program], env=modal, check=True, timeout=60)


def test_a_job_is_sent_when_its_worker_ended_it(
    plane: ControlPlane, project: Path, receiver: Receiver
) -> None:
    job = submit(plane, receiver.url).json()
    (event,) = receiver.wait(1)
    assert (event.type, event.job.id) == ("job.succeeded", job["id"])
    assert listed(plane, project, job["id"], 1)["state"] == "delivered"
    assert command(plane, project, "list", "--failed").stdout == "no webhooks\n"


def test_what_was_refused_is_sent_again_at_once_by_the_sweep_and_on_request(
    plane: ControlPlane, project: Path, receiver: Receiver
) -> None:
    receiver.answers = [answer(500), answer(503), answer(410)]
    job = submit(plane, receiver.url).json()
    receiver.wait(2)  # the second one 5 s after the first
    entry = listed(plane, project, job["id"], 2)
    assert (entry["state"], entry["last_error"]) == ("pending", "the receiver answered 503")
    plane.run_scheduled("sweep")
    assert len(receiver.events) == 2  # not due yet
    make_due(plane, job["id"])
    plane.run_scheduled("sweep")
    assert len(receiver.events) == 3
    assert listed(plane, project, job["id"], 3)["state"] == "failed"
    done = command(plane, project, "resend", job["id"])
    assert (done.returncode, done.stdout) == (0, f"{job['id']} is sent again to 127.0.0.1\n")
    receiver.wait(4)
    assert len({event.id for event in receiver.events}) == 1
    assert command(plane, project, "resend", "job_unknown").returncode == 1


def test_another_host_is_refused(plane: ControlPlane) -> None:
    response = submit(plane, "https://evil.example/")
    assert response.status_code == 422
    assert response.json()["fields"][0]["field"] == "webhook"


def test_the_plan_names_what_sends_webhooks(plane: ControlPlane, project: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "deploy", "--dry-run", f"--project={project}"],
        env=environment("none"), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    for words in ("deliver", "hooked-webhooks"):
        assert words in done.stdout
