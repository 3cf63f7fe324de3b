"""A container that finds no GPU although one was asked for never runs jobs on its CPU."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from comfysnap_client.client import Client
from comfysnap_client.errors import JobFailed
from comfysnap_schema.workflows.hello import HelloInput
from tests.control_plane import ControlPlane
from tests.paths import ROOT

pytestmark = pytest.mark.modal

SOURCES = os.pathsep.join(str(ROOT / "packages" / name / "src") for name in ("schema", "server"))


@pytest.mark.parametrize("snapshot", ["cpu", "off"])
async def test_a_job_fails_with_the_reason_where_the_gpu_is_missing(
    tmp_path: Path, snapshot: str
) -> None:
    shutil.copytree(ROOT / "workflows" / "hello", tmp_path / "workflows" / "hello")
    (tmp_path / "comfysnap.toml").write_text(
        f'name = "comfy"\n[deploy]\nauth = "none"\nsnapshot = "{snapshot}"\ngpu = "L40S"\n'
        "[deploy.engine_options]\ncustom_nodes = false\n"
    )
    with ControlPlane() as plane:
        variables = {
            "COMFYSNAP_PROJECT": str(tmp_path / "comfysnap.toml"),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
            "COMFYUI_PATH": str(ROOT / "tests" / "comfyui_tree"),
        }
        plane.add_container_environment({**variables, "PYTHONPATH": SOURCES})
        plane.use_python("Worker.*", sys.executable)
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        async with Client(plane.function("gateway").web_url, timeout=90) as client:
            job = await client.infer_async(HelloInput())
            with pytest.raises(JobFailed) as caught:
                await job.result()
    assert "no CUDA device" in str(caught.value)
    assert "modal app logs" in str(caught.value)
