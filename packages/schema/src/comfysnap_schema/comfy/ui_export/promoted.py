"""The values that instances of subgraphs hold for widgets of the nodes inside.

The rules are those of the editor's SubgraphNode and proxyWidgetMigration (comfyui-frontend-package
1.48): each input of a subgraph that leads to a widget has a value in each instance, and the older
list of shown widgets (``proxyWidgets``) adds such inputs.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic import JsonValue

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.ui_export.model import (
    PRIMITIVE,
    UiGraph,
    UiNode,
    UiWorkflow,
    as_list,
    as_object,
)
from comfysnap_schema.comfy.ui_export.widgets import readable_widgets

_INSTANCE: Final = "-1"
"""In place of a node inside: the instance itself."""
_PREFIX: Final = re.compile(r"\s*(\d+)\s*:\s*(.+)")
_MAX_DEPTH: Final = 100
_ABSENT: Final = object()

Shown = tuple[str, str, str | None]
"""A node inside, its widget, and the node that the widget comes from, if inside that one."""


@dataclass(frozen=True)
class Value:
    """A value that the editor sets on an input: from a primitive, or a widget of a subgraph."""

    value: JsonValue
    on_widget: bool = False
    """Whether it is set on the input's widget, which may send it in another form."""


@dataclass
class _Input:
    """An input of a subgraph, and the (node, input) pairs inside that it is linked to."""

    name: str
    targets: list[tuple[str, str]]
    is_widget: bool = False
    """Whether it led to a widget when the file was saved."""


class Promotions:
    """Which inputs inside subgraphs take a value from an instance, and these values."""

    def __init__(self, workflow: UiWorkflow, catalogue: Catalogue) -> None:
        self._subgraphs = workflow.subgraphs
        self._catalogue = catalogue
        self._inputs = {graph.id: _inputs(graph) for graph in workflow.subgraphs.values()}
        self._own: dict[tuple[str, str], dict[str, JsonValue]] = {}
        self._values: dict[tuple[str, str], dict[str, JsonValue]] = {}
        self._added: dict[tuple[str, str], dict[str, str]] = {}
        self._instances: dict[str, list[tuple[str, str]]] = {}
        for graph in (*_leaves_first(workflow), workflow.root):
            instances = [node for node in graph.nodes.values() if node.type in self._subgraphs]
            for instance in instances:
                self._values[graph.id, instance.id] = self._configured(instance)
                self._instances.setdefault(instance.type, []).append((graph.id, instance.id))
            for instance in instances:
                self._show(graph, instance)

    def value(self, graph: UiGraph, instance: UiNode, name: str) -> Value | None:
        """The value that an instance holds for one of its inputs, if it does."""
        values = self._values[graph.id, instance.id]
        return Value(values[name]) if name in values else None

    def added(self, graph: UiGraph, node: UiNode) -> Mapping[str, str]:
        """A node's inputs that an input of the subgraph sets, which the file does not have."""
        return self._added.get((graph.id, node.id), {})

    def _configured(self, instance: UiNode) -> dict[str, JsonValue]:
        """The values of an instance, of which the file has a list in the order of its inputs."""
        graph = self._subgraphs[instance.type]
        values: dict[str, JsonValue] = {}
        for entry in self._inputs[graph.id]:
            found = (self._widget(graph, *target) for target in entry.targets)
            value = next((each for each in found if each is not _ABSENT), _ABSENT)
            if value is not _ABSENT:
                values[entry.name] = cast("JsonValue", value)
        listed = instance.values
        if isinstance(listed, dict):
            return values | {name: listed[name] for name in values if name in listed}
        # Also those that an older class lacks: each has a place in the list.
        inputs = self._inputs[graph.id]
        places = [each.name for each in inputs if each.is_widget or each.name in values]
        held = dict(zip(places, listed, strict=False)) | _set_aside(instance)
        return values | {name: held[name] for name in values if name in held}

    def _widget(self, graph: UiGraph, node: str, name: str) -> object:
        """The value of a widget inside a subgraph, or ``_ABSENT``."""
        found = graph.nodes.get(node)
        if found is None:
            return _ABSENT
        if found.type in self._subgraphs:
            return self._values.get((graph.id, node), {}).get(name, _ABSENT)
        key = (graph.id, node)
        if key not in self._own:
            self._own[key] = self._own_values(found)
        return self._own[key].get(name, _ABSENT)

    def _own_values(self, node: UiNode) -> dict[str, JsonValue]:
        known = self._catalogue.get(node.type)
        widgets = readable_widgets(known, node) if known is not None else {}
        return {name: each.value for name, each in widgets.items() if each.entry is not None}

    def _show(self, parent: UiGraph, instance: UiNode) -> None:
        """Apply the older list of shown widgets, with the value that the file has for each."""
        graph = self._subgraphs[instance.type]
        listed = instance.values if isinstance(instance.values, list) else []
        values = self._values[parent.id, instance.id]
        shown = [self._without_prefix(graph, each) for each in shown_widgets(instance)]
        linked = [self._input_for(graph, each) for each in shown]
        primitives: set[str] = set()
        for index, (entry, name) in enumerate(zip(shown, linked, strict=True)):
            value = listed[index] if index < len(listed) else None
            if name is None:
                name = entry[1] if entry[0] == _INSTANCE else self._add(graph, entry)
            if value is None or name not in values or entry[0] in primitives:
                continue
            values[name] = value
            node = graph.nodes.get(entry[0])
            if node is not None and node.type == PRIMITIVE:  # the first of its values counts
                primitives.add(node.id)

    def _without_prefix(self, graph: UiGraph, shown: Shown) -> Shown:
        """Older names of widgets inside nested subgraphs begin with node ids: ``12: text``."""
        node, name, source = shown
        if self._resolves(graph, node, name):
            return shown
        while match := _PREFIX.fullmatch(name):
            source, name = match.groups()
        return node, name, source

    def _resolves(self, graph: UiGraph, node: str, name: str) -> bool:
        for _ in range(_MAX_DEPTH):
            found = graph.nodes.get(node)
            if found is None or found.type not in self._subgraphs:
                return self._widget(graph, node, name) is not _ABSENT
            target = self._source(graph := self._subgraphs[found.type], name)
            if target is None:
                return False
            node, name = target
        return False

    def _source(self, graph: UiGraph, name: str) -> tuple[str, str] | None:
        """The first widget that an input of a subgraph leads to."""
        entry = next((each for each in self._inputs[graph.id] if each.name == name), None)
        for node, slot in entry.targets if entry else ():
            nested = graph.nodes[node].type in self._subgraphs
            if nested or self._widget(graph, node, slot) is not _ABSENT:
                return node, slot
        return None

    def _input_for(self, graph: UiGraph, shown: Shown) -> str | None:
        """The input of the subgraph that already leads to a shown widget."""
        return next(
            (
                entry.name
                for entry in self._inputs[graph.id]
                if self._source(graph, entry.name) == shown[:2]
            ),
            None,
        )

    def _add(self, graph: UiGraph, shown: Shown) -> str | None:
        """Add an input to a subgraph that leads to a shown widget, as all its instances then
        have; None when there is no such widget."""
        node = graph.nodes.get(shown[0])
        if node is None:
            return None
        if node.type == PRIMITIVE:
            name = node.title or shown[1]
            ends = graph.targets(graph.out_of(node.id, 0))
            targets = [(each, slot.name) for each, slot in ends]
        else:
            name, slot = shown[1], self._slot_of(graph, node, shown)
            targets = [(node.id, slot)] if slot is not None else []
        if not targets:
            return None
        first, slot = targets[0]
        already = self._added.get((graph.id, first), {}).get(slot)
        if node.type == PRIMITIVE and already is not None:
            return already
        inputs = self._inputs[graph.id]
        name = _unique(name, {entry.name for entry in inputs})
        for entry in inputs:
            entry.targets = [each for each in entry.targets if each not in targets]
        inputs.append(_Input(name, targets))
        for target, each in targets:
            self._added.setdefault((graph.id, target), {})[each] = name
        value = self._widget(graph, first, slot)
        if value is not _ABSENT:
            for key in self._instances[graph.id]:
                self._values[key][name] = cast("JsonValue", value)
        return name

    def _slot_of(self, graph: UiGraph, node: UiNode, shown: Shown) -> str | None:
        """The input of a node inside that belongs to a shown widget."""
        _, name, source = shown
        if node.type not in self._subgraphs:
            return name if self._widget(graph, node.id, name) is not _ABSENT else None
        nested = self._subgraphs[node.type]
        for entry in self._inputs[nested.id]:
            found = self._source(nested, entry.name)
            widget = found[1] if found is not None else None
            if found == (source, name) or (source is None and name in (entry.name, widget)):
                return entry.name
        return None


