"""What a UI export says beside its graph: widgets its author shows, model sources, node packs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.graph import Graph, InputPath
from comfysnap_schema.comfy.picture import read_editor_workflow
from comfysnap_schema.comfy.ui_export.group_nodes import without_group_nodes
from comfysnap_schema.comfy.ui_export.model import (
    PRIMITIVE,
    SUBGRAPH_INPUT,
    UiNode,
    UiSlot,
    as_list,
    as_object,
    is_ui_format,
    parse_ui,
)
from comfysnap_schema.comfy.ui_export.packs import UsedPack, packs_of
from comfysnap_schema.comfy.ui_export.promoted import shown_widgets
from comfysnap_schema.comfy.ui_export.resolve import REROUTES, LinkResolver, Scope
from comfysnap_schema.comfy.ui_export.widgets import ConversionError
from comfysnap_schema.wire import GraphError


@dataclass(frozen=True, kw_only=True)
class ShownWidget:
    """A widget that the author shows: in App Mode, or on a subgraph."""

    name: str
    """The author's label, or the widget's name."""
    paths: tuple[InputPath, ...]
    """The inputs that it sets; not empty."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model file with the URL that the author gave."""

    folder: str
    """Folder in ``models/``."""
    name: str
    """File name in the folder."""
    url: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """The author's knowledge in a UI export, limited to what runs."""

    inputs: tuple[ShownWidget, ...] = ()
    """Inputs chosen in App Mode."""
    outputs: tuple[str, ...] = ()
    """Output nodes chosen in App Mode."""
    shown: tuple[ShownWidget, ...] = ()
    """Widgets that subgraphs show."""
    models: tuple[ModelSource, ...] = ()
    packs: tuple[UsedPack, ...] = ()


def read_drawing(path: Path, graph: Graph, catalogue: Catalogue | None) -> Drawing:
    """Read the knowledge in an export: one in UI format, or a picture or video with the workflow as
    the editor draws it beside its graph.

    Args:
        path: The file.
        graph: The graph that ``read_export`` made of it.
        catalogue: The same as for ``read_export``.
    """
    try:
        data = read_editor_workflow(path)
        if catalogue is not None and is_ui_format(data):
            return drawing_of(data, graph, catalogue)
    except (GraphError, ConversionError):  # damaged, beside a graph that is whole
        pass
    return Drawing()


def drawing_of(data: object, graph: Graph, catalogue: Catalogue) -> Drawing:
    """As ``read_drawing``, for the parsed JSON of a UI export."""
    workflow, _ = without_group_nodes(parse_ui(data), as_object(data), catalogue)
    reader = _Reader(graph, LinkResolver(workflow, catalogue))
    app = as_object(as_object(as_object(data).get("extra")).get("linearData"))
    inputs = [reader.chosen(as_list(entry)) for entry in as_list(app.get("inputs"))]
    outputs = [reader.found(str(entry)) for entry in as_list(app.get("outputs"))]
    return Drawing(
        inputs=tuple(shown for shown in inputs if shown is not None),
        outputs=tuple(dict.fromkeys(node for node in outputs if node in graph)),
        shown=tuple(reader.shown()),
        models=tuple(_models(graph, reader.properties())),
        packs=tuple(packs_of(reader.properties())),
    )


