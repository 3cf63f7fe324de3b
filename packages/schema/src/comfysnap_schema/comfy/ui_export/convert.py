"""Turns ComfyUI's UI export into the API-format graph that its editor would export."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

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
from comfysnap_schema.comfy.ui_export.group_nodes import is_group_node, without_group_nodes
from comfysnap_schema.comfy.ui_export.model import UiNode, as_object, is_ui_format, parse_ui
from comfysnap_schema.comfy.ui_export.packs import unknown_classes
from comfysnap_schema.comfy.ui_export.promoted import Value
from comfysnap_schema.comfy.ui_export.resolve import VIRTUAL, LinkResolver, Origin, Scope
from comfysnap_schema.comfy.ui_export.widgets import (
    ConversionError,
    Widget,
    sent_value,
    widgets_of,
)
from comfysnap_schema.wire import GraphError, UiFormatError

__all__ = ["import_ui", "is_ui_format", "read_export"]

_UNKNOWN: Final = "unknown_node"


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
            "this is a UI-format export: pass --object-info http://127.0.0.1:8188 (a running"
            f" ComfyUI) to convert it, or {HOW_TO_EXPORT}",
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
    linked = replace(drawn, root=with_broadcast_links(drawn.root, raw))
    workflow, groups = without_group_nodes(linked, raw, catalogue)
    resolver = LinkResolver(workflow, catalogue)
    refused: list[tuple[str, str, str]] = []
    unknown: dict[str, UiNode] = {}
    graph: Graph = {}
    try:
        scopes = list(resolver.scopes())
    except ConversionError as error:
        raise UiFormatError(((error.code, "?", error.message),), file=file) from error
    for scope in scopes:
        for node in scope.graph.nodes.values():
            if node.off or node.type in VIRTUAL or node.type in workflow.subgraphs:
                continue
            id_ = scope.id_of(node.id)
            if is_group_node(node):
                error, inside = groups[node.id]
                refused += [(error.code, id_, error.message)] if error is not None else []
                refused += [(_UNKNOWN, f"{id_}:{each}", "") for each in inside]
                unknown |= {f"{id_}:{each}": inside[each] for each in inside}
                continue
            if has_unwritten_links(node, raw):
                message = f"{node.type!r} makes links that the file does not have; draw them"
                refused.append(("hidden_links", id_, message))
                continue
            if catalogue.get(node.type) is None:
                refused.append((_UNKNOWN, id_, ""))
                unknown[id_] = node
            found = _Conversion(resolver, scope, node)
            graph[id_] = found.node()
            refused += found.refused
    if refused:
        said = unknown_classes(unknown)
        whole = ((c, at, said[at] if c == _UNKNOWN else message) for c, at, message in refused)
        raise UiFormatError(tuple(whole), file=file)
    return graph


class _Conversion:
    """One node, and everything about it that only the editor can convert."""

    def __init__(self, resolver: LinkResolver, scope: Scope, node: UiNode) -> None:
        self._resolver = resolver
        self._scope = scope
        self._node = node
        self.refused: list[tuple[str, str, str]] = []

    @contextmanager
    def _noting(self) -> Generator[None]:
        """Note what cannot be converted, and go on."""
        id_ = self._scope.id_of(self._node.id)
        try:
            yield
        except ConversionError as error:
            self.refused.append((error.code, id_, error.message))
        except RecursionError:
            self.refused.append(("too_large", id_, "its links pass through too many nodes"))

    def node(self) -> Node:
        """The node as far as it can be converted; see ``refused``."""
        known = self._resolver.catalogue.get(self._node.type)
        inputs: dict[str, JsonValue] = {}
        if known is None:
            for slot in self._node.inputs:
                with self._noting():
                    self._resolver.input(self._scope, self._node, slot)
        else:
            inputs = self._inputs(known)
        converted: Node = {"class_type": self._node.type, "inputs": inputs}
        if self._node.title:
            converted["_meta"] = {"title": self._node.title}
        return converted

    def _inputs(self, known: NodeDef) -> dict[str, JsonValue]:
        node, resolver = self._node, self._resolver
        widgets: dict[str, Widget] = {}
        with self._noting():
            widgets = widgets_of(known, node)
        readable = not self.refused
        linked: dict[str, JsonValue] = {}
        for slot in resolver.linkable(self._scope, node, known, widgets):
            found: Origin | Value | None = None
            with self._noting():
                found = resolver.input(self._scope, node, slot)
            if isinstance(found, Origin):
                linked[slot.name] = [found.node, found.slot]
            elif found is not None and not found.on_widget:
                value: Any = found.value
                linked[slot.name] = {"__value__": value} if isinstance(value, list) else value
            elif found is not None and slot.name in widgets and found.value is not None:
                widgets[slot.name].value = found.value
        sent: dict[str, JsonValue] = {}
        for name, widget in widgets.items():
            with self._noting():
                value = None if name in linked else sent_value(known, widget)
                if value is not None:
                    sent[name] = value
        prefix = sent.get(PREFIX)
        if node.type in SAVES and isinstance(prefix, str):
            with self._noting():
                sent[PREFIX] = filled(prefix, resolver.workflow, resolver.catalogue)
        if readable:
            with self._noting():
                _check_types(resolver.catalogue, known, node, sent | linked)
        return sent | linked


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
