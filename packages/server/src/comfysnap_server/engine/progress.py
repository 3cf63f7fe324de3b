"""Progress of a job, computed from the nodes that run."""

from collections.abc import Callable, Iterable

from comfysnap_schema.comfy import Graph, title_of
from comfysnap_schema.wire import Progress

SAMPLER_WEIGHT = 10.0
"""Weight of a sampler relative to other nodes: diffusion jobs spend most of their time there."""


def weight_of(class_type: str) -> float:
    """The weight of a node class in the total work."""
    samples = class_type.startswith(("KSampler", "SamplerCustom")) or class_type.endswith("Sampler")
    return SAMPLER_WEIGHT if samples and not class_type.endswith("Select") else 1.0


class ProgressMeter:
    """Converts node events to ``Progress``, whose ``fraction`` never decreases.

    Nodes that will not run (cached, bypassed) must be left out of ``nodes`` or removed by ``skip``;
    nodes that a running node creates are added when they start.

    Args:
        graph: The graph that runs.
        nodes: The nodes that will run.
        origin: Maps the id of a node to that of the node that created it, which is reported.
    """

    def __init__(
        self, graph: Graph, nodes: Iterable[str], origin: Callable[[str], str] = str
    ) -> None:
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

    @property
    def complete(self) -> bool:
        """Whether every node that is known to run has ended."""
        return all(self._done.get(node) == 1.0 for node in self._weights)

    def skip(self, nodes: Iterable[str]) -> Progress:
        """These nodes will not run."""
        for node in nodes:
            self._weights.pop(node, None)
            self._done.pop(node, None)
        return self._update(self._now.node)

    def start(self, node: str) -> Progress:
        """The node starts."""
        self._weights.setdefault(node, self._weight(node))
        self._done.setdefault(node, 0.0)
        return self._update(node)

    def step(self, node: str, step: int, steps: int) -> Progress:
        """The running node completed ``step`` of ``steps``; out-of-range values are clamped."""
        steps = max(steps, 1)
        step = min(max(step, 0), steps)
        self._weights.setdefault(node, self._weight(node))
        self._done[node] = max(self._done.get(node, 0.0), step / steps)
        return self._update(node, step, steps)

    def finish(self, node: str) -> Progress:
        """The node ended."""
        self._weights.setdefault(node, self._weight(node))
        self._done[node] = 1.0
        return self._update(node, self._now.step, self._now.steps)

    def _weight(self, node: str) -> float:
        entry = self._graph.get(node)
        return weight_of(entry["class_type"]) if entry else 1.0

    def _update(
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
