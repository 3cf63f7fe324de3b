"""Group nodes, which older editors made: each becomes a subgraph of the nodes that the file defines
for it.

The rules are those of groupNode.ts of the editors that ran them (comfyui-frontend-package 1.27 and
1.34), and so are the ids: ``28:0`` is the first node of 28. Later editors convert group nodes when
they load a file, but 1.48 moves links and values of many to other inputs.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from pydantic import JsonValue

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.graph import HOW_TO_EXPORT
from comfysnap_schema.comfy.ui_export.model import (
    MAX_NODES,
    PRIMITIVE,
    SUBGRAPH_INPUT,
    SUBGRAPH_OUTPUT,
    Json,
    UiGraph,
    UiLink,
    UiNode,
    UiSlot,
    UiWorkflow,
    as_list,
    as_object,
    parse_node,
)
from comfysnap_schema.comfy.ui_export.resolve import VIRTUAL
from comfysnap_schema.comfy.ui_export.widgets import (
    ConversionError,
    readable_widgets,
    stored_values,
)

MAX_GROUPED: Final = 1000
"""Nodes of one group."""
_PREFIX: Final = re.compile(r"workflow[>/]")
_REROUTE: Final = "Reroute"
_HELPERS: Final = {"INT": ("fixed",), "FLOAT": ("fixed",), "COMBO": ("fixed", "")}
"""Values behind that of a primitive, by the type that it sets."""


def is_group_node(node: UiNode) -> bool:
    """Whether a node stands for a group of nodes."""
    return _PREFIX.match(node.type) is not None


class WholeGroup(NamedTuple):
    """Why a group node is left as it is: an error, or nodes inside of unknown classes."""

    error: ConversionError | None
    unknown: Mapping[str, UiNode]
    """By their ids within the group."""


def without_group_nodes(
    workflow: UiWorkflow, data: Json, catalogue: Catalogue
) -> tuple[UiWorkflow, dict[str, WholeGroup]]:
    """Replace group nodes by instances of subgraphs.

    Args:
        workflow: The parsed export.
        data: The export, whose ``extra.groupNodes`` defines the groups.
        catalogue: The node classes.

    Returns:
        The workflow, and the group nodes that are left, by their ids.
    """
    definitions = as_object(as_object(data.get("extra")).get("groupNodes"))
    subgraphs = dict(workflow.subgraphs)
    left: dict[str, WholeGroup] = {}
    made = 0

    def converted(graph: UiGraph) -> UiGraph:
        nonlocal made
        for node in filter(is_group_node, graph.nodes.values()):
            try:
                group = _Group(node, definitions, catalogue)
                made += len(group)
                unknown = group.unknown()
                if made > MAX_NODES:
                    error = ConversionError("too_large", f"groups have over {MAX_NODES} nodes")
                    left[node.id] = WholeGroup(error, {})
                elif unknown:
                    left[node.id] = WholeGroup(None, unknown)
                else:
                    graph, inner = group.replaced(graph)
                    subgraphs[inner.id] = inner
            except ConversionError as error:
                left[node.id] = WholeGroup(error, {})
        return graph

    for graph in workflow.subgraphs.values():
        subgraphs[graph.id] = converted(graph)
    return UiWorkflow(converted(workflow.root), subgraphs), left


class _Group:
    """A group node: the nodes inside, and what it shows of them, each in its order."""

    def __init__(self, node: UiNode, definitions: Json, catalogue: Catalogue) -> None:
        self._node = node
        self._name = _PREFIX.sub("", node.type, count=1)
        self._raw = as_object(definitions.get(self._name))
        entries = [as_object(entry) for entry in as_list(self._raw.get("nodes"))]
        if not entries:
            raise self._error("which the file does not define")
        rows = max(len(as_list(self._raw.get(key))) for key in ("links", "external"))
        if len(entries) > MAX_GROUPED or rows > 10 * MAX_GROUPED:
            raise self._error(f"of more than {MAX_GROUPED} nodes, or with too many links")
        try:
            self._nodes = [parse_node({**entry, "id": at}) for at, entry in enumerate(entries)]
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._error("whose definition is damaged") from error
        if any(map(is_group_node, self._nodes)):
            raise self._error("which has another one inside")
        self._known = [catalogue.get(each.type) for each in self._nodes]
        self._links = list(self._read_links())
        self._set = {
            (target, self._slot_name(target, slot)) for _, _, target, slot, _ in self._links
        }
        self._seen: dict[str, int] = {}
        self._sockets: dict[str, tuple[int, str]] = {}
        """Inputs by the names that the group node gives them: index of the node, its input."""
        self._widgets: dict[str, tuple[int, str]] = {}
        self._name_inputs()
        self._outputs = list(self._shown_outputs())

    def __len__(self) -> int:
        return len(self._nodes)

    def _error(self, what: str) -> ConversionError:
        return ConversionError(
            "group_node",
            f"{self._name!r} is a group node, {what}: convert it to nodes in the ComfyUI that made"
            f" it and save the workflow again, or {HOW_TO_EXPORT}",
        )

    def unknown(self) -> dict[str, UiNode]:
        """The nodes inside whose class the catalogue lacks."""
        nodes = zip(self._nodes, self._known, strict=True)
        return {
            node.id: node for node, known in nodes if known is None and node.type not in VIRTUAL
        }

    def _read_links(self) -> Iterator[tuple[int, int, int, int, str]]:
        """Links inside: origin, its slot, target, its slot, type."""
        for row in map(as_list, as_list(self._raw.get("links"))):
            ends = row[:4]
            if len(ends) == 4 and all(isinstance(end, int) and end >= 0 for end in ends):
                inside = range(len(self._nodes))
                if ends[0] in inside and ends[2] in inside:
                    yield ends[0], ends[1], ends[2], ends[3], str(row[-1])

    def _slot_name(self, at: int, slot: int) -> str | None:
        """The name of an input by its number."""
        saved = [each.name for each in self._nodes[at].inputs]
        names = saved if slot < len(saved) else [name for _, name in self._sockets_of(at)]
        return names[slot] if slot < len(names) else None

    def _sockets_of(self, at: int) -> list[tuple[str, str]]:
        """The sockets of a node: how its class calls each, and how the node does."""
        node, known = self._nodes[at], self._known[at]
        if known is not None:
            return [(entry.name, entry.name) for entry in known.declared if not entry.is_widget]
        if node.type == _REROUTE and self._is_shown(at):
            return [(self._type_of_reroute(at), node.inputs[0].name if node.inputs else "")]
        return []

    def _widgets_of(self, at: int) -> list[str]:
        known = self._known[at]
        if known is not None:
            return [entry.name for entry in known.declared if entry.is_widget]
        return ["value"] if self._is_primitive(at) else []

    def _is_primitive(self, at: int) -> bool:
        """Whether a primitive sets something inside; others show nothing."""
        return self._nodes[at].type == PRIMITIVE and any(end[0] == at for end in self._links)

    def _converted(self, at: int) -> dict[str, bool]:
        """The widgets of a node that are inputs in the file, which come last, and whether each is
        taken for linked inside. The editor sorts their numbers as texts."""
        node = self._nodes[at]
        sockets = sum(not slot.widget for slot in node.inputs)
        numbers = {number for _, _, target, number, _ in self._links if target == at}
        widgets = {str(n): slot.name for n, slot in enumerate(node.inputs) if slot.widget}
        return {
            widgets[number]: sockets + place in numbers
            for place, number in enumerate(sorted(widgets))
        }

    def _is_shown(self, at: int) -> bool:
        """Whether a reroute has an end outside."""
        both = any(o == at for o, *_ in self._links) and any(t == at for _, _, t, *_ in self._links)
        return not both or (at, 0) in self._external()

    def _type_of_reroute(self, at: int) -> str:
        targets = [(target, slot) for origin, _, target, slot, _ in self._links if origin == at]
        for target, slot in targets:
            inputs = self._nodes[target].inputs
            if slot < len(inputs) and inputs[slot].type != "*":
                return inputs[slot].type
        outside = [row[2] for row in self._ends() if _index(row[0]) == at and len(row) > 2]
        inward = [
            row[-1] for row in map(as_list, as_list(self._raw.get("links"))) if at in row[2:3]
        ]
        return next((kind for kind in (*outside, *inward) if isinstance(kind, str)), "*")

    def _ends(self) -> list[list[Any]]:
        rows = [as_list(row) for row in as_list(self._raw.get("external"))]
        return [row for row in rows if len(row) >= 2]

    def _external(self) -> set[tuple[int, int]]:
        """Outputs that had links out of the group, which are shown beside those inside."""
        return {(_index(node), slot) for node, slot, *_ in self._ends() if isinstance(slot, int)}

    def _config(self, at: int, kind: str, key: str) -> Json:
        """How its author named or hid an input or output."""
        of_node = as_object(as_object(self._raw.get("config")).get(str(at)))
        return as_object(as_object(of_node.get(kind)).get(key))

    def _name_inputs(self) -> None:
        for at in range(len(self._nodes)):
            converted = self._converted(at)
            for name in self._widgets_of(at):
                if name not in converted:
                    self._widgets[self._label(at, name)] = at, name
            for called, name in self._sockets_of(at):
                if (at, name) not in self._set:
                    label = self._label(at, called)
                    if self._config(at, "input", called).get("visible") is not False:
                        self._sockets[label] = at, name
        for at in range(len(self._nodes)):
            for name, is_linked in self._converted(at).items():
                if not is_linked:
                    self._widgets[self._label(at, name)] = at, name

    def _label(self, at: int, name: str) -> str:
        """The name that the group node gives to an input of a node inside."""
        node = self._nodes[at]
        own = next((slot.label for slot in node.inputs if slot.name == name), "")
        label = key = self._config(at, "input", name).get("name") or own or name
        if (node.type == PRIMITIVE and node.title) or label in self._seen:
            before = f"{node.title or node.type} "
            label = key = f"{before}{name}"
            if label in self._seen:
                label = f"{before}{self._seen[label]} {name}"
        self._seen[key] = self._seen.get(key, 1) + 1
        return label

    def _shown_outputs(self) -> Iterator[tuple[int, int]]:
        external = self._external()
        inside = {(origin, slot) for origin, slot, *_ in self._links}
        for at, (node, known) in enumerate(zip(self._nodes, self._known, strict=True)):
            virtual = self._is_primitive(at) or (node.type == _REROUTE and self._is_shown(at))
            for slot in range(len(known.outputs) if known is not None else int(virtual)):
                shown = self._config(at, "output", str(slot)).get("visible")
                hidden = (at, slot) in inside and (at, slot) not in external
                if shown is True or (shown is None and not hidden):
                    yield at, slot

    def replaced(self, graph: UiGraph) -> tuple[UiGraph, UiGraph]:
        """The graph with an instance in place of the group node, and the subgraph.

        Raises:
            ConversionError: ``group_node`` when the node does not fit the definition; as
                ``stored_values``.
        """
        ends, fixed = self._matched(graph)
        nodes = self._with_values(fixed)
        links = list(self._inner_links(nodes, [end for end, _ in ends]))
        inputs = [
            UiSlot(f"{at}.{name}", slot.type, links=(f"in {number}",))
            for number, ((at, name), slot) in enumerate(ends)
        ]
        made = [UiSlot(str(number), self._made(*end)) for number, end in enumerate(self._outputs)]
        subgraph = UiGraph(
            id=f"{self._node.type} {graph.id}:{self._node.id}",
            name=self._name,
            nodes={each.id: each for each in nodes},
            links={link.id: link for link in links},
            inputs=tuple(inputs),
            outputs=tuple(made),
        )
        linked = zip(inputs, ends, strict=True)
        instance = replace(
            self._node,
            type=subgraph.id,
            inputs=tuple(replace(entry, link=slot.link) for entry, (_, slot) in linked),
            outputs=subgraph.outputs,
            values=[],
        )
        return self._placed(graph, instance, nodes), subgraph

    def _matched(
        self, graph: UiGraph
    ) -> tuple[list[tuple[tuple[int, str], UiSlot]], dict[tuple[int, str], Any]]:
        """The inputs of nodes inside with the slots of the group node that set them, and those that
        a primitive outside sets, with its value."""
        ends: list[tuple[tuple[int, str], UiSlot]] = []
        fixed: dict[tuple[int, str], Any] = {}
        shown = self._sockets | self._widgets
        left = {slot.name: slot for slot in self._node.inputs}
        others = [s.name for s in self._node.inputs if s.name not in shown and not s.widget]
        for label, end in shown.items():
            slot = left.pop(label, None)
            if slot is None and others and label in self._sockets:
                slot = left.pop(others.pop(0), None)  # named by an older rule
            link = graph.links.get(slot.link or "") if slot is not None else None
            origin = graph.nodes.get(link.origin) if link is not None else None
            if origin is not None and origin.type == PRIMITIVE:
                fixed[end] = origin.value(0)
            elif slot is not None and (link is not None or label in self._sockets):
                ends.append((end, slot))
        lost = [slot.name for slot in left.values() if slot.link in graph.links]
        taken = [link.origin_slot for link in graph.out_of_node(self._node.id)]
        lost += [f"output {slot}" for slot in taken if slot >= len(self._outputs)]
        if lost:
            raise self._error(f"whose definition does not have its {', '.join(lost)}")
        return ends, fixed

    def _placed(self, graph: UiGraph, instance: UiNode, nodes: list[UiNode]) -> UiGraph:
        """The graph with the instance, and with the primitives inside that set inputs outside."""
        outer, links = {**graph.nodes, instance.id: instance}, dict(graph.links)
        for link in graph.out_of_node(instance.id):
            inner = nodes[self._outputs[link.origin_slot][0]]
            if inner.type == PRIMITIVE:
                primitive = replace(inner, id=f"{instance.id}:{inner.id}")
                outer[primitive.id] = primitive
                links[link.id] = replace(link, origin=primitive.id, origin_slot=0)
        return replace(graph, nodes=outer, links=links)

    def _made(self, at: int, slot: int) -> str:
        known = self._known[at]
        return known.outputs[slot].type if known is not None else "*"

    def _inner_links(self, nodes: list[UiNode], shown: list[tuple[int, str]]) -> Iterator[UiLink]:
        """The links of the subgraph; the inputs of ``nodes`` are set to them."""
        for number, (at, name) in enumerate(shown):
            link = f"in {number}"
            slot = _connect(nodes, at, name, link)
            yield UiLink(link, SUBGRAPH_INPUT, number, str(at), slot)
        for number, (origin, out, target, slot, _) in enumerate(self._links):
            name = self._slot_name(target, slot)
            if name is not None:
                at = _connect(nodes, target, name, str(number))
                yield UiLink(str(number), str(origin), out, str(target), at)
        for number, (origin, out) in enumerate(self._outputs):
            yield UiLink(f"out {number}", str(origin), out, SUBGRAPH_OUTPUT, number)

    def _with_values(self, fixed: dict[tuple[int, str], Any]) -> list[UiNode]:
        """The nodes inside with the values that the group node has for their widgets."""
        lists, places = self._places()
        for (at, position), value in zip(places, as_list(self._node.values), strict=False):
            lists[at][position] = lists[at][position][0], value
        for (at, name), value in fixed.items():
            owners = [owner for owner, _ in lists[at]]
            if name in owners:
                lists[at][owners.index(name)] = name, value
        nodes = [
            replace(node, values=[value for _, value in values])
            for node, values in zip(self._nodes, lists, strict=True)
        ]
        if not all(map(self._fits, nodes)):
            raise self._misfit()
        return nodes

    def _misfit(self) -> ConversionError:
        held = len(self._node.values)
        return self._error(
            f"whose {held} values do not fit the widgets of its nodes, which have changed since"
        )

    def _fits(self, node: UiNode) -> bool:
        """Whether the values of a node inside are of the types of its widgets: if one is not, those
        of the group node are in another order."""
        known = self._known[int(node.id)]
        widgets = readable_widgets(known, node).values() if known is not None else ()
        return all(
            _is_of(widget.entry.widget, widget.value)
            for widget in widgets
            if widget.entry is not None and widget.value is not None
        )

    def _places(self) -> tuple[list[list[tuple[str, Any]]], list[tuple[int, int]]]:
        """The values of each node inside with the widgets that they belong to, and where those of
        the group node go, in their order."""
        held = len(self._node.values)
        for by_class in (False, True):
            lists = [self._values(at, by_class) for at in range(len(self._nodes))]
            order: list[tuple[int, int]] = []
            last: list[tuple[int, int]] = []
            for at, values in enumerate(lists):
                converted = self._converted(at)
                owners = [owner for owner, _ in values]
                order += [(at, n) for n, owner in enumerate(owners) if owner not in converted]
                for name in (name for name, is_linked in converted.items() if not is_linked):
                    last += [(at, n) for n, owner in enumerate(owners) if owner == name]
            if held in (0, len(order), len(order) + len(last)):
                return lists, [*order, *last]
        raise self._misfit()

    def _values(self, at: int, by_class: bool) -> list[tuple[str, Any]]:
        """The values of a node inside: as many as the file has, or as its class has now."""
        node, known = self._nodes[at], self._known[at]
        if known is None:
            return self._values_of_primitive(at)
        values = stored_values(known, node)
        if by_class or isinstance(node.values, dict):
            return values
        # Editors had widgets of their own that the class does not declare (a player, a viewer).
        count = Counter(owner for owner, _ in values)
        named = [slot.name for slot in node.inputs if slot.widget]
        owners = [name for name in named for _ in range(count.get(name, 1))]
        if count.keys() <= {*named} and len(owners) == len(node.values):
            return list(zip(owners, node.values, strict=True))
        rest = [("", value) for value in node.values[len(values) :]]
        return [*values[: len(node.values)], *rest]

    def _values_of_primitive(self, at: int) -> list[tuple[str, Any]]:
        """Its value, its control and its filter; the file may have none of them."""
        kinds = [kind for origin, *_, kind in self._links if origin == at]
        helpers = _HELPERS.get(kinds[0], ()) if kinds and self._is_primitive(at) else ()
        values = as_list(self._nodes[at].values) or [None, *helpers][: 1 + len(helpers)]
        return [("value", value) for value in values] if self._is_primitive(at) else []


def _is_of(kind: str, value: JsonValue) -> bool:
    """Whether a widget of a type may hold a value; numbers may be texts."""
    if kind in ("INT", "FLOAT"):
        return not isinstance(value, bool) and _is_number(value)
    if kind == "BOOLEAN":
        return isinstance(value, bool)
    return kind not in ("STRING", "COMBO") or not isinstance(value, dict)


def _is_number(value: JsonValue) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def _connect(nodes: list[UiNode], at: int, name: str, link: str) -> int:
    """Set an input of a node to a link, and return its number."""
    slots = list(nodes[at].inputs)
    names = [slot.name for slot in slots]
    if name not in names:
        slots.append(UiSlot(name, "*"))
        names.append(name)
    number = names.index(name)
    slots[number] = replace(slots[number], link=link)
    nodes[at] = replace(nodes[at], inputs=tuple(slots))
    return number


def _index(node: object) -> int:
    """The index of a node in ``external``, where older files have the node itself."""
    index: object = as_object(node).get("index", node)
    return index if isinstance(index, int) else -1
