"""Loaders of input files, recognized by their names."""

import re
from typing import Final

from comfysnap_schema.wire import KINDS, Kind

_NO_FILE: Final = re.compile(r"url|folder|path|dir|base64|output", re.IGNORECASE)


def loader_kind(class_type: str, name: str) -> Kind | None:
    """The kind of file that an input of a class reads, or None when the names do not say so."""
    if _NO_FILE.search(class_type):
        return None
    return next(
        (
            kind
            for kind, info in reversed(KINDS.items())
            if info.inputs is not None
            and re.search(info.inputs.class_pattern, class_type, re.IGNORECASE)
            and re.fullmatch(info.inputs.input_pattern, name)
        ),
        None,
    )
