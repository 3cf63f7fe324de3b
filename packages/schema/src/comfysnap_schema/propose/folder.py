"""Writes a new workflow folder from a graph and the map proposed for it."""

import json
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from comfysnap_schema.comfy import CATALOGUE_FILE, Catalogue, Drawing, Graph, InputPath, title_of
from comfysnap_schema.propose.lists import proposed_lists
from comfysnap_schema.propose.names import class_word, distinctive_words, slug, unique
from comfysnap_schema.propose.outputs import ProposedOutput
from comfysnap_schema.propose.proposal import Proposal, ProposedInput
from comfysnap_schema.propose.sources import (
    SOURCES_FILE,
    model_tables,
    snapshot,
    tables_text,
)
from comfysnap_schema.propose.view import VALUE_NAMES, GraphView
from comfysnap_schema.wire import WorkflowError
from comfysnap_schema.workflow import DRAWING_FILE, GRAPH_FILE, SPEC_FILE, Workflow

SNAPSHOT_FILE: Final = "snapshot.json"
"""In a workflow folder: the node packs of its export, in the format of ComfyUI-Manager."""


@dataclass(frozen=True)
class Scaffold:
    """A workflow folder that was written."""

    workflow: Workflow
    disabled: Mapping[str, str] = field(default_factory=dict[str, str])
    """Proposed inputs that do not load, with the reason; they are commented out."""