def _inputs(graph: UiGraph) -> list[_Input]:
    found: list[_Input] = []
    for index, entry in enumerate(graph.inputs):
        targets = list(graph.targets(graph.from_input(index)))
        names = [(node, slot.name) for node, slot in targets]
        found.append(_Input(entry.name, names, any(slot.widget for _, slot in targets)))
    return found


def _leaves_first(workflow: UiWorkflow) -> Iterator[UiGraph]:
    """The subgraphs, those that others contain before these."""
    left = dict(workflow.subgraphs)
    while left:
        inner = {name: {node.type for node in graph.nodes.values()} for name, graph in left.items()}
        ready = [name for name, types in inner.items() if types.isdisjoint(left)]
        for name in ready or list(left):  # a cycle, which is reported elsewhere
            yield left.pop(name)


def shown_widgets(instance: UiNode) -> list[Shown]:
    """The older list of the widgets that an instance shows; empty unless all of it is valid. The
    node ``-1`` is the instance itself."""
    pairs = [as_list(each) for each in as_list(instance.properties.get("proxyWidgets"))]
    if not all(len(pair) in (2, 3) and all(isinstance(e, str) for e in pair) for pair in pairs):
        return []
    return [(pair[0], pair[1], pair[2] if len(pair) == 3 else None) for pair in pairs]


def _set_aside(instance: UiNode) -> dict[str, Any]:
    """Values of an instance's own inputs that an earlier conversion in the editor set aside."""
    entries = as_list(instance.properties.get("proxyWidgetErrorQuarantine"))
    found: dict[str, Any] = {}
    for entry in map(as_object, entries):
        node, name, *_ = [*as_list(entry.get("originalEntry")), None, None]
        if node == _INSTANCE and entry.get("hostValue") is not None:
            found.setdefault(str(name), entry["hostValue"])
    return found


def _unique(name: str, taken: set[str]) -> str:
    number = 0
    found = name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found
