"""Weights read into memory before a snapshot, handed to ComfyUI instead of the file."""

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

logger = logging.getLogger(__name__)

SUFFIXES: Final = (".safetensors", ".sft")


class PreloadError(ValueError):
    """A file on the ``preload`` list cannot be preloaded."""


@dataclass(frozen=True)
class FileState:
    """What tells one content of a file from another, without reading it."""

    size: int
    modified: int

    @classmethod
    def of(cls, path: str) -> "FileState | None":
        """The file's state now; None when it is not there."""
        try:
            found = Path(path).stat()
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class Weights:
    """One file in memory."""

    path: str
    """With links resolved."""
    state: FileState
    tensors: dict[str, Any]
    metadata: dict[str, str] | None
    size: int
    """Bytes of the tensors."""

    def copy(self) -> dict[str, Any]:
        """The tensors in a dictionary of its own, since ComfyUI empties the one it loads from.

        They share memory with ours until somebody writes to one (torch's copy-on-write tensors,
        ``c10/core/impl/COW.h``; a torch without them hands out the tensors themselves).
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
        """Why a preloaded file was not used, one sentence each."""

    @property
    def sizes(self) -> dict[str, int]:
        """Path to bytes in memory."""
        return {path: weights.size for path, weights in self._files.items()}

    def add(self, path: Path) -> Weights:
        """Read a safetensors file; the same file under another name is read once.

        Raises:
            PreloadError: It is no safetensors file, or cannot be read.
        """
        real = os.path.realpath(path)
        known = self._files.get(real)
        if known is None:
            known = self._files[real] = read_weights(real)
        return known

    def find(self, path: str) -> Weights | None:
        """The weights of the file at ``path``, if they are still what lies there."""
        weights = self._files.get(os.path.realpath(path))
        if weights is None:
            return None
        state = FileState.of(weights.path)
        if state == weights.state:
            return weights
        del self._files[weights.path]
        what = "is gone" if state is None else "has changed"
        note = f"{weights.path} {what} since it was preloaded; it is read from the disk"
        self.notes.append(note)
        logger.warning("%s", note)
        return None


def read_weights(path: str) -> Weights:
    """Read a safetensors file into memory that no file backs.

    Raises:
        PreloadError: It is no safetensors file, or cannot be read.
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
    """The files that ``kind/name`` entries mean.

    Raises:
        PreloadError: An entry has another form, or names no file.
    """
    found: list[Path] = []
    for entry in names:
        kind, slash, name = entry.partition("/")
        if not slash or not name:
            raise PreloadError(f"preload entry {entry!r}: write it kind/name, checkpoints/x.sft")
        try:
            path = get_full_path(kind, name)
        except KeyError:
            path = None
        if path is None:
            raise PreloadError(f"preload entry {entry!r}: there is no such {kind} file")
        found.append(Path(path))
    return found


def serve_from_memory(utils: Any, store: WeightStore) -> None:
    """Let ``comfy.utils.load_torch_file`` answer from ``store``; call it before other modules
    take that function by name."""
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
