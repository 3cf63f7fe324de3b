"""Workflow folders and real graphs to test with."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from comfysnap_schema.cli import build_app
from tests.paths import ROOT

GRAPH: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255},
    },
    "2": {
        "class_type": "ImageScale",
        "inputs": {
            "image": ["1", 0],
            "upscale_method": "area",
            "width": 512,
            "height": 512,
            "crop": "disabled",
        },
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}

MAP = """
name = "small"
title = "A small workflow"

[inputs.width]
path = "2.inputs.width"
description = "Width in pixels."
minimum = 16
maximum = 4096

[outputs.images]
node = "3"
many = true
"""

MakeWorkflow = Callable[..., Path]


def comfysnap(*arguments: object) -> tuple[int, str]:
    """Run a command; return its exit code and output, or raise its error."""
    result = CliRunner().invoke(build_app(), [*map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def make_workflow(tmp_path: Path) -> MakeWorkflow:
    """Write a workflow folder below ``tmp_path/workflows``."""

    def make(
        workflow_toml: str = MAP,
        graph: object = GRAPH,
        *,
        folder: str = "small",
        **files: str,
    ) -> Path:
        path = tmp_path / "workflows" / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "workflow.toml").write_text(workflow_toml, encoding="utf-8")
        (path / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
        for name, text in files.items():
            (path / name.replace("__", ".")).write_text(text, encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real workflows beside the checkout."""
    folder = Path(os.environ.get("COMFYSNAP_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real workflows at {folder}")
    return folder


@pytest.fixture
def run_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Run generated source as a module of its own."""

    def run(source: str) -> Any:
        module = ModuleType(f"generated_{len(sys.modules)}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(source, "generated.py", "exec"), module.__dict__)  # noqa: S102 -- our output
        return module

    return run
