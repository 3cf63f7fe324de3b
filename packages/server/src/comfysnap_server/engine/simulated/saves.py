"""Output nodes of the simulated engine: files of the right kind that say "simulated"."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image, PngImagePlugin
from pydantic import JsonValue

from comfysnap_schema.wire import Kind
from comfysnap_server.engine.outputs import kind_of, safe_name
from comfysnap_server.engine.protocol import ProducedFile
from comfysnap_server.engine.simulated.media import SIMULATED, write_avi, write_glb, write_wav
from comfysnap_server.engine.simulated.values import (
    Audio,
    Call,
    Images,
    Masks,
    Modelled,
    NodeProblem,
    Video,
    as_images,
    merge_facts,
    plain,
)

_DEFAULT_FPS: Final = 16.0
_DEFAULT_SECONDS: Final = 3.0


@dataclass
class Made:
    """What one output node made."""

    files: list[ProducedFile] = field(default_factory=list[ProducedFile])
    values: list[JsonValue] = field(default_factory=list[JsonValue])


class Saver:
    """Writes into the output folder of one job, and numbers files like ComfyUI does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: dict[str, int] = {}

    def path(self, call: Call, suffix: str, default: str = "ComfyUI") -> Path:
        """A fresh path; of a prefix with folders only the last part counts."""
        prefix = call.text("filename_prefix", default).replace("\\", "/").rstrip("/")
        prefix = safe_name(prefix.rpartition("/")[2] or default)
        self._counts[prefix] = self._counts.get(prefix, 0) + 1
        return self._folder / f"{prefix}_{self._counts[prefix]:05}_{suffix}"


Save = Callable[[Call, Saver], Made]


def main_value(call: Call) -> object:
    """The input that an output node is there for."""
    for name in ("images", "image", "video", "audio", "mask", "mesh", "source", "text", "samples"):
        if name in call.values:
            return call.values[name]
    linked = (Images, Masks, Video, Audio, Modelled)
    for value in call.values.values():
        if isinstance(value, linked):
            return value
    return next(iter(call.values.values()), None)


def save_images(call: Call, saver: Saver) -> Made:
    """PNG files, with a text chunk that says what they are."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", f"comfysnap ({SIMULATED})")
    made = Made()
    for frame in as_images(main_value(call), "images").frames:
        path = saver.path(call, ".png")
        frame.save(path, pnginfo=info, compress_level=4)
        made.files.append(_file(path))
    return made


def _fps(call: Call, value: object) -> float:
    if isinstance(value, Video):
        return value.fps
    name = "frame_rate" if "frame_rate" in call.values else "fps"
    return call.number(name, _DEFAULT_FPS, 0.01, 1000.0)


def _save_animation(call: Call, saver: Saver, suffix: str, **options: int) -> Made:
    value = main_value(call)
    frames = as_images(value, "images").frames
    path = saver.path(call, suffix)
    duration = max(round(1000 / _fps(call, value)), 1)
    first, rest = frames[0], list(frames[1:])
    save: Callable[..., None] = first.save
    save(path, save_all=True, append_images=rest, duration=duration, loop=0, **options)
    return Made(files=[ProducedFile(path=path, kind=Kind.ANIMATION)])


def save_webp(call: Call, saver: Saver) -> Made:
    """An animated WebP."""
    quality = call.integer("quality", 80, 0, 100)
    return _save_animation(
        call, saver, ".webp", quality=quality, lossless=call.flag("lossless"), method=0
    )


def save_apng(call: Call, saver: Saver) -> Made:
    """An animated PNG."""
    return _save_animation(call, saver, ".png", compress_level=4)


def save_gif(call: Call, saver: Saver) -> Made:
    """An animated GIF."""
    return _save_animation(call, saver, ".gif")


def save_video(call: Call, saver: Saver) -> Made:
    """A Motion-JPEG AVI, whatever format was asked for: there is no video encoder here."""
    value = main_value(call)
    path = saver.path(call, ".avi")
    write_avi(path, as_images(value, "images").frames, _fps(call, value))
    return Made(files=[_file(path)])


def save_combined(call: Call, saver: Saver) -> Made:
    """A GIF or WebP where ``format`` says so, else a video."""
    by_format: Mapping[str, Save] = {"image/gif": save_gif, "image/webp": save_webp}
    return by_format.get(call.text("format"), save_video)(call, saver)


def save_audio(call: Call, saver: Saver) -> Made:
    """A WAV file, whatever format was asked for."""
    value = main_value(call)
    seed = merge_facts(call.values).seed or 0
    audio = value if isinstance(value, Audio) else Audio(_DEFAULT_SECONDS, seed)
    path = saver.path(call, ".wav")
    write_wav(path, audio.seconds, audio.seed)
    return Made(files=[_file(path)])


def save_mesh(call: Call, saver: Saver) -> Made:
    """An empty 3D scene."""
    path = saver.path(call, ".glb")
    write_glb(path)
    return Made(files=[_file(path)])


def save_text(call: Call, _saver: Saver) -> Made:
    """The text itself; what a model would have written says that it did not."""
    value = main_value(call)
    if isinstance(value, Modelled):
        prompt = value.facts.prompt
        return Made(values=[f"{SIMULATED}: {prompt}" if prompt else SIMULATED])
    readable = plain(value)
    return Made(values=[readable if isinstance(readable, str) else json.dumps(readable)])


def save_json(call: Call, _saver: Saver) -> Made:
    """The value as JSON."""
    return Made(values=[plain(main_value(call))])


def save_file(call: Call, saver: Saver) -> Made:
    """A text file that tells what the node was given."""
    path = saver.path(call, ".json")
    known = {name: plain(value) for name, value in call.values.items()}
    path.write_text(json.dumps({"simulated": True, "inputs": known}, indent=2), encoding="utf-8")
    return Made(files=[_file(path)])


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
"""Output node classes that are known."""

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
"""What an output node of an unknown class makes, by the kind of the output it stands for."""


def save(call: Call, saver: Saver, kinds: Sequence[Kind]) -> Made:
    """Run an output node; ``kinds`` are those of the outputs that it stands for.

    Raises:
        NodeProblem: Its input is of a type that it cannot save.
    """
    writer = SAVES.get(call.class_type) or BY_KIND[kinds[0] if kinds else Kind.FILE]
    try:
        return writer(call, saver)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise NodeProblem(f"the output could not be written: {error}") from error
