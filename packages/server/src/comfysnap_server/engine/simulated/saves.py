"""Output nodes of the simulated engine: files of the right kind that say "simulated"."""

import json
import math
import struct
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Final

from PIL import Image, PngImagePlugin
from pydantic import JsonValue

from comfysnap_schema.wire import Kind
from comfysnap_server.engine.outputs import kind_of, safe_name
from comfysnap_server.engine.protocol import ProducedFile
from comfysnap_server.engine.simulated.values import (
    SIMULATED,
    Audio,
    Call,
    Images,
    Masks,
    NodeError,
    Placeholder,
    Video,
    as_images,
    merge_properties,
    plain,
)

_DEFAULT_FPS: Final = 16.0
_DEFAULT_SECONDS: Final = 3.0
_RATE: Final = 22050
"""Samples per second of sound."""


@dataclass
class Saved:
    """What one output node saved: files, or values for texts and JSON."""

    files: list[ProducedFile] = field(default_factory=list[ProducedFile])
    values: list[JsonValue] = field(default_factory=list[JsonValue])


class OutputFolder:
    """The output folder of one job; numbers files like ComfyUI does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: dict[str, int] = {}

    def path(self, call: Call, suffix: str, default: str = "ComfyUI") -> Path:
        """A new path; folders in ``filename_prefix`` are ignored."""
        prefix = call.text("filename_prefix", default).replace("\\", "/").rstrip("/")
        prefix = safe_name(prefix.rpartition("/")[2] or default)
        self._counts[prefix] = self._counts.get(prefix, 0) + 1
        return self._folder / f"{prefix}_{self._counts[prefix]:05}_{suffix}"


Save = Callable[[Call, OutputFolder], Saved]


def main_value(call: Call) -> object:
    """The value that an output node saves."""
    for name in ("images", "image", "video", "audio", "mask", "mesh", "source", "text", "samples"):
        if name in call.values:
            return call.values[name]
    linked = (Images, Masks, Video, Audio, Placeholder)
    for value in call.values.values():
        if isinstance(value, linked):
            return value
    return next(iter(call.values.values()), None)


def save_images(call: Call, folder: OutputFolder) -> Saved:
    """Save PNG files; their ``Software`` text says that they are simulated."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", f"comfysnap ({SIMULATED})")
    saved = Saved()
    for frame in as_images(main_value(call), "images").frames:
        path = folder.path(call, ".png")
        frame.save(path, pnginfo=info, compress_level=4)
        saved.files.append(_file(path))
    return saved


def _fps(call: Call, value: object) -> float:
    if isinstance(value, Video):
        return value.fps
    name = "frame_rate" if "frame_rate" in call.values else "fps"
    return call.number(name, _DEFAULT_FPS, 0.01, 1000.0)


def _save_animation(call: Call, folder: OutputFolder, suffix: str, **options: int) -> Saved:
    value = main_value(call)
    frames = as_images(value, "images").frames
    path = folder.path(call, suffix)
    duration = max(round(1000 / _fps(call, value)), 1)
    first, rest = frames[0], list(frames[1:])
    save: Callable[..., None] = first.save
    save(path, save_all=True, append_images=rest, duration=duration, loop=0, **options)
    return Saved(files=[ProducedFile(path=path, kind=Kind.ANIMATION)])


def save_webp(call: Call, folder: OutputFolder) -> Saved:
    """Save an animated WebP."""
    quality = call.integer("quality", 80, 0, 100)
    return _save_animation(
        call, folder, ".webp", quality=quality, lossless=call.flag("lossless"), method=0
    )


def save_apng(call: Call, folder: OutputFolder) -> Saved:
    """Save an animated PNG."""
    return _save_animation(call, folder, ".png", compress_level=4)


def save_gif(call: Call, folder: OutputFolder) -> Saved:
    """Save an animated GIF."""
    return _save_animation(call, folder, ".gif")


def save_video(call: Call, folder: OutputFolder) -> Saved:
    """Save the sample WebM, whatever the node's format: encoding needs more than Pillow."""
    return _save_sample(call, folder, ".webm")


