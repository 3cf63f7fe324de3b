"""The self-test detects a ComfyUI that cannot run jobs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.engine.comfyui.conftest import SOURCES, real_comfyui
from tests.server.engine.comfyui.trees import LATEST, build_tree


def outcome_of(python: str, checkout: Path, **options: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    done = subprocess.run(
        [python, "-m", "comfysnap_server.engine.comfyui.selftest", str(checkout),
         "--options", json.dumps(options)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, SOURCES))},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("kind", ["tree", pytest.param("real", marks=pytest.mark.comfyui)])
def test_a_comfyui_that_runs_a_graph_passes(kind: str, tmp_path: Path) -> None:
    if kind == "real":
        python, checkout = real_comfyui()
    else:
        python, checkout = sys.executable, build_tree(LATEST, tmp_path / "tree")
    code, output, complaints = outcome_of(python, checkout)
    assert (code, "self-test passed" in output) == (0, True), complaints


def test_a_comfyui_whose_executor_fails_does_not_pass(tmp_path: Path) -> None:
    checkout = build_tree(LATEST, tmp_path / "tree")
    with (checkout / "execution.py").open("a") as execution:
        execution.write(
            "\nasync def broken(self, prompt, prompt_id, extra_data=None, outputs=None):\n"
            "    raise KeyError('a key of the release after')\n"
            "PromptExecutor.execute_async = broken\n"
        )
    code, _, complaints = outcome_of(sys.executable, checkout)
    assert code == 1
    assert "self-test failed" in complaints
    assert "a key of the release after" in complaints


def test_the_device_in_the_options_is_not_needed(tmp_path: Path) -> None:
    checkout = build_tree(LATEST, tmp_path / "tree")
    code, output, complaints = outcome_of(
        sys.executable, checkout, device="cuda", preload=["checkpoints/of-the-volume.safetensors"]
    )
    assert (code, "on cpu" in output) == (0, True), complaints


def test_packs_that_do_not_load_cause_warnings(tmp_path: Path) -> None:
    checkout = build_tree(LATEST, tmp_path / "tree")
    pack = checkout / "custom_nodes" / "broken"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text("raise RuntimeError('on purpose')\n")
    code, _, complaints = outcome_of(sys.executable, checkout)
    assert code == 0
    assert "warning: node pack broken was not loaded: RuntimeError: on purpose" in complaints
    code, _, complaints = outcome_of(sys.executable, checkout, disabled_nodes=["broken"])
    assert (code, "node pack broken" in complaints) == (0, False)
