"""Imports that ComfyUI leaves to its first job, made before a snapshot is taken."""

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
"""What the first diffusion job added to ``sys.modules`` on the tested versions."""


def warm_imports() -> list[str]:
    """Import what is there of ``MODULES``; returns what was."""
    done: list[str] = []
    for name in MODULES:
        try:
            importlib.import_module(name)
        except Exception:
            logger.debug("no %s to import early", name, exc_info=True)
        else:
            done.append(name)
    return done
