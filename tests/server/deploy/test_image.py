import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import comfysnap_schema
import comfysnap_server
from comfysnap_schema.wire.errors import ProjectError
from comfysnap_schema.workflow import SettingsError
from comfysnap_server import pins
from comfysnap_server.deploy.deployment import read_deployment
from comfysnap_server.deploy.image import (
    build_image,
    comfyui_commit,
    gateway_layers,
    is_locked,
    read_nodes,
    requirements,
    self_test_command,
)
from tests.server.engine.comfyui.conftest import TREE, real_comfyui

ONE, OTHER = "1" * 40, "2" * 40
GATEWAYS = ("gateway", "gateway-mcp")


@pytest.mark.parametrize(
    ("setting", "snapshot", "expected"),
    [
        (None, None, pins.COMMIT),
        (ONE, None, ONE),
        ("0.28.0", None, pins.RELEASES["0.28.0"]),
        ("v0.28.0", pins.RELEASES["0.28.0"], pins.RELEASES["0.28.0"]),
        (None, OTHER, OTHER),
        (ONE, ONE, ONE),
    ],
)
def test_the_commit_comes_from_the_settings_or_the_snapshot(
    write: Callable[[str], Path],
    tmp_path: Path,
    setting: str | None,
    snapshot: str | None,
    expected: str,
) -> None:
    (tmp_path / "snapshot.json").write_text(json.dumps({"comfyui": snapshot}))
    pin = f'comfyui = "{setting}"' if setting else ""
    deployment = read_deployment(write(f'[deploy]\nnodes = "snapshot.json"\n{pin}'))
    assert comfyui_commit(deployment, read_nodes(deployment)) == expected


def test_two_different_commits_are_rejected(write: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "snapshot.json").write_text(json.dumps({"comfyui": OTHER}))
    text = f'[deploy]\nnodes = "snapshot.json"\ncomfyui = "{ONE}"'
    with pytest.raises(ProjectError) as raised:
        build_image(read_deployment(write(text)))
    assert (raised.value.code, raised.value.field) == ("comfyui_conflict", "deploy.comfyui")


def test_an_error_in_the_snapshot_names_its_entry(
    write: Callable[[str], Path], tmp_path: Path
) -> None:
    file = tmp_path / "snapshot.json"
    file.write_text(json.dumps({"cnr_custom_nodes": {"pack": "latest"}}))
    with pytest.raises(ProjectError) as raised:
        build_image(read_deployment(write('[deploy]\nnodes = "snapshot.json"')))
    assert (raised.value.code, raised.value.field) == ("not_pinned", "cnr_custom_nodes.pack")
    assert raised.value.file == str(file.resolve())


@pytest.mark.parametrize(("enabled", "found"), [("", 0), ("true", 1), ("false", 0)])
def test_the_gateway_has_the_packages_of_mcp_when_it_is_turned_on(
    write: Callable[[str], Path],
    write_workflow: Callable[[str], Path],
    enabled: str,
    found: int,
) -> None:
    write_workflow("flow")
    table = f"[serve.mcp]\nenabled = {enabled}" if enabled else ""
    packages, *_ = gateway_layers(read_deployment(write(f"[deploy]\n{table}")))
    lines = [Path(requirements(name)).read_text().splitlines() for name in GATEWAYS]
    counts = [sum("==" in line and line[0] != "#" for line in each) for each in lines]
    assert counts[0] < counts[1]
    assert packages.detail == f"{counts[found]} pins with hashes"


def test_an_unknown_version_is_rejected_with_the_newest_known_ones(
    write: Callable[[str], Path],
) -> None:
    with pytest.raises(SettingsError) as raised:
        read_deployment(write('[deploy]\ncomfyui = "0.99.0"'))
    (error,) = raised.value.errors
    assert error.message == (
        "unknown ComfyUI version '0.99.0'; known versions: "
        f"{', '.join(list(pins.RELEASES)[:5])} and older, down to 0.3.48; "
        "for other versions, pass the commit (40 hex digits)"
    )


@pytest.mark.parametrize(
    ("settings", "locked"),
    [
        ("", True),
        (f'comfyui = "{pins.VERSION}"\npython = "3.13"', True),
        ('comfyui = "0.28.0"', False),
        ('torch = "2.10.0"', False),
        ('cuda = "12.8"', False),
    ],
)
def test_the_lock_is_used_for_the_release_torch_and_cuda_it_was_made_for(
    write: Callable[[str], Path], settings: str, locked: bool
) -> None:
    deployment = read_deployment(write(f"[deploy]\n{settings}"))
    assert is_locked(deployment.settings, comfyui_commit(deployment, None)) is locked


@pytest.mark.parametrize(
    ("torch", "torchaudio"),
    [("2.8.0", "2.8.0"), ("2.11.0", "2.11.0"), ("2.11", "2.11"), ("2.13.0", "2.11.0")],
)
def test_torchaudio_is_the_build_for_the_chosen_torch(torch: str, torchaudio: str) -> None:
    assert pins.torch_packages(torch) == (
        f"torch=={torch}", "torchvision", f"torchaudio=={torchaudio}",
    )  # fmt: skip


@pytest.fixture(params=["tree", pytest.param("real", marks=pytest.mark.comfyui)])
def self_test(
    request: pytest.FixtureRequest, write: Callable[[str], Path], tmp_path: Path
) -> Callable[[str], "subprocess.CompletedProcess[str]"]:
    """Runs the self-test of the image build for a ``[deploy]``."""
    python, source = (sys.executable, TREE) if request.param == "tree" else real_comfyui()
    comfyui, build, models = tmp_path / "comfyui", tmp_path / "build", tmp_path / "models"
    shutil.copytree(source, comfyui, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    shutil.rmtree(comfyui / "models")
    (comfyui / "models").symlink_to(models)
    for package in (comfysnap_schema, comfysnap_server):
        folder = Path(package.__path__[0])
        for file in folder.rglob("*.py"):  # all that the build is given
            copy = build / folder.name / file.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)

    def run(settings: str) -> "subprocess.CompletedProcess[str]":
        folders = {"build": str(build), "comfyui": str(comfyui), "models": str(models)}
        command = self_test_command(read_deployment(write(f"[deploy]\n{settings}")), **folders)
        variables = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "COMFYUI_PATH"}}
        return subprocess.run(
            ["/bin/sh", "-c", command],
            env=variables | {"PATH": f"{Path(python).parent}:/usr/bin:/bin"},
            cwd="/",
            capture_output=True,
            text=True,
        )

    return run


def test_the_build_ends_with_a_graph_and_leaves_no_files(
    self_test: Callable[[str], "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    done = self_test(
        'preload = ["checkpoints/none.safetensors"]\nafter_restore = ["gone"]\n'
        'snapshot = "off"\nengine_options = {disabled_nodes = ["websocket_image_save.py"]}'
    )
    assert done.returncode == 0, done.stderr
    assert "self-test passed" in done.stdout
    assert not (tmp_path / "build").exists()
    assert not (tmp_path / "models").exists()


def test_a_comfyui_that_cannot_run_a_graph_fails_the_build(
    self_test: Callable[[str], "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    nodes = tmp_path / "comfyui" / "nodes.py"
    nodes.write_text(nodes.read_text().replace("NODE_CLASS_MAPPINGS", "OTHER_NAME"))
    done = self_test("")
    assert done.returncode == 1
    assert "self-test failed" in done.stderr
