"""Compares our import of ComfyUI's official templates with what its own editor makes of them.

    uv run --group editor python -m tests.schema.comfy.ui_export.against_editor \\
        OBJECT_INFO --answers FILE

OBJECT_INFO is the ``/object_info`` of ComfyUI 0.33, whose editor and templates the group has. The
editor takes some minutes for all of them; its answers are kept in FILE for the next run.
Exits 1 when a graph differs, or is refused for another reason than a missing class.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.ui_export.convert import import_ui, is_ui_format
from comfysnap_schema.wire.errors import UiFormatError
from tests.schema.comfy.ui_export.editor import Json, missing, open_editor

TEMPLATES: Final = "comfyui_workflow_templates_json"
_RENDERED: Final = "Load3D sends pictures of its model, which the editor renders for each job"
EXCEPTIONS: Final[Mapping[str, str]] = {
    "api_hunyuan3d_model2uv": _RENDERED,
    "api_hunyuan3d_part": _RENDERED,
    "api_hunyuan3d_retopo_uv": _RENDERED,
    "api_hunyuan3d_smart_topology": _RENDERED,
    "templates_graphic_design_recomposer": (
        "the editor connects a shown primitive by slot numbers that it has not yet corrected, and"
        " sends the name of a model as an aspect ratio, which ComfyUI rejects; ours is the ratio"
    ),
}
"""Templates for which our import is not to give the editor's graph, with the reason."""


@dataclass(frozen=True)
class Comparison:
    """What became of one template."""

    name: str
    refused: tuple[tuple[str, str, str], ...] = ()
    different: tuple[str, ...] = ()
    """One line for each node that differs."""

    @property
    def expected(self) -> bool:
        """Whether it is the same, refused for classes that the catalogue lacks, or an exception."""
        unknown = all(code == "unknown_node" for code, _, _ in self.refused)
        return self.name in EXCEPTIONS or (unknown and not self.different)


def templates() -> dict[str, Json]:
    """The UI exports of the templates package, by name; empty when it is not installed."""
    spec = find_spec(TEMPLATES)
    if spec is None or spec.origin is None:
        return {}
    files = sorted((Path(spec.origin).parent / "templates").glob("*.json"))
    found = {file.stem: json.loads(file.read_text("utf-8")) for file in files}
    return {name: data for name, data in found.items() if is_ui_format(data)}


def compare(name: str, drawing: Json, answer: Json, catalogue: Catalogue) -> Comparison:
    """Compare our graph with the editor's: node ids, classes and inputs."""
    try:
        graph = import_ui(drawing, catalogue)
    except UiFormatError as error:
        return Comparison(name, refused=error.refused)
    ours = {node: (entry["class_type"], entry["inputs"]) for node, entry in graph.items()}
    theirs = {node: (entry.get("class_type"), entry["inputs"]) for node, entry in answer.items()}
    return Comparison(name, different=tuple(_differences(ours, theirs)))


def _differences(ours: Json, theirs: Json) -> Iterator[str]:
    for node in sorted(ours.keys() | theirs.keys()):
        if node not in theirs:
            yield f"{node} {ours[node][0]}: only in ours"
        elif node not in ours:
            yield f"{node} {theirs[node][0]}: only in the editor's"
        elif ours[node] != theirs[node]:
            yield f"{node} {ours[node][0]}: {_inputs(ours[node][1], theirs[node][1])}"


def _inputs(ours: Json, theirs: Json) -> str:
    differing = [
        f"{name} is {ours.get(name)!r:.80}, the editor's {theirs.get(name)!r:.80}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    return "; ".join(differing)


def ask_editor(drawings: Mapping[str, Json], object_info: Json, kept: Path | None) -> Json:
    """The editor's graphs by name, those in the file without asking again."""
    answers: Json = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
    left = [name for name in drawings if name not in answers]
    if not left:
        return answers
    try:
        with open_editor(object_info) as ask:
            for name in left:
                answers[name] = ask(drawings[name])
    finally:
        if kept is not None:
            kept.write_text(json.dumps(answers))
    return answers


def _report(results: list[Comparison]) -> Iterator[str]:
    for result in results:
        for code, node, message in result.refused:
            yield f"refused    {result.name}: node {node}: {message} ({code})"
        for line in result.different:
            yield f"different  {result.name}: node {line}"
        if result.name in EXCEPTIONS:
            yield f"           expected: {EXCEPTIONS[result.name]}"
    refused = sum(bool(result.refused) for result in results)
    different = sum(bool(result.different) for result in results)
    unexpected = sum(not result.expected for result in results)
    yield (
        f"{len(results)} templates: {len(results) - refused - different} same,"
        f" {different} different, {refused} refused; {unexpected} of them unexpected"
    )


def main(arguments: list[str]) -> int:
    """Run the comparison from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("object_info", type=Path)
    parser.add_argument("--answers", type=Path, help="file that keeps the editor's answers")
    parser.add_argument("--only", default="", help="templates whose names contain this")
    options = parser.parse_args(arguments)
    drawings = {name: data for name, data in templates().items() if options.only in name}
    reason = missing() or (None if drawings else "no templates; uv run --group editor ...")
    if reason is not None:
        print(reason)
        return 2
    object_info: Any = json.loads(options.object_info.read_text())
    answers = ask_editor(drawings, object_info, options.answers)
    catalogue = Catalogue.parse(object_info)
    results = [compare(name, data, answers[name], catalogue) for name, data in drawings.items()]
    print(*_report(results), sep="\n")
    return 0 if all(result.expected for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
