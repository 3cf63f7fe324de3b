"""ComfyUI's API-format graph: reading, addressing and hashing it."""

import hashlib
import json
import math
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NotRequired, cast

from pydantic import JsonValue
from typing_extensions import TypedDict  # Pydantic needs this one before Python 3.12

from comfysnap_schema.wire import GraphError

HOW_TO_EXPORT = "in ComfyUI, choose Workflow > Export (API)"
MAX_GRAPH_BYTES = 16 * 1024 * 1024
NOTES: Final = frozenset(
    {
        "Note", "MarkdownNote", "Label (rgthree)", "Bookmark (rgthree)",
        "Fast Groups Muter (rgthree)", "Fast Groups Bypasser (rgthree)", "Fast Muter (rgthree)",
        "Fast Bypasser (rgthree)", "Fast Actions Button (rgthree)", "Node Collector (rgthree)",
        "Mute / Bypass Relay (rgthree)", "Mute / Bypass Repeater (rgthree)",
    }
)  # fmt: skip
"""Annotations and controls of ComfyUI's editor; they never run."""
_NODE_KEYS: Final = ("class_type", "inputs", "_meta")
_WRAPPERS: Final = ("prompt", "output", "workflow", "workflow_json", "input")


class Node(TypedDict):
    """One node; an input is a value or a link ``[node_id, output_index]``."""

    class_type: str
    inputs: dict[str, JsonValue]
    _meta: NotRequired[dict[str, JsonValue]]


Graph = dict[str, Node]
"""Node id to node, as ComfyUI's POST /prompt accepts it."""


@dataclass(frozen=True, order=True)
class InputPath:
    """The path of one input in a graph, written ``NODE.inputs.NAME``."""

    node: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "InputPath":
        """Parse ``NODE.inputs.NAME``; both node ids and names may contain ``.``.

        Raises:
            GraphError: ``invalid_path``.
        """
        node, _, name = text.partition(".inputs.")
        if not node or not name:
            raise GraphError(
                "invalid_path",
                f"{text!r} is not a valid path: use NODE.inputs.NAME, for example 6.inputs.text",
            )
        return cls(node, name)

    def __str__(self) -> str:
        """As written in ``workflow.toml``."""
        return f"{self.node}.inputs.{self.name}"


def is_link(value: object) -> bool:
    """Whether an input value is ``[node_id, output_index]``, by ComfyUI's own rule
    (``comfy_execution/graph_utils.py``: is_link)."""
    if not isinstance(value, list):
        return False
    items = cast("list[object]", value)
    return (
        len(items) == 2
        and isinstance(items[0], str)
        and isinstance(items[1], (int, float))
        and not isinstance(items[1], bool)
    )


def title_of(graph: Graph, node: str) -> str:
    """The node's title in the editor, or its class."""
    entry = graph[node]
    meta: object = entry.get("_meta")
    title = cast("dict[str, object]", meta).get("title") if isinstance(meta, dict) else None
    return title if isinstance(title, str) and title else entry["class_type"]


def read_graph(path: Path) -> Graph:
    """Read a ``graph.json``.

    Raises:
        GraphError: ``unreadable``, ``too_large``, ``invalid_json``, and those of ``parse_graph``.
    """
    return parse_graph(read_json(path), file=str(path))


def read_json(path: Path) -> Any:
    """Read a file that may contain a graph, in either format.

    Raises:
        GraphError: ``unreadable``, ``too_large``, ``invalid_json``.
    """
    try:
        if path.stat().st_size > MAX_GRAPH_BYTES:
            raise GraphError("too_large", f"larger than {MAX_GRAPH_BYTES} bytes", file=str(path))
        data = path.read_bytes()
    except OSError as error:
        raise GraphError("unreadable", error.strerror or str(error), file=str(path)) from error
    return parse_json(data, file=str(path))