def write_workflow(
    folder: Path,
    graph: Graph,
    proposal: Proposal,
    catalogue: Catalogue | None,
    drawing: Drawing | None = None,
    *,
    editor_workflow: Mapping[str, Any] | None = None,
) -> Scaffold:
    """Write ``graph.json``, ``workflow.toml`` and ``nodes.json``, all or nothing; with a drawing
    that names sources also ``models.toml`` and ``snapshot.json``.

    Args:
        folder: The folder to create.
        graph: The graph.
        proposal: Its map.
        catalogue: The node catalogue to keep beside it.
        drawing: What the export says beside the graph.
        editor_workflow: The workflow as the editor draws it, for ``drawing.json``.

    Raises:
        WorkflowError: ``exists``, ``no_outputs``, or the proposal cannot be loaded.
    """
    if folder.exists():
        raise WorkflowError(
            "exists", "the folder already exists; choose another name", file=str(folder)
        )
    if not any(entry.enabled for entry in proposal.outputs):
        raise WorkflowError(
            "no_outputs",
            "the graph has no known output node; add one, for example SaveImage",
            file=str(folder),
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        draft = Path(name) / folder.name
        draft.mkdir()
        (draft / GRAPH_FILE).write_text(
            json.dumps(graph, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        if catalogue is not None:
            slim = catalogue.slim(node["class_type"] for node in graph.values())
            if len(slim):
                slim.save(draft / CATALOGUE_FILE)
        write_sources(draft, drawing or Drawing())
        write_drawing(draft, editor_workflow)
        disabled = _write_map(draft, proposal, graph, catalogue)
        shutil.move(draft, folder)
    return Scaffold(Workflow.load(folder), disabled)


def write_drawing(folder: Path, editor_workflow: Mapping[str, Any] | None) -> None:
    """Write ``drawing.json``, if the export has the editor's workflow."""
    if editor_workflow is not None:
        text = json.dumps(editor_workflow, ensure_ascii=False) + "\n"
        (folder / DRAWING_FILE).write_text(text, encoding="utf-8")


def write_sources(folder: Path, drawing: Drawing) -> None:
    """Write ``models.toml`` and ``snapshot.json``, as far as the drawing names sources."""
    tables = model_tables(drawing.models)
    if tables:
        head = "# The model files that the export names, to paste into comfysnap.toml.\n\n"
        (folder / SOURCES_FILE).write_text(head + tables_text(tables), encoding="utf-8")
    packs, _ = snapshot(drawing.packs)
    if packs:
        text = json.dumps(packs, indent=4) + "\n"
        (folder / SNAPSHOT_FILE).write_text(text, encoding="utf-8")


def _write_map(
    folder: Path, proposal: Proposal, graph: Graph, catalogue: Catalogue | None
) -> dict[str, str]:
    """Write ``workflow.toml``, disabling inputs that do not load (a graph may have a value that
    its own node rejects)."""
    disabled: dict[str, str] = {}
    while True:
        text = map_text(proposal, graph, disabled, catalogue)
        (folder / SPEC_FILE).write_text(text, encoding="utf-8")
        try:
            Workflow.load(folder)
        except WorkflowError as error:
            section, _, rest = (error.field or "").partition(".")
            name = rest.partition(".")[0]
            if section != "inputs" or name in disabled:
                raise
            disabled[name] = error.message
        else:
            return disabled


def map_text(
    proposal: Proposal,
    graph: Graph,
    disabled: Mapping[str, str],
    catalogue: Catalogue | None = None,
) -> str:
    """The text of a ``workflow.toml``: each entry with its reason, disabled ones and lists as
    comments, then every other value of the graph in a line of its own."""
    import tomlkit

    title = " ".join(part for part in proposal.name.split("_") if part).capitalize()
    head = {"name": proposal.name, "title": title}
    parts = [tomlkit.dumps(head)]
    parts += [_input_text(entry, disabled.get(entry.name)) for entry in proposal.inputs]
    for entry in proposed_lists(GraphView(graph, catalogue), proposal.inputs):
        spec = entry.spec.model_dump(mode="json", exclude_defaults=True)
        first = {key: spec[key] for key in ("type",) if key in spec}
        parts.append(_table("inputs", entry.name, first | spec, entry.reason, enabled=False))
    parts += [_output_text(entry) for entry in proposal.outputs]
    offered = {path for entry in proposal.inputs for path in entry.paths}
    return "\n".join((*parts, *others(graph, offered, {entry.name for entry in proposal.inputs})))


OTHERS: Final = """\
# The other values of the graph. To offer some, remove "# " from [inputs] and from their lines.
# [inputs]
"""


def others(graph: Graph, offered: Collection[InputPath], taken: set[str]) -> Iterator[str]:
    """The values that are not offered, as commented lines of one table.

    Args:
        graph: The graph.
        offered: The inputs that the map has, also as comments.
        taken: Their names; those given here are added.
    """
    lines: list[str] = []
    for node, entry in graph.items():
        for key, value in entry["inputs"].items():
            path = InputPath(node, key)
            if path in offered or value is None or isinstance(value, (list, dict)):
                continue
            title, word = title_of(graph, node), class_word(entry["class_type"])
            titled = key in VALUE_NAMES and title != entry["class_type"]
            words = distinctive_words(title, entry["class_type"])
            own = words or slug(title) if titled else ""
            name = unique(own or slug(key.rsplit(".", 1)[-1]) or "value", (words, word), taken)
            taken.add(name)
            lines.append(
                f"# {name} = {{ path = {json.dumps(str(path), ensure_ascii=False)} }}"
                f"  # {_short(value)}, {' '.join(title.split())}\n"
            )
    if lines:
        yield OTHERS + "".join(lines)


def _short(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _input_text(entry: ProposedInput, disabled: str | None) -> str:
    spec = entry.spec.model_dump(mode="json", exclude_defaults=True)
    reason = f"{entry.reason}; disabled: {disabled}" if disabled else entry.reason
    return _table("inputs", entry.name, spec, reason, enabled=entry.enabled and disabled is None)


def _output_text(entry: ProposedOutput) -> str:
    spec = entry.spec.model_dump(mode="json", exclude_defaults=True) | {
        "kind": str(entry.spec.kind)
    }
    return _table("outputs", entry.name, spec, entry.reason, enabled=entry.enabled)


def _table(
    section: str, name: str, values: Mapping[str, Any], reason: str, *, enabled: bool
) -> str:
    import tomlkit

    text = tomlkit.dumps({section: {name: dict(values)}})
    if not enabled:
        text = "".join(f"# {line}\n" for line in text.splitlines())
    note = " ".join(reason.split())
    return f"# {note[:1].upper()}{note[1:]}.\n{text}"
