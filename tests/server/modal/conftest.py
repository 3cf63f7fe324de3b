"""One control plane for the session, and Modal's client pointed at it."""

from collections.abc import Iterator
from pathlib import Path

import modal
import pytest

from tests.control_plane import ControlPlane

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
    plane.set_container_environment({"PYTHONPATH": str(HERE), **mount})
    plane.deploy(str(HERE / "toy_app.py"), environment=mount, cwd=HERE)
    return plane
