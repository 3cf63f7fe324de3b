"""ComfyUI's API-format graph: reading, addressing and hashing it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, NotRequired, cast

from pydantic import JsonValue
from typing_extensions import TypedDict  # Pydantic needs this one before Python 3.12

from comfysnap_schema.wire import GraphError

HOW_TO_EXPORT = "in ComfyUI, choose Workflow > Export (API)"
MAX_GRAPH_BYTES = 16 * 1024 * 1024


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
        """Parse ``NODE.inputs.NAME``; node ids may contain ``:``, names may contain ``.``.

        Raises:
            GraphError: ``invalid_path``.
        """
        parts = text.split(".", 2)
        if len(parts) != 3 or parts[1] != "inputs" or not parts[0] or not parts[2]:
            raise GraphError(
                "invalid_path",
                f"{text!r} is not a valid path: use NODE.inputs.NAME, for example 6.inputs.text",
            )
        return cls(parts[0], parts[2])

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
        return json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise GraphError("unreadable", error.strerror or str(error), file=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise GraphError("invalid_json", f"not valid JSON: {error}", file=str(path)) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def parse_graph(data: Any, *, file: str | None = None) -> Graph:
    """Check that ``data`` is an API-format graph and return it; the wrapper of a request body of
    ``POST /prompt`` (``{"prompt": {...}}``) is removed.

    Raises:
        GraphError: ``ui_format``, ``not_a_graph``, ``empty_graph``, ``invalid_node``.
    """
    if not isinstance(data, dict):
        raise GraphError("not_a_graph", "a graph must be a JSON object of nodes", file=file)
    graph = cast("dict[str, Any]", data)
    if isinstance(graph.get("nodes"), list) and "links" in graph:
        raise GraphError(
            "ui_format",
            f"this is a UI-format export, not an API-format graph: {HOW_TO_EXPORT}",
            file=file,
        )
    wrapped = graph.get("prompt")
    if isinstance(wrapped, dict) and "class_type" not in wrapped:
        graph = cast("dict[str, Any]", wrapped)
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
    return cast("Graph", graph)


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
