"""Converts the ``ui`` results of nodes to the outputs of a job."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from pydantic import JsonValue

from comfysnap_schema.comfy import Graph
from comfysnap_schema.wire import ErrorCode, Kind, content_type_of, kind_fits
from comfysnap_schema.workflow import OutputSpec
from comfysnap_server.engine.comfyui.errors import describe_node
from comfysnap_server.engine.comfyui.folders import TEMP
from comfysnap_server.engine.protocol import EngineError, ProducedFile

logger = logging.getLogger(__name__)

MAX_TEXT_FILE: Final = 1 << 20
"""Maximum size of a text file that is returned as a text, in bytes."""

_CLOCK: Final = 0.1
"""Seconds by which modification times may lag behind the clock."""


@dataclass(frozen=True)
class Folders:
    """The folders in which a job may leave files."""

    job: Path
    """The job's own output folder; other files are ignored, except those in ``default_dirs``."""
    default_dirs: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """ComfyUI's own ``output`` and ``temp``: some node packs store these paths when they are
    imported, and write there. Files written since the job began are moved to its folder."""
    since: float = 0.0
    """When the job began, in seconds since the epoch."""

    def find(self, kind: str, name: str) -> Path | None:
        """Find a file that a node reported. The name may be absolute, as in ComfyUI's ``/view``.

        Args:
            kind: ``output`` or ``temp``.
            name: Path within that folder.
        """
        own = {"output": self.job, "temp": self.job / TEMP}.get(kind)
        if own is None:
            return None
        found = _inside(self.job, own / name)
        default = self.default_dirs.get(kind)
        stray = _inside(default, default / name) if default is not None and found is None else None
        if default is None or stray is None or stray.stat().st_mtime < self.since - _CLOCK:
            return found
        target = own / stray.relative_to(default)
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(stray, target))


def _inside(root: Path, path: Path) -> Path | None:
    """Resolve links and dots of a path; None if it is not a file below ``root``."""
    try:
        real, real_root = path.resolve(), root.resolve()
        if real.is_file() and real.is_relative_to(real_root):
            return root / real.relative_to(real_root)
    except (OSError, ValueError):
        logger.debug("not a valid path: %.200r", path)
    return None


def collect(
    graph: Graph, specs: Mapping[str, OutputSpec], ui: Mapping[str, Any], folders: Folders
) -> dict[str, list[ProducedFile] | list[JsonValue]]:
    """The outputs of a job, by name.

    Args:
        graph: The graph that ran.
        specs: The workflow's outputs.
        ui: Per node id, its ``ui``: kind to items.
        folders: The job's folders.

    Raises:
        EngineError: ``output_missing``: a node saved files, but none of the expected kind.
    """
    return {
        name: _output(graph, spec, ui.get(spec.node) or {}, folders) for name, spec in specs.items()
    }


def by_graph_node(
    ui: Mapping[str, Mapping[str, Any]], origin: Callable[[str], str]
) -> dict[str, Mapping[str, Any]]:
    """Assign the ``ui`` of nodes that were created by ``expand`` to the node that created them, as
    the front end does.

    Args:
        ui: Per node id, its ``ui``.
        origin: Maps a node's id to that of the node that created it, or to itself.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for node in sorted(ui, key=lambda node: (origin(node) != node, len(node), node)):
        known = found.setdefault(origin(node), {})
        if known:
            more = {kind: [*_listed(known.get(kind, ())), *_listed(items)]
                    for kind, items in ui[node].items()}  # fmt: skip
            found[origin(node)] = {**known, **more}
        else:
            found[origin(node)] = ui[node]
    return found


def _output(
    graph: Graph, spec: OutputSpec, ui: Mapping[str, Any], folders: Folders
) -> list[ProducedFile] | list[JsonValue]:
    if spec.kind is Kind.JSON:
        values = [_plain(list(items)) for items in ui.values()]
        return cast("list[JsonValue]", values[0]) if len(values) == 1 else [_plain(dict(ui))]
    files = list(_files(ui, folders))
    if spec.kind is Kind.TEXT:
        return list(_texts(ui)) or list(_read_texts(files))
    fitting = [file for file in files if kind_fits(file.name, spec.kind)]
    if files and not fitting:
        types = ", ".join(sorted({content_type_of(file.name) for file in files}))
        raise EngineError(
            ErrorCode.OUTPUT_MISSING,
            f"{describe_node(graph, spec.node)} saved {types}, expected {spec.kind.value}",
        )
    return [
        ProducedFile(path=file, kind=spec.kind, content_type=content_type_of(file.name))
        for file in fitting
    ]


def _files(ui: Mapping[str, Any], folders: Folders) -> Iterator[Path]:
    """The files in a node's ``ui``, in order and without duplicates; input files are skipped."""
    seen: set[Path] = set()
    for items in ui.values():
        for item in _listed(items):
            path = _file(item, folders)
            if path is not None and path not in seen:
                seen.add(path)
                yield path


def _file(item: Any, folders: Folders) -> Path | None:
    if not isinstance(item, dict):
        return None
    entry = cast("dict[str, Any]", item)
    name, subfolder = entry.get("filename"), str(entry.get("subfolder") or "")
    if not isinstance(name, str):
        return None
    path = folders.find(str(entry.get("type") or "output"), str(Path(subfolder) / name))
    if path is None:
        logger.warning("ignored output %.200r: not a file in the job's folder", name)
    return path


def _texts(ui: Mapping[str, Any]) -> Iterator[str]:
    for items in ui.values():
        for item in _listed(items):
            if isinstance(item, str):
                yield item


def _read_texts(files: list[Path]) -> Iterator[str]:
    for file in files:
        if file.stat().st_size <= MAX_TEXT_FILE:
            yield file.read_text(encoding="utf-8", errors="replace")


def _listed(items: Any) -> list[Any]:
    return list(cast("list[Any]", items)) if isinstance(items, (list, tuple)) else [items]


def _plain(value: Any) -> JsonValue:
    """Convert a value in a node's ``ui`` to JSON; other types become text."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Mapping):
        entries = cast("Mapping[Any, Any]", value)
        return {str(key): _plain(item) for key, item in entries.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("list[Any]", value)]
    return str(value)
