"""The node catalogue: node classes as ComfyUI's ``/object_info`` describes them."""

import json
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit

from comfysnap_schema.comfy.definitions import NodeDef, parse_node, slim_node
from comfysnap_schema.wire import CatalogueError

CATALOGUE_FILE: Final = "nodes.json"
"""Name of the slim catalogue in a workflow folder."""
MAX_OBJECT_INFO_BYTES: Final = 128 * 1024 * 1024
"""A plain installation returns 0.5 MB; one with hundreds of node packs some tens of MB."""
FETCH_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class Catalogue:
    """Node classes by name; a class is parsed on first use.

    Read one with ``Catalogue.read``, or build one from parsed JSON with ``Catalogue.parse``.
    """

    entries: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """Class name to its entry in the form of ``/object_info``, without descriptions."""
    skipped: tuple[str, ...] = ()
    """Classes whose entries are malformed; a sloppy node pack must not spoil the others."""

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
        """Build a catalogue from a parsed ``/object_info`` response.

        Raises:
            CatalogueError: ``not_a_catalogue``, when no class of it is well-formed.
        """
        if not isinstance(data, dict) or not data:
            raise CatalogueError(
                "not_a_catalogue",
                "not an /object_info response: expected a JSON object of node classes",
                file=file,
            )
        slim = {name: slim_node(entry) for name, entry in cast("dict[str, Any]", data).items()}
        entries = {name: entry for name, entry in slim.items() if entry is not None}
        skipped = tuple(name for name, entry in slim.items() if entry is None)
        if not entries:
            raise CatalogueError(
                "not_a_catalogue",
                "not an /object_info response: a node class must have input and output",
                file=file,
                field=skipped[0],
            )
        return cls(entries, skipped)

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
        """A catalogue of only the given classes; unknown ones are left out."""
        wanted = sorted(set(class_types) & set(self.entries))
        return Catalogue({class_type: self.entries[class_type] for class_type in wanted})

    def dumps(self) -> str:
        """The text of a ``nodes.json``; equal catalogues give equal bytes."""
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


def read_object_info(source: str, *, limit: int = MAX_OBJECT_INFO_BYTES) -> Any:
    """Read JSON from a file, or from ``/object_info`` of the server at a URL.

    Raises:
        CatalogueError: ``unreadable``, ``unreachable``, ``too_large``, ``invalid_json``.
    """
    is_url = source.lower().startswith(("http://", "https://"))
    data = _fetch(source, limit) if is_url else _read(Path(source), limit)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CatalogueError("invalid_json", f"not valid JSON: {error}", file=source) from error


def _object_info_url(source: str) -> str:
    parts = urlsplit(source)
    path = parts.path.rstrip("/")
    if not path.endswith("/object_info"):
        path += "/object_info"
    return urlunsplit(parts._replace(path=path, fragment=""))


def _fetch(source: str, limit: int) -> bytes:
    # Only these handlers: no file:, no ftp:, no redirects, no proxy.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(_object_info_url(source), timeout=FETCH_TIMEOUT_S) as response:
            return _within(response.read(limit + 1), limit, source)
    except HTTPError as error:
        error.close()
        raise CatalogueError(
            "unreachable", f"/object_info returned HTTP {error.code}", file=source
        ) from error
    except (URLError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise CatalogueError(
            "unreachable", f"cannot connect to ComfyUI: {reason}", file=source
        ) from error


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return _within(file.read(limit + 1), limit, str(path))
    except OSError as error:
        raise CatalogueError("unreadable", error.strerror or str(error), file=str(path)) from error


def _within(data: bytes, limit: int, source: str) -> bytes:
    if len(data) > limit:
        raise CatalogueError("too_large", f"larger than {limit} bytes", file=source)
    return data
