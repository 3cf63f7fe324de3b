"""A container whose engine broke takes no other job."""

from pathlib import Path

import pytest

from comfysnap_client.client import Client
from comfysnap_client.errors import JobFailed
from comfysnap_schema.workflows.hello import HelloInput
from tests.control_plane import ControlPlane
from tests.paths import ROOT, WORKFLOWS

pytestmark = pytest.mark.modal

SETTINGS = """
name = "breaking"
workflows = {workflows!r}
[deploy]
engine = "simulated"
workflows = ["hello"]
auth = "none"
max_containers = 1
scaledown_window = 600
[deploy.engine_options]
log = {log!r}
"""
ENGINE = """
from comfysnap_server.engine import registry
registry.ENGINES["simulated"] = "tests.server.backends.local.engines:BreakingEngine"
"""
"""Runs when a container starts: a deployment accepts only built-in engines."""


async def test_the_job_after_one_that_broke_the_engine_runs_in_another_container(
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ENGINE)
    project = tmp_path / "comfysnap.toml"
    project.write_text(SETTINGS.format(workflows=str(WORKFLOWS), log=str(tmp_path / "log")))
    with ControlPlane() as plane:
        variables = {
            "COMFYSNAP_PROJECT": str(project),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
        }
        plane.add_container_environment({**variables, "PYTHONPATH": f"{tmp_path}:{ROOT}"})
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        async with Client(plane.function("gateway").web_url, timeout=60) as client:
            breaking, after = [await client.infer_async(HelloInput(color=n)) for n in (1, 2)]
            with pytest.raises(JobFailed) as caught:
                await breaking.result()
            assert (await after.result()).images, plane.logs()
            assert (await after.status()).attempt == 1
    assert caught.value.code == "engine_failed"
