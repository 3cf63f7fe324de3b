"""A deployment on the control plane for requests drawn from its OpenAPI document."""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.control_plane import ControlPlane
from tests.openapi_fuzz import Fuzzer, Report, fuzz
from tests.paths import WORKFLOWS

SETTINGS = f"""
name = "fuzzed"
workflows = {str(WORKFLOWS)!r}
default = "hello"
[deploy]
engine = "simulated"
workflows = ["hello", "sdxl", "img2img"]
auth = "none"
max_containers = 2
scaledown_window = 600
[deploy.engine_options]
step_seconds = 0
[deploy.gateway]
max_containers = 1
scaledown_window = 600
"""
SHORT_WAITS = """
import comfysnap_server.deploy.gateway_settings as module
read = module.gateway_settings
waits = {"max_wait": 0.02, "max_sync_wait": 0.02}
module.gateway_settings = lambda deployment: read(deployment).model_copy(update=waits)
"""
"""Runs when a container starts, so that no request is held for long."""


@contextmanager
def fuzzed() -> Generator[tuple[ControlPlane, httpx.Client]]:
    """The deployment, and a client for it."""
    with tempfile.TemporaryDirectory() as folder, ControlPlane() as plane:
        Path(folder, "sitecustomize.py").write_text(SHORT_WAITS)
        project = Path(folder, "comfysnap.toml")
        project.write_text(SETTINGS)
        variables = {
            "COMFYSNAP_PROJECT": str(project),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
        }
        plane.add_container_environment({**variables, "PYTHONPATH": folder})
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        url = plane.function("gateway").web_url
        with httpx.Client(base_url=url, timeout=60) as http:
            yield plane, http


def fuzz_deployment(cases: int, seed: int) -> Report:
    """Send ``cases`` requests to a deployment of its own."""
    with fuzzed() as (_, http):
        document = http.get("/openapi.json").json()
        return fuzz(http, Fuzzer(document, seed), cases)
