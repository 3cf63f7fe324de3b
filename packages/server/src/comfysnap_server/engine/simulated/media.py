"""Containers that need no encoder: Motion-JPEG AVI, WAV and an empty glTF scene."""

import io
import json
import math
import struct
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

SIMULATED: Final = "simulated: no model ran"
_RATE: Final = 22050


def write_avi(path: Path, frames: Sequence[Image.Image], fps: float) -> None:
    """Write a Motion-JPEG AVI (Microsoft's AVI RIFF file reference): a real video that players
    open, without a video encoder."""
    width, height = frames[0].size
    jpegs = [_jpeg(frame) for frame in frames]
    largest = max(len(data) for data in jpegs)
    head = struct.pack(
        "<14I", round(1_000_000 / fps), round(largest * fps), 0, 0x10, len(jpegs), 0, 1, largest,
        width, height, 0, 0, 0, 0,
    )  # fmt: skip
    stream = struct.pack(
        "<4s4sIHHIIIIIIII4H", b"vids", b"MJPG", 0, 0, 0, 0, 1000, round(fps * 1000), 0, len(jpegs),
        largest, 0xFFFFFFFF, 0, 0, 0, width, height,
    )  # fmt: skip
    picture = struct.pack(
        "<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", width * height * 3, 0, 0, 0, 0
    )
    header = _list(
        b"hdrl",
        _chunk(b"avih", head) + _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", picture)),
    )
    info = _list(b"INFO", _chunk(b"ICMT", SIMULATED.encode() + b"\0"))
    movie = _list(b"movi", b"".join(_chunk(b"00dc", data) for data in jpegs))
    index = bytearray()
    offset = 4
    for data in jpegs:
        index += struct.pack("<4sIII", b"00dc", 0x10, offset, len(data))
        offset += 8 + len(data) + len(data) % 2
    body = b"AVI " + header + info + movie + _chunk(b"idx1", bytes(index))
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def _jpeg(frame: Image.Image) -> bytes:
    buffer = io.BytesIO()
    frame.convert("RGB").save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _list(name: bytes, data: bytes) -> bytes:
    return _chunk(b"LIST", name + data)


def write_wav(path: Path, seconds: float, seed: int) -> None:
    """Write a soft tone of this length; its pitch follows the seed."""
    pitch = 220.0 * 2 ** ((seed % 25) / 12)
    count = round(seconds * _RATE)
    fade = min(_RATE // 10, max(count // 2, 1))
    samples = bytearray()
    for index in range(count):
        loud = min(index, count - index, fade) / fade * 6000
        samples += struct.pack("<h", round(loud * math.sin(2 * math.pi * pitch * index / _RATE)))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes(bytes(samples))


def write_glb(path: Path) -> None:
    """Write an empty binary glTF 2.0 scene that says what it is."""
    scene = {
        "asset": {"version": "2.0", "generator": SIMULATED},
        "scene": 0,
        "scenes": [{"name": SIMULATED}],
    }
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    chunk = struct.pack("<I4s", len(text), b"JSON") + text
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunk)) + chunk)
