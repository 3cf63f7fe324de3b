"""ComfyUI's official templates go all the way with no hand edit.

They come with the dependency group ``templates``; without it, these tests are skipped.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema import codegen
from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.graph import Graph
from comfysnap_schema.comfy.ui_export.convert import import_ui, is_ui_format
from comfysnap_schema.comfy.validation import validate_graph
from comfysnap_schema.propose.folder import write_workflow
from comfysnap_schema.propose.proposal import propose
from comfysnap_schema.wire.errors import UiFormatError
from comfysnap_schema.workflow.apply import load_workflows
from comfysnap_schema.workflow.check import check_workflow

pytestmark = pytest.mark.shared

PACKAGE = "comfyui_workflow_templates_json"


@dataclass
class Sorted:
    """The templates by what becomes of them."""

    good: dict[str, Graph] = field(default_factory=dict[str, Graph])
    refused: dict[str, UiFormatError] = field(default_factory=dict[str, UiFormatError])
    other_version: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Converted, but made for classes that have changed since the catalogue."""


@pytest.fixture(scope="module")
def templates() -> dict[str, Any]:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"no {PACKAGE}; uv run --group templates pytest ...")
    folder = Path(spec.submodule_search_locations[0]) / "templates"
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
    return {name: found[name] for name in sorted(found) if is_ui_format(found[name])}


@pytest.fixture(scope="module")
def catalogue(shared: Path) -> Catalogue:
    return Catalogue.read(shared / "object_info.json")


@pytest.fixture(scope="module")
def converted(templates: dict[str, Any], catalogue: Catalogue) -> Sorted:
    result = Sorted()
    for name, data in templates.items():
        try:
            graph = import_ui(data, catalogue)
        except UiFormatError as error:
            result.refused[name] = error
            continue
        codes = [found.code for found in validate_graph(graph, catalogue)]
        if codes:
            result.other_version[name] = codes
        else:
            result.good[name] = graph
    return result


def test_every_template_is_converted_or_rejected_by_name(converted: Sorted) -> None:
    assert len(converted.good) >= 100
    reasons = Counter(code for e in converted.refused.values() for code, _, _ in e.refused)
    assert set(reasons) <= {"unknown_node", "custom_widget"}
    for name, error in converted.refused.items():
        assert any(code == "unknown_node" for code, _, _ in error.refused), name
    found = {code for codes in converted.other_version.values() for code in codes}
    assert found <= {"value_not_in_list", "bad_linked_input"}


def test_converted_templates_become_workflows_that_pass_every_check(
    converted: Sorted, catalogue: Catalogue, tmp_path: Path
) -> None:
    for title, graph in converted.good.items():
        name = "t_" + re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
        proposal = propose(graph, catalogue, name=name)
        scaffold = write_workflow(tmp_path / "workflows" / name, graph, proposal, catalogue)
        assert scaffold.disabled == {}, title
        assert scaffold.workflow.parameters, title
        assert check_workflow(scaffold.workflow).issues == (), title
    workflows = load_workflows(tmp_path / "workflows")
    models = tmp_path / "models"
    codegen.write(models, codegen.generate(workflows, package="models"))
    config = {"include": ["models"], "typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    pyright = subprocess.run(
        [sys.executable, "-m", "pyright", "-p", str(tmp_path), "--pythonpath", sys.executable],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert pyright.returncode == 0, pyright.stdout[-3000:]
