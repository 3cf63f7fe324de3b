"""The node catalogue: what ComfyUI's ``/object_info`` says of each node class."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

from comfysnap_schema.comfy.definitions import parse_node, slim_node
from comfysnap_schema.comfy.reading import read_object_info
from comfysnap_schema.comfy.types import InputDef, NodeDef, OutputDef
from comfysnap_schema.wire import CatalogueError

__all__ = ["CATALOGUE_FILE", "Catalogue", "InputDef", "NodeDef", "OutputDef"]

CATALOGUE_FILE: Final = "nodes.json"
"""Name of the slim catalogue in a workflow folder."""


@dataclass(frozen=True)
class Catalogue:
    """Node classes by name; a class is parsed when it is first asked for.

    Read one with ``Catalogue.read``, or make one from parsed JSON with ``Catalogue.parse``.
    """

    entries: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """Class name to its entry in the form of ``/object_info``, without prose."""

    @classmethod
    def read(cls, source: str | Path) -> "Catalogue":
        """Read ``/object_info`` from a file, or from the URL of a running ComfyUI.

        Args:
            source: A file (``object_info.json`` or ``nodes.json``), or ``http(s)://host:port``
                with or without ``/object_info``.

        Raises:
            CatalogueError: ``unreadable``, ``unreachable``, ``too_large``, ``invalid_json``,
                ``not_a_catalogue``.
        """
        return cls.parse(read_object_info(str(source)), file=str(source))

    @classmethod
    def load(cls, path: Path) -> "Catalogue":
        """Read a ``nodes.json``; the same as ``read`` with a file.

        Raises:
            CatalogueError: As ``read``.
        """
        return cls.read(path)

    @classmethod
    def parse(cls, data: object, *, file: str | None = None) -> "Catalogue":
        """Take what ``/object_info`` answered.

        Raises:
            CatalogueError: ``not_a_catalogue``.
        """
        if not isinstance(data, dict) or not data:
            raise CatalogueError(
                "not_a_catalogue", "expected what ComfyUI's /object_info answers", file=file
            )
        entries: dict[str, Mapping[str, Any]] = {}
        for class_type, entry in cast("dict[str, Any]", data).items():
            slim = slim_node(entry)
            if slim is None:
                raise CatalogueError(
                    "not_a_catalogue",
                    "a node class needs input and output, as in ComfyUI's /object_info",
                    file=file,
                    field=class_type,
                )
            entries[class_type] = slim
        return cls(entries)

    def __contains__(self, class_type: object) -> bool:
        """Whether the class is known."""
        return class_type in self.entries

    def __iter__(self) -> Iterator[str]:
        """The class names."""
        return iter(self.entries)

    def __len__(self) -> int:
        """How many classes are known."""
        return len(self.entries)

    def __getitem__(self, class_type: str) -> NodeDef:
        """The definition of a class.

        Raises:
            KeyError: The class is unknown.
        """
        known = self._parsed.get(class_type)
        if known is None:
            known = self._parsed[class_type] = parse_node(class_type, self.entries[class_type])
        return known

    def get(self, class_type: str) -> NodeDef | None:
        """The definition of a class, or None when it is unknown."""
        return self[class_type] if class_type in self.entries else None

    def slim(self, class_types: Iterable[str]) -> "Catalogue":
        """Only the classes named; unknown ones are left out."""
        wanted = sorted(set(class_types) & set(self.entries))
        return Catalogue({class_type: self.entries[class_type] for class_type in wanted})

    def dumps(self) -> str:
        """The text of a ``nodes.json``: the same catalogue, the same bytes."""
        # Only the classes are sorted: the order of nested inputs has a meaning.
        return json.dumps(dict(sorted(self.entries.items())), indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Write a ``nodes.json``."""
        path.write_text(self.dumps(), encoding="utf-8")

    @cached_property
    def made_types(self) -> frozenset[str]:
        """Every type that some class has as an output."""
        return frozenset(
            kind.strip()
            for class_type in self
            for output in self[class_type].outputs
            for kind in output.type.split(",")
        )

    @cached_property
    def _parsed(self) -> dict[str, NodeDef]:
        return {}
