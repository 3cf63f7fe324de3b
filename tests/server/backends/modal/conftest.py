"""One control plane for the session, and Modal's client pointed at it."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import modal
import pytest

from comfysnap_server.backends.modal.backend import ModalBackend
from comfysnap_server.backends.modal.cloud import DictRecords, FunctionCalls, Patience, QueueFeed
from comfysnap_server.backends.modal.listing import list_name
from comfysnap_server.backends.modal.platform import Platform
from comfysnap_server.backends.modal.states import Policy
from tests.control_plane import ControlPlane
from tests.paths import WORKFLOWS
from tests.server.backends.modal.memory import Cloud, MemoryFolder
from tests.server.backends.suite import STEP_S

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """Up for the session; the environment of this process points Modal's client to it."""
    with pytest.MonkeyPatch.context() as patch, ControlPlane() as running:
        for name, value in running.client_environment.items():
            patch.setenv(name, value)
        yield running
        modal.Client.from_env().close()


@pytest.fixture(scope="session")
def toy(plane: ControlPlane) -> ControlPlane:
    """With ``toy_app`` deployed, whose containers find it next to this file."""
    mount = {"TOY_MOUNT": str(plane.mounts / "toy")}
    plane.add_container_environment({"PYTHONPATH": str(HERE), **mount})
    plane.secret("toy-secret", {"TOY_SECRET": "first"})
    plane.deploy(str(HERE / "toy_app.py"), environment=mount, cwd=HERE)
    return plane


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``comfysnap.toml`` of the simulated engine over the repository's workflows."""
    folder = tmp_path_factory.mktemp("project")
    workflows = WORKFLOWS
    (folder / "comfysnap.toml").write_text(f"""
name = "snap"
workflows = {str(workflows)!r}
default = "hello"

[deploy]
engine = "simulated"
workflows = ["hello", "sdxl", "img2img"]
max_containers = 4
scaledown_window = 30
timeout = 60
auth = "proxy"

[deploy.engine_options]
step_seconds = {3 * STEP_S}

[deploy.gateway]
max_containers = 2
""")
    return folder / "comfysnap.toml"


@pytest.fixture(scope="session")
def deployed(plane: ControlPlane, project: Path) -> ControlPlane:
    """With comfysnap itself deployed."""
    variables = {
        "COMFYSNAP_PROJECT": str(project),
        "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
    }
    plane.add_container_environment(variables)
    plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
    return plane


@pytest.fixture
def redeploy(deployed: ControlPlane, project: Path) -> Callable[[], None]:
    """Deploys the same project again."""

    def work() -> None:
        variables = {
            "COMFYSNAP_PROJECT": str(project),
            "COMFYSNAP_FILES_DIR": str(deployed.mounts / "files"),
        }
        deployed.deploy("-m", "comfysnap_server.deploy.app", environment=variables)

    return work


@pytest.fixture
async def backend(deployed: ControlPlane, tmp_path: Path) -> AsyncIterator[ModalBackend]:
    """As in one more gateway container, with the files volume at hand."""
    files = deployed.volumes.committed(deployed.state.named["vo", "snap-files"])
    worker = cast("Any", modal.Cls.from_name("snap", "Worker"))()
    patience = Patience(10)
    platform = Platform(
        records=DictRecords(modal.Dict.from_name("snap-jobs", create_if_missing=True), patience),
        index=DictRecords(modal.Dict.from_name("snap-index", create_if_missing=True), patience),
        listings=lambda owner: DictRecords(
            modal.Dict.from_name(list_name("snap", owner), create_if_missing=True), patience
        ),
        feed=QueueFeed(modal.Queue.from_name("snap-progress", create_if_missing=True), patience),
        calls=FunctionCalls({"default": worker.run}, patience),
        files=MemoryFolder(files),
    )
    backend = ModalBackend(platform, tmp_path, policy=Policy(refresh=0.5))
    await backend.start()
    yield backend
    await backend.stop()


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    """In memory: records, calls and volume that several gateways share."""
    return Cloud(tmp_path / "volume")


@pytest.fixture
def other(cloud: Cloud, tmp_path: Path) -> ModalBackend:
    """A second gateway container."""
    return ModalBackend(cloud.platform, tmp_path / "other")
