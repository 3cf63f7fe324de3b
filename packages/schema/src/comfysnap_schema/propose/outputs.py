"""Which nodes hand something back, and what."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.wire import Kind


@dataclass(frozen=True)
class OutputRole:
    """What an output node makes."""

    name: str
    kind: Kind
    many: bool = False
    preview: bool = False
    """It shows something that ComfyUI does not keep."""


_IMAGES: Final = OutputRole("images", Kind.IMAGE, many=True)
_PREVIEWS: Final = OutputRole("images", Kind.IMAGE, many=True, preview=True)
_ANIMATION: Final = OutputRole("animation", Kind.ANIMATION)
_VIDEO: Final = OutputRole("video", Kind.VIDEO)
_AUDIO: Final = OutputRole("audio", Kind.AUDIO)
_TEXT: Final = OutputRole("text", Kind.TEXT)
_MODEL: Final = OutputRole("model", Kind.MODEL_3D)
_SHOWN_MODEL: Final = OutputRole("model", Kind.MODEL_3D, preview=True)

_BY_CLASS: Final[Mapping[str, OutputRole]] = {
    "SaveImage": _IMAGES,
    "SaveImageWebsocket": _IMAGES,
    "PreviewImage": _PREVIEWS,
    "MaskPreview": _PREVIEWS,
    "SaveAnimatedWEBP": _ANIMATION,
    "SaveAnimatedPNG": _ANIMATION,
    "SaveWEBM": _VIDEO,
    "SaveVideo": _VIDEO,
    "SaveAudio": _AUDIO,
    "SaveAudioMP3": _AUDIO,
    "SaveAudioOpus": _AUDIO,
    "PreviewAudio": OutputRole("audio", Kind.AUDIO, preview=True),
    "PreviewAny": _TEXT,
    "SaveGLB": _MODEL,
    "Preview3D": _SHOWN_MODEL,
    "Preview3DAnimation": _SHOWN_MODEL,
    "SaveSVGNode": OutputRole("svg", Kind.FILE, many=True),
    "SaveLatent": OutputRole("latent", Kind.FILE),
}
"""Core's own (ComfyUI: nodes.py, comfy_extras/nodes_*.py)."""

_SAVES_NOTHING: Final = frozenset({"CheckpointSave", "CLIPSave", "VAESave", "ModelSave"})
_BY_WORD: Final[tuple[tuple[str, OutputRole], ...]] = (
    (r"show.?text|display.?text|save.?text|text.?display|preview.?text|display.?any", _TEXT),
    (r"(save|preview|export).*(glb|mesh|3d|ply|gltf|obj)", _MODEL),
    (r"(save|preview).*audio", _AUDIO),
    (r"(save|preview|combine).*video|video.*(save|combine)", _VIDEO),
    (r"save.*(webp|gif|apng|animat)", _ANIMATION),
    (r"preview.*(image|mask)", _PREVIEWS),
    (r"(save|export).*(image|png|jpe?g|mask|exr)|image.?save", _IMAGES),
)
"""How node packs call theirs; the first that fits counts."""


def output_of(class_type: str, inputs: Mapping[str, JsonValue]) -> OutputRole | None:
    """What a class makes, by its name; None when it does not look like an output node."""
    known = _BY_CLASS.get(class_type)
    if known is not None or class_type in _SAVES_NOTHING:
        return known
    role = next(
        (role for words, role in _BY_WORD if re.search(words, class_type, re.IGNORECASE)), None
    )
    if role is _VIDEO and str(inputs.get("format", "")).startswith("image/"):
        return _ANIMATION  # VideoHelperSuite: format "image/gif", "image/webp", "video/h264-mp4"
    return role
