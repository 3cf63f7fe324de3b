"""The kinds of inputs and outputs: one table of everything that depends on a kind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from typing import Final, Literal


class Kind(StrEnum):
    """What an input or an output is."""

    IMAGE = "image"
    MASK = "mask"
    ANIMATION = "animation"
    VIDEO = "video"
    AUDIO = "audio"
    MODEL_3D = "3d"
    FILE = "file"
    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, kw_only=True)
class InputNodes:
    """The inputs of node classes that read a file of one kind, and the parameter for them."""

    name: str
    """Name of the proposed parameter."""
    description: str
    options: tuple[str, ...] = ()
    """Options of ``/object_info`` that mark such an input."""
    class_pattern: str
    """Without ``/object_info``: a regular expression that is searched in the class name."""
    input_pattern: str
    """Without ``/object_info``: a regular expression that matches the whole input name."""


@dataclass(frozen=True, kw_only=True)
class OutputNodes:
    """Node classes that save or show results of one kind, and the output for them."""

    name: str
    """Name of the proposed output."""
    classes: tuple[str, ...] = ()
    """ComfyUI's own classes (nodes.py, comfy_extras/nodes_*.py)."""
    pattern: str | None = None
    """A regular expression that is searched in the class names of node packs."""
    many: bool = False
    preview: bool = False
    """Whether they show a result without saving it."""


@dataclass(frozen=True, kw_only=True)
class KindInfo:
    """Everything that depends on a kind."""

    model: str | None
    """The type of an output in generated modules, from ``comfysnap_schema.models``; None: that of
    ``json_type``."""
    json_type: Literal["object", "string"] | None = "object"
    """The JSON type of an output: ``object`` for a file, None for any."""
    suffix: str = ""
    """The suffix for an input file whose own is unknown."""
    content_types: Mapping[str, str] = field(default_factory=dict[str, str])
    """Suffix to content type of the files that may have this kind."""
    inputs: InputNodes | None = None
    outputs: tuple[OutputNodes, ...] = ()


_OCTET_STREAM: Final = "application/octet-stream"
_ANIMATED: Final = {
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".png": "image/png",
    ".apng": "image/apng",
    ".avif": "image/avif",
}
_IMAGES: Final = _ANIMATED | {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".svg": "image/svg+xml",
    ".exr": "image/x-exr",
}