def save_combined(call: Call, folder: OutputFolder) -> Saved:
    """Save a GIF or WebP if ``format`` names one, PNG files for frames, else a video."""
    by_format: Mapping[str, Save] = {"image/gif": save_gif, "image/webp": save_webp}
    form = call.text("format")
    default = save_images if form.endswith("bit-png") else save_video
    return by_format.get(form, default)(call, folder)


def save_audio(call: Call, folder: OutputFolder) -> Saved:
    """Save a WAV file, whatever the node's format."""
    value = main_value(call)
    seed = merge_properties(call.values).seed or 0
    audio = value if isinstance(value, Audio) else Audio(_DEFAULT_SECONDS, seed)
    path = folder.path(call, ".wav")
    _write_wav(path, audio.seconds, audio.seed)
    return Saved(files=[_file(path)])


def _write_wav(path: Path, seconds: float, seed: int) -> None:
    """Write a soft tone; the seed chooses its pitch."""
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


def save_mesh(call: Call, folder: OutputFolder) -> Saved:
    """Save the sample 3D scene: a cube that says "simulated" on each side."""
    return _save_sample(call, folder, ".glb")


def _save_sample(call: Call, folder: OutputFolder, suffix: str) -> Saved:
    path = folder.path(call, suffix)
    path.write_bytes((files("comfysnap_server.engine.simulated") / f"sample{suffix}").read_bytes())
    return Saved(files=[_file(path)])


def save_text(call: Call, _folder: OutputFolder) -> Saved:
    """Return the text; a text that needs a model says that none ran."""
    value = main_value(call)
    if isinstance(value, Placeholder):
        prompt = value.properties.prompt
        return Saved(values=[f"{SIMULATED}: {prompt}" if prompt else SIMULATED])
    readable = plain(value)
    return Saved(values=[readable if isinstance(readable, str) else json.dumps(readable)])


def save_json(call: Call, _folder: OutputFolder) -> Saved:
    """Return the value as JSON."""
    return Saved(values=[plain(main_value(call))])


def save_file(call: Call, folder: OutputFolder) -> Saved:
    """Save a JSON file with the node's inputs."""
    path = folder.path(call, ".json")
    known = {name: plain(value) for name, value in call.values.items()}
    path.write_text(json.dumps({"simulated": True, "inputs": known}, indent=2), encoding="utf-8")
    return Saved(files=[_file(path)])


def _file(path: Path) -> ProducedFile:
    return ProducedFile(path=path, kind=kind_of(path))


SAVES: Final[Mapping[str, Save]] = {
    "SaveImage": save_images,
    "PreviewImage": save_images,
    "SaveImageWebsocket": save_images,
    "MaskPreview": save_images,
    "SaveAnimatedWEBP": save_webp,
    "SaveAnimatedPNG": save_apng,
    "SaveVideo": save_video,
    "SaveWEBM": save_video,
    "VHS_VideoCombine": save_combined,
    "SaveAudio": save_audio,
    "SaveAudioMP3": save_audio,
    "SaveAudioOpus": save_audio,
    "PreviewAudio": save_audio,
    "SaveGLB": save_mesh,
    "PreviewAny": save_text,
}
"""Known output node classes."""

BY_KIND: Final[Mapping[Kind, Save]] = {
    Kind.IMAGE: save_images,
    Kind.MASK: save_images,
    Kind.ANIMATION: save_webp,
    Kind.VIDEO: save_video,
    Kind.AUDIO: save_audio,
    Kind.MODEL_3D: save_mesh,
    Kind.FILE: save_file,
    Kind.TEXT: save_text,
    Kind.JSON: save_json,
}
"""How an output node of an unknown class saves, by the kind of its first output."""


def save(call: Call, folder: OutputFolder, kinds: Sequence[Kind]) -> Saved:
    """Run an output node.

    Args:
        call: The node and its inputs.
        folder: The job's output folder.
        kinds: Kinds of the workflow outputs that this node provides.

    Raises:
        NodeError: Its input has a type that it cannot save.
    """
    writer = SAVES.get(call.class_type) or BY_KIND[kinds[0] if kinds else Kind.FILE]
    try:
        return writer(call, folder)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise NodeError(f"the output could not be written: {error}") from error
