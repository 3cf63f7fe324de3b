"""Hides CUDA from Python code while a memory snapshot is made, and records calls to it."""

import importlib
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from types import FrameType
from typing import Any, Final

from comfysnap_server.errors import ComfysnapServerError

ANSWERS: Final[dict[str, Any]] = {
    "is_available": False,
    "device_count": 0,
    "is_initialized": False,
    "is_bf16_supported": False,
}
"""What functions of ``torch.cuda`` return while masked, as on a machine without a GPU."""

REFUSED: Final = (
    "_lazy_init",
    "init",
    "get_device_properties",
    "get_device_name",
    "get_device_capability",
    "mem_get_info",
    "memory_stats",
    "set_device",
    "synchronize",
)
"""Functions that raise while masked, since they need a device. A single real call would make torch
cache "no device" in C++ for the life of the process (``torch/csrc/cuda/Module.cpp``)."""

_HIDDEN_INDEX: Final = 0
"""``cpu:0`` works as the CPU, but is not equal to ``cpu``, which ComfyUI uses everywhere else, so
that places which hold it can be found later."""

CORE: Final = "comfyui"
"""Caller of a function when it is not a node pack."""


class CudaMaskedError(ComfysnapServerError, RuntimeError):
    """Code needs the GPU while it is hidden."""


@dataclass(frozen=True)
class MaskedCall:
    """One place in the code that called ``torch.cuda`` while masked."""

    function: str
    pack: str
    """Name of the node pack's folder or file, or ``comfyui``."""
    where: str
    """``file:line`` of the caller."""
    refused: bool
    count: int = 1


@dataclass
class MaskRecord:
    """The calls during a mask, one entry per place in the code."""

    calls: dict[tuple[str, str], MaskedCall] = field(
        default_factory=dict[tuple[str, str], MaskedCall]
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, function: str, pack: str, where: str, *, refused: bool) -> None:
        """Record one call."""
        with self._lock:
            known = self.calls.get((function, where))
            count = known.count + 1 if known else 1
            self.calls[function, where] = MaskedCall(function, pack, where, refused, count)


def is_hidden_device(value: Any) -> bool:
    """Whether a value is the device that ``current_device`` returns while masked."""
    torch: Any = sys.modules.get("torch")
    return (
        torch is not None
        and isinstance(value, torch.device)
        and (value.type, value.index) == ("cpu", _HIDDEN_INDEX)
    )


@contextmanager
def masked(record: MaskRecord, pack_of: Callable[[str], str | None]) -> Generator[None]:
    """Hide CUDA inside the block; afterwards every replaced attribute is restored, also on errors.

    Functions that were imported by name inside the block (``from torch.cuda import is_available``)
    call the real ones after it.

    Args:
        record: Receives the calls.
        pack_of: Maps a source file to the name of its node pack, or None.
    """
    try:
        cuda: Any = importlib.import_module("torch.cuda")
        hidden: Any = importlib.import_module("torch").device("cpu", _HIDDEN_INDEX)
    except ImportError:
        yield
        return
    state = _State(record, pack_of)
    saved: dict[str, Any] = {}
    answers = {**ANSWERS, "current_device": hidden}
    try:
        for name in (*answers, *REFUSED):
            if hasattr(cuda, name):
                saved[name] = getattr(cuda, name)
                setattr(cuda, name, state.replace(name, saved[name], answers))
        yield
    finally:
        state.active = False
        for name, original in saved.items():
            setattr(cuda, name, original)


class _State:
    def __init__(self, record: MaskRecord, pack_of: Callable[[str], str | None]) -> None:
        self.active = True
        self.record = record
        self.pack_of = pack_of

    def replace(
        self, name: str, original: Callable[..., Any], answers: dict[str, Any]
    ) -> Callable[..., Any]:
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            if not self.active:
                return original(*args, **kwargs)
            pack, where = _caller(inspect.currentframe(), self.pack_of)
            self.record.add(name, pack, where, refused=name not in answers)
            if name in answers:
                return answers[name]
            raise CudaMaskedError(
                f"torch.cuda.{name} was called while CUDA is hidden for the memory snapshot "
                f"(by {pack}, {where}); a node pack that needs the GPU when it is imported belongs "
                "on the after_restore list"
            )

        stand_in.__name__ = name
        return stand_in


def _caller(frame: FrameType | None, pack_of: Callable[[str], str | None]) -> tuple[str, str]:
    """The nearest frame of a node pack, or the nearest outside torch."""
    nearest: str | None = None
    for entry, line in traceback.walk_stack(frame and frame.f_back):
        file = entry.f_code.co_filename
        pack = pack_of(file)
        if pack is not None:
            return pack, f"{file}:{line}"
        if nearest is None and "torch" not in PurePath(file).parts:
            nearest = f"{file}:{line}"
    return CORE, nearest or "unknown"
