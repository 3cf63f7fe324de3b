"""A plane with a deployment of two pools, and the commands as an operator runs them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.control_plane import ControlPlane, isolation
from tests.paths import WORKFLOWS

COMFYSNAP = Path(sys.executable).with_name("comfysnap")

SETTINGS = """
name = "studio"
default = "hello"
[deploy]
engine = "simulated"
auth = "none"
secrets = ["run-time"]
scaledown_window = 30
timeout = 60
max_containers = 3
[deploy.engine_options]
step_seconds = 0.1
[deploy.pools.big]
workflows = ["sdxl"]
cpu = 4
"""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane(isolated=isolation.is_possible()) as running:
        yield running


@pytest.fixture(scope="module")
def project(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studio")
    plane.secret("run-time", {"NAME": "value"})
    for name in ("hello", "sdxl"):
        shutil.copytree(WORKFLOWS / name, folder / "workflows" / name)
    (folder / "comfysnap.toml").write_text(SETTINGS)
    if not isolation.is_possible():
        variables = {
            "COMFYSNAP_PROJECT": str(folder / "comfysnap.toml"),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
        }
        plane.add_container_environment(variables)
    return folder


def environment(plane: ControlPlane) -> dict[str, str]:
    """Variables of a command that talks to the plane."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("COMFYSNAP_", "MODAL_"))}
    if not isolation.is_possible():
        mine["COMFYSNAP_FILES_DIR"] = str(plane.mounts / "files")
    return mine | plane.client_environment | {"COLUMNS": "200"}


@pytest.fixture(scope="module")
def comfysnap(plane: ControlPlane, project: Path) -> Command:
    """Runs a command in the project's folder; it must exit with ``code``."""

    def run(*arguments: str, code: int = 0, answer: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [COMFYSNAP, *arguments],
            cwd=project,
            env=environment(plane),
            input=answer,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{plane.logs()[-3000:]}"
        return done

    return run


@pytest.fixture(scope="module")
def deployed(plane: ControlPlane, comfysnap: Command) -> ControlPlane:
    comfysnap("deploy", "--no-warm-up", "--tag", "first")
    return plane


@pytest.fixture
def infer(deployed: ControlPlane) -> Callable[..., dict[str, Any]]:
    """A job through the gateway, to its end."""

    def work(workflow: str = "hello", **inputs: object) -> dict[str, Any]:
        url = deployed.function("gateway").web_url
        return httpx.post(f"{url}/infer_sync/{workflow}", json=inputs, timeout=60).json()

    return work


@pytest.fixture
def read(comfysnap: Command) -> Callable[..., Any]:
    """The JSON that a command prints."""

    def work(*arguments: str) -> Any:
        return json.loads(comfysnap(*arguments, "--json").stdout)

    return work
