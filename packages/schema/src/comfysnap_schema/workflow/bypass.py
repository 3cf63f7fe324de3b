"""Bypassing nodes: whatever read an output of the node reads one of its inputs instead."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from comfysnap_schema.comfy import Catalogue, Graph, NodeDef, is_link
from comfysnap_schema.workflow.map import Place

Slot = tuple[str, int]
"""A node and the index of its output."""


@dataclass(frozen=True)
class Bypass:
    """The changes that bypassing one node makes."""

    node: str
    rewired: tuple[tuple[str, str, int], ...]
    """Consumers of the node: their id, input name, and the output slot that it is linked to."""
    sources: Mapping[int, list[JsonValue]]
    """Output slot to the link that replaces it."""


def plan_bypass(graph: Graph, catalogue: Catalogue | None, node: str, place: Place) -> Bypass:
    """Find the input that replaces each output of a node: as in ComfyUI's editor, a linked one of
    the output's type, preferably in the same position.

    Raises:
        WorkflowError: ``no_catalogue`` or ``cannot_bypass``.
    """
    definition = catalogue.get(graph[node]["class_type"]) if catalogue else None
    if definition is None:
        place.fail(
            "no_catalogue",
            f"bypassing node {node} requires a node catalogue that has {graph[node]['class_type']};"
            " to get a nodes.json, run `comfysnap new` with --object-info",
            "bypass",
        )
    consumers = tuple(_consumers(graph, node))
    sources: dict[int, list[JsonValue]] = {}
    for consumer, name, slot in consumers:
        found = passing_links(definition, graph[node]["inputs"], slot)
        if not found:
            kind = definition.outputs[slot].type if slot < len(definition.outputs) else "?"
            place.fail(
                "cannot_bypass",
                f"node {node} ({definition.class_type}) has no linked input of type {kind} to"
                f" connect to {name} of node {consumer}",
                "bypass",
            )
        sources[slot] = found[0]
    return Bypass(node, consumers, sources)


def apply_bypasses(graph: Graph, touched: set[str], bypasses: Iterable[Bypass]) -> None:
    """Remove nodes from ``graph`` in place; nodes not in ``touched`` are copied before a change."""
    plans = {plan.node: plan for plan in bypasses}
    for plan in plans.values():
        for consumer, name, slot in plan.rewired:
            if consumer in plans:
                continue
            if consumer not in touched:
                graph[consumer] = {**graph[consumer], "inputs": dict(graph[consumer]["inputs"])}
                touched.add(consumer)
            graph[consumer]["inputs"][name] = _through(plans, plan.sources[slot])
    for node in plans:
        del graph[node]


def _through(plans: Mapping[str, Bypass], link: list[JsonValue]) -> list[JsonValue]:
    """Follow a link through nodes that are bypassed together."""
    while (plan := plans.get(str(link[0]))) is not None:
        link = plan.sources[slot_of(link)]
    return link


def _consumers(graph: Graph, node: str) -> Iterable[tuple[str, str, int]]:
    for consumer, entry in graph.items():
        for name, value in entry["inputs"].items():
            if isinstance(value, list) and is_link(value) and value[0] == node:
                yield consumer, name, slot_of(value)


def slot_of(link: list[JsonValue]) -> int:
    """The index of the output that a link reads."""
    index = link[1]
    return int(index) if isinstance(index, (int, float)) else 0


def passing_links(
    definition: NodeDef, inputs: Mapping[str, JsonValue], slot: int
) -> list[list[JsonValue]]:
    """The links of a node that can replace one of its outputs, the best first."""
    if slot >= len(definition.outputs):
        return []
    wanted = definition.outputs[slot].type
    linked = {
        name: value for name, value in inputs.items() if isinstance(value, list) and is_link(value)
    }
    of_type = [
        (position, name)
        for position, (name, known) in enumerate(definition.expand(inputs).items())
        if name in linked and wanted in known.type.split(",")
    ]
    return [linked[name] for _, name in sorted(of_type, key=lambda item: item[0] != slot)]
