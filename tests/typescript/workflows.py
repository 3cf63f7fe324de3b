"""Workflows with every kind of input, as folders."""

import json
from pathlib import Path

from comfysnap_schema.workflow import Workflow
from tests.schema.codegen.test_agreement import EVERYTHING
from tests.schema.codegen.test_typescript import LISTS, LISTS_GRAPH, LISTS_NODES
from tests.schema.conftest import GRAPH


def everything(folder: Path) -> Workflow:
    """Scalars, choices, files and JSON, required and not."""
    return _written(
        folder / "everything",
        **{
            "workflow.toml": EVERYTHING, "graph.json": json.dumps(GRAPH),
            "prepare.py": "def prepare(graph, inputs):\n    return graph\n",
        },
    )  # fmt: skip


def lists(folder: Path) -> Workflow:
    """Lists, models and LoRAs."""
    return _written(
        folder / "lists",
        **{
            "workflow.toml": LISTS, "graph.json": json.dumps(LISTS_GRAPH),
            "nodes.json": json.dumps(LISTS_NODES),
        },
    )  # fmt: skip


def _written(folder: Path, **files: str) -> Workflow:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return Workflow.load(folder)
