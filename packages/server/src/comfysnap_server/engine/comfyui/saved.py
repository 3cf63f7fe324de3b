"""What output nodes leave without reporting it: files in the job's folder, and images that they
send to the front end."""

import itertools
import re
from collections.abc import Container
from pathlib import Path
from typing import Any, Final, cast

from comfysnap_schema.comfy import Graph
from comfysnap_server.engine.comfyui.folders import TEMP
from comfysnap_server.engine.outputs import safe_name

_SUFFIXES: Final = {"JPEG": ".jpg", "WEBP": ".webp"}
"""Formats of images besides PNG."""

_NUMBERS: Final = re.compile(r"([0-9]+)")
_Listing = dict[Path, tuple[int, int]]


class SavedFiles:
    """The files of one job's output nodes, as the nodes run."""

    def __init__(self, graph: Graph, nodes: Container[str], root: Path) -> None:
        """``nodes`` are those that the workflow's outputs name; others are not followed."""
        self._graph = graph
        self._nodes = nodes
        self._root = root
        self._before: dict[str, _Listing] = {}
        self._written: dict[str, set[Path]] = {}
        self._images: dict[str, list[Path]] = {}
        self._numbers = itertools.count(1)

    def start(self, node: str, origin: str) -> None:
        """A node starts; ``origin`` is the node of the graph that created it, or itself."""
        if origin in self._nodes:
            self._before[node] = _listing(self._root)

    def finish(self, node: str, origin: str) -> None:
        """A node ended: what is new or changed since its start is its own."""
        before = self._before.pop(node, None)
        if before is not None:
            images = self._images.get(origin, ())
            now = _listing(self._root)
            new = {path for path, state in now.items() if before.get(path) != state}
            self._written.setdefault(origin, set()).update(new.difference(images))

    def receive(self, origin: str, image: Any) -> bool:
        """Save an image ``(format, PIL image, size)`` that a node sends, unless it is a preview:
        those have a maximum size. Returns whether it was saved."""
        if origin not in self._nodes or not isinstance(image, (tuple, list)):
            return False
        parts: list[Any] = [*cast("list[Any]", image), None, None, None]
        frame: Any = parts[1]
        if parts[2] is not None or not hasattr(frame, "save"):
            return False
        form = parts[0] if parts[0] in _SUFFIXES else "PNG"
        stem = safe_name(self._graph[origin]["class_type"])
        path = self._root / f"{stem}_{next(self._numbers):05}{_SUFFIXES.get(form, '.png')}"
        if form == "JPEG" and frame.mode != "RGB":
            frame = frame.convert("RGB")
        frame.save(path, form)
        self._images.setdefault(origin, []).append(path)
        return True

    def of(self, node: str) -> list[Path]:
        """The files that a node left: images in the order in which it sent them, files in the
        natural order of their names, those in the temp folder last."""
        temp = self._root / TEMP
        written = self._written.get(node, ())
        ordered = sorted(written, key=lambda path: (path.is_relative_to(temp), _natural(path)))
        return [path for path in (*self._images.get(node, ()), *ordered) if path.is_file()]


def _listing(root: Path) -> _Listing:
    found: _Listing = {}
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            state = path.stat()
            found[path] = (state.st_size, state.st_mtime_ns)
    return found


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key with which ``a_9`` comes before ``a_10``."""
    return [
        (int(part), "") if part.isdigit() and part.isascii() else (-1, part)
        for part in _NUMBERS.split(str(path))
    ]
