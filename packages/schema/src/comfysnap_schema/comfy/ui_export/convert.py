"""Turns ComfyUI's UI export into the API-format graph that its editor would export."""

from pathlib import Path
from typing import Any

from pydantic import JsonValue

from comfysnap_schema.comfy.catalogue import Catalogue, NodeDef
from comfysnap_schema.comfy.graph import HOW_TO_EXPORT, Graph, Node, parse_graph, read_json
from comfysnap_schema.comfy.types import VALUE_TYPES
from comfysnap_schema.comfy.ui_export.model import UiNode, is_ui_format, parse_ui
from comfysnap_schema.comfy.ui_export.resolve import VIRTUAL, Origin, Resolver, Scope, Value
from comfysnap_schema.comfy.ui_export.widgets import Refused, widget_values
from comfysnap_schema.wire import GraphError, UiFormatError

__all__ = ["import_ui", "is_ui_format", "read_export"]


def read_export(path: Path, catalogue: Catalogue | None) -> Graph:
    """Read what ComfyUI saved, in its API format or its UI format.

    Raises:
        GraphError: Those of ``read_graph``; ``ui_format`` when a UI export comes without a
            catalogue.
        UiFormatError: As ``import_ui``.
    """
    data = read_json(path)
    if not is_ui_format(data):
        return parse_graph(data, file=str(path))
    if catalogue is None:
        raise GraphError(
            "ui_format",
            "this is the UI format, which only a node catalogue explains: give --object-info, "
            f"or {HOW_TO_EXPORT}",
            file=str(path),
        )
    return import_ui(data, catalogue, file=str(path))


def import_ui(data: object, catalogue: Catalogue, *, file: str | None = None) -> Graph:
    """Convert a UI export, as "Export (API)" would: muted nodes and their links are left out,
    bypassed ones are passed through by type, subgraphs are flattened.

    Args:
        data: The parsed JSON.
        catalogue: Of a server that has every node class of the workflow: the file holds widget
            values as bare lists, whose order only the classes tell.
        file: Named in errors.

    Raises:
        GraphError: ``not_a_graph``, ``empty_graph``, ``too_large``.
        UiFormatError: Something in it cannot be converted faithfully; ``refused`` names each.
    """
    workflow = parse_ui(data, file=file)
    resolver = Resolver(workflow, catalogue)
    refused: list[tuple[str, str, str]] = []
    graph: Graph = {}
    try:
        scopes = list(resolver.scopes())
    except Refused as error:
        raise UiFormatError(((error.code, "?", error.message),), file=file) from error
    for scope in scopes:
        for node in scope.graph.nodes.values():
            if node.off or node.type in VIRTUAL or node.type in workflow.subgraphs:
                continue
            try:
                graph[scope.id_of(node.id)] = _convert(resolver, scope, node)
            except Refused as error:
                refused.append((error.code, scope.id_of(node.id), error.message))
            except RecursionError:
                message = "its lines run through too many nodes"
                refused.append(("too_large", scope.id_of(node.id), message))
    if refused:
        raise UiFormatError(tuple(refused), file=file)
    _drop_dead_links(graph)
    return graph


def _convert(resolver: Resolver, scope: Scope, node: UiNode) -> Node:
    known = resolver.catalogue.get(node.type)
    if known is None:
        raise Refused("unknown_node", f"the catalogue does not know the class {node.type!r}")
    inputs = widget_values(known, node) | resolver.proxied(scope, node)
    for slot in node.inputs:
        found = resolver.input(scope, node, slot)
        if isinstance(found, Origin):
            inputs[slot.name] = [found.node, found.slot]
        elif isinstance(found, Value):
            value: Any = found.value
            inputs[slot.name] = {"__value__": value} if isinstance(value, list) else value
    _check_widgets(resolver.catalogue, known, node, inputs)
    converted: Node = {"class_type": node.type, "inputs": inputs}
    if node.title:
        converted["_meta"] = {"title": node.title}
    return converted


def _check_widgets(
    catalogue: Catalogue, known: NodeDef, node: UiNode, inputs: dict[str, JsonValue]
) -> None:
    """An input that no class makes gets its value from a widget that only the editor has."""
    sockets = {slot.name for slot in node.inputs if not slot.widget}
    for entry in known.declared:
        if entry.is_widget or entry.dynamic or entry.name in sockets or entry.name in inputs:
            continue
        kinds = {kind.strip() for kind in entry.type.split(",")}
        makeable = catalogue.made_types | VALUE_TYPES | {"*"}
        if entry.required and kinds.isdisjoint(makeable):
            raise Refused(
                "custom_widget",
                f"{known.class_type} gets {entry.name} from a widget of the editor ({entry.type})",
            )


def _drop_dead_links(graph: Graph) -> None:
    """Links to nodes that do not run are left out, as the editor does."""
    for node in graph.values():
        for name, value in list(node["inputs"].items()):
            if isinstance(value, list) and value[0] not in graph:
                del node["inputs"][name]
