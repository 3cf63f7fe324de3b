"""Reads the workflow that ComfyUI saves inside of pictures and videos: PNG, WebP, MP4, MOV, WebM.

Files may come from anywhere, so every size is bounded, and pixels are never decoded.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from comfysnap_schema.comfy.graph import MAX_GRAPH_BYTES, is_history, parse_json, read_json, unwrap
from comfysnap_schema.wire import GraphError

MAX_PARTS: Final = 200_000
"""Chunks, boxes or elements of one file; an hour of video has some thousands."""
MAX_METADATA_BYTES: Final = 4 * MAX_GRAPH_BYTES
"""All metadata that is read of one file, unpacked."""
_KEYS: Final = ("prompt", "workflow")
_COMMENT: Final = "comment"
_AROUND: Final = ("workflow", "extra_pnginfo", "extra_data", "input", _COMMENT)
"""Keys below which the editor's workflow may be."""
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_EBML: Final = b"\x1a\x45\xdf\xa3"
_SEGMENT, _TAGS, _TAG, _SIMPLE = 0x18538067, 0x1254C367, 0x7373, 0x67C8
_TAG_NAME, _TAG_TEXT = 0x45A3, 0x4487
_ASCII: Final = 2
_MAX_TAGS: Final = 1024


def read_saved(path: Path) -> Any:
    """Read what ComfyUI saved: the JSON of a workflow in either format, bare or wrapped, or a
    picture or video that has it in its metadata. The API format is preferred where both are there.

    Raises:
        GraphError: ``unreadable``, ``too_large``, ``invalid_json``; of a picture also
            ``invalid_picture`` when it is damaged, ``no_workflow`` when it has none.
    """
    try:
        with path.open("rb") as file:
            read = _reader_of(file.read(16))
            if read is not None:
                texts = dict(read(_File(file, path)))
                return _choose(texts, str(path))
    except OSError as error:
        raise GraphError("unreadable", error.strerror or str(error), file=str(path)) from error
    return unwrap(read_json(path))


def read_editor_workflow(path: Path) -> dict[str, Any] | None:
    """Read the workflow as ComfyUI's editor draws it, from the same files as ``read_saved``; None
    when the file has only a graph in API format.

    Raises:
        GraphError: As ``read_saved``.
    """
    try:
        with path.open("rb") as file:
            read = _reader_of(file.read(16))
            data: object = read_json(path) if read is None else dict(read(_File(file, path)))
    except OSError as error:
        raise GraphError("unreadable", error.strerror or str(error), file=str(path)) from error
    return _drawn(data)


def _drawn(data: object, depth: int = 0) -> dict[str, Any] | None:
    found = _parsed(data) if depth and isinstance(data, str) else data
    if isinstance(found, list):  # an entry of /history, whose extra data come fourth
        found = next(iter(cast("list[Any]", found)[3:4]), None)
    if not isinstance(found, dict) or depth > len(_AROUND):
        return None
    outer = cast("dict[str, Any]", found)
    if isinstance(outer.get("nodes"), list):
        return outer
    ran = [each["prompt"] for each in outer.values() if len(outer) == 1 and is_history(each)]
    around = [*ran, *(outer[key] for key in _AROUND if key in outer)]
    inner = (_drawn(each, depth + 1) for each in around)
    return next((each for each in inner if each is not None), None)


def _choose(saved: Mapping[str, Any], file: str) -> Any:
    """The prompt, or else the workflow; a comment may hold both as JSON."""
    for key in _KEYS:
        found = _parsed(saved.get(key))
        if isinstance(found, dict) and found:
            return unwrap(found)
    comment = _parsed(saved.get(_COMMENT))
    if isinstance(comment, dict):
        inner = cast("dict[str, Any]", comment)
        return _choose({key: inner[key] for key in _KEYS if key in inner}, file)
    raise GraphError(
        "no_workflow",
        "no ComfyUI workflow in the metadata: it was saved without one, or lost it on its way here;"
        " use the original file, or export the workflow: Workflow > Export (API)",
        file=file,
    )


