import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from comfysnap_server.nodepacks import ProbeError, run_probe
from tests.server.engine.comfyui.conftest import REAL, real_comfyui
from tests.server.engine.comfyui.trees import RELEASES, build_tree


def test_a_probe_imports_only_packages_that_comfyui_has_too() -> None:
    """It runs in ComfyUI's interpreter, without the packages of the gateway and of deployments."""
    code = (
        "import sys, comfysnap_server.nodepacks.probe, comfysnap_server.engine.comfyui.engine\n"
        "import comfysnap_server.engine.comfyui.selftest\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*names & {'fastapi', 'starlette', 'uvicorn', 'modal', 'typer', 'huggingface_hub'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_folder_without_comfyui_cannot_be_probed(tmp_path: Path) -> None:
    with pytest.raises(ProbeError):
        run_probe(tmp_path, sys.executable)


@pytest.fixture(params=[*RELEASES, REAL])
def comfyui(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A checkout with ``custom_nodes`` of its own, and its interpreter."""
    copy = tmp_path / "ComfyUI"
    if request.param != "real":
        return build_tree(request.param, copy), sys.executable
    python, checkout = real_comfyui()
    copy.mkdir()
    for item in checkout.iterdir():
        if item.is_file():
            shutil.copy(item, copy)  # ComfyUI finds its folders by the real path of its files
        elif item.name not in {"custom_nodes", ".git"}:
            (copy / item.name).symlink_to(item)
    return copy, python


def test_a_probe_lists_classes_and_packs_that_call_cuda(
    comfyui: tuple[Path, str],
) -> None:
    checkout, python = comfyui
    pack = checkout / "custom_nodes" / "greedy"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text(
        "import torch\nif torch.cuda.is_available():\n    raise SystemExit\n"
        "class Greedy:\n    CATEGORY = 'x'\n    RETURN_TYPES = ()\n    FUNCTION = 'run'\n"
        "    @classmethod\n    def INPUT_TYPES(cls):\n        return {'required': {}}\n"
        "    def run(self):\n        return ()\n"
        "NODE_CLASS_MAPPINGS = {'Greedy': Greedy}\n"
    )
    probe = run_probe(checkout, python)
    assert probe.classes["KSampler"] == "nodes"
    assert probe.classes["Greedy"] == "custom_nodes.greedy"
    assert probe.packs["greedy"] is None
    assert probe.self_test is None
    assert {(call["pack"], call["function"]) for call in probe.touched} == {
        ("greedy", "is_available")
    }


@pytest.mark.parametrize("script", ["sleep 20", "echo ready"])
def test_a_comfyui_that_hangs_or_prints_nothing_cannot_be_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr("comfysnap_server.nodepacks.probe.PROBE_TIMEOUT", 0.5)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {script}\n")
    python.chmod(0o755)
    with pytest.raises(ProbeError):
        run_probe(tmp_path, str(python))
