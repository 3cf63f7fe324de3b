"""Removing nodes whose place in a list has no value, with all that cannot run without them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.comfy import Catalogue, Graph, InputPath, NodeDef, is_link, title_of
from comfysnap_schema.workflow.bypass import passing_links, slot_of

Link = list[JsonValue]

_SAMPLED: Final = frozenset({"MODEL", "GUIDER"})
"""What a node that samples a latent takes."""


class CannotRemoveError(Exception):
    """An output of the workflow cannot be made without a place; the message says why."""


def fewest_values(
    graph: Graph, catalogue: Catalogue | None, places: Sequence[InputPath], outputs: Collection[str]
) -> tuple[int, str]:
    """How many values a list needs at least, and why it cannot be fewer.

    Args:
        graph: The graph with all places; not changed.
        catalogue: Which inputs are optional, and what can be bypassed.
        places: Those of the list, in order.
        outputs: Nodes that make outputs of the workflow.
    """
    for count in reversed(range(len(places))):
        try:
            remove_places(dict(graph), set(), catalogue, places, places[count:], outputs)
        except CannotRemoveError as error:
            return count + 1, str(error)
    return 0, ""


def remove_places(
    graph: Graph,
    touched: set[str],
    catalogue: Catalogue | None,
    places: Collection[InputPath],
    unused: Collection[InputPath],
    outputs: Collection[str],
) -> None:
    """Remove unused places of lists from ``graph`` in place; nodes not in ``touched`` are copied
    before a change.

    An optional input is left out; otherwise its node goes. Whatever read that node then reads
    what a bypass would connect, or goes without where its input is optional, or goes too.

    Raises:
        CannotRemoveError: A node in ``outputs`` would have to go.
    """
    removal = _Removal(graph, touched, catalogue, frozenset(outputs))
    used = {path.node for path in places if path not in unused}
    for path in unused:
        if path.node not in graph:
            continue
        if removal.is_optional(path.node, path.name):
            removal.inputs_of(path.node).pop(path.name, None)
        elif path.node in used:
            raise CannotRemoveError(
                f"{path} is required by node {path.node}, which has another place of the list"
            )
        else:
            removal.remove(path.node)
    removal.finish()


@dataclass
class _Removal:
    graph: Graph
    touched: set[str]
    catalogue: Catalogue | None
    outputs: Collection[str]
    gone: set[str] = field(default_factory=set[str])

    def inputs_of(self, node: str) -> dict[str, JsonValue]:
        """The inputs of a node, to be changed."""
        if node not in self.touched:
            entry = self.graph[node]
            self.graph[node] = {**entry, "inputs": dict(entry["inputs"])}
            self.touched.add(node)
        return self.graph[node]["inputs"]

    def is_optional(self, node: str, name: str) -> bool:
        """Whether ComfyUI runs a node without one of its inputs."""
        definition = self._definition(node)
        if definition is None:
            return False
        known = definition.expand(self.graph[node]["inputs"]).get(name)
        return known is None or not known.required

    def remove(self, node: str) -> None:
        """Mark a node, and then all that cannot run without it."""
        if node in self.outputs:
            raise CannotRemoveError(self._reason(node, "makes an output"))
        self.gone.add(node)
        for user in self.graph:
            if user in self.gone or not any(self._lost(user)):
                continue
            if self._is_sampler(user):  # its latent would pass, and the result make no sense
                raise CannotRemoveError(self._reason(user, "is a sampler"))
            self.remove(user)

    def finish(self) -> None:
        """Reconnect what is left."""
        for node in [each for each in self.graph if each not in self.gone]:
            for name, link in self._links_to_gone(node):
                other = self._source(link, frozenset())
                if other is None:
                    del self.inputs_of(node)[name]
                else:
                    self.inputs_of(node)[name] = [*other]
        for node in self.gone:
            del self.graph[node]

    def _definition(self, node: str) -> NodeDef | None:
        return self.catalogue.get(self.graph[node]["class_type"]) if self.catalogue else None

    def _links_to_gone(self, node: str) -> list[tuple[str, Link]]:
        return [
            (name, value)
            for name, value in self.graph[node]["inputs"].items()
            if isinstance(value, list) and is_link(value) and value[0] in self.gone
        ]

    def _lost(self, node: str) -> Iterator[str]:
        """Required inputs of a node that nothing is connected to any more."""
        for name, link in self._links_to_gone(node):
            if self._source(link, frozenset()) is None and not self.is_optional(node, name):
                yield name

    def _source(self, link: Link, seen: frozenset[str]) -> Link | None:
        """What a link leads to through nodes that are gone; None: nothing."""
        node = str(link[0])
        if node not in self.gone:
            return link
        definition = self._definition(node)
        if definition is None or node in seen:
            return None
        inputs = passing_links(definition, self.graph[node]["inputs"], slot_of(link))
        others = (self._source(each, seen | {node}) for each in inputs)
        return next((other for other in others if other is not None), None)

    def _is_sampler(self, node: str) -> bool:
        definition = self._definition(node)
        if definition is None or all(output.type != "LATENT" for output in definition.outputs):
            return False
        return any(entry.type in _SAMPLED for entry in definition.declared)

    def _reason(self, node: str, role: str) -> str:
        if self.catalogue is None:
            return "which inputs are optional is unknown without a nodes.json"
        shown = f"node {node} ({title_of(self.graph, node)}), which {role}, needs it"
        unknown = sorted(
            {
                self.graph[each]["class_type"]
                for each in chain(self.gone, [node])
                if self._definition(each) is None
            }
        )
        return f"{shown}; not in nodes.json: {', '.join(unknown)}" if unknown else shown
