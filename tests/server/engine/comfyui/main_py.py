"""Starts the processes to compare, one with ``main.py`` and one with the engine."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from comfysnap_server.pins import TESTED, read_version
from tests.server.engine.comfyui.conftest import HERE, SOURCES, real_comfyui


def copy_checkout(folder: Path) -> Path:
    """A copy of the real ComfyUI without models, since main.py writes into its folder."""
    _, path = real_comfyui()
    own = {".git", "models", "output", "user", "temp"}

    def ignored(where: str, names: list[str]) -> set[str]:
        return own & set(names) if Path(where) == path else set()

    return shutil.copytree(path, folder, ignore=ignored)


def made_by(
    way: str, checkout: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The result of ``parity.py``; skips the test if an old main.py does not start."""
    python, _ = real_comfyui()
    paths = os.pathsep.join(map(str, SOURCES))
    done = subprocess.run(
        [python, str(HERE / "parity.py"), way, str(checkout), *arguments],
        env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=200,
    )
    if way == "main" and done.returncode and read_version(checkout) != TESTED[-1]:
        # the installed packages are too new for it
        pytest.skip(f"main.py does not start here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
