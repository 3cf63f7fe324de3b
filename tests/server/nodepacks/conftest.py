import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comfysnap_server.nodepacks.__main__ import main
from comfysnap_server.nodepacks.install import REPORT_FILE
from tests.server.nodepacks.sources import Host, make_wheel, serve

Install = Callable[..., tuple[int, dict[str, Any], str]]

PACKAGES = [
    ("torch", "2.8.0"),
    ("torch", "2.9.0"),
    ("alpha", "1.0"),
    ("alpha", "2.0"),
    ("beta", "1.0", "alpha<2"),
    ("gamma", "1.0", "alpha>=2"),
    ("pydantic", "2.12.0"),
    ("pydantic", "1.10.0"),
]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with serve(tmp_path / "repositories") as host:
        yield host


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Host]:
    """A host that requires a token."""
    with serve(tmp_path / "private", token="sesame") as host:
        yield host


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for name, version, *requires in PACKAGES:
        make_wheel(folder, name, version, *requires)
    return folder


@pytest.fixture
def python(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter with the image's torch, which only installs from our wheels."""
    settings = tmp_path / "uv.toml"
    settings.write_text(f'no-index = true\nfind-links = ["{wheels}"]\n')
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_CONFIG_FILE", str(settings))
    environment = tmp_path / "venv"
    subprocess.run(["uv", "venv", "-q", "--python", sys.executable, environment], check=True)
    executable = environment / "bin" / "python"
    install = ["uv", "pip", "install", "-q", "--python", executable, "torch==2.8.0"]
    subprocess.run(install, check=True)
    return executable


@pytest.fixture
def install(
    tmp_path: Path, python: Path, host: Host, capsys: pytest.CaptureFixture[str]
) -> Install:
    """Installs a snapshot; returns the exit code, the report and the log."""

    def install(snapshot: dict[str, Any], *options: str) -> tuple[int, dict[str, Any], str]:
        project, comfyui = tmp_path / "project", tmp_path / "comfyui"
        project.mkdir(exist_ok=True)
        comfyui.mkdir(exist_ok=True)
        (project / "snapshot.json").write_text(json.dumps(snapshot))
        code = main(
            [
                "install",
                str(project / "snapshot.json"),
                str(comfyui),
                f"--python={python}",
                f"--registry={host.url}",
                "--pause=0",
                *options,
            ]
        )
        report = json.loads((comfyui / REPORT_FILE).read_text())
        return code, report, "".join(capsys.readouterr())

    return install


@pytest.fixture
def git_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Arguments of every git command."""
    log, folder = tmp_path / "git.log", tmp_path / "path"
    folder.mkdir()
    wrapper = folder / "git"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {shutil.which("git")} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return log.read_text
