"""Reads a job's model files into the page cache with several streams, while ComfyUI loads them.

ComfyUI reads a file from its start to its end, one request at a time. On a network volume a single
stream reaches a fraction of what several do.
"""

import ctypes
import logging
import os
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from comfysnap_schema.comfy import EMBEDDING, MODEL_FOLDERS, Graph, ModelName, model_names
from comfysnap_server.engine.comfyui.folders import is_outside
from comfysnap_server.engine.comfyui.memory import memory

logger = logging.getLogger(__name__)

ReadAheadMode = Literal["auto", "on", "off"]
STREAMS: Final = 12
CHUNK: Final = 8 << 20
"""Bytes of one read. With ``STREAMS``, the memory that the buffers take."""
SMALLEST: Final = 16 << 20
"""Bytes of a file that is worth it."""
MEMORY_SHARE: Final = 0.5
"""Of the available memory, that may be filled: what is read and dropped again is read twice."""
SAMPLE: Final = 1 << 20
SAMPLES: Final = 4
FAST: Final = 800e6
"""Bytes per second of one stream that several would hardly exceed: a page cache, a local disk."""

LOCAL: Final = frozenset({
    0xEF53,  # ext2, ext3, ext4
    0x58465342,  # XFS
    0x9123683E,  # Btrfs
    0x2FC12FC1,  # ZFS
    0xF2F52010,  # F2FS
    0x01021994,  # tmpfs
    0x858458F6,  # ramfs
    0x794C7630,  # overlayfs, whose layers are local
    0x5346544E,  # NTFS
})  # fmt: skip
"""``f_type`` of statfs(2): the kernel reads ahead on these as fast as their disk is."""


@dataclass(frozen=True)
class ModelFile:
    """A model file of a job."""

    path: str
    size: int


def loader_nodes(graph: Graph) -> set[str]:
    """The nodes of a graph that name model files."""
    return {node for node in graph if next(_names(graph, node), None) is not None}


def model_files(
    graph: Graph, nodes: Iterable[str], folder_paths: Any, *, preloaded: Collection[str] = ()
) -> list[ModelFile]:
    """The model files that nodes of a graph name, in their order; those not found are left out.

    Args:
        graph: The graph.
        nodes: The nodes that will run.
        folder_paths: ComfyUI's module.
        preloaded: Paths of files that are in memory, with links resolved.
    """
    found: dict[str, ModelFile] = {}
    for node in nodes:
        for name in _names(graph, node):
            path = _find(name.name, MODEL_FOLDERS.get(name.key, ()), folder_paths)
            real = os.path.realpath(path) if path is not None else ""
            with suppress(OSError):
                if real and real not in preloaded:
                    found.setdefault(real, ModelFile(real, Path(real).stat().st_size))
    return list(found.values())


def _names(graph: Graph, node: str) -> Iterator[ModelName]:
    """Embeddings are left out: they are small, and any text may name one."""
    for key, value in graph[node]["inputs"].items():
        for name in model_names(key, value):
            if name.key != EMBEDDING and name.is_on and not is_outside(name.name):
                yield name


def _find(name: str, kinds: Iterable[str], folder_paths: Any) -> str | None:
    known: Any = folder_paths.folder_names_and_paths
    for kind in kinds or list(known):
        with suppress(KeyError, TypeError, ValueError):  # a release without this kind
            path: str | None = folder_paths.get_full_path(kind, name)
            if path is not None:
                return path
    return None


def is_local(path: str) -> bool:
    """Whether a file is on a local file system; True where that cannot be found out."""
    if sys.platform != "linux":
        return True
    buffer = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None).statfs(os.fsencode(path), buffer):
        return True
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF in LOCAL


def is_slow(file: ModelFile) -> bool:
    """Whether one stream reads a file slowly, from samples over its length."""
    seconds: list[float] = []
    with Path(file.path).open("rb", buffering=0) as opened:
        for index in range(SAMPLES):
            place = (file.size - SAMPLE) * index // (SAMPLES - 1)
            started = time.perf_counter()
            os.pread(opened.fileno(), SAMPLE, place)
            seconds.append(time.perf_counter() - started)
    return statistics.median_low(seconds) > SAMPLE / FAST


def read_ahead_budget() -> int:
    """The bytes that may be read now."""
    return int(memory().available * MEMORY_SHARE)


class ReadAhead:
    """Reads files in threads, until all are read, the budget is spent, or ``stop``.

    Args:
        files: Called in a thread: the files, in the order in which they are needed.
        budget: Called in a thread: maximum bytes to read.
        mode: ``auto`` leaves out files on local disks, and those that one stream reads fast.
    """

    def __init__(
        self,
        files: Callable[[], Iterable[ModelFile]],
        budget: Callable[[], int],
        mode: ReadAheadMode = "auto",
        *,
        streams: int = STREAMS,
    ) -> None:
        self._files = files
        self._budget = budget
        self._mode = mode
        self._chunks: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._began = self._ended = time.perf_counter()
        self._streams = streams
        self._threads: list[threading.Thread] = []
        self.bytes_read = 0
        """By now."""

    @property
    def seconds(self) -> float | None:
        """From the start to the last byte read by now; None if nothing was read."""
        return self._ended - self._began if self.bytes_read else None

    def start(self) -> None:
        """Start to read, and return."""
        self._began = time.perf_counter()
        self._start(self._plan, "read-ahead-plan")

    def stop(self) -> None:
        """Start no more reads; those that are under way end by themselves."""
        self._stopped.set()

    def wait(self) -> None:
        """Wait until the threads have ended."""
        for thread in self._threads:  # the first one adds the others
            thread.join()

    def _start(self, run: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _plan(self) -> None:
        try:
            for number, chunk in enumerate(self._planned()):
                self._chunks.put(chunk)
                if number < self._streams:
                    self._start(self._read, f"read-ahead-{number}")
        except OSError as error:  # the job itself says what it cannot read
            logger.debug("reading ahead ended: %s", error)
        for _ in range(self._streams):
            self._chunks.put(None)

    def _planned(self) -> Iterator[tuple[str, int]]:
        left = self._budget()
        for file in self._files():
            if file.size < SMALLEST:
                continue
            if self._mode == "auto" and (is_local(file.path) or not is_slow(file)):
                continue
            for place in range(0, file.size, CHUNK):
                left -= CHUNK
                if left < 0 or self._stopped.is_set():
                    return
                yield file.path, place

    def _read(self) -> None:
        buffer = bytearray(CHUNK)
        opened: dict[str, int] = {}
        try:
            while not self._stopped.is_set() and (chunk := self._chunks.get()) is not None:
                path, place = chunk
                if path not in opened:
                    opened[path] = os.open(path, os.O_RDONLY)
                count = os.preadv(opened[path], [buffer], place)
                with self._lock:
                    self.bytes_read += count
                    self._ended = time.perf_counter()
        except OSError as error:
            logger.debug("reading ahead ended: %s", error)
        finally:
            for descriptor in opened.values():
                os.close(descriptor)
