"""Follows the links of a UI export to the nodes that run, as ComfyUI's editor does.

The rules are those of its graphToPrompt and ExecutableNodeDTO (comfyui-frontend-package 1.27).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.graph import NOTES
from comfysnap_schema.comfy.ui_export.model import (
    BYPASSED,
    MAX_NODES,
    MUTED,
    SUBGRAPH_INPUT,
    SUBGRAPH_OUTPUT,
    UiGraph,
    UiLink,
    UiNode,
    UiSlot,
    UiWorkflow,
    as_list,
)
from comfysnap_schema.comfy.ui_export.widgets import ConversionError

REROUTES: Final = frozenset({"Reroute", "Reroute (rgthree)"})
SETTERS: Final = frozenset({"SetNode", "easy setNode"})
GETTERS: Final = frozenset({"GetNode", "easy getNode"})
PRIMITIVE: Final = "PrimitiveNode"
VIRTUAL: Final = NOTES | REROUTES | SETTERS | GETTERS | {PRIMITIVE}
"""Node types that exist only in the editor."""


@dataclass(frozen=True)
class Scope:
    """The top-level graph, or one instance of a subgraph."""

    graph: UiGraph
    path: tuple[str, ...] = ()
    """Ids of the instances around it, outermost first."""
    parent: "Scope | None" = None
    instance: UiNode | None = None

    def id_of(self, node: str) -> str:
        """The id in the API graph: ``a:b`` inside subgraphs."""
        return ":".join((*self.path, node))


@dataclass(frozen=True)
class Origin:
    """An output of a node that runs, linked to an input."""

    node: str
    slot: int


@dataclass(frozen=True)
class Value:
    """A value that the editor sets on an input: from a primitive, or a widget of a subgraph."""

    value: JsonValue


@dataclass(frozen=True)
class LinkResolver:
    """Resolves inputs; a link from nowhere gives None, as in the editor."""

    workflow: UiWorkflow
    catalogue: Catalogue

    def scopes(self) -> Iterator[Scope]:
        """The top-level graph and every instance of a subgraph that runs, outer ones first.

        Raises:
            ConversionError: ``broken_link``, when subgraphs contain each other; ``too_large``.
        """
        stack = [Scope(self.workflow.root)]
        count = 0
        while stack:
            scope = stack.pop()
            count += 1 + len(scope.graph.nodes)
            if count > MAX_NODES:
                raise ConversionError(
                    "too_large", f"its subgraphs expand to more than {MAX_NODES} nodes"
                )
            yield scope
            inner = [self._enter(scope, node) for node in scope.graph.nodes.values()]
            stack.extend(reversed([found for found in inner if found is not None]))

    def _enter(self, scope: Scope, node: UiNode) -> Scope | None:
        graph = self.workflow.subgraphs.get(node.type)
        if graph is None or node.off:
            return None
        if len(scope.path) > len(self.workflow.subgraphs):
            raise ConversionError("broken_link", f"the subgraph {graph.name!r} contains itself")
        return self._inside(scope, node)

    def _inside(self, scope: Scope, node: UiNode) -> Scope:
        return Scope(self.workflow.subgraphs[node.type], (*scope.path, node.id), scope, node)

    def slots(self, node: UiNode) -> tuple[UiSlot, ...]:
        """A node's inputs in the editor's order: sockets, then widgets; for a subgraph, its own
        inputs. The file may omit widgets that are not linked."""
        saved = {slot.name: slot for slot in node.inputs}
        subgraph = self.workflow.subgraphs.get(node.type)
        if subgraph is not None:
            return tuple(saved.get(slot.name, slot) for slot in subgraph.inputs)
        known = self.catalogue.get(node.type)
        if known is None:
            return node.inputs
        order = sorted(known.declared, key=lambda entry: entry.is_widget)
        declared = {entry.name: UiSlot(entry.name, entry.type) for entry in order}
        return tuple({**declared, **saved}.values())

    def input(self, scope: Scope, node: UiNode, slot: UiSlot) -> Origin | Value | None:
        """The origin or value of an input; None when it has neither.

        Raises:
            ConversionError: ``broken_link``, for a cycle or a missing node.
        """
        return self._input(scope, node, slot, slot.type, frozenset())

    def _input(
        self, scope: Scope, node: UiNode, slot: UiSlot, kind: str, seen: frozenset[Any]
    ) -> Origin | Value | None:
        here = (scope.path, node.id, slot.name)
        if here in seen:
            raise ConversionError("broken_link", f"the links into {slot.name} form a cycle")
        seen |= {here}
        link = scope.graph.links.get(slot.link) if slot.link is not None else None
        if link is None:
            return None
        if link.origin == SUBGRAPH_INPUT:
            return self._from_outside(scope, link, kind, seen)
        return self._output(scope, link, kind, seen)

    def _from_outside(
        self, scope: Scope, link: UiLink, kind: str, seen: frozenset[Any]
    ) -> Origin | Value | None:
        if scope.parent is None or scope.instance is None:
            raise ConversionError(
                "broken_link", "a link outside subgraphs starts at a subgraph input"
            )
        slots = self.slots(scope.instance)
        if link.origin_slot >= len(slots):
            raise ConversionError("broken_link", f"the subgraph has no input {link.origin_slot}")
        slot = slots[link.origin_slot]
        if slot.link is None:
            return self._promoted(scope, scope.instance, slot)
        return self._input(scope.parent, scope.instance, slot, kind, seen)

    def _output(
        self, scope: Scope, link: UiLink, kind: str, seen: frozenset[Any]
    ) -> Origin | Value | None:
        node = scope.graph.nodes.get(link.origin)
        if node is None:
            raise ConversionError(
                "broken_link", f"a link starts at node {link.origin}, which does not exist"
            )
        if node.type == PRIMITIVE:  # the editor copies its value even when it is off
            return Value(node.value(0))
        if node.mode == BYPASSED:
            slot = self._bypass(node, link.origin_slot, kind)
            return self._input(scope, node, slot, kind, seen) if slot else None
        if node.type in self.workflow.subgraphs:
            if node.mode == MUTED:
                return None
            return self._from_inside(scope, node, link.origin_slot, kind, seen)
        if node.type in VIRTUAL:
            return self._virtual(scope, node, kind, seen)
        return Origin(scope.id_of(node.id), link.origin_slot)

    def _from_inside(
        self, scope: Scope, node: UiNode, slot: int, kind: str, seen: frozenset[Any]
    ) -> Origin | Value | None:
        inner = self._inside(scope, node)
        link = inner.graph.into(SUBGRAPH_OUTPUT, slot)
        if link is None:
            return None
        if link.origin == SUBGRAPH_INPUT:
            return self._from_outside(inner, link, kind, seen)
        return self._output(inner, link, kind, seen)

    def _virtual(
        self, scope: Scope, node: UiNode, kind: str, seen: frozenset[Any]
    ) -> Origin | Value | None:
        if node.type in GETTERS:
            scope, node = self._setter(scope, node)
        slot = node.inputs[0] if node.inputs else None
        return self._input(scope, node, slot, kind, seen) if slot else None

    def _setter(self, scope: Scope, node: UiNode) -> tuple[Scope, UiNode]:
        """The SetNode of the same name, in this scope or an outer one."""
        name = node.value(0)
        around: Scope | None = scope
        while around is not None:
            for other in around.graph.nodes.values():
                if other.type in SETTERS and other.value(0) == name:
                    return around, other
            around = around.parent
        raise ConversionError("broken_link", f"missing SetNode for {name!r}")

    def _bypass(self, node: UiNode, slot: int, kind: str) -> UiSlot | None:
        """The input that replaces an output of a bypassed node."""
        slots = self.slots(node)
        if kind in ("*", ""):
            return slots[slot] if slot < len(slots) else next(iter(slots), None)
        made = node.outputs[slot].type if slot < len(node.outputs) else kind
        same = slots[slot] if slot < len(slots) else None
        if same and _connects(same.type, made) and _connects(same.type, kind):
            return same
        exact = next((each for each in slots if each.type == kind), None)
        return exact or next(
            (each for each in slots if _connects(each.type, made) and _connects(each.type, kind)),
            None,
        )

    def _promoted(self, scope: Scope, instance: UiNode, slot: UiSlot) -> Value | None:
        """The value of the widget that an instance shows for one of its inputs, if it has one."""
        names = [
            entry.name
            for index, entry in enumerate(scope.graph.inputs)
            if self._leads_to_widget(scope.graph, index)
        ]
        values = self._instance_values(instance, names)
        return Value(values[slot.name]) if slot.name in values else None

    def _instance_values(self, instance: UiNode, names: list[str]) -> dict[str, Any]:
        """Values of an instance's own widgets; empty when the inner nodes store them."""
        if isinstance(instance.values, dict):
            return {name: instance.values[name] for name in names if name in instance.values}
        if not instance.values:
            return {}
        shown = proxies(instance)
        if len(shown) == len(instance.values):
            order = [name if node == "-1" else "" for node, name in shown]
            return dict(zip(order, instance.values, strict=True))
        if len(names) == len(instance.values):
            return dict(zip(names, instance.values, strict=True))
        raise ConversionError(
            "widget_values",
            f"expected {len(names)} widget values for the subgraph, got {len(instance.values)}",
        )

    def proxied(self, scope: Scope, node: UiNode) -> dict[str, Any]:
        """Values that the enclosing instance stores for the node's own widgets."""
        instance = scope.instance
        if instance is None or not isinstance(instance.values, list):
            return {}
        shown = proxies(instance)
        if len(shown) != len(instance.values):
            return {}
        return {
            name: value
            for (owner, name), value in zip(shown, instance.values, strict=True)
            if owner == node.id and value is not None
        }

    def _leads_to_widget(self, graph: UiGraph, index: int) -> bool:
        slots = (_slot_at(graph, link) for link in graph.out_of(SUBGRAPH_INPUT, index))
        return any(slot is not None and slot.widget for slot in slots)


def _slot_at(graph: UiGraph, link: UiLink) -> UiSlot | None:
    node = graph.nodes.get(link.target)
    slots = node.inputs if node else ()
    return slots[link.target_slot] if link.target_slot < len(slots) else None


def proxies(instance: UiNode) -> list[tuple[str, str]]:
    """``(inner node, widget)`` pairs that an instance shows; ``-1`` is the instance itself."""
    pairs = as_list(instance.properties.get("proxyWidgets"))
    return [(str(pair[0]), str(pair[1])) for pair in map(as_list, pairs) if len(pair) >= 2]


def _connects(one: str, other: str) -> bool:
    """LiteGraph's isValidConnection."""
    if one in ("", "*") or other in ("", "*"):
        return True
    parts = {part.strip().lower() for part in one.split(",")}
    return not parts.isdisjoint(part.strip().lower() for part in other.split(","))
