"""Imports modules before a snapshot that ComfyUI would import with its first job."""

import importlib
import logging
from typing import Final

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
