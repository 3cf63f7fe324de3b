"""Follows the links of a UI export to the nodes that run, as ComfyUI's editor does.

The rules are those of its graphToPrompt and ExecutableNodeDTO (comfyui-frontend-package 1.48).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.definitions import MATCH_TYPE, InputDef, NodeDef
from comfysnap_schema.comfy.graph import NOTES
from comfysnap_schema.comfy.ui_export.model import (
    BYPASSED,
    MAX_NODES,
    MUTED,
    PRIMITIVE,
    SUBGRAPH_INPUT,
    SUBGRAPH_OUTPUT,
    UiGraph,
    UiLink,
    UiNode,
    UiSlot,
    UiWorkflow,
)
from comfysnap_schema.comfy.ui_export.promoted import Promotions, Value
from comfysnap_schema.comfy.ui_export.widgets import ConversionError, Widget, readable_widgets

REROUTES: Final = frozenset({"Reroute", "Reroute (rgthree)"})
SETTERS: Final = frozenset({"SetNode", "easy setNode"})
GETTERS: Final = frozenset({"GetNode", "easy getNode"})
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


class LinkResolver:
    """Resolves inputs; a link from nowhere gives None, as in the editor."""

    def __init__(self, workflow: UiWorkflow, catalogue: Catalogue) -> None:
        self.workflow = workflow
        self.catalogue = catalogue
        self._promotions = Promotions(workflow, catalogue)

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
        off = node.off and scope.instance is None  # the editor sends those that are nested
        if graph is None or off:
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
        values = {name: widget.value for name, widget in readable_widgets(known, node).items()}
        declared = {
            slot.name: slot
            for entry in sorted(known.declared, key=lambda entry: entry.is_widget)
            for slot in _slots(entry, entry.name, values, saved)
        }
        return tuple({**declared, **saved}.values())

    def linkable(
        self, scope: Scope, node: UiNode, known: NodeDef, widgets: Mapping[str, Widget]
    ) -> Iterator[UiSlot]:
        """The inputs of a node that a link or an enclosing instance may set."""
        declared = known.expand({name: widget.value for name, widget in widgets.items()})
        added = [UiSlot(name, "*") for name in self._promotions.added(scope.graph, node)]
        for slot in {slot.name: slot for slot in (*node.inputs, *added)}.values():
            chosen = declared.get(slot.name.partition(".")[0])
            child = chosen is not None and chosen.dynamic is not None
            gone = slot.name not in widgets and slot.name not in declared
            if gone and (child or slot.widget):
                continue  # the editor removes inputs that the class no longer has
            yield slot

    def input(self, scope: Scope, node: UiNode, slot: UiSlot) -> Origin | Value | None:
        """The origin or value of an input; None when it has neither.

        Raises:
            ConversionError: ``broken_link``, for a cycle or a missing node.
        """
        link = scope.graph.links.get(slot.link) if slot.link is not None else None
        origin = scope.graph.nodes.get(link.origin) if link is not None else None
        if origin is not None and origin.type == PRIMITIVE:  # copied even when it is off
            return Value(origin.value(0), on_widget=True)
        return self._input(scope, node, slot, slot.type, frozenset())

    def _input(
        self, scope: Scope, node: UiNode, slot: UiSlot, kind: str, seen: frozenset[Any]
    ) -> Origin | Value | None:
        here = (scope.path, node.id, slot.name)
        if here in seen:
            raise ConversionError("broken_link", f"the links into {slot.name} form a cycle")
        seen |= {here}
        added = self._promotions.added(scope.graph, node).get(slot.name)
        if added is not None:
            return self._from_outside(scope, UiSlot(added, kind), seen)
        link = scope.graph.links.get(slot.link) if slot.link is not None else None
        if link is None:
            return None
        if link.origin == SUBGRAPH_INPUT:
            return self._from_input(scope, link, seen)
        return self._output(scope, link, kind, seen)

    def _from_input(
        self, scope: Scope, link: UiLink, seen: frozenset[Any]
    ) -> Origin | Value | None:
        if link.origin_slot >= len(scope.graph.inputs):
            raise ConversionError("broken_link", f"the graph has no input {link.origin_slot}")
        return self._from_outside(scope, scope.graph.inputs[link.origin_slot], seen)

    def _from_outside(
        self, scope: Scope, entry: UiSlot, seen: frozenset[Any]
    ) -> Origin | Value | None:
        """What an input of a subgraph's instance is linked to, or its own value."""
        parent, instance = scope.parent, scope.instance
        if parent is None or instance is None:
            raise ConversionError("broken_link", "a link starts outside the graph")
        slot = next((each for each in instance.inputs if each.name == entry.name), entry)
        inside = slot.name in self._promotions.added(parent.graph, instance)
        if inside or slot.link is not None:
            return self._input(parent, instance, slot, entry.type, seen)
        return self._promotions.value(parent.graph, instance, slot.name)

    def _output(
        self, scope: Scope, link: UiLink, kind: str, seen: frozenset[Any]
    ) -> Origin | Value | None:
        node = scope.graph.nodes.get(link.origin)
        if node is None:
            raise ConversionError(
                "broken_link", f"a link starts at node {link.origin}, which does not exist"
            )
        if node.mode == MUTED:
            return None
        if node.mode == BYPASSED:
            slot = self._bypass(node, link.origin_slot, kind)
            return self._input(scope, node, slot, slot.type, seen) if slot else None
        if node.type in self.workflow.subgraphs:
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
            return self._from_input(inner, link, seen)
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


def _slots(
    entry: InputDef, name: str, values: Mapping[str, JsonValue], saved: Iterable[str]
) -> Iterator[UiSlot]:
    dynamic = entry.dynamic
    if dynamic is not None and dynamic.template is not None:
        kind = dynamic.template.type
        first = [f"{name}.{short}" for short in dynamic.names[: dynamic.least + 1]]
        grown = [each for each in saved if each.startswith(f"{name}.")]
        yield from (UiSlot(each, kind) for each in (*first, *grown))
    else:
        yield UiSlot(name, "*" if entry.type == MATCH_TYPE else entry.type)
    for child in dynamic.options.get(str(values.get(name)), ()) if dynamic is not None else ():
        yield from _slots(child, f"{name}.{child.name}", values, saved)


def _connects(one: str, other: str) -> bool:
    """LiteGraph's isValidConnection."""
    if one in ("", "*") or other in ("", "*"):
        return True
    parts = {part.strip().lower() for part in one.split(",")}
    return not parts.isdisjoint(part.strip().lower() for part in other.split(","))
