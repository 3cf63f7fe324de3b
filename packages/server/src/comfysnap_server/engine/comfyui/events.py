"""ComfyUI's messages during one job: progress, node times and previews."""

import io
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, cast

from comfysnap_schema.comfy import Graph
from comfysnap_server.engine.comfyui.saved import SavedFiles
from comfysnap_server.engine.progress import ProgressMeter
from comfysnap_server.engine.protocol import PreviewFrame, Report

PREVIEW_INTERVAL: Final = 0.1
"""Minimum seconds between two previews."""
_QUALITIES: Final = (80, 60, 40, 20)


class JobEvents:
    """Events of one job; ComfyUI's progress registry calls ``start``, ``step`` and ``finish``."""

    def __init__(
        self,
        graph: Graph,
        planned: Iterable[str],
        report: Report,
        *,
        preview: Callable[[Any], bytes | None] | None,
        interrupted: Callable[[], bool],
        origin: Callable[[str], str],
        saved: SavedFiles,
        on_finish: Callable[[str], None] = lambda _node: None,
        on_cached: Callable[[Collection[str]], None] = lambda _nodes: None,
    ) -> None:
        self._report = report
        self._saved = saved
        self._meter = ProgressMeter(graph, planned, origin)
        self._preview = preview
        self._interrupted = interrupted
        self._origin = origin
        self._on_finish = on_finish
        self._on_cached = on_cached
        self._last_preview = 0.0
        self._started: dict[str, float] = {}
        self.node_seconds: dict[str, float] = {}
        self.blocked: Mapping[str, Any] | None = None
        """ComfyUI's message about a node that was blocked with a reason; the executor reports such
        a job as a success."""
        self.ui: dict[str, Mapping[str, Any]] = {}
        """What nodes have reported so far, by node."""
        self.job_local: set[str] = set()
        """Nodes whose results must not be reused by another job: they sent something to the front
        end, were blocked (reported only on the first run), or ended after an interrupt, so that
        their result may be incomplete."""

    def cached(self, nodes: Collection[str]) -> None:
        """These nodes have a cached result and will not run; the others start next."""
        self._on_cached(nodes)
        self._report(self._meter.skip(nodes))

    def start(self, node: str) -> None:
        """A node starts."""
        self._saved.start(node, self._origin(node))
        self._started[node] = time.perf_counter()
        self._report(self._meter.start(node))

    def step(self, node: str, value: float, maximum: float, image: Any) -> None:
        """A node reports its progress, possibly with a preview."""
        self._report(self._meter.step(node, _whole(value), _whole(maximum)))
        if image is not None:
            self.send_image(node, image)

    def send_image(self, node: str, image: Any) -> None:
        """A node sends an image to the front end: an output without a maximum size, or a preview,
        which is reported at most every ``PREVIEW_INTERVAL`` seconds."""
        if self._saved.receive(self._origin(node), image):
            return
        if self._preview is not None:
            now = time.monotonic()
            if now - self._last_preview >= PREVIEW_INTERVAL:
                data = self._preview(image)
                if data is not None:
                    self._last_preview = now
                    source = self._origin(node)
                    self._report(PreviewFrame(content_type="image/jpeg", data=data, node=source))

    def finish(self, node: str) -> None:
        """A node ended; ignored if it did not start because it was cached."""
        self._saved.finish(node, self._origin(node))
        started = self._started.pop(node, None)
        if started is not None:
            spent = self.node_seconds.get(node, 0.0) + time.perf_counter() - started
            self.node_seconds[node] = spent
            if self._interrupted():
                self.job_local.add(node)
            self._report(self._meter.finish(node))
            if not self._meter.complete and not self._interrupted():
                self._on_finish(node)

    def report_ui(self, node: str, ui: Any) -> None:
        """A node reports results for the front end."""
        self.job_local.add(node)
        if isinstance(ui, dict):
            self.ui[node] = cast("dict[str, Any]", ui)

    def block(self, message: Mapping[str, Any]) -> None:
        """A node was blocked with a reason."""
        self.blocked = message
        self.job_local.add(str(message.get("node_id")))


def _whole(number: float) -> int:
    """Round down; 0 for NaN and infinity, which ComfyUI lets nodes report."""
    return int(number) if math.isfinite(number) else 0


def preview_jpeg(image: Any, *, longest: int, max_bytes: int) -> bytes | None:
    """Encode ComfyUI's preview ``(format, PIL image, size)`` as a JPEG.

    Args:
        image: The preview.
        longest: Maximum width and height in pixels.
        max_bytes: Maximum size of the JPEG.

    Returns:
        None if the JPEG would be larger, or if the preview is not an image.
    """
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


def planned_nodes(graph: Graph, outputs: Iterable[str], cached: Collection[str] = ()) -> list[str]:
    """The nodes that the outputs depend on; other nodes do not run, nor do cached ones and those
    that only they need."""
    needed: dict[str, None] = {}
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node in needed or node in cached or node not in graph:
            continue
        needed[node] = None
        for value in graph[node]["inputs"].values():
            if isinstance(value, list) and len(value) == 2:
                waiting.append(str(value[0]))
    return list(needed)
