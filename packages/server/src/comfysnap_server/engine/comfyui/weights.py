"""Weights that are read into memory before a snapshot, and that ComfyUI loads from there."""

import functools
import importlib
import inspect
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from comfysnap_server.engine.comfyui.safetensors import SafetensorsError, read
from comfysnap_server.errors import ComfysnapServerError

logger = logging.getLogger(__name__)

SUFFIXES: Final = (".safetensors", ".sft")


class PreloadError(ComfysnapServerError, ValueError):
    """A file on the ``preload`` list cannot be preloaded."""


@dataclass(frozen=True)
class FileState:
    """Size and modification time of a file, to detect that its content changed."""

    size: int
    modified: int

    @classmethod
    def of(cls, path: str) -> "FileState | None":
        """The file's current state; None if it does not exist."""
        try:
            found = Path(path).stat()
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class Weights:
    """One file in memory."""

    path: str
    """Absolute, with links resolved."""
    state: FileState
    tensors: dict[str, Any]
    metadata: dict[str, str] | None
    size: int
    """Bytes of the tensors."""

    def copy(self) -> dict[str, Any]:
        """Copy the dictionary of tensors, since ComfyUI empties the one it loads from.

        The tensors share memory with the originals until one is written to (torch's copy-on-write
        tensors, ``c10/core/impl/COW.h``; without support for them, the originals are returned).
        """
        clone = getattr(importlib.import_module("torch"), "_lazy_clone", None)
        if clone is None:
            return dict(self.tensors)
        return {name: clone(tensor) for name, tensor in self.tensors.items()}


class WeightStore:
    """Preloaded files, by resolved path."""

    def __init__(self) -> None:
        self._files: dict[str, Weights] = {}
        self.notes: list[str] = []
        """Reasons why preloaded files were not used, one sentence each."""

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes in memory, by path."""
        return {path: weights.size for path, weights in self._files.items()}

    def add(self, path: Path) -> Weights:
        """Read a safetensors file; a file with several names is read once.

        Raises:
            PreloadError: Not a safetensors file, or not readable.
        """
        real = os.path.realpath(path)
        known = self._files.get(real)
        if known is None:
            known = self._files[real] = read_weights(real)
        return known

    def find(self, path: str) -> Weights | None:
        """The weights of the file at ``path``; None if not preloaded or changed since."""
        weights = self._files.get(os.path.realpath(path))
        if weights is None:
            return None
        state = FileState.of(weights.path)
        if state == weights.state:
            return weights
        del self._files[weights.path]
        what = "was deleted" if state is None else "has changed"
        note = f"{weights.path} {what} since it was preloaded; it is read from disk"
        self.notes.append(note)
        logger.warning("%s", note)
        return None


def read_weights(path: str) -> Weights:
    """Read a safetensors file into memory that is not backed by the file.

    Raises:
        PreloadError: Not a safetensors file, or not readable.
    """
    if not path.lower().endswith(SUFFIXES):
        raise PreloadError(f"{path}: only safetensors files can be preloaded")
    state = FileState.of(path)
    if state is None:
        raise PreloadError(f"{path} does not exist")
    try:
        tensors, metadata = read(Path(path))
    except (OSError, SafetensorsError) as error:
        raise PreloadError(f"{path} cannot be preloaded: {error}") from error
    size = sum(int(t.nelement()) * int(t.element_size()) for t in tensors.values())
    return Weights(path, state, tensors, metadata, size)


def resolve(names: Sequence[str], get_full_path: Callable[[str, str], str | None]) -> list[Path]:
    """Find the files of ``kind/name`` entries.

    Raises:
        PreloadError: An entry is not valid, or its file does not exist.
    """
    found: list[Path] = []
    for entry in names:
        kind, slash, name = entry.partition("/")
        if not slash or not name:
            raise PreloadError(
                f"preload entry {entry!r} must be kind/name, for example checkpoints/x.safetensors"
            )
        try:
            path = get_full_path(kind, name)
        except KeyError:
            path = None
        if path is None:
            raise PreloadError(f"preload entry {entry!r}: {kind} file not found")
        found.append(Path(path))
    return found


def serve_from_memory(utils: Any, store: WeightStore) -> None:
    """Make ``comfy.utils.load_torch_file`` return weights from ``store``; must be called before
    other modules import that function by name."""
    original = utils.load_torch_file
    signature = inspect.signature(original)

    @functools.wraps(original)
    def load_torch_file(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs).arguments
        weights = store.find(str(next(iter(bound.values()))))
        if weights is None:
            return original(*args, **kwargs)
        tensors = weights.copy()
        device = bound.get("device")
        if device is not None and str(device) != "cpu":
            tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        return (tensors, weights.metadata) if bound.get("return_metadata") else tensors

    utils.load_torch_file = load_torch_file
