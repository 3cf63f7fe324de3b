"""A deployment on the tests' control plane, for the client's benchmarks."""

import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from local_server import ROOT, RUNS

PROJECT: Final = """
name = "faults"
workflows = {workflows!r}
default = "hello"
[deploy]
engine = "simulated"
workflows = ["hello"]
max_containers = 2
auth = "none"
[deploy.engine_options]
log = {log!r}
[deploy.gateway]
max_containers = 1
"""
COUNTING: Final = """
from comfysnap_server.engine import registry
registry.ENGINES["simulated"] = "local_server:CountingEngine"
"""
"""Runs when a container starts: a deployment accepts only built-in engines."""


@contextmanager
def modal_server() -> Generator[tuple[str, Path]]:
    """Deploy; yields the gateway's address, and the folder with the log of the engine's runs."""
    sys.path.insert(0, str(ROOT))
    from tests.control_plane import ControlPlane

    with tempfile.TemporaryDirectory() as folder, ControlPlane() as plane:
        data = Path(folder)
        (data / "sitecustomize.py").write_text(COUNTING)
        project = data / "comfysnap.toml"
        project.write_text(PROJECT.format(workflows=str(ROOT / "workflows"), log=str(data / RUNS)))
        variables = {
            "COMFYSNAP_PROJECT": str(project),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
        }
        path = f"{folder}:{ROOT / 'benchmarks'}"
        plane.add_container_environment({**variables, "PYTHONPATH": path})
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        yield plane.function("gateway").web_url.rstrip("/"), data