# In the order in which outputs are proposed. Class names are matched in reverse: special kinds come
# after more general ones.
KINDS: Final[dict[Kind, KindInfo]] = {
    Kind.IMAGE: KindInfo(
        model="ImageFile",
        suffix=".png",
        content_types=_IMAGES,
        inputs=InputNodes(
            name="image",
            description="The input image.",
            options=("image_upload", "animated_image_upload"),
            class_pattern=r"load.*image|image.*load",
            input_pattern="image",
        ),
        outputs=(
            OutputNodes(
                name="images",
                classes=("PreviewImage", "MaskPreview", "ImageCompare"),
                pattern=r"preview.*(image|mask)",
                many=True,
                preview=True,
            ),
            OutputNodes(
                name="images",
                classes=("SaveImage", "SaveImageWebsocket"),
                pattern=r"(save|export).*(image|png|jpe?g|mask|exr)|image.?save",
                many=True,
            ),
        ),
    ),
    Kind.MASK: KindInfo(
        model="ImageFile",
        suffix=".png",
        content_types=_IMAGES,
        inputs=InputNodes(
            name="mask",
            description="Where to work.",
            class_pattern=r"load.*mask",
            input_pattern="image",
        ),
    ),
    Kind.ANIMATION: KindInfo(
        model="AnimationFile",
        suffix=".webp",
        content_types=_ANIMATED,
        outputs=(
            OutputNodes(
                name="animation",
                classes=("SaveAnimatedWEBP", "SaveAnimatedPNG"),
                pattern=r"save.*(webp|gif|apng|animat)",
            ),
        ),
    ),
    Kind.VIDEO: KindInfo(
        model="VideoFile",
        suffix=".mp4",
        content_types={
            ".mp4": "video/mp4",
            ".m4v": "video/mp4",
            ".webm": "video/webm",
            ".mov": "video/quicktime",
            ".mkv": "video/x-matroska",
            ".avi": "video/x-msvideo",
        },
        inputs=InputNodes(
            name="video",
            description="The input video.",
            options=("video_upload",),
            class_pattern=r"load.*video|video.*load",
            input_pattern="video|file",
        ),
        outputs=(
            OutputNodes(
                name="video",
                classes=("SaveWEBM", "SaveVideo"),
                pattern=r"(save|preview|combine).*video|video.*(save|combine)",
            ),
            OutputNodes(name="video", classes=("SAM3_TrackPreview",), preview=True),
        ),
    ),
    Kind.AUDIO: KindInfo(
        model="AudioFile",
        suffix=".wav",
        content_types={
            ".wav": "audio/wav",
            ".flac": "audio/flac",
            ".mp3": "audio/mpeg",
            ".opus": "audio/ogg",
            ".ogg": "audio/ogg",
            ".m4a": "audio/mp4",
        },
        inputs=InputNodes(
            name="audio",
            description="The input audio.",
            options=("audio_upload",),
            class_pattern=r"load.*audio|audio.*load",
            input_pattern="audio|audio_file",
        ),
        outputs=(
            OutputNodes(
                name="audio",
                classes=("SaveAudio", "SaveAudioMP3", "SaveAudioOpus"),
                pattern=r"(save|preview).*audio",
            ),
            OutputNodes(name="audio", classes=("PreviewAudio",), preview=True),
        ),
    ),
    Kind.MODEL_3D: KindInfo(
        model="Model3DFile",
        suffix=".glb",
        content_types={
            ".glb": "model/gltf-binary",
            ".gltf": "model/gltf+json",
            ".obj": "model/obj",
            ".stl": "model/stl",
        }
        | dict.fromkeys((".ply", ".fbx", ".usdz", ".splat", ".spz", ".ksplat"), _OCTET_STREAM),
        outputs=(
            OutputNodes(
                name="model",
                classes=("Preview3D", "Preview3DAnimation", "Preview3DAdvanced"),
                pattern=r"preview.*(3d|splat|point.?cloud)",
                preview=True,
            ),
            OutputNodes(
                name="model",
                classes=("SaveGLB",),
                pattern=r"(save|preview|export).*(glb|mesh|3d|ply|gltf|obj|splat|point.?cloud)",
            ),
        ),
    ),
    Kind.TEXT: KindInfo(
        model=None,
        json_type="string",
        outputs=(
            OutputNodes(
                name="text",
                classes=("PreviewAny",),
                pattern=r"show.?text|display.?text|save.?text|text.?display|preview.?text"
                r"|display.?any",
            ),
        ),
    ),
    Kind.JSON: KindInfo(model="JsonValue", json_type=None),
    Kind.FILE: KindInfo(
        model="OutputFile",
        content_types={
            ".json": "application/json",
            ".txt": "text/plain; charset=utf-8",
            ".zip": "application/zip",
        },
        inputs=InputNodes(
            name="file",
            description="The input file.",
            options=("file_upload",),
            class_pattern=r"load.*3d",
            input_pattern="model_file",
        ),
        outputs=(
            OutputNodes(name="svg", classes=("SaveSVGNode",), many=True),
            OutputNodes(name="latent", classes=("SaveLatent",)),
        ),
    ),
}

FILE_KINDS: Final = frozenset(kind for kind, info in KINDS.items() if info.json_type == "object")
"""Kinds that travel as files."""


def kind_fits(name: str, kind: Kind) -> bool:
    """Whether a file of this name can have a kind; every file can be a ``Kind.FILE``."""
    return kind is Kind.FILE or PurePath(name).suffix.lower() in KINDS[kind].content_types


def content_type_of(name: str) -> str:
    """The content type of a file by its suffix; ``application/octet-stream`` when unknown."""
    suffix = PurePath(name).suffix.lower()
    found = (info.content_types[suffix] for info in KINDS.values() if suffix in info.content_types)
    return next(found, _OCTET_STREAM)
