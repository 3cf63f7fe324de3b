"""Reads safetensors files into newly allocated memory, without file mappings or torch kernels.

With a mapping, a snapshot would depend on the file. A kernel would start OpenMP's threads, after
which a forked child hangs in its first kernel.
"""

import importlib
import io
import json
import math
import os
from pathlib import Path
from typing import Any, Final, NoReturn, cast

from comfysnap_server.errors import ComfysnapServerError

MAX_HEADER: Final = 100 * 1024 * 1024
"""Maximum size of the header in bytes, as in the format's own library."""

DTYPES: Final = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "C64": "complex64",
}  # fmt: skip


class SafetensorsError(ComfysnapServerError, ValueError):
    """Not a valid safetensors file, or a type that this torch does not support."""


def read(path: Path) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Read a file; returns tensors by name, and the metadata.

    Raises:
        SafetensorsError: The file is not valid, or has a type that this torch does not support.
        OSError: The file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        header = _header(file, path)
        start = file.tell()
        metadata = header.pop("__metadata__", None)
        available = os.fstat(file.fileno()).st_size - start
        places = sorted((_place(name, entry), name) for name, entry in header.items())
        ends = [0, *(end for (_, end), _ in places)]
        for previous, ((begin, end), name) in zip(ends, places, strict=False):
            if not previous <= begin <= end <= available:
                raise SafetensorsError(f"tensor {name}: data_offsets overlap or exceed the file")
        tensors = {name: _tensor(file, name, header[name], start + begin, end - begin)
                   for (begin, end), name in places}  # fmt: skip
    return tensors, metadata


def _header(file: io.FileIO, path: Path) -> dict[str, Any]:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= MAX_HEADER:
        raise SafetensorsError(f"{path}: missing safetensors header")
    try:
        header: Any = json.loads(file.read(length), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SafetensorsError(f"{path}: invalid safetensors header: {error}") from error
    if not isinstance(header, dict):
        raise SafetensorsError(f"{path}: missing safetensors header")
    return cast("dict[str, Any]", header)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def _place(name: str, entry: Any) -> tuple[int, int]:
    try:
        begin, end = _sizes(entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise SafetensorsError(f"tensor {name}: missing data_offsets") from error
    return begin, end


def _sizes(values: Any) -> list[int]:
    if not all(type(value) is int and value >= 0 for value in values):
        raise ValueError("expected integers of at least 0")
    return list(values)


def _tensor(file: io.FileIO, name: str, entry: Any, start: int, length: int) -> Any:
    torch: Any = importlib.import_module("torch")
    try:
        shape = _sizes(entry["shape"])
        dtype = getattr(torch, DTYPES[entry["dtype"]])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SafetensorsError(f"tensor {name}: {error!r}") from error
    size = math.prod(shape) * dtype.itemsize
    if length != size:
        raise SafetensorsError(f"tensor {name}: data_offsets do not match its shape")
    tensor = torch.empty(shape, dtype=dtype)
    if size:
        file.seek(start)
        _fill(file, memoryview(tensor.view(-1).view(torch.uint8).numpy()), name)
    return tensor


def _fill(file: io.FileIO, target: memoryview, name: str) -> None:
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])
        if not count:
            raise SafetensorsError(f"tensor {name}: unexpected end of file")
        done += count
