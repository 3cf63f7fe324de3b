"""Turns ComfyUI's UI export into the API-format graph that its editor would export."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.definitions import WIDGET_TYPES, NodeDef
from comfysnap_schema.comfy.graph import HOW_TO_EXPORT, Graph, Node, parse_graph
from comfysnap_schema.comfy.picture import read_saved
from comfysnap_schema.comfy.ui_export.everywhere import (
    has_unwritten_links,
    with_broadcast_links,
)
from comfysnap_schema.comfy.ui_export.filenames import PREFIX, SAVES, filled
from comfysnap_schema.comfy.ui_export.model import UiNode, as_object, is_ui_format, parse_ui
from comfysnap_schema.comfy.ui_export.resolve import VIRTUAL, LinkResolver, Origin, Scope
from comfysnap_schema.comfy.ui_export.widgets import ConversionError, sent_values, widgets_of
from comfysnap_schema.wire import GraphError, UiFormatError

__all__ = ["import_ui", "is_ui_format", "read_export"]


def read_export(path: Path, catalogue: Catalogue | None) -> Graph:
    """Read a workflow that ComfyUI saved, in its API format or its UI format, also inside of a
    picture or a video.

    Raises:
        GraphError: As ``read_saved`` and ``parse_graph``; ``ui_format`` for a UI export without a
            catalogue.
        UiFormatError: As ``import_ui``.
    """
    data = read_saved(path)
    if not is_ui_format(data):
        return parse_graph(data, file=str(path))
    if catalogue is None:
        raise GraphError(
            "ui_format",
            "this is a UI-format export: pass --object-info to convert it, or, to avoid the"
            f" conversion, {HOW_TO_EXPORT}",
            file=str(path),
        )
    return import_ui(data, catalogue, file=str(path))


def import_ui(data: object, catalogue: Catalogue, *, file: str | None = None) -> Graph:
    """Convert a UI export, as "Export (API)" would: muted nodes and their links are left out,
    bypassed ones are passed through by type, subgraphs are flattened.

    Args:
        data: The parsed JSON.
        catalogue: Of a server that has every node class of the workflow: the file has widget
            values as bare lists, whose order only the node classes define.
        file: The file to name in errors.

    Raises:
        GraphError: ``not_a_graph``, ``empty_graph``, ``too_large``.
        UiFormatError: Some parts cannot be converted faithfully; ``refused`` lists them.
    """
    drawn = parse_ui(data, file=file)
    raw = as_object(data)
    workflow = replace(drawn, root=with_broadcast_links(drawn.root, raw))
    resolver = LinkResolver(workflow, catalogue)
    refused: list[tuple[str, str, str]] = []
    graph: Graph = {}
    try:
        scopes = list(resolver.scopes())
    except ConversionError as error:
        raise UiFormatError(((error.code, "?", error.message),), file=file) from error
    for scope in scopes:
        for node in scope.graph.nodes.values():
            if node.off or node.type in VIRTUAL or node.type in workflow.subgraphs:
                continue
            if has_unwritten_links(node, raw):
                message = f"{node.type!r} makes links that the file does not have; draw them"
                refused.append(("hidden_links", scope.id_of(node.id), message))
                continue
            try:
                graph[scope.id_of(node.id)] = _convert(resolver, scope, node)
            except ConversionError as error:
                refused.append((error.code, scope.id_of(node.id), error.message))
            except RecursionError:
                message = "its links pass through too many nodes"
                refused.append(("too_large", scope.id_of(node.id), message))
    if refused:
        raise UiFormatError(tuple(refused), file=file)
    return graph


def _convert(resolver: LinkResolver, scope: Scope, node: UiNode) -> Node:
    known = resolver.catalogue.get(node.type)
    if known is None:
        raise ConversionError(
            "unknown_node", f"unknown node class {node.type!r}: not in the node catalogue"
        )
    widgets = widgets_of(known, node)
    linked: dict[str, JsonValue] = {}
    for name, found in resolver.linked(scope, node, known, widgets):
        if isinstance(found, Origin):
            linked[name] = [found.node, found.slot]
        elif not found.on_widget:
            value: Any = found.value
            linked[name] = {"__value__": value} if isinstance(value, list) else value
        elif name in widgets and found.value is not None:
            widgets[name].value = found.value
    own = {name: widget for name, widget in widgets.items() if name not in linked}
    sent = sent_values(known, own)
    prefix = sent.get(PREFIX)
    if node.type in SAVES and isinstance(prefix, str):
        sent[PREFIX] = filled(prefix, resolver.workflow, resolver.catalogue)
    inputs = sent | linked
    _check_types(resolver.catalogue, known, node, inputs)
    converted: Node = {"class_type": node.type, "inputs": inputs}
    if node.title:
        converted["_meta"] = {"title": node.title}
    return converted


def _check_types(
    catalogue: Catalogue, known: NodeDef, node: UiNode, inputs: dict[str, JsonValue]
) -> None:
    """Refuse inputs of a type for which the editor that saved the file may have had a widget that
    is not known here: its value would move all later ones."""
    saved = {slot.name: slot for slot in node.inputs}
    makeable = catalogue.made_types | WIDGET_TYPES | {"*"}
    for entry in known.declared:
        if entry.is_widget or entry.dynamic or entry.force_input or entry.name in inputs:
            continue
        slot = saved.get(entry.name)
        made = not makeable.isdisjoint(kind.strip() for kind in entry.type.split(","))
        shown = slot.widget and slot.type == entry.type if slot else entry.required and not made
        if shown:
            raise ConversionError(
                "custom_widget",
                f"input {entry.name} of {known.class_type} is set by a custom widget of the editor"
                f" ({entry.type})",
            )
