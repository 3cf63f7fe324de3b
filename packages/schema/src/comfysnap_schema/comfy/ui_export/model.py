"""ComfyUI's UI export as parsed from the file: nodes, slots, links, subgraphs."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from comfysnap_schema.wire import GraphError

MUTED: Final = 2
BYPASSED: Final = 4
SUBGRAPH_INPUT: Final = "-10"
"""Links inside a subgraph that come from its own inputs have this origin."""
SUBGRAPH_OUTPUT: Final = "-20"
PRIMITIVE: Final = "PrimitiveNode"
"""A node of the editor that sets the widgets it is linked to."""
MAX_NODES: Final = 20_000

Json = dict[str, Any]


@dataclass(frozen=True)
class UiSlot:
    """An input or output of a node."""

    name: str
    type: str
    link: str | None = None
    widget: bool = False
    """Whether the slot belongs to a widget; a link replaces the widget's value."""
    links: tuple[str, ...] = ()
    """Of an input of a subgraph: the links from it to the nodes inside, in their order."""
    label: str = ""
    """The name that its author gave it; empty when it has none."""


@dataclass(frozen=True)
class UiNode:
    """A node of the editor."""

    id: str
    type: str
    title: str
    mode: int
    inputs: tuple[UiSlot, ...]
    outputs: tuple[UiSlot, ...]
    values: list[Any] | Json
    properties: Json

    @property
    def off(self) -> bool:
        """Muted or bypassed: it does not run."""
        return self.mode in (MUTED, BYPASSED)

    def value(self, index: int) -> Any:
        """The value of a widget by its index, or None."""
        values = list(self.values.values()) if isinstance(self.values, dict) else self.values
        return values[index] if index < len(values) else None


@dataclass(frozen=True)
class UiLink:
    """A link between two slots."""

    id: str
    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass(frozen=True)
class UiGraph:
    """The top-level graph, or the content of a subgraph."""

    id: str
    name: str
    nodes: Mapping[str, UiNode]
    links: Mapping[str, UiLink]
    inputs: tuple[UiSlot, ...] = ()
    outputs: tuple[UiSlot, ...] = ()

    def into(self, target: str, slot: int) -> UiLink | None:
        """The link that ends at a slot."""
        return next(
            (
                link
                for link in self.links.values()
                if link.target == target and link.target_slot == slot
            ),
            None,
        )

    def out_of(self, origin: str, slot: int) -> Iterator[UiLink]:
        """The links that start at a slot."""
        return (link for link in self.out_of_node(origin) if link.origin_slot == slot)

    def out_of_node(self, origin: str) -> Iterator[UiLink]:
        """The links that start at a node."""
        return (link for link in self.links.values() if link.origin == origin)

    def from_input(self, index: int) -> Iterator[UiLink]:
        """The links that start at one of the graph's own inputs, in its own order."""
        links = {link.id: link for link in self.out_of(SUBGRAPH_INPUT, index)}
        listed = [name for name in self.inputs[index].links if name in links]
        yield from (links[name] for name in dict.fromkeys([*listed, *links]))

    def targets(self, links: Iterable[UiLink]) -> Iterator[tuple[str, UiSlot]]:
        """The nodes and inputs at the end of links."""
        for link in links:
            node = self.nodes.get(link.target)
            # By the link's id: the file may number slots otherwise than the node class does.
            slots = [slot for slot in node.inputs if slot.link == link.id] if node else []
            yield from ((link.target, slot) for slot in slots)


@dataclass(frozen=True)
class UiWorkflow:
    """A whole UI export."""

    root: UiGraph
    subgraphs: Mapping[str, UiGraph]


def is_ui_format(data: object) -> bool:
    """Whether parsed JSON is a UI export and not an API one."""
    if not isinstance(data, dict):
        return False
    return isinstance(cast("Json", data).get("nodes"), list) and "links" in data


def parse_ui(data: object, *, file: str | None = None) -> UiWorkflow:
    """Read a UI export.

    Raises:
        GraphError: ``not_a_graph``, ``empty_graph``, ``too_large``.
    """
    if not is_ui_format(data):
        raise GraphError(
            "not_a_graph", "not a UI-format export: expected nodes and links", file=file
        )
    raw = cast("Json", data)
    definitions = as_object(raw.get("definitions")).get("subgraphs")
    try:
        root = _graph(raw)
        subgraphs = [_graph(as_object(entry)) for entry in as_list(definitions)]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        message = f"not a valid UI-format export: {error!r}"
        raise GraphError("not_a_graph", message, file=file) from error
    if not root.nodes:
        raise GraphError("empty_graph", "the graph has no nodes", file=file)
    count = sum(len(graph.nodes) for graph in (root, *subgraphs))
    if count > MAX_NODES:
        raise GraphError("too_large", f"too many nodes; at most {MAX_NODES}", file=file)
    last = as_object(raw.get("state")).get("lastNodeId", raw.get("last_node_id"))
    distinct = _with_distinct_ids(root, subgraphs, last if isinstance(last, int) else 0)
    return UiWorkflow(distinct[0], {graph.id: graph for graph in distinct[1:]})


