"""Replaces devices that node packs stored while CUDA was hidden (``device = get_torch_device()`` at
module level) once the process has its device."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from comfysnap_server.engine.comfyui.mask import is_hidden_device

PackOf = Callable[[str], str | None]
"""Maps a source file to the name of its node pack, or None."""


class PackDevices:
    """Places in modules of node packs that hold the masked device: globals, class attributes and
    default arguments."""

    def __init__(self) -> None:
        self._places: list[Callable[[Any], None]] = []

    def find(self, pack_of: PackOf) -> dict[str, list[str]]:
        """Search the modules imported so far.

        Returns:
            Per pack, display names of its places.
        """
        found: dict[str, list[str]] = {}
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if not isinstance(file, str) or (pack := pack_of(file)) is None:
                continue
            for name, place in _places(module):
                self._places.append(place)
                found.setdefault(pack, []).append(f"{_short_name(file)}.{name}")
        return found

    def give(self, device: Any) -> None:
        """Set a device in all places. Can be called again."""
        for place in self._places:
            place(device)


def _short_name(file: str) -> str:
    path = Path(file)
    return path.parent.name if path.stem == "__init__" else path.stem


def _places(module: ModuleType) -> Iterator[tuple[str, Callable[[Any], None]]]:
    for name, value in list(vars(module).items()):
        if is_hidden_device(value):
            yield name, _attribute(module, name)
        elif getattr(value, "__module__", None) != module.__name__:
            continue  # defined in another module, which is searched itself
        elif isinstance(value, type):
            yield from _of_class(value)
        elif isinstance(value, FunctionType):
            yield from _of_function(value)


def _of_class(kind: type) -> Iterator[tuple[str, Callable[[Any], None]]]:
    for name, value in list(vars(kind).items()):
        inner = getattr(value, "__func__", value)  # of a staticmethod or classmethod
        if is_hidden_device(value):
            yield f"{kind.__name__}.{name}", _attribute(kind, name)
        elif isinstance(inner, FunctionType):
            yield from _of_function(inner)


def _of_function(function: FunctionType) -> Iterator[tuple[str, Callable[[Any], None]]]:
    named = function.__kwdefaults__ or {}
    if any(is_hidden_device(value) for value in (*(function.__defaults__ or ()), *named.values())):
        yield f"{function.__qualname__}()", _defaults(function)


def _attribute(owner: Any, name: str) -> Callable[[Any], None]:
    return lambda device: setattr(owner, name, device)


def _defaults(function: FunctionType) -> Callable[[Any], None]:
    positional, named = function.__defaults__ or (), dict(function.__kwdefaults__ or {})

    def give(device: Any) -> None:
        if positional:
            function.__defaults__ = tuple(device if is_hidden_device(v) else v for v in positional)
        if named:
            function.__kwdefaults__ = {
                name: device if is_hidden_device(v) else v for name, v in named.items()
            }

    return give