def parse_json(data: bytes | str, *, file: str | None = None) -> Any:
    """Parse JSON that may contain a graph. NaN and Infinity, which only Python writes, become
    null, as ComfyUI's editor writes them.

    Raises:
        GraphError: ``invalid_json``.
    """
    try:
        return json.loads(data, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise GraphError("invalid_json", f"not valid JSON: {error}", file=file) from error


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def unwrap(data: Any) -> Any:
    """The workflow inside of what it is kept in: the request body of ``POST /prompt``
    (``{"prompt": ...}``) or of a hosted worker (``{"input": {"workflow": ...}}``), what ComfyUI's
    editor makes (``{"output": ..., "workflow": ...}``), an entry of ComfyUI's ``/history``. It may
    be a text, as in the metadata of a picture."""
    found: object = data
    while True:
        if isinstance(found, list):
            entry = cast("list[object]", found)  # number, id, graph, extra data, output nodes
            if len(entry) < 3 or not isinstance(entry[2], dict):
                return cast("Any", found)
            found = cast("object", entry[2])
        outer = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        if isinstance(outer.get("nodes"), list):
            return cast("Any", found)
        inner = [each for key in _WRAPPERS if (each := _kept(outer.get(key))) is not None]
        inner += [each["prompt"] for each in outer.values() if len(outer) == 1 and is_history(each)]
        if not inner or "class_type" in inner[0]:
            return cast("Any", found)
        found = inner[0]


def is_history(value: object) -> bool:
    """Whether a value is what ``/history`` says of a prompt."""
    return isinstance(value, dict) and isinstance(cast("dict[str, Any]", value).get("prompt"), list)


def _kept(value: object) -> Any:
    """An object or list under a wrapper, also as text; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = parse_json(value)
        except GraphError:
            return None
    return cast("Any", value) if isinstance(value, (dict, list)) else None


def without_notes(graph: Graph, known: Container[str] = ()) -> tuple[Graph, tuple[str, ...]]:
    """The graph without notes of ComfyUI's editor, which ComfyUI rejects in an API graph, and the
    ids of those left out. A class in ``known``, and a node that another is linked to, stays."""
    linked = {
        str(value[0])
        for node in graph.values()
        for value in node["inputs"].values()
        if isinstance(value, list) and value
    }
    notes = tuple(
        node_id
        for node_id, node in graph.items()
        if node["class_type"] in NOTES and node["class_type"] not in known and node_id not in linked
    )
    return {key: node for key, node in graph.items() if key not in notes}, notes


def parse_graph(data: Any, *, file: str | None = None) -> Graph:
    """Check that ``data`` is an API-format graph, and return it without what it is wrapped in (as
    ``unwrap``) and without keys that a saved graph has and a request must not (``is_changed``).

    Raises:
        GraphError: ``ui_format``, ``not_a_graph``, ``empty_graph``, ``invalid_node``.
    """
    data = unwrap(data)
    if not isinstance(data, dict):
        raise GraphError("not_a_graph", "a graph must be a JSON object of nodes", file=file)
    graph = cast("dict[str, Any]", data)
    if isinstance(graph.get("nodes"), list) and "links" in graph:
        raise GraphError(
            "ui_format",
            f"this is a UI-format export, not an API-format graph: {HOW_TO_EXPORT}",
            file=file,
        )
    if not graph:
        raise GraphError("empty_graph", "the graph has no nodes", file=file)
    for node_id, node in graph.items():
        if not _is_node(node):
            raise GraphError(
                "invalid_node",
                f"a node must have class_type and inputs: {HOW_TO_EXPORT}",
                file=file,
                field=node_id,
            )
    return {
        node_id: cast("Node", {key: node[key] for key in _NODE_KEYS if key in node})
        for node_id, node in graph.items()
    }


def _is_node(node: Any) -> bool:
    if not isinstance(node, dict):
        return False
    entry = cast("dict[str, Any]", node)
    return isinstance(entry.get("class_type"), str) and isinstance(entry.get("inputs"), dict)


def graph_hash(graph: Graph) -> str:
    """SHA-256 of the classes and inputs in canonical JSON; titles do not count."""
    bare = {
        node_id: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for node_id, node in graph.items()
    }
    return hashlib.sha256(canonical_json(bare)).hexdigest()


def canonical_json(value: object) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8; equal values give equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