def _parsed(value: Any) -> Any:
    """The content of a JSON text; None when it is none, as other programs use these names too."""
    try:
        return parse_json(value) if isinstance(value, str) else value
    except GraphError:
        return None


class _File:
    """A file of known size; reading past its end is an error."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._parts = 0
        self._taken = 0
        self.size = path.stat().st_size

    def read(self, start: int, count: int) -> bytes:
        """Bytes at a position.

        Raises:
            GraphError: ``too_large``, ``invalid_picture``.
        """
        self.take(count)
        self._file.seek(start)
        data = self._file.read(count)
        if len(data) < count:
            raise self.damaged("it is cut off")
        return data

    def take(self, count: int) -> None:
        """Count bytes of metadata: of one text and of all that is read.

        Raises:
            GraphError: ``too_large``.
        """
        self._taken += count
        if count > MAX_GRAPH_BYTES or self._taken > MAX_METADATA_BYTES:
            raise GraphError(
                "too_large", f"metadata larger than {MAX_GRAPH_BYTES} bytes", file=str(self._path)
            )

    def count(self) -> None:
        """Count one more part of the file.

        Raises:
            GraphError: ``too_large``.
        """
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise GraphError("too_large", f"more than {MAX_PARTS} parts", file=str(self._path))

    def damaged(self, why: str) -> GraphError:
        """The error for a file that breaks the rules of its format."""
        return GraphError("invalid_picture", f"the file is damaged: {why}", file=str(self._path))


def _reader_of(head: bytes) -> Any:
    """The function that reads a file with these first bytes; None when it is no picture."""
    if head.startswith(_PNG):
        return _png
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _webp
    if head[4:8] == b"ftyp":
        return _mp4
    return _webm if head.startswith(_EBML) else None


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _png(file: _File) -> Iterator[tuple[str, str]]:
    """Text chunks; ``comf`` is that of ComfyUI's animated PNG."""
    at = len(_PNG)
    kind = b""
    while kind != b"IEND" and at < file.size:
        file.count()
        length, kind = struct.unpack(">I4s", file.read(at, 8))
        if at + 12 + length > file.size:
            raise file.damaged("it is cut off")
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"comf"):
            data = file.read(at + 8, length)
            (crc,) = struct.unpack(">I", file.read(at + 8 + length, 4))
            if zlib.crc32(kind + data) != crc:
                raise file.damaged("the checksum of a text chunk is wrong")
            key, _, rest = data.partition(b"\0")
            if _text(key) in _KEYS:
                yield _text(key), _text(_png_text(file, kind, rest))
        at += 12 + length


def _png_text(file: _File, kind: bytes, rest: bytes) -> bytes:
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = rest[:1] == b"\1"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif packed:
        rest = rest[1:]
    if not packed:
        return rest
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(rest, MAX_GRAPH_BYTES + 1)
    except zlib.error as error:
        raise file.damaged(f"a text chunk cannot be unpacked ({error})") from error
    file.take(len(data) + len(unpacker.unconsumed_tail))
    if not unpacker.eof:
        raise file.damaged("a text chunk is cut off")
    return data


def _webp(file: _File) -> Iterator[tuple[str, str]]:
    """The EXIF chunk, whose tags hold ``prompt:{...}`` and ``workflow:{...}``."""
    at = 12
    while at + 8 <= file.size:
        file.count()
        kind, length = struct.unpack("<4sI", file.read(at, 8))
        if kind == b"EXIF":
            yield from _exif(file, file.read(at + 8, length).removeprefix(b"Exif\0\0"))
        at += 8 + length + length % 2


def _exif(file: _File, data: bytes) -> Iterator[tuple[str, str]]:
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise file.damaged("its EXIF has no byte order")
    try:
        (first,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, first)
        for index in range(min(count, _MAX_TAGS)):
            _, kind, length, at = struct.unpack_from(f"{order}HHII", data, first + 2 + 12 * index)
            key, _, text = data[at : at + length].partition(b":")
            if kind == _ASCII and _text(key) in _KEYS:
                yield _text(key), _text(text.rstrip(b"\0"))
    except struct.error as error:
        raise file.damaged("its EXIF is cut off") from error


