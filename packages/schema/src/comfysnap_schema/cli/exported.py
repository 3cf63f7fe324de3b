"""Reads an export for ``comfysnap new`` and ``update``, and says what was changed in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comfysnap_schema.comfy import Catalogue, Drawing, Graph


@dataclass(frozen=True)
class Exported:
    """A workflow as ComfyUI exported it."""

    graph: "Graph"
    drawing: "Drawing"
    editor_workflow: "dict[str, Any] | None"
    """The workflow as the editor draws it, where the export has it."""
    notes: tuple[str, ...]
    """What was left out or rewritten, for people."""


def read_exported(path: Path, catalogue: "Catalogue | None") -> Exported:
    """Read an export: without notes of the editor, and with model names as Linux has them.

    Raises:
        GraphError: As ``read_export``.
        UiFormatError: As ``read_export``.
    """
    from comfysnap_schema.comfy import (
        read_drawing,
        read_editor_workflow,
        read_export,
        with_forward_slashes,
        without_notes,
    )

    nodes, left_out = without_notes(read_export(path, catalogue), catalogue or ())
    graph, renamed = with_forward_slashes(nodes)
    notes: list[str] = []
    if left_out:
        notes.append(f"left out the notes of ComfyUI's editor: node {', '.join(left_out)}")
    if renamed:
        notes.append(f"replaced the backslashes of Windows in {', '.join(renamed)}")
    if catalogue is not None and catalogue.skipped:
        notes.append(f"skipped malformed node classes: {', '.join(catalogue.skipped)}")
    drawing = read_drawing(path, nodes, catalogue)
    return Exported(graph, drawing, read_editor_workflow(path), tuple(notes))
