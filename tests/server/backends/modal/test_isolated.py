"""The deployment in containers that have uploads, volumes and packages of their image only."""

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.control_plane import ControlPlane, isolation
from tests.paths import WORKFLOWS

pytestmark = [
    pytest.mark.modal,
    pytest.mark.skipif(
        not isolation.is_possible(), reason="this machine allows no mount namespaces"
    ),
]

SETTINGS = """
name = "isolated"
default = "hello"
[deploy]
engine = "simulated"
workflows = ["hello", "sdxl"]
auth = "none"
scaledown_window = 30
timeout = 60
"""

PROBE = """
import modal

app = modal.App("probe")
image = modal.Image.debian_slim().uv_pip_install(requirements=[{requirements!r}])
volume = modal.Volume.from_name("probe", create_if_missing=True)


@app.function(image=image, volumes={{"/models": volume.with_mount_options(read_only=True)}})
def look() -> dict[str, object]:
    import importlib.util
    import os

    def can_write() -> bool:
        try:
            open("/models/new", "w").close()
        except OSError:
            return False
        return True

    modules = ("pydantic", "fastapi", "pytest", "comfysnap_server", "probe")
    return {{
        "found": [name for name in modules if is_found(name)],
        "home": sorted(name for name in os.listdir("/root") if name[0] not in "_."),
        "checkout": os.path.exists({checkout!r}),
        "models": os.path.isdir("/models"),
        "can_write": can_write(),
    }}


def is_found(name: str) -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
"""


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane(isolated=True) as running:
        yield running


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("hello", "sdxl"):
        shutil.copytree(WORKFLOWS / name, tmp_path / "workflows" / name)
    (tmp_path / "comfysnap.toml").write_text(SETTINGS)
    return tmp_path


def test_a_container_sees_uploads_volumes_and_packages_of_its_image(
    plane: ControlPlane, tmp_path: Path
) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("pydantic==2.13\n")
    source = tmp_path / "probe.py"
    source.write_text(
        PROBE.format(requirements=str(requirements), checkout=str(WORKFLOWS.parent / "packages"))
    )
    plane.deploy(str(source), environment={}, cwd=tmp_path)
    call = plane.run("look", pickle.dumps(((), {})))
    assert call.output is not None, plane.logs()
    found: object = pickle.loads(call.output.result.data)  # noqa: S301, of our own container
    assert found == {
        "found": ["pydantic", "probe"],
        "home": ["probe.py"],
        "checkout": False,
        "models": True,
        "can_write": False,
    }


def test_the_deployment_runs_a_job_with_only_what_it_uploaded(
    plane: ControlPlane, project: Path
) -> None:
    variables = {"COMFYSNAP_PROJECT": str(project / "comfysnap.toml")}
    plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
    shutil.rmtree(project)
    url = plane.function("gateway").web_url
    with httpx.Client(base_url=url, timeout=60) as client:
        job = client.post("/infer_sync", json={}).json()
        assert job["status"] == "succeeded", plane.logs()
        (image,) = job["outputs"]["images"]
        assert client.get(image["url"]).content.startswith(b"\x89PNG")


def test_a_warm_worker_sees_models_that_came_later_and_cannot_write_any(
    plane: ControlPlane, project: Path
) -> None:
    variables = {"COMFYSNAP_PROJECT": str(project / "comfysnap.toml")}
    plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
    url = plane.function("gateway").web_url

    def run() -> None:
        job = httpx.post(f"{url}/infer_sync/sdxl", json={"prompt": "a fox", "steps": 1}, timeout=60)
        assert job.json()["status"] == "succeeded", plane.logs()

    def reloads() -> int:
        return plane.faults.seen["Worker.*", "VolumeReload"]

    names = {f"checkpoints/sd_xl_{kind}_1.0.safetensors" for kind in ("base", "refiner")}
    volume_id = plane.state.named["vo", "isolated-models"]
    for name in names:
        file = plane.volumes.committed(volume_id) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    plane.scale_to_zero("Worker.*")
    run()
    before = reloads()
    run()
    assert reloads() == before
    (container,) = plane.pool("Worker.*").live
    later = plane.volumes.committed(volume_id) / "checkpoints" / "later.safetensors"
    later.touch()
    (container.views[volume_id].folder / sorted(names)[0]).unlink()  # as if it came later, too
    run()
    assert reloads() == before + 1
    assert (container.views[volume_id].folder / "checkpoints" / later.name).exists()
    mounts = {m.mount_path: m for m in plane.function("Worker.*").definition.volume_mounts}
    assert mounts["/models"].read_only
    assert not mounts["/files"].read_only
