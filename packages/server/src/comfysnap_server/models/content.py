"""Finds out whether a file is what its name says: servers send pages and pointers with any content
type."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, cast

_HEAD: Final = 1024
_PAGES: Final = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<?xml", b"<error")
_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_SAFETENSORS: Final = (".safetensors", ".sft")
_GGUF: Final = b"GGUF"
_MAX_HEADER: Final = 100 * 1024 * 1024
"""Maximum size of a safetensors header in bytes, as in the format's own library."""


def content_problem(path: Path, name: str) -> str | None:
    """Why the content of a file is not that of a model file; None if it can be one.

    Args:
        path: The file.
        name: The name that it is to have.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head:
        return "got an empty file"
    if text.startswith(_PAGES):
        return (
            "got a web page instead of a file, probably a login or an error; set a token, or use"
            " the file's download link"
        )
    if head.startswith(_POINTER):
        return (
            "got a Git LFS pointer instead of the file; use the file's download link (at Hugging"
            " Face /resolve/ instead of /raw/)"
        )
    suffix = Path(name).suffix.lower()
    if suffix in _SAFETENSORS:
        return _safetensors_problem(path)
    if suffix == ".gguf" and not head.startswith(_GGUF):
        return "not a GGUF file"
    return None


def _safetensors_problem(path: Path) -> str | None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, max(size - 8, 0)):
            return "not a safetensors file, or cut off within its header"
        try:
            header: Any = json.loads(file.read(length))
            parts = sorted(_part(entry) for name, entry in header.items() if name != "__metadata__")
        except (ValueError, RecursionError, AttributeError, TypeError, LookupError):
            return "not a safetensors file: its header is not valid"
    if any(start < end for (_, end), (start, _) in pairwise(parts)):
        return "not a safetensors file: its tensors overlap"
    expected = 8 + length + max((end for _, end in parts), default=0)
    if size < expected:
        return f"a safetensors file that is cut off: expected {expected} bytes, got {size}"
    return None


def _part(entry: Any) -> tuple[int, int]:
    start, end = cast("list[object]", entry["data_offsets"])
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start <= end:
        raise ValueError("data_offsets")
    return start, end