class _Reader:
    """Finds nodes and widgets of the editor in the graph."""

    def __init__(self, graph: Graph, resolver: LinkResolver) -> None:
        self._graph = graph
        self._scopes = list(resolver.scopes())

    def properties(self) -> Iterator[dict[str, Any]]:
        """The properties of every node that runs."""
        for scope in self._scopes:
            for node in scope.graph.nodes.values():
                if scope.id_of(node.id) in self._graph:
                    yield node.properties

    def chosen(self, entry: list[Any]) -> ShownWidget | None:
        """An input of App Mode: ``[node, widget, ...]``; the node may be ``graph:node:widget``."""
        if len(entry) < 2:
            return None
        name = str(entry[1])
        place = self._place(str(entry[0]))
        return next(self._widget(*place, name, ""), None) if place else None

    def found(self, node: str) -> str | None:
        """The id in the graph of a node that App Mode names."""
        place = self._place(node)
        return place[0].id_of(place[1].id) if place else None

    def shown(self) -> Iterator[ShownWidget]:
        """The widgets of the subgraphs in the top-level graph."""
        top = self._scopes[0]
        for node in top.graph.nodes.values():
            inner = self._inside(top, node)
            if inner is None:
                continue
            linked = {slot.name for slot in node.inputs if slot.link is not None}
            for slot in inner.graph.inputs:
                if slot.name not in linked:
                    yield from self._widget(top, node, slot.name, slot.label)
            for owner, name, _ in shown_widgets(node):
                if owner in inner.graph.nodes:
                    yield from self._widget(inner, inner.graph.nodes[owner], name, "")

    def _inside(self, scope: Scope, node: UiNode) -> Scope | None:
        """The scope in an instance of a subgraph; None for another node."""
        path = (*scope.path, node.id)
        return next((each for each in self._scopes if each.path == path), None)

    def _place(self, text: str) -> tuple[Scope, UiNode] | None:
        """The first node of that id: at the top, or in a subgraph."""
        graph, _, rest = text.partition(":")
        node = rest.partition(":")[0] if _is_uuid(graph) else text
        for scope in self._scopes:
            if node in scope.graph.nodes:
                return scope, scope.graph.nodes[node]
        return None

    def _widget(self, scope: Scope, node: UiNode, name: str, label: str) -> Iterator[ShownWidget]:
        """The widget, if it sets something."""
        found = self._paths(scope, node, name, set())
        paths = tuple(dict.fromkeys(path for path in found if self._is_set(path)))
        if paths:
            yield ShownWidget(name=label or name, paths=paths)

    def _is_set(self, path: InputPath) -> bool:
        return path.node in self._graph and path.name in self._graph[path.node]["inputs"]

    def _paths(
        self, scope: Scope, node: UiNode, name: str, seen: set[tuple[str, str]]
    ) -> Iterator[InputPath]:
        place = (scope.id_of(node.id), name)
        if node.off or place in seen:
            return
        seen.add(place)
        if node.type == PRIMITIVE or node.type in REROUTES:
            yield from self._behind(scope, node.id, 0, seen)
        elif (inner := self._inside(scope, node)) is not None:
            names = [slot.name for slot in inner.graph.inputs]
            owners = [owner for owner, widget, _ in shown_widgets(node) if widget == name]
            if name in names:
                yield from self._behind(inner, SUBGRAPH_INPUT, names.index(name), seen)
            elif owners and owners[0] in inner.graph.nodes:
                yield from self._paths(inner, inner.graph.nodes[owners[0]], name, seen)
        else:
            yield InputPath(scope.id_of(node.id), name)

    def _behind(
        self, scope: Scope, origin: str, slot: int, seen: set[tuple[str, str]]
    ) -> Iterator[InputPath]:
        """The widgets that an output of the editor sets."""
        for link in scope.graph.out_of(origin, slot):
            target = scope.graph.nodes.get(link.target)
            if target is not None and link.target_slot < len(target.inputs):
                found: UiSlot = target.inputs[link.target_slot]
                yield from self._paths(scope, target, found.name, seen)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _models(graph: Graph, properties: Iterator[dict[str, Any]]) -> Iterator[ModelSource]:
    """The sources of files that the graph names; a loader may still list files it had before."""
    used: dict[str, str] = {}
    for node in graph.values():
        for value in node["inputs"].values():
            if isinstance(value, str):
                folder, _, name = value.replace("\\", "/").rpartition("/")
                used.setdefault(name, folder)
    found: set[tuple[str, str]] = set()
    for entry in (as_object(each) for node in properties for each in as_list(node.get("models"))):
        name, url, folder = (entry.get(key) for key in ("name", "url", "directory"))
        if not (isinstance(name, str) and isinstance(url, str) and isinstance(folder, str)):
            continue
        if name not in used or (folder, name) in found or not url.startswith("http"):
            continue
        found.add((folder, name))
        inner = "/".join(part for part in (folder.strip("/"), used[name]) if part)
        yield ModelSource(folder=inner, name=name, url=url, sha256=_sha256(entry))


def _sha256(entry: dict[str, Any]) -> str | None:
    text = str(entry.get("hash", "")).lower()
    kind = re.sub(r"[^a-z0-9]", "", str(entry.get("hash_type", "")).lower())
    return text if kind == "sha256" and re.fullmatch(r"[0-9a-f]{64}", text) else None
