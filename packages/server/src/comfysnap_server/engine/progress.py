"""How far a job is: plain arithmetic over the nodes that really run."""

from collections.abc import Callable, Iterable

from comfysnap_schema.comfy import Graph, title_of
from comfysnap_schema.wire import Progress

SAMPLER_WEIGHT = 10.0
"""A sampler counts as this many other nodes: it is where a diffusion job spends its time."""


def weight_of(class_type: str) -> float:
    """The share of the work that a node of this class stands for, before it ran."""
    samples = class_type.startswith(("KSampler", "SamplerCustom")) or class_type.endswith("Sampler")
    return SAMPLER_WEIGHT if samples and not class_type.endswith("Select") else 1.0


class ProgressMeter:
    """Turns node events into ``Progress``; its ``fraction`` never falls.

    Nodes that do not run (cached, bypassed) are left out of the plan, or taken out by ``skip``;
    nodes that a running node adds join it when they start.
    """

    def __init__(
        self, graph: Graph, nodes: Iterable[str], origin: Callable[[str], str] = str
    ) -> None:
        """``origin``: a node's id to that of the node of the graph which added it, told instead."""
        self._graph = graph
        self._origin = origin
        self._weights = {node: self._weight(node) for node in nodes}
        self._done: dict[str, float] = {}
        self._fraction = 0.0
        self._now = Progress()

    @property
    def now(self) -> Progress:
        """The latest state."""
        return self._now

    def skip(self, nodes: Iterable[str]) -> Progress:
        """These nodes will not run."""
        for node in nodes:
            self._weights.pop(node, None)
            self._done.pop(node, None)
        return self._tell(self._now.node)

    def start(self, node: str) -> Progress:
        """The node begins to run."""
        self._weights.setdefault(node, self._weight(node))
        self._done.setdefault(node, 0.0)
        return self._tell(node)

    def step(self, node: str, step: int, steps: int) -> Progress:
        """The running node has done ``step`` of ``steps``; both are clamped to what makes sense."""
        steps = max(steps, 1)
        step = min(max(step, 0), steps)
        self._weights.setdefault(node, self._weight(node))
        self._done[node] = max(self._done.get(node, 0.0), step / steps)
        return self._tell(node, step, steps)

    def finish(self, node: str) -> Progress:
        """The node ended."""
        self._weights.setdefault(node, self._weight(node))
        self._done[node] = 1.0
        return self._tell(node, self._now.step, self._now.steps)

    def _weight(self, node: str) -> float:
        entry = self._graph.get(node)
        return weight_of(entry["class_type"]) if entry else 1.0

    def _tell(
        self, node: str | None, step: int | None = None, steps: int | None = None
    ) -> Progress:
        total = sum(self._weights.values())
        done = sum(self._weights[name] * part for name, part in self._done.items())
        self._fraction = max(self._fraction, min(done / total, 1.0) if total else 0.0)
        node = self._origin(node) if node else None
        entry = self._graph.get(node) if node else None
        self._now = Progress(
            fraction=self._fraction,
            node=node,
            node_class=entry["class_type"] if entry else None,
            node_title=title_of(self._graph, node) if node and entry else None,
            step=step,
            steps=steps,
        )
        return self._now
