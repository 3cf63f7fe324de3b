"""ComfyUI's messages during one job: progress, node times, previews and the verdict."""

import io
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from comfysnap_schema.comfy import Graph
from comfysnap_server.engine.progress import ProgressMeter
from comfysnap_server.engine.protocol import PreviewFrame, Report

PREVIEW_INTERVAL: Final = 0.1
"""Least seconds between two previews."""
_QUALITIES: Final = (80, 60, 40, 20)


class JobEvents:
    """Follows one job; ComfyUI's progress registry calls ``start``, ``step`` and ``finish``."""

    def __init__(
        self,
        graph: Graph,
        planned: Iterable[str],
        report: Report,
        *,
        preview: Callable[[Any], bytes | None] | None,
        interrupted: Callable[[], bool],
        origin: Callable[[str], str],
    ) -> None:
        self._report = report
        self._meter = ProgressMeter(graph, planned, origin)
        self._preview = preview
        self._interrupted = interrupted
        self._origin = origin
        self._last_preview = 0.0
        self._started: dict[str, float] = {}
        self.node_seconds: dict[str, float] = {}
        self.blocked: Mapping[str, Any] | None = None
        """ComfyUI's message of a node that was blocked with a reason; the executor counts such a
        job as a success."""
        self.tied: set[str] = set()
        """Nodes whose results belong to this job alone: they told the front end something, were
        blocked (which is told once, then kept in silence), or ended after an interrupt, which
        they may have taken for an end of their work."""

    def cached(self, nodes: Iterable[str]) -> None:
        """These nodes are not run again."""
        self._report(self._meter.skip(nodes))

    def start(self, node: str) -> None:
        """A node begins."""
        self._started[node] = time.perf_counter()
        self._report(self._meter.start(node))

    def step(self, node: str, value: float, maximum: float, image: Any) -> None:
        """A node tells how far it is, and may show a picture."""
        self._report(self._meter.step(node, _whole(value), _whole(maximum)))
        if image is not None and self._preview is not None:
            now = time.monotonic()
            if now - self._last_preview >= PREVIEW_INTERVAL:
                data = self._preview(image)
                if data is not None:
                    self._last_preview = now
                    home = self._origin(node)
                    self._report(PreviewFrame(content_type="image/jpeg", data=data, node=home))

    def finish(self, node: str) -> None:
        """A node ended; one that was cached never started."""
        started = self._started.pop(node, None)
        if started is not None:
            spent = self.node_seconds.get(node, 0.0) + time.perf_counter() - started
            self.node_seconds[node] = spent
            if self._interrupted():
                self.tied.add(node)
            self._report(self._meter.finish(node))

    def block(self, message: Mapping[str, Any]) -> None:
        """A node got no value but a reason why there is none."""
        self.blocked = message
        self.tied.add(str(message.get("node_id")))


def _whole(number: float) -> int:
    """Nodes tell steps that are no numbers; ComfyUI lets them."""
    return int(number) if math.isfinite(number) else 0


def preview_jpeg(image: Any, *, longest: int, max_bytes: int) -> bytes | None:
    """ComfyUI's preview ``(format, PIL image, size)`` as a JPEG; None if it cannot be made small
    enough, or is no picture."""
    try:
        _, picture, limit = image
    except (TypeError, ValueError):
        return None
    if not hasattr(picture, "convert"):
        return None
    side = min(longest, limit) if isinstance(limit, int) and limit > 0 else longest
    frame: Any = picture.convert("RGB")
    frame.thumbnail((side, side))
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        frame.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= max_bytes:
            return buffer.getvalue()
    return None


def planned_nodes(graph: Graph, outputs: Iterable[str]) -> list[str]:
    """The nodes that the outputs need; others of the graph never run."""
    needed: dict[str, None] = {}
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node in needed or node not in graph:
            continue
        needed[node] = None
        for value in graph[node]["inputs"].values():
            if isinstance(value, list) and len(value) == 2:
                waiting.append(str(value[0]))
    return list(needed)
