"""A deployment with API keys: which functions need them, and how long a gateway remembers them."""

import json
import pickle
from collections.abc import Iterator, Mapping

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


def secret(**keys: str) -> Mapping[str, str]:
    """Variables of the secret: owners and their keys."""
    return {"COMFYSNAP_KEYS": json.dumps({owner: hash_key(key) for owner, key in keys.items()})}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """With a deployment for whose secret each test sets the keys."""
    file = tmp_path_factory.mktemp("keyed") / "comfysnap.toml"
    file.write_text(SETTINGS)
    with ControlPlane() as plane:
        variables = {
            "COMFYSNAP_PROJECT": str(file),
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


def test_the_sweep_runs_without_the_keys(plane: ControlPlane) -> None:
    call = plane.run_scheduled("sweep")
    assert call.output is not None
    assert call.output.result.data, plane.logs()
    assert pickle.loads(call.output.result.data) == 0  # noqa: S301, of our own container