def _with_distinct_ids(root: UiGraph, subgraphs: list[UiGraph], last: int) -> list[UiGraph]:
    """The graphs, with new ids for the nodes of subgraphs whose id is taken by another graph
    (the editor's deduplicateSubgraphNodeIds)."""
    used = set(root.nodes)
    renamed: dict[str, dict[str, str]] = {}
    for graph in subgraphs:
        names = renamed.setdefault(graph.id, {})
        for node in graph.nodes:
            if node in used:
                last += 1
                while str(last) in used:
                    last += 1
                names[node] = str(last)
            else:
                last = max(last, int(node) if node.isdecimal() else 0)
            used.add(names.get(node, node))
    return [
        _renamed(graph, renamed.get(graph.id, {}) if graph is not root else {}, renamed)
        for graph in (root, *subgraphs)
    ]


def _renamed(
    graph: UiGraph, names: Mapping[str, str], proxied: Mapping[str, Mapping[str, str]]
) -> UiGraph:
    def new(node: str) -> str:
        return names.get(node, node)

    nodes = [
        replace(node, id=new(node.id), properties=_with_proxies(node, proxied.get(node.type, {})))
        for node in graph.nodes.values()
    ]
    links = {
        name: replace(link, origin=new(link.origin), target=new(link.target))
        for name, link in graph.links.items()
    }
    return replace(graph, nodes={node.id: node for node in nodes}, links=links)


def _with_proxies(node: UiNode, names: Mapping[str, str]) -> Json:
    """The properties of an instance, whose shown widgets belong to nodes with new ids."""
    shown = [as_list(pair) for pair in as_list(node.properties.get("proxyWidgets"))]
    pairs = [[names.get(str(pair[0]), pair[0]), *pair[1:]] if pair else pair for pair in shown]
    return {**node.properties, "proxyWidgets": pairs} if names and shown else node.properties


def _graph(raw: Json) -> UiGraph:
    nodes = [parse_node(entry) for entry in as_list(raw["nodes"])]
    links = dict(_link(entry) for entry in as_list(raw.get("links")) if entry is not None)
    return UiGraph(
        id=str(raw.get("id", "")),
        name=str(raw.get("name", "")),
        nodes={node.id: node for node in nodes},
        links=links,
        inputs=tuple(_slot(entry) for entry in as_list(raw.get("inputs"))),
        outputs=tuple(_slot(entry) for entry in as_list(raw.get("outputs"))),
    )


def parse_node(raw: Json) -> UiNode:
    """Read one node."""
    values: object = raw.get("widgets_values")
    return UiNode(
        id=str(raw["id"]),
        type=str(raw["type"]),
        title=str(raw.get("title") or ""),
        mode=int(raw.get("mode") or 0),
        inputs=tuple(_slot(entry) for entry in as_list(raw.get("inputs"))),
        outputs=tuple(_slot(entry) for entry in as_list(raw.get("outputs"))),
        values=as_object(values) or as_list(values),
        properties=as_object(raw.get("properties")),
    )


def _slot(raw: Json) -> UiSlot:
    kind: object = raw.get("type")
    link: object = raw.get("link")
    return UiSlot(
        name=str(raw.get("name", "")),
        type=kind if isinstance(kind, str) else "COMBO" if isinstance(kind, list) else "*",
        link=None if link is None else str(link),
        widget=isinstance(raw.get("widget"), dict),
        links=tuple(str(name) for name in as_list(raw.get("linkIds"))),
        label=str(raw.get("label") or ""),
    )


def _link(raw: Any) -> tuple[str, UiLink]:
    """Parse ``[id, origin, slot, target, slot, type]``, or the object used inside subgraphs."""
    if isinstance(raw, dict):
        entry = cast("Json", raw)
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        name, origin, origin_slot, target, target_slot = (entry[key] for key in keys)
    else:
        name, origin, origin_slot, target, target_slot = raw[:5]
    link = UiLink(str(name), str(origin), int(origin_slot), str(target), int(target_slot))
    return link.id, link


def as_object(value: object) -> Json:
    """The value if it is a JSON object, else an empty one."""
    return cast("Json", value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []
