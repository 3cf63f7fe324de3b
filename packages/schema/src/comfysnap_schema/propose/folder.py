"""Writes a new workflow folder from a graph and the map proposed for it."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comfysnap_schema.comfy import CATALOGUE_FILE, Catalogue, Graph
from comfysnap_schema.propose.outputs import ProposedOutput
from comfysnap_schema.propose.proposal import Proposal, ProposedInput
from comfysnap_schema.wire import WorkflowError
from comfysnap_schema.workflow import GRAPH_FILE, SPEC_FILE, Workflow


@dataclass(frozen=True)
class Scaffold:
    """A workflow folder that was written."""

    workflow: Workflow
    disabled: Mapping[str, str] = field(default_factory=dict[str, str])
    """Proposed inputs that do not load, with the reason; they are commented out."""


def write_workflow(
    folder: Path, graph: Graph, proposal: Proposal, catalogue: Catalogue | None
) -> Scaffold:
    """Write ``graph.json``, ``workflow.toml`` and ``nodes.json``, all or nothing.

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
        disabled = _write_map(draft, proposal)
        shutil.move(draft, folder)
    return Scaffold(Workflow.load(folder), disabled)


def _write_map(folder: Path, proposal: Proposal) -> dict[str, str]:
    """Write ``workflow.toml``, disabling inputs that do not load (a graph may have a value that
    its own node rejects)."""
    disabled: dict[str, str] = {}
    while True:
        (folder / SPEC_FILE).write_text(map_text(proposal, disabled), encoding="utf-8")
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


def map_text(proposal: Proposal, disabled: Mapping[str, str]) -> str:
    """The text of a ``workflow.toml``: each entry with its reason, disabled ones as comments."""
    import tomlkit

    title = " ".join(part for part in proposal.name.split("_") if part).capitalize()
    head = {"name": proposal.name, "title": title}
    parts = [tomlkit.dumps(head)]
    parts += [_input_text(entry, disabled.get(entry.name)) for entry in proposal.inputs]
    parts += [_output_text(entry) for entry in proposal.outputs]
    return "\n".join(parts)


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
