"""Queries on a graph for the proposal: links, values and where to set them, titles and names."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, cast

from pydantic import JsonValue

from comfysnap_schema.comfy import (
    MATCH_TYPE,
    Catalogue,
    Graph,
    InputDef,
    InputPath,
    NodeDef,
    is_link,
    title_of,
)
from comfysnap_schema.propose.names import output_of
from comfysnap_schema.wire import Kind

VALUE_NAMES: Final = frozenset(
    {
        "value",
        "int",
        "integer",
        "float",
        "number",
        "string",
        "text",
        "boolean",
        "seed",
        "noise_seed",
    }
)
"""Input names of nodes with a single value (Primitive*, KJNodes' *Constant, rgthree's Seed)."""

_MAIN_FLOW: Final = frozenset({"latent_image", "latent", "samples", "images", "image", "pixels"})
_MAKES_NAMES: Final = _MAIN_FLOW | {
    "video", "audio", "noise", "guider", "sigmas", "sampler", "mesh", "frames", "av_latent",
}  # fmt: skip
_MAKES_TYPES: Final = frozenset(
    {
        "IMAGE", "LATENT", "VIDEO", "AUDIO", "NOISE", "GUIDER", "SIGMAS", "SAMPLER", "MESH",
        "VOXEL", "SVG", "*", MATCH_TYPE,
    }
)  # fmt: skip
_GUIDES: Final = re.compile(r"control|reference|ref_|style|pose|mask|clip_vision")
_SAVES: Final = frozenset(kind for kind in Kind if kind not in (Kind.TEXT, Kind.JSON))


@dataclass(frozen=True)
class GraphView:
    """A graph with the definitions of its node classes."""

    graph: Graph
    catalogue: Catalogue | None = None

    def node_def(self, node: str) -> NodeDef | None:
        """The definition of a node's class, if known."""
        return self.catalogue.get(self.class_of(node)) if self.catalogue else None

    def class_of(self, node: str) -> str:
        """The class of a node."""
        return self.graph[node]["class_type"]

    def title(self, node: str) -> str:
        """The node's title in the editor, or its class."""
        return title_of(self.graph, node)

    def inputs(self, node: str) -> Mapping[str, JsonValue]:
        """The inputs of a node."""
        return self.graph[node]["inputs"]

    def input_def(self, path: InputPath) -> InputDef | None:
        """The definition of an input, if known."""
        known = self.node_def(path.node)
        return known.expand(self.inputs(path.node)).get(path.name) if known else None

    def value(self, path: InputPath) -> JsonValue:
        """The value at a path."""
        return self.inputs(path.node)[path.name]

    def link(self, node: str, name: str) -> tuple[str, int] | None:
        """The node and slot that an input is linked to, if it is and both exist."""
        value = self.inputs(node).get(name)
        if not is_link(value):
            return None
        origin, slot = cast("tuple[str, object]", value)
        return (origin, slot) if origin in self.graph and isinstance(slot, int) else None

    def links(self, node: str) -> Iterator[tuple[str, str, int]]:
        """Input name, origin and slot of each link of a node."""
        for name in self.inputs(node):
            found = self.link(node, name)
            if found:
                yield name, *found

    def values(self, node: str) -> Iterator[tuple[InputPath, JsonValue]]:
        """The plain values of a node."""
        for name, value in self.inputs(node).items():
            if not isinstance(value, (list, dict)):
                yield InputPath(node, name), value

    def source(self, node: str, name: str) -> InputPath | None:
        """The path to set to change an input: its own, or that of a value node linked to it. None
        when the input is computed or missing."""
        seen: set[str] = set()
        while node not in seen:
            seen.add(node)
            value = self.inputs(node).get(name)
            if value is None or isinstance(value, dict):
                return None
            if not isinstance(value, list):
                return InputPath(node, name)
            found = self.link(node, name)
            if found is None:
                return None
            node = found[0]
            names = [each for each in self.inputs(node) if each.lower() in VALUE_NAMES]
            if len(names) != 1:
                return None
            name = names[0]
        return None

    @cached_property
    def consumers(self) -> Mapping[str, tuple[tuple[str, str, int], ...]]:
        """Node to the (node, input, slot) that read it."""
        found: dict[str, list[tuple[str, str, int]]] = {node: [] for node in self.graph}
        for node in self.graph:
            for name, origin, slot in self.links(node):
                found[origin].append((node, name, slot))
        return {node: tuple(readers) for node, readers in found.items()}

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Output nodes, in the order of the file."""
        return tuple(node for node in self.graph if self._is_output(node))

    @cached_property
    def makers(self) -> frozenset[str]:
        """Nodes that make what is saved: the path of the picture back from the output, with the
        noise and steps of its samplers. Not: what prepares a control image or writes a prompt."""
        return self._made(lambda _: True)

    @cached_property
    def painters(self) -> frozenset[str]:
        """The makers without those whose picture a sampler replaces whole, taking only its size."""
        return self._made(lambda path: path.name != "latent_image" or not self._replaces(path.node))

    def _replaces(self, node: str) -> bool:
        denoise = self.source(node, "denoise")
        return denoise is not None and self.value(denoise) == 1

    def _made(self, wanted: Callable[[InputPath], bool]) -> frozenset[str]:
        roles = {node: output_of(self.class_of(node), self.inputs(node)) for node in self.outputs}
        saves = [node for node, role in roles.items() if role and role.kind in _SAVES]
        saved = [node for node in saves if (role := roles[node]) and not role.preview]
        stack = saved or saves or list(self.outputs) or list(self.graph)
        found: set[str] = set()
        while stack:
            node = stack.pop()
            if node not in found:
                found.add(node)
                stack += [
                    origin
                    for name, origin, _ in self.links(node)
                    if node in self.outputs
                    or (self._makes(path := InputPath(node, name)) and wanted(path))
                ]
        return frozenset(found)

    def _makes(self, path: InputPath) -> bool:
        if _GUIDES.search(path.name):
            return False
        known = self.input_def(path)
        if known is None:
            return path.name.rsplit(".", 1)[-1] in _MAKES_NAMES
        return any(
            kind.strip() in _MAKES_TYPES or kind.strip().startswith("FILE_3D")
            for kind in known.type.split(",")
        )

    def behind(self, node: str) -> Iterator[str]:
        """Every node that a node depends on, and itself."""
        seen = {node}
        stack = [node]
        while stack:
            at = stack.pop()
            yield at
            origins = {origin for _, origin, _ in self.links(at)} - seen
            seen |= origins
            stack += origins

    def _is_output(self, node: str) -> bool:
        known = self.node_def(node)
        if known is not None:
            return known.output_node
        return output_of(self.class_of(node), self.inputs(node)) is not None

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Nodes that an output depends on, in execution order; all nodes when no node is an
        output."""
        done: dict[str, None] = {}
        for start in self.outputs or tuple(self.graph):
            self._visit(start, done)
        return tuple(done)

    def _origins(self, node: str) -> Iterator[str]:
        """The nodes that a node reads, main data flow (a first sampler's latent) first."""
        yield from (origin for name, origin, _ in self.links(node) if name in _MAIN_FLOW)
        yield from (origin for name, origin, _ in self.links(node) if name not in _MAIN_FLOW)

    def _visit(self, start: str, done: dict[str, None]) -> None:
        stack = [(start, self._origins(start))]
        entered = {start}
        while stack:
            node, rest = stack[-1]
            origin = next((origin for origin in rest if origin not in done), None)
            if origin is None:
                done[node] = None
                stack.pop()
            elif origin not in entered:
                entered.add(origin)
                stack.append((origin, self._origins(origin)))
