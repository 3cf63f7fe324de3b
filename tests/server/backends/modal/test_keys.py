"""A deployment with API keys: which functions need them, and how long a gateway remembers them."""

import json
import os
import pickle
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from comfysnap_server.gateway import hash_key
from tests.control_plane import ControlPlane
from tests.paths import WORKFLOWS

pytestmark = pytest.mark.modal

SETTINGS = f"""
name = "keyed"
workflows = {str(WORKFLOWS)!r}
default = "hello"
[deploy]
engine = "simulated"
workflows = ["hello"]
auth = "keys"
"""
SECRET = "keyed-keys"
GATEWAY = "gateway"


def secret(**keys: str) -> Mapping[str, str]:
    """Variables of the secret: owners and their keys."""
    return {"COMFYSNAP_KEYS": json.dumps({owner: hash_key(key) for owner, key in keys.items()})}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keyed") / "comfysnap.toml"
    file.write_text(SETTINGS)
    return file


@pytest.fixture(scope="module")
def plane(project: Path) -> Iterator[ControlPlane]:
    """With a deployment for whose secret each test sets the keys."""
    with ControlPlane() as plane:
        variables = {
            "COMFYSNAP_PROJECT": str(project),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
        }
        plane.secret(SECRET, secret(alice="first"))
        plane.add_container_environment(variables)
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        yield plane


def status(plane: ControlPlane, key: str) -> int:
    """What the gateway answers to the key."""
    url = plane.function("gateway").web_url
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{url}/workflows", headers=headers, timeout=60).status_code


@pytest.fixture
def refreshed_at_each_request(plane: ControlPlane) -> Iterator[None]:
    """Gateways read the keys anew for each request, as for one that comes 30 s later."""
    program = "from comfysnap_server.deploy import keys\nkeys.REFRESH_S = 0.0\n"
    folder = plane.root / "hurry"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(program)
    plane.add_container_environment({"PYTHONPATH": str(folder)})
    plane.scale_to_zero(GATEWAY)
    yield
    plane.add_container_environment({"PYTHONPATH": ""})
    plane.scale_to_zero(GATEWAY)


def command(
    plane: ControlPlane, project: Path, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run ``comfysnap keys`` for the deployment."""
    return subprocess.run(
        ["comfysnap", "keys", *arguments, "--deployed", "--project", str(project)],
        env={**os.environ, **plane.client_environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def add(plane: ControlPlane, project: Path, name: str, *options: str) -> str:
    """The key that ``comfysnap keys add`` prints."""
    done = command(plane, project, "add", name, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition(" ")[2]


def call(plane: ControlPlane, method: str, path: str, key: str = "", **body: Any) -> httpx.Response:
    """A request to the gateway."""
    url = plane.function(GATEWAY).web_url
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.request(method, f"{url}{path}", headers=headers, timeout=60, **body)


def test_a_restored_gateway_knows_the_keys_of_today(plane: ControlPlane) -> None:
    plane.secret(SECRET, secret(alice="first"))
    plane.scale_to_zero(GATEWAY)
    plane.freeze(GATEWAY, 1)
    plane.secret(SECRET, secret(alice="second"))
    assert status(plane, "second") == 200
    assert status(plane, "first") == 401


@pytest.mark.usefixtures("refreshed_at_each_request")
def test_a_warm_gateway_takes_new_keys_and_drops_revoked_ones(
    plane: ControlPlane, project: Path
) -> None:
    plane.secret(SECRET, secret(alice="first", bob="stays"))
    assert status(plane, "first") == 200
    (warm,) = plane.pool(GATEWAY).live
    new = add(plane, project, "alice-2", "--owner=alice")
    assert [status(plane, key) for key in (new, "first", "stays")] == [200, 200, 200]
    assert command(plane, project, "revoke", "alice").returncode == 0
    keys = (new, "first", "stays")
    assert [status(plane, key) for key in keys] == [200, 401, 200]
    listed = json.loads(command(plane, project, "list", "--json").stdout)
    assert [(key["name"], key["owner"]) for key in listed] == [("bob", "bob"), ("alice-2", "alice")]
    assert plane.pool(GATEWAY).live == [warm]
    plane.scale_to_zero(GATEWAY)
    assert [status(plane, key) for key in keys] == [200, 401, 200]
    plane.secret(SECRET, secret(carol="by hand"))
    plane.scale_to_zero(GATEWAY)
    assert [status(plane, key) for key in ("by hand", new, "stays")] == [200, 401, 401]


@pytest.mark.usefixtures("refreshed_at_each_request")
def test_scopes_and_budgets_reach_warm_gateways(plane: ControlPlane, project: Path) -> None:
    plane.secret(SECRET, secret(alice="first"))
    assert status(plane, "first") == 200
    key = add(plane, project, "reader", "--scope=read", "--requests-per-minute=2")
    refused = call(plane, "POST", "/infer_async", key, json={})
    assert refused.json()["scope"] == "infer"
    limits = call(plane, "GET", "/limits", key).json()
    assert limits["budgets"]["requests_per_minute"]["limit"] == 2
    assert limits["scopes"] == ["read"]
    problem = call(plane, "GET", "/limits", key).json()
    assert (problem["code"], problem["budget"]) == ("rate_limited", "requests_per_minute")


def test_a_link_of_one_gateway_opens_at_another(plane: ControlPlane) -> None:
    plane.secret(SECRET, secret(alice="first"))
    plane.scale_to_zero(GATEWAY)
    job = call(plane, "POST", "/infer_sync", "first", json={"width": 32, "height": 32}).json()
    assert job["status"] == "succeeded"
    name = job["outputs"]["images"][0]["name"]
    body = {"job_id": job["id"], "output": name}
    link = call(plane, "POST", "/links", "first", json=body).json()["url"]
    plane.secret(SECRET, secret(bob="second"))
    plane.scale_to_zero(GATEWAY)
    assert call(plane, "GET", link).content.startswith(b"\x89PNG")
    assert call(plane, "GET", link[:-1]).status_code == 401


def test_the_first_key_makes_the_secret_and_the_last_one_stays(
    plane: ControlPlane, tmp_path: Path
) -> None:
    project = tmp_path / "comfysnap.toml"
    project.write_text(SETTINGS.replace('"keyed"', '"fresh"'))
    assert "comfysnap keys add" in command(plane, project, "list").stderr
    key = add(plane, project, "anna")
    listed = command(plane, project, "list")
    assert "anna" in listed.stdout
    assert key not in listed.stdout
    refused = command(plane, project, "revoke", "anna")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "only key" in refused.stderr
    assert command(plane, project, "add", "anna").returncode == 1


def test_the_sweep_runs_without_the_keys(plane: ControlPlane) -> None:
    swept = plane.run_scheduled("sweep")
    assert swept.output is not None
    assert swept.output.result.data, plane.logs()
    assert pickle.loads(swept.output.result.data) == 0  # noqa: S301, of our own container
