"""An image compiles ComfyUI and its node packs; a container that starts compiles nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from comfysnap_server.deploy.image import compile_command
from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import REAL, Driver, real_comfyui
from tests.server.engine.comfyui.trees import PACKS, RELEASES, build_tree


def _bytecode(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.pyc")}


def _checkout(kind: str, folder: Path) -> tuple[str, Path]:
    """Interpreter, and a checkout of its own without bytecode and with the test packs."""
    checkout = folder / "ComfyUI"
    python = sys.executable
    if kind == "real":
        python, original = real_comfyui()
        unwanted = {".git", "models", "custom_nodes", "input", "output", "temp", "user"}

        def ignored(folder: str, names: list[str]) -> set[str]:
            top = unwanted if Path(folder) == original else set[str]()
            return {name for name in names if name == "__pycache__" or name in top}

        shutil.copytree(original, checkout, ignore=ignored)
        (checkout / "models").mkdir()
    else:
        build_tree(kind, checkout)
    shutil.copytree(
        PACKS,
        checkout / "custom_nodes",
        ignore=shutil.ignore_patterns("__pycache__"),
        dirs_exist_ok=True,
    )
    return python, checkout


@pytest.mark.parametrize("kind", [*RELEASES, REAL])
def test_a_container_compiles_no_module_of_comfyui_and_its_packs(tmp_path: Path, kind: str) -> None:
    python, checkout = _checkout(kind, tmp_path)
    assert _bytecode(checkout) == {}
    path = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
    command = compile_command(str(checkout))
    subprocess.run(command, shell=True, check=True, env={**os.environ, "PATH": path})  # noqa: S602
    built = _bytecode(checkout)
    assert len(built) > 10
    folder = tmp_path / "driver"
    folder.mkdir()
    driver = Driver(python, checkout, folder, PYTHONDONTWRITEBYTECODE="")
    try:
        assert driver.load() == {"event": "loaded"}, driver.log
        done, _ = driver.run(graphs.hello())
        assert done["status"] == "succeeded", done
    finally:
        driver.close()
    assert _bytecode(checkout) == built
