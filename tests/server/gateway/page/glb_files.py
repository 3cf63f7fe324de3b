"""GLB files made for tests."""

import json
import struct
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from PIL import Image

TRIANGLE = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)
UVS = struct.pack("<6f", 0, 0, 1, 0, 0, 1)
COLORS = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255])
INDICES = struct.pack("<3H", 0, 1, 2)


def container(text: bytes, binary: bytes) -> bytes:
    """The two chunks of a file."""
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
    chunks += struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def picture(form: str, color: str) -> bytes:
    """A small picture of one colour."""
    written = BytesIO()
    Image.new("RGB", (4, 4), color).save(written, form, lossless=True)
    return written.getvalue()


def triangle(image: bytes = b"", mime: str = "image/png") -> tuple[dict[str, Any], bytes]:
    """A triangle of X, Y = 0 to 1, with UVs, vertex colours and indices, and what it is made of."""
    parts = (TRIANGLE, UVS, COLORS, INDICES, image)
    views: list[dict[str, int]] = []
    binary = b""
    for part in parts:
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(part)})
        binary += part + b"\0" * (-len(part) % 4)
    said: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [
            {"bufferView": index, "componentType": kind, "count": 3, "type": shape}
            for index, (kind, shape) in enumerate(
                [(5126, "VEC3"), (5126, "VEC2"), (5121, "VEC3"), (5123, "SCALAR")]
            )
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    said["accessors"][2]["normalized"] = True
    if image:
        said["images"] = [{"bufferView": 4, "mimeType": mime}]
        said["textures"] = [{"source": 0}]
        texture = {"baseColorTexture": {"index": 0}}
        said["materials"] = [{"pbrMetallicRoughness": texture}]
        primitive = {"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "material": 0}
        said["meshes"] = [{"primitives": [primitive]}]
    return said, binary


def triangle_file(
    changes: Mapping[str, Any] | None = None, image: bytes = b"", mime: str = "image/png"
) -> bytes:
    """The triangle as a file, with other values at paths like ``nodes.0.mesh``."""
    said, binary = triangle(image, mime)
    for path, value in (changes or {}).items():
        *way, last = path.split(".")
        place: Any = said
        for step in way:
            place = place[_key(step)]
        place[_key(last)] = value
    return container(json.dumps(said).encode(), binary)


def _key(step: str) -> str | int:
    return int(step) if step.isdigit() else step
