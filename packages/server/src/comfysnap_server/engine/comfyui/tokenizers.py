"""Keeps the tokenizers of text encoders, which ComfyUI otherwise builds anew in each loader."""

import functools
import importlib
import inspect
import logging
from collections.abc import Hashable
from typing import Any

logger = logging.getLogger(__name__)


class _Kept:
    """Stands for a class of tokenizers, and builds each tokenizer once. ComfyUI only asks them."""

    def __init__(self, tokenizer_class: Any, built: dict[Hashable, Any]) -> None:
        self._class = tokenizer_class
        self._built = built

    def from_pretrained(self, path: Any, **arguments: Any) -> Any:
        """The tokenizer of a folder or file; one whose data lies in a checkpoint is built anew."""
        if not isinstance(path, str) or arguments:
            return self._class.from_pretrained(path, **arguments)
        key = self._class, path
        if key not in self._built:
            self._built[key] = self._class.from_pretrained(path)
        return self._built[key]


def keep_tokenizers() -> None:
    """Keep what ``SDTokenizer`` builds, and build CLIP's, which most families use, at once."""
    try:
        module: Any = importlib.import_module("comfy.sd1_clip")
    except ImportError:
        return
    kind = module.SDTokenizer
    original, built = kind.__init__, dict[Hashable, Any]()
    signature = inspect.signature(original)

    @functools.wraps(original)
    def construct(*args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        bound.arguments["tokenizer_class"] = _Kept(bound.arguments["tokenizer_class"], built)
        original(*bound.args, **bound.kwargs)

    if "tokenizer_class" not in signature.parameters:
        return
    kind.__init__ = construct
    try:
        kind()
    except Exception:
        logger.debug("cannot build CLIP's tokenizer early", exc_info=True)
