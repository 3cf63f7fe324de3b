"""Does before a snapshot or a fork what ComfyUI would do anew with each first job."""

import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

logger = logging.getLogger(__name__)

MODULES: Final = (
    "multiprocessing.synchronize",  # tqdm's lock
    "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.PpmImagePlugin",
    "PIL.WebPImagePlugin",
)
"""Modules that the first diffusion job imports on the tested versions."""


def warm_imports() -> list[str]:
    """Import those of ``MODULES`` that are installed; returns their names."""
    done: list[str] = []
    for name in MODULES:
        try:
            importlib.import_module(name)
        except Exception:
            logger.debug("cannot import %s early", name, exc_info=True)
        else:
            done.append(name)
    return done


def warm_checks() -> None:
    """Have Python remember which values of a graph are mappings and sequences. The first check of
    each type asks all subclasses, and a fork copies the memory page of each."""
    kinds = [dict, list, tuple, str, int, float, bool, type(None)]
    tensor: Any = getattr(sys.modules.get("torch"), "Tensor", None)
    for kind in (*kinds, *([tensor] if isinstance(tensor, type) else [])):
        issubclass(kind, Mapping)
        issubclass(kind, Sequence)
