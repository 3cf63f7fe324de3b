"""Converts the ``ui`` results of nodes to the outputs of a job."""

import logging
import re
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
from comfysnap_server.engine.comfyui.saved import SavedFiles
from comfysnap_server.engine.protocol import EngineError, ProducedFile

logger = logging.getLogger(__name__)

MAX_TEXT_FILE: Final = 1 << 20
"""Maximum size of a text file that is returned as a text, in bytes."""

_CLOCK: Final = 0.1
"""Seconds by which modification times may lag behind the clock."""

_FRAME: Final = re.compile(r"%0?[0-9]?d")
"""The number in a name that stands for many files, as in ``frame_%03d.png``."""
_ANNOTATED: Final = re.compile(r"(?P<name>.*) \[(?P<kind>output|temp)\]", re.DOTALL)
_MAX_PATH: Final = 4096
_MAX_NESTING: Final = 20
_OTHER_NAMES: Final = ("fullpath", "full_path", "path", "filepath", "file_path", "file")
"""Keys with which nodes report a path instead of ``filename``."""


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

    def find_all(self, kind: str, name: str) -> list[Path]:
        """Find the files that a name stands for: one, or for a pattern every frame in order."""
        found = self.find(kind, name)
        if found is not None or not _FRAME.search(Path(name).name):
            return [found] if found is not None else []
        pattern = Path(name)
        before, after = _FRAME.split(pattern.name, maxsplit=1)
        frame = re.compile(f"{re.escape(before)}([0-9]+){re.escape(after)}")
        own = {"output": self.job, "temp": self.job / TEMP}.get(kind)
        numbers: dict[str, int] = {}
        for root in (own, self.default_dirs.get(kind) if own else None):
            for path in _names_in(root / pattern.parent) if root is not None else ():
                if number := frame.fullmatch(path):
                    numbers[path] = int(number[1])
        frames = sorted(numbers, key=numbers.__getitem__)
        every = (self.find(kind, str(pattern.parent / path)) for path in frames)
        return [path for path in every if path is not None]

    def find_anywhere(self, text: str) -> list[Path]:
        """Find the files that a bare text names, in the output folder or else the temp folder."""
        if annotated := _ANNOTATED.fullmatch(text):
            return self.find_all(annotated["kind"], annotated["name"])
        if not text or len(text) > _MAX_PATH or "\n" in text:
            return []
        below = text.replace("\\", "/")
        for kind in ("output", "temp"):
            inside = below.removeprefix(f"{kind}/")
            for name in dict.fromkeys((text, below, inside)):
                if found := self.find_all(kind, name):
                    return found
        return []


def _names_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except (OSError, ValueError):
        return []


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
    graph: Graph,
    specs: Mapping[str, OutputSpec],
    ui: Mapping[str, Any],
    folders: Folders,
    saved: SavedFiles | None = None,
) -> dict[str, list[ProducedFile] | list[JsonValue]]:
    """The outputs of a job, by name.

    Args:
        graph: The graph that ran.
        specs: The workflow's outputs.
        ui: Per node id, its ``ui``: kind to items.
        folders: The job's folders.
        saved: What nodes left without reporting it; used where they report nothing that fits.

    Raises:
        EngineError: ``output_missing``: a node saved files, but none of the expected kind.
    """
    return {
        name: _output(
            graph,
            spec,
            ui.get(spec.node) or {},
            folders,
            saved.of(spec.node) if saved is not None else [],
        )
        for name, spec in specs.items()
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
    graph: Graph, spec: OutputSpec, ui: Mapping[str, Any], folders: Folders, left: list[Path]
) -> list[ProducedFile] | list[JsonValue]:
    if spec.kind is Kind.JSON:
        values = [_plain(_listed(items)) for items in ui.values()]
        return cast("list[JsonValue]", values[0]) if len(values) == 1 else [_plain(dict(ui))]
    if spec.kind is Kind.TEXT:
        reported = _files(ui, folders, entries_only=True)
        texts = list(_texts(ui)) or list(_read_texts([*reported]))
        return [*texts] or list(_read_texts([path for path in left if _is_text(path)]))
    files = list(_files(ui, folders))
    fitting = [file for file in files if kind_fits(file.name, spec.kind)]
    fitting = fitting or [file for file in left if kind_fits(file.name, spec.kind)]
    if (files or left) and not fitting:
        types = ", ".join(sorted({content_type_of(file.name) for file in files or left}))
        raise EngineError(
            ErrorCode.OUTPUT_MISSING,
            f"{describe_node(graph, spec.node)} saved {types}, expected {spec.kind.value}",
        )
    return [
        ProducedFile(path=file, kind=spec.kind, content_type=content_type_of(file.name))
        for file in fitting
    ]


def _files(
    ui: Mapping[str, Any], folders: Folders, *, entries_only: bool = False
) -> Iterator[Path]:
    """The files in a node's ``ui``, in order and without duplicates; input files are skipped.

    Args:
        ui: The node's ``ui``.
        folders: The job's folders.
        entries_only: Whether bare texts are texts and not paths.
    """
    seen: set[Path] = set()
    for items in ui.values():
        for path in _paths(items, folders, entries_only=entries_only):
            if path not in seen:
                seen.add(path)
                yield path


def _paths(items: Any, folders: Folders, *, entries_only: bool) -> Iterator[Path]:
    bare: list[str] = []
    found = False
    for item in _flat(items):
        if isinstance(item, dict):
            paths = _entry_files(cast("dict[str, Any]", item), folders)
        elif isinstance(item, str) and not entries_only:
            bare.append(item)
            paths = folders.find_anywhere(item)
        else:
            continue
        found = found or bool(paths)
        yield from paths
    if len(bare) == 2 and not found:  # a name and its folder
        name, folder = bare
        yield from folders.find_anywhere(f"{folder}/{name}")


def _entry_files(entry: dict[str, Any], folders: Folders) -> list[Path]:
    kind, subfolder = str(entry.get("type") or "output"), str(entry.get("subfolder") or "")
    name = entry.get("filename")
    if isinstance(name, str):
        paths = folders.find_all(kind, str(Path(subfolder) / name))
        if paths:
            return paths
        if kind != "input":
            logger.warning("ignored output %.200r: not a file in the job's folder", name)
    others = (entry.get(key) for key in _OTHER_NAMES if kind != "input")
    for text in others:
        if isinstance(text, str) and (paths := folders.find_anywhere(text)):
            return paths
    return []


def _texts(ui: Mapping[str, Any]) -> Iterator[str]:
    for items in ui.values():
        for item in _flat(items):
            if isinstance(item, str):
                yield item


def _is_text(path: Path) -> bool:
    return content_type_of(path.name).startswith(("text/", "application/json"))


def _read_texts(files: list[Path]) -> Iterator[str]:
    for file in files:
        if file.stat().st_size <= MAX_TEXT_FILE:
            yield file.read_text(encoding="utf-8", errors="replace")


def _flat(items: Any, depth: int = 0) -> Iterator[Any]:
    """The items of a list and of the lists in it; a text is one item."""
    if isinstance(items, (list, tuple)) and depth < _MAX_NESTING:
        for item in cast("list[Any]", items):
            yield from _flat(item, depth + 1)
    else:
        yield items


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
