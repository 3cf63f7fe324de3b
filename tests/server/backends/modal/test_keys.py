"""A deployment with API keys: which functions need them, and how long a gateway remembers them."""

import json
import os
import pickle
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from comfysnap_server.gateway import hash_key
from tests.control_plane import ControlPlane
from tests.paths import WORKFLOWS

pytestmark = [pytest.mark.modal, pytest.mark.timeout(120)]

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


def command(plane: ControlPlane, project: Path, *arguments: str) -> str:
    """Run ``comfysnap key`` for the deployment; the key that it printed."""
    done = subprocess.run(
        ["comfysnap", "key", *arguments, "--project", str(project)],
        env={**os.environ, **plane.client_environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip().rpartition(" ")[2]


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
    new = command(plane, project, "alice", "--deployed")
    assert [status(plane, key) for key in (new, "first", "stays")] == [200, 200, 200]
    newest = command(plane, project, "alice", "--deployed", "--revoke")
    keys = (newest, new, "first", "stays")
    assert [status(plane, key) for key in keys] == [200, 401, 401, 200]
    assert plane.pool(GATEWAY).live == [warm]
    plane.scale_to_zero(GATEWAY)
    assert [status(plane, key) for key in keys] == [200, 401, 401, 200]
    plane.secret(SECRET, secret(carol="by hand"))
    plane.scale_to_zero(GATEWAY)
    assert [status(plane, key) for key in ("by hand", newest, "stays")] == [200, 401, 401]


def test_the_sweep_runs_without_the_keys(plane: ControlPlane) -> None:
    call = plane.run_scheduled("sweep")
    assert call.output is not None
    assert call.output.result.data, plane.logs()
    assert pickle.loads(call.output.result.data) == 0  # noqa: S301, of our own container
