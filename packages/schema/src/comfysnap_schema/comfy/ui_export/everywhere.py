"""Links of cg-use-everywhere, which the editor makes only when it queues a prompt.

The pack writes them into ``extra.ue_links`` of the file (its ``js/use_everywhere_apply.js``).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from comfysnap_schema.comfy.ui_export.model import (
    Json,
    UiGraph,
    UiLink,
    UiNode,
    as_list,
    as_object,
)

BROADCASTS: Final = frozenset(
    {
        "Anything Everywhere",
        "Anything Everywhere3",
        "Anything Everywhere?",
        "Prompts Everywhere",
        "Seed Everywhere",
    }
)
"""Nodes that send a value to inputs that no drawn link reaches."""


def with_broadcast_links(root: UiGraph, data: Json) -> UiGraph:
    """The graph with the links in ``extra.ue_links`` drawn."""
    nodes, links = dict(root.nodes), dict(root.links)
    for number, link in enumerate(_written(data)):
        node = nodes.get(link.target)
        if node is None or link.origin not in nodes or link.target_slot >= len(node.inputs):
            continue
        slots = list(node.inputs)
        if slots[link.target_slot].link is None:
            name = f"everywhere-{number}"
            slots[link.target_slot] = replace(slots[link.target_slot], link=name)
            nodes[link.target] = replace(node, inputs=tuple(slots))
            links[name] = replace(link, id=name)
    return replace(root, nodes=nodes, links=links)


def has_unwritten_links(node: UiNode, data: Json) -> bool:
    """Whether a node broadcasts a value to inputs that the file does not name."""
    if node.type not in BROADCASTS or not any(slot.link for slot in node.inputs):
        return False
    return node.id not in {link.id for link in _written(data)}


def _written(data: Json) -> Iterator[UiLink]:
    """The links in the file, each with the id of the node that broadcasts it."""
    for entry in as_list(as_object(data.get("extra")).get("ue_links")):
        link = as_object(entry)
        slots = (link.get("upstream_slot"), link.get("downstream_slot"))
        origin_slot, target_slot = (slot if isinstance(slot, int) else -1 for slot in slots)
        if origin_slot >= 0 and target_slot >= 0:
            yield UiLink(
                id=str(link.get("controller")),
                origin=str(link.get("upstream")),
                origin_slot=origin_slot,
                target=str(link.get("downstream")),
                target_slot=target_slot,
            )
