"""What is proposed for real workflows, as lines that a person can read and check.

``python -m tests.schema.propose.proposals`` writes ``expected.json`` anew, for the templates that
it names, to look at its diff. It has names and ranges only, nothing of the workflows themselves.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from comfysnap_schema.comfy.catalogue import CATALOGUE_FILE, Catalogue
from comfysnap_schema.comfy.graph import Graph, read_graph
from comfysnap_schema.comfy.ui_export.convert import import_ui, is_ui_format
from comfysnap_schema.comfy.ui_export.knowledge import Drawing, drawing_of
from comfysnap_schema.propose.folder import write_workflow
from comfysnap_schema.propose.proposal import propose
from comfysnap_schema.wire.errors import UiFormatError
from comfysnap_schema.workflow.apply import Workflow
from comfysnap_schema.workflow.parameters import Parameter
from tests.paths import ROOT

EXPECTED = Path(__file__).with_name("expected.json")
PACKAGE = "comfyui_workflow_templates_json"
RELEASE = "0.1.47"
"""Of the package, whose templates were looked at."""


@dataclass(frozen=True)
class Template:
    """One of ComfyUI's official templates that can be imported."""

    graph: Graph
    drawing: Drawing
    version: str
    """Start of the hash of its file."""


def templates_folder() -> Path | None:
    """Where the templates are: ``COMFYSNAP_TEMPLATES``, else the installed package."""
    if named := os.environ.get("COMFYSNAP_TEMPLATES"):
        return Path(named)
    spec = find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) / "templates" if places else None


def read_templates(folder: Path, catalogue: Catalogue) -> tuple[dict[str, Template], list[str]]:
    """The templates by name, and the names of those that the import refuses."""
    found: dict[str, Template] = {}
    refused: list[str] = []
    for path in sorted(folder.glob("*.json")):
        content = path.read_bytes()
        data: Any = json.loads(content)
        if not is_ui_format(data):
            continue
        try:
            graph = import_ui(data, catalogue)
        except UiFormatError:
            refused.append(path.stem)
            continue
        version = hashlib.sha256(content).hexdigest()[:12]
        found[path.stem] = Template(graph, drawing_of(data, graph, catalogue), version)
    return found, refused


def of_template(template: Template, catalogue: Catalogue) -> list[str]:
    """The proposal for a template."""
    return [template.version, *_lines(template.graph, catalogue, template.drawing)]


def of_ours() -> dict[str, list[str]]:
    """The proposals for the workflows of this repository."""
    folders = sorted(path.parent for path in (ROOT / "workflows").glob(f"*/{CATALOGUE_FILE}"))
    return {
        folder.name: list(
            _lines(read_graph(folder / "graph.json"), Catalogue.load(folder / CATALOGUE_FILE))
        )
        for folder in folders
    }


def of_exports(shared: Path) -> dict[str, list[str]]:
    """The proposals for the API exports of others, without a catalogue."""
    paths = sorted((shared / "workflows").glob("*.json"))
    return {path.stem: list(_lines(read_graph(path), None)) for path in paths}


def _lines(
    graph: Graph, catalogue: Catalogue | None, drawing: Drawing | None = None
) -> Iterator[str]:
    proposal = propose(graph, catalogue, name="x", drawing=drawing)
    with tempfile.TemporaryDirectory() as folder:
        workflow = write_workflow(Path(folder) / "x", graph, proposal, catalogue).workflow
        yield from (_input(parameter) for parameter in workflow.parameters.values())
        yield from _outputs(workflow)


def _input(parameter: Parameter) -> str:
    ends = (parameter.minimum, parameter.maximum)
    bounds = "" if ends == (None, None) else " {}..{}".format(*map(_end, ends))
    choices = " choice" if parameter.choices else ""
    step = f" by {parameter.multiple_of}" if parameter.multiple_of else ""
    places = f" x{len(parameter.paths)}" if len(parameter.paths) > 1 else ""
    kind = parameter.kind or parameter.type
    random = " random" if parameter.random else ""
    return f"{parameter.name}: {kind}{choices}{bounds}{step}{random}{places}"


def _end(value: float | None) -> str:
    return "" if value is None else f"{value:g}" if abs(value) < 10**6 else f"{value:.3g}"


def _outputs(workflow: Workflow) -> Iterator[str]:
    for name, spec in workflow.outputs.items():
        yield f"-> {name}: {spec.kind}{'[]' if spec.many else ''}"


def main() -> None:
    """Write the expected proposals anew."""
    shared = Path(os.environ.get("COMFYSNAP_SHARED", ROOT.parent / "shared"))
    folder = templates_folder()
    if folder is None:
        raise SystemExit(f"no {PACKAGE}; set COMFYSNAP_TEMPLATES")
    catalogue = Catalogue.read(shared / "object_info-0.33.json")
    found, _ = read_templates(folder, catalogue)
    names = json.loads(EXPECTED.read_text(encoding="utf-8"))["templates"]
    expected = {
        "workflows": of_ours(),
        "exports": of_exports(shared),
        "templates": {name: of_template(found[name], catalogue) for name in names},
    }
    EXPECTED.write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
