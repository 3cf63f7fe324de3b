"""An application of its own: only the public API, tests on the mock kit; `make types` checks it."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parent / "project"


def test_the_project_passes_its_own_tests() -> None:
    ran = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "--rootdir", PROJECT, "-c", PROJECT / "pyproject.toml", ".",
        ],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stdout + ran.stderr
