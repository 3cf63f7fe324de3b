"""Decides which node results ComfyUI keeps from one job to the next.

Results of loaders and other small results are kept, so that models stay loaded between workflows.
Results of output nodes, of nodes that sent something to the front end, and of all nodes that depend
on them are dropped, so that no result refers to a file of an earlier job.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from comfysnap_schema.comfy import Graph, is_link

_MAX_DEPTH: Final = 4


@dataclass(frozen=True)
class KeptResult:
    """One cached node result."""

    key: Any
    used: int
    """Number of the job that last used it; later jobs have larger numbers."""
    size: int
    """Bytes of its tensors. Models do not count, since ComfyUI manages their memory."""


def to_drop(
    kept: Iterable[KeptResult],
    *,
    latest: int,
    max_entries: int | None,
    max_bytes: int,
    scarce: bool,
) -> list[Any]:
    """Choose the results to drop; returns their keys, oldest first.

    Args:
        kept: All results.
        latest: Number of the job that just ran.
        max_entries: Maximum number of results to keep; None is unlimited.
        max_bytes: Maximum bytes of tensors to keep.
        scarce: Memory is low: keep only results that the latest job used.
    """
    ordered = sorted(kept, key=lambda result: result.used)
    total = sum(result.size for result in ordered)
    dropped: list[Any] = []
    for result in ordered:
        too_many = max_entries is not None and len(ordered) - len(dropped) > max_entries
        too_much = too_many or (total > max_bytes and result.size > 0)
        if too_much or (scarce and result.used < latest):
            dropped.append(result.key)
            total -= result.size
    return dropped


def job_local_nodes(
    graph: Graph,
    known: Iterable[str],
    files: Iterable[str],
    *,
    is_output: Callable[[str], bool],
    has_fingerprint: Callable[[str], bool],
) -> set[str]:
    """Nodes whose results must not outlive the job, and all nodes that depend on them.

    Args:
        graph: The graph that ran.
        known: Nodes that are known to be local to the job.
        files: Names in the job's input folder. In another job the same name may be another file.
        is_output: Whether a class is an output node.
        has_fingerprint: Whether a class reports changes of what it reads to ComfyUI.
    """
    names = set(files)
    found = {node for node in known if node in graph}
    for node, entry in graph.items():
        kind = entry["class_type"]
        reads = any(isinstance(v, str) and v in names for v in entry["inputs"].values())
        if is_output(kind) or (reads and not has_fingerprint(kind)):
            found.add(node)
    followers = _followers(graph)
    waiting = list(found)
    while waiting:
        for follower in followers.get(waiting.pop(), ()):
            if follower not in found:
                found.add(follower)
                waiting.append(follower)
    return found


def _followers(graph: Graph) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node, entry in graph.items():
        for value in entry["inputs"].values():
            if is_link(value) and isinstance(value, list):
                found.setdefault(str(value[0]), []).append(node)
    return found


class ResultCaches:
    """The caches of one ``PromptExecutor``, of any kind."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._sizes: dict[Any, int] = {}
        """Bytes by key of the results that were measured before."""

    def before_job(self) -> None:
        """Drop the node objects and ``ui`` results of earlier jobs."""
        caches = self._executor.caches
        for cache in caches.all:
            if cache is caches.outputs:
                continue
            for part in ("cache", "subcaches", "used_generation", "children"):
                getattr(cache, part, {}).clear()

    @property
    def holds_unused(self) -> bool:
        """Whether there are results that the current prompt did not ask for."""
        cache = self._executor.caches.outputs
        used = cast("dict[Any, int]", getattr(cache, "used_generation", {}))
        latest = getattr(cache, "generation", 0)
        return any(used.get(key, 0) < latest for key in getattr(cache, "cache", {}))

    def forget(self, nodes: Iterable[str]) -> None:
        """Drop the results of these nodes of the current prompt."""
        cache = self._executor.caches.outputs
        keys = getattr(cache, "cache_key_set", None)
        if keys is None:
            return
        for node in nodes:
            key, subkey = keys.get_data_key(node), keys.get_subcache_key(node)
            _remove(cache, key)
            getattr(cache, "subcaches", {}).pop(subkey, None)

    def trim(
        self, *, max_entries: int | None, max_bytes: int, scarce: bool, ending: Iterable[Path]
    ) -> None:
        """Drop the oldest results over the limits, results that refer to a file in the ``ending``
        folders, and bookkeeping of dropped results, which ComfyUI's LRU cache never removes."""
        cache = self._executor.caches.outputs
        used = cast("dict[Any, int] | None", getattr(cache, "used_generation", None))
        entries = cast("dict[Any, Any]", getattr(cache, "cache", {}))
        latest = getattr(cache, "generation", 0)
        sizes, self._sizes = self._sizes, {}
        roots = tuple(map(str, ending))
        for key in [
            key for key in entries if key not in sizes and names(outputs_of(entries[key]), roots)
        ]:
            _remove(cache, key)
        for key, value in entries.items():
            self._sizes[key] = sizes[key] if key in sizes else tensor_bytes(outputs_of(value))
        kept = [
            KeptResult(key, used.get(key, 0) if used is not None else 0, self._sizes[key])
            for key in entries
        ]
        for key in to_drop(
            kept, latest=latest, max_entries=max_entries, max_bytes=max_bytes, scarce=scarce
        ):
            _remove(cache, key)
        for book in (used, getattr(cache, "children", None), getattr(cache, "timestamps", None)):
            if isinstance(book, dict):
                for key in [key for key in cast("dict[Any, Any]", book) if key not in entries]:
                    del book[key]


def _remove(cache: Any, key: Any) -> None:
    for part in ("cache", "used_generation", "children", "timestamps"):
        getattr(cache, part, {}).pop(key, None)


def outputs_of(entry: Any) -> Any:
    """The outputs in a cache entry: ``CacheEntry(ui, outputs)`` since 0.3.68, before that the list
    itself."""
    return getattr(entry, "outputs", entry)


def tensor_bytes(value: Any, depth: int = 0) -> int:
    """Bytes of the tensors in lists, tuples and dictionaries; other objects count as 0."""
    if depth > _MAX_DEPTH:
        return 0
    size, items = getattr(value, "element_size", None), getattr(value, "nelement", None)
    if callable(size) and callable(items):
        return int(cast("Any", size)()) * int(cast("Any", items)())
    if isinstance(value, dict):
        value = list(cast("dict[Any, Any]", value).values())
    if isinstance(value, (list, tuple)):
        return sum(tensor_bytes(item, depth + 1) for item in cast("list[Any]", value))
    return 0


def names(value: Any, roots: tuple[str, ...], depth: int = 0) -> bool:
    """Whether a value contains a text or path below one of the folders.

    Looks into lists, tuples, dictionaries and attributes of objects (ComfyUI's ``VideoFromFile``).
    """
    if isinstance(value, (str, os.PathLike)):
        return str(cast("Any", value)).startswith(roots)
    if depth > _MAX_DEPTH:
        return False
    if isinstance(value, dict):
        value = list(cast("dict[Any, Any]", value).values())
    if isinstance(value, (list, tuple)):
        return any(names(item, roots, depth + 1) for item in cast("list[Any]", value))
    return any(
        isinstance(item, (str, os.PathLike)) and names(item, roots)
        for item in [*getattr(value, "__dict__", {}).values()]
    )