def _mp4(file: _File) -> Iterator[tuple[str, str]]:
    """Tags of MP4 and MOV: named ones in ``meta``, or the comment of ``udta``."""
    for kind, start, end in _boxes(file, 0, file.size):
        for inner, at, stop in _boxes(file, start, end) if kind == b"moov" else ():
            if inner == b"meta":
                yield from _meta(file, at, stop)
            for user, low, high in _boxes(file, at, stop) if inner == b"udta" else ():
                if user == b"meta":
                    yield from _meta(file, low, high)
                elif user == b"\xa9cmt":
                    yield _COMMENT, _text(file.read(low, high - low)[4:])


def _boxes(file: _File, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of each box."""
    while at + 8 <= end:
        file.count()
        size, kind = struct.unpack(">I4s", file.read(at, 8))
        head = 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(at + 8, 8))
            head = 16
        size = size or end - at  # 0: up to the end
        if size < head or at + size > end:
            raise file.damaged("the size of a box is wrong")
        yield kind, at + head, at + size
        at += size


def _meta(file: _File, start: int, end: int) -> Iterator[tuple[str, str]]:
    """The items of a ``meta`` box: by index into ``keys``, or by a code of four letters."""
    if end - start >= 8 and file.read(start + 4, 4) != b"hdlr":
        start += 4  # version and flags, which QuickTime leaves out
    keys: list[str] = []
    for kind, at, stop in _boxes(file, start, end):
        if kind == b"keys":
            keys = [_text(file.read(a, z - a)) for _, a, z in _boxes(file, at + 8, stop)]
        for code, low, high in _boxes(file, at, stop) if kind == b"ilst" else ():
            index = int.from_bytes(code, "big") - 1
            key = keys[index] if 0 <= index < len(keys) else ""
            key = _COMMENT if code == b"\xa9cmt" else key
            for data, a, z in _boxes(file, low, high) if key in (*_KEYS, _COMMENT) else ():
                if data == b"data" and z - a >= 8:
                    yield key, _text(file.read(a + 8, z - a - 8))


def _webm(file: _File) -> Iterator[tuple[str, str]]:
    """Tags of WebM and Matroska."""
    for kind, start, end in _elements(file, 0, file.size):
        for tags, at, stop in _elements(file, start, end) if kind == _SEGMENT else ():
            for tag, low, high in _elements(file, at, stop) if tags == _TAGS else ():
                for simple, a, z in _elements(file, low, high) if tag == _TAG else ():
                    if simple == _SIMPLE:
                        yield from _simple_tag(file, a, z)


def _simple_tag(file: _File, start: int, end: int) -> Iterator[tuple[str, str]]:
    found = {kind: (at, stop) for kind, at, stop in _elements(file, start, end)}
    if _TAG_NAME in found and _TAG_TEXT in found:
        at, stop = found[_TAG_NAME]
        name = _text(file.read(at, stop - at)).lower()
        at, stop = found[_TAG_TEXT]
        if name in (*_KEYS, _COMMENT):
            yield name, _text(file.read(at, stop - at))


def _elements(file: _File, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Kind, start and end of the content of each element."""
    while at < end:
        file.count()
        kind, at = _number(file, at, end, keep_marker=True)
        size, at = _number(file, at, end, keep_marker=False)
        stop = end if size is None else at + size
        if kind is None or stop > end:
            raise file.damaged("the size of an element is wrong")
        yield kind, at, stop
        at = stop


def _number(file: _File, at: int, end: int, *, keep_marker: bool) -> tuple[int | None, int]:
    """A number whose first byte says how many follow, and the position behind it; None when all
    of its bits are set, which stands for an unknown size."""
    first = file.read(at, 1)[0]
    length = 9 - first.bit_length()
    if length > 8 or at + length > end:
        raise file.damaged("the size of an element is wrong")
    value = int.from_bytes(file.read(at, length), "big")
    low = value & ((1 << 7 * length) - 1)
    unknown = low == (1 << 7 * length) - 1
    return None if unknown else value if keep_marker else low, at + length
