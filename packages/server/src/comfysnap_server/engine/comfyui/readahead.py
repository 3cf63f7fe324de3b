"""Reads model files and libraries into the page cache with several streams, before they are needed.

ComfyUI reads a model file from its start to its end, and the kernel the pages of a library as they
are touched: one request at a time. On a network volume a single stream reaches a fraction of what
several do.
"""

import ctypes
import logging
import os
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
"""Bytes of one read of a model file. With ``STREAMS``, the memory that the buffers take."""
SMALLEST: Final = 16 << 20
"""Bytes of a file that is worth it."""
MEMORY_SHARE: Final = 0.5
"""Of the available memory, that may be filled: what is read and dropped again is read twice."""
SAMPLE: Final = 1 << 20
"""Maximum bytes of a sample."""
SAMPLES: Final = 4
LIBRARY_SAMPLES: Final = 8
"""They are smaller than those of a model file."""
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


@dataclass(frozen=True)
class Piece:
    """A part of a file, for one read."""

    path: str
    start: int
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


def is_slow(samples: Iterable[Piece]) -> bool:
    """Whether one stream reads slowly, according to samples. False without any.

    Raises:
        OSError: A file cannot be read.
    """
    rates: list[float] = []
    for sample in samples:
        with Path(sample.path).open("rb", buffering=0) as opened:
            started = time.perf_counter()
            count = len(os.pread(opened.fileno(), min(sample.size, SAMPLE), sample.start))
            rates.append(count / (time.perf_counter() - started))
    return bool(rates) and statistics.median_high(rates) < FAST


def model_pieces(files: Iterable[ModelFile], mode: ReadAheadMode) -> Iterator[Piece]:
    """What to read of model files, in their order. ``auto`` leaves out files on local disks, and
    those that one stream reads fast."""
    for file in files:
        if file.size < SMALLEST:
            continue
        if mode == "auto" and (is_local(file.path) or not is_slow(_spread(file))):
            continue
        for start in range(0, file.size, CHUNK):
            yield Piece(file.path, start, CHUNK)


def _spread(file: ModelFile) -> Iterator[Piece]:
    for index in range(SAMPLES):
        yield Piece(file.path, (file.size - SAMPLE) * index // (SAMPLES - 1), SAMPLE)


def library_pieces(pieces: Sequence[Piece], mode: ReadAheadMode) -> Iterator[Piece]:
    """What to read of libraries. ``auto`` leaves out those on local disks, and all if one stream
    reads them fast, as it does when another container has read them."""
    if mode == "auto":
        paths = {piece.path for piece in pieces}
        remote = {path for path in paths if not is_local(path)}
        pieces = [piece for piece in pieces if piece.path in remote]
        step = max(1, len(pieces) // LIBRARY_SAMPLES)
        if not is_slow(pieces[::step][:LIBRARY_SAMPLES]):
            return
    yield from pieces


def read_ahead_budget() -> int:
    """The bytes that may be read now."""
    return int(memory().available * MEMORY_SHARE)


class ReadAhead:
    """Reads pieces of files in threads, until all are read, the budget is spent, or ``stop``. What
    cannot be read is logged once, and left to whoever needs it.

    Args:
        pieces: Called in a thread: what to read, in the order in which it is needed.
        budget: Called in a thread: maximum bytes to read.
        largest: Maximum bytes of a piece.
    """

    def __init__(
        self,
        pieces: Callable[[], Iterable[Piece]],
        budget: Callable[[], int],
        *,
        largest: int = CHUNK,
        streams: int = STREAMS,
    ) -> None:
        self._pieces = pieces
        self._budget = budget
        self._largest = largest
        self._queue: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._began = self._ended = time.perf_counter()
        self._streams = streams
        self._threads: list[threading.Thread] = []
        self._failed = False
        self.bytes_read = 0
        """By now."""

    @property
    def seconds(self) -> float | None:
        """From the start to the last byte read by now; None if nothing was read."""
        return self._ended - self._began if self.bytes_read else None

    def start(self) -> None:
        """Start to read, and return."""
        self._began = time.perf_counter()
        try:
            self._start(self._plan, "read-ahead-plan")
        except RuntimeError as error:  # no more threads
            self._log(error)

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
        left = self._budget()
        try:
            for number, piece in enumerate(self._pieces()):
                left -= piece.size
                if left < 0 or self._stopped.is_set():
                    break
                self._queue.put(piece)
                if number < self._streams:
                    self._start(self._read, f"read-ahead-{number}")
        except (OSError, RuntimeError) as error:
            self._log(error)
        finally:
            for _ in range(self._streams):
                self._queue.put(None)

    def _read(self) -> None:
        buffer = memoryview(bytearray(self._largest))
        opened: dict[str, int] = {}
        try:
            while not self._stopped.is_set() and (piece := self._queue.get()) is not None:
                if piece.path not in opened:
                    opened[piece.path] = os.open(piece.path, os.O_RDONLY)
                count = os.preadv(opened[piece.path], [buffer[: piece.size]], piece.start)
                with self._lock:
                    self.bytes_read += count
                    self._ended = time.perf_counter()
        except OSError as error:
            self._log(error)
        finally:
            for descriptor in opened.values():
                os.close(descriptor)

    def _log(self, error: Exception) -> None:
        with self._lock:
            first, self._failed = not self._failed, True
        if first:
            logger.info("reading ahead ended early: %s", error)
