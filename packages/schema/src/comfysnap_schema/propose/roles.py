"""The roles that inputs of nodes can have for a caller, found by their names and nodes."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.comfy import InputPath, is_model_name, loader_kind
from comfysnap_schema.propose.view import GraphView
from comfysnap_schema.wire import KINDS, Kind
from comfysnap_schema.workflow import ParameterType


@dataclass(frozen=True, kw_only=True)
class Role:
    """The name, description and rank of one kind of parameter."""

    name: str
    description: str
    type: ParameterType = "string"
    rank: int
    """Position in the proposal; lower comes first."""
    enabled: bool = True


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An input of a node that may become a parameter, alone or together with others."""

    role: Role
    path: InputPath
    value: JsonValue
    node: str
    """The node that uses the value; the path may be that of a primitive linked to it."""
    reason: str
    name: str = ""
    """Replaces the role's name."""
    kind: Kind | None = None
    random: bool = False
    enabled: bool = True
    hints: tuple[str, ...] = field(default=())
    """Qualifiers that distinguish it from others of its role."""
    raw: str = ""
    """The node's own name for the input."""
    group: str = ""
    """Candidates of one group are one parameter, whatever their values."""


PROMPT: Final = Role(name="prompt", description="What to make.", rank=0)
NEGATIVE: Final = Role(name="negative_prompt", description="What to avoid.", rank=1)
TEXT: Final = Role(name="text", description="Text that the workflow reads.", rank=2)
FILES: Final[Mapping[Kind, Role]] = {
    kind: Role(name=nodes.name, description=nodes.description, type="file", rank=3 + index)
    for index, (kind, nodes) in enumerate(
        (kind, info.inputs) for kind, info in KINDS.items() if info.inputs is not None
    )
}
SEED: Final = Role(
    name="seed", description="The same seed gives the same result.", type="integer", rank=10
)
WIDTH: Final = Role(name="width", description="Width in pixels.", type="integer", rank=11)
HEIGHT: Final = Role(name="height", description="Height in pixels.", type="integer", rank=11)
SIZE: Final = Role(name="size", description="Width and height in pixels.", type="integer", rank=11)
FRAMES: Final = Role(name="frames", description="Number of frames.", type="integer", rank=13)
SWITCH: Final = Role(
    name="switch_step",
    description="Step at which the first sampler hands over to the next.",
    type="integer",
    rank=21,
)

_BATCH: Final = Role(
    name="batch_size", description="How many to make at once.", type="integer", rank=16
)
_FPS: Final = Role(name="fps", description="Frames per second.", type="number", rank=14)
_SECONDS: Final = Role(name="seconds", description="Length in seconds.", type="number", rank=15)
_STRENGTH: Final = Role(
    name="control_strength", description="How strongly the control guides.", type="number", rank=27
)
_STYLE_STRENGTH: Final = Role(
    name="style_strength",
    description="How strongly the reference image counts.",
    type="number",
    rank=27,
)
_LORA: Final = Role(
    name="lora_strength", description="How strongly the LoRA counts.", type="number", rank=28
)
_SCALE: Final = Role(name="scale", description="Factor of the size.", type="number", rank=17)
_LONGER_SIDE: Final = Role(
    name="longer_side", description="Longer side in pixels.", type="integer", rank=12
)
SETTING: Final = Role(name="setting", description="", rank=29)
"""Anything that its author shows."""


def _pixels(name: str, description: str) -> Role:
    return Role(name=name, description=description, type="integer", rank=18)


def _choice(name: str, description: str, rank: int) -> Role:
    return Role(name=name, description=description, rank=rank)


def _model(name: str, what: str) -> Role:
    return Role(name=name, description=f"Name of the {what}.", rank=30, enabled=False)


BY_NAME: Final[Mapping[str, Role]] = {
    "steps": Role(
        name="steps", description="Sampling steps; more take longer.", type="integer", rank=20
    ),
    "cfg": Role(
        name="cfg", description="How closely to follow the prompt.", type="number", rank=22
    ),
    "guidance": Role(
        name="guidance", description="How closely to follow the prompt.", type="number", rank=23
    ),
    "sampler_name": _choice("sampler", "The sampling algorithm.", 24),
    "scheduler": _choice("scheduler", "How noise is spread over the steps.", 25),
    "denoise": Role(
        name="denoise",
        description="How much to change: 0 keeps the input, 1 starts anew.",
        type="number",
        rank=26,
    ),
    "fps": _FPS,
    "frame_rate": _FPS,
    "seconds": _SECONDS,
    "seconds_total": _SECONDS,
    "strength_model": _LORA,
    "strength_clip": _LORA,
    "aspect_ratio": _choice("aspect_ratio", "Shape of the result.", 17),
    "ratio": _choice("aspect_ratio", "Shape of the result.", 17),
    "megapixels": Role(
        name="megapixels", description="Size in millions of pixels.", type="number", rank=12
    ),
    "largest_size": _LONGER_SIDE,
    "longer_size": _LONGER_SIDE,
    "shorter_size": Role(
        name="shorter_side", description="Shorter side in pixels.", type="integer", rank=12
    ),
    "volume": Role(name="volume", description="Change of loudness.", type="number", rank=19),
    "feathering": _pixels("feathering", "Width of the soft edge in pixels."),
    "grow_mask_by": _pixels("grow_mask", "Pixels to grow the mask by."),
    "low_threshold": Role(
        name="low_threshold", description="Weaker edges are left out.", type="number", rank=27
    ),
    "high_threshold": Role(
        name="high_threshold", description="Stronger edges are always kept.", type="number", rank=27
    ),
    "resolution": _choice("resolution", "Size of the result.", 17),
    "duration": _choice("duration", "Length of the result.", 17),
    "ckpt_name": _model("checkpoint", "checkpoint"),
    "unet_name": _model("diffusion_model", "diffusion model"),
    "vae_name": _model("vae", "VAE"),
    "lora_name": _model("lora", "LoRA"),
    "control_net_name": _model("controlnet", "ControlNet"),
    "style_model_name": _model("style_model", "style model"),
    "upscale_model": _model("upscale_model", "upscale model"),
}
"""Roles by the name of the input, at every node."""

_MODEL: Final = _model("model_name", "model")
_TEXT_ENCODER: Final = _model("text_encoder", "text encoder")
_VAGUE: Final = frozenset({"model", "*"})


def simple_role(view: GraphView, path: InputPath, value: JsonValue) -> Role | None:
    """The role of a value by the name of its input, if the value has the role's type."""
    name = path.name.rsplit(".", 1)[-1]
    role = next(
        (role for names, role, holds in _AT_NODES if name in names and holds(view, path.node)),
        BY_NAME.get(name),
    )
    if role is None and is_model_name(value):
        role = _model_role(view, path)
    return role if role is not None and _fits(role, value) else None


def _has(name: str) -> Callable[[GraphView, str], bool]:
    return lambda view, node: name in view.inputs(node)


def _is_called(pattern: str) -> Callable[[GraphView, str], bool]:
    return lambda view, node: bool(re.search(pattern, view.class_of(node), re.IGNORECASE))


def _makes_several(view: GraphView, node: str) -> bool:
    sized = any(name.endswith("width") for name in view.inputs(node))
    return sized or _is_latent(view, node) or is_service(view, node)


def _makes_frames(view: GraphView, node: str) -> bool:
    return "width" in view.inputs(node) or _is_latent(view, node)


def is_service(view: GraphView, node: str) -> bool:
    """Whether a node calls a service, as far as the catalogue knows."""
    known = view.node_def(node)
    return known is not None and known.api_node


_AT_NODES: Final[tuple[tuple[frozenset[str], Role, Callable[[GraphView, str], bool]], ...]] = (
    (
        frozenset({"length", "video_frames", "num_frames", "frames_number"}),
        FRAMES,
        _makes_frames,
    ),
    (frozenset({"batch_size"}), _BATCH, _makes_several),
    (frozenset({"duration"}), _SECONDS, _has("lyrics")),  # as long as the latent
    (frozenset({"strength"}), _STRENGTH, _has("control_net")),
    (frozenset({"strength"}), _STYLE_STRENGTH, _has("style_model")),
    (frozenset({"scale_by", "upscale_by", "multiplier"}), _SCALE, _is_called("scale|resize")),
    *(
        (
            frozenset({side}),
            _pixels(side, f"Pixels to add at the {side}."),
            _is_called("pad|outpaint"),
        )
        for side in ("left", "top", "right", "bottom")
    ),
    (frozenset({"size"}), _choice("size", "Size of the result.", 17), is_service),
    (frozenset({"quality"}), _choice("quality", "Quality of the result.", 17), is_service),
    (frozenset({"voice"}), _choice("voice", "The voice.", 17), is_service),
)
"""Roles by the name of the input, at nodes for which something holds."""


def _model_role(view: GraphView, path: InputPath) -> Role:
    if re.match(r"clip_name", path.name):
        vision = "vision" in view.class_of(path.node).lower()
        return _model("clip_vision", "CLIP vision model") if vision else _TEXT_ENCODER
    if "upscale" in view.class_of(path.node).lower():
        return BY_NAME["upscale_model"]
    known = view.node_def(path.node)
    made = known.outputs[0].type.lower() if known and known.outputs else "model"
    return _model(made, made.replace("_", " ")) if made not in _VAGUE else _MODEL


def _fits(role: Role, value: JsonValue) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if role.type in ("integer", "number"):
        return number
    return isinstance(value, str) or number


def _is_latent(view: GraphView, node: str) -> bool:
    known = view.node_def(node)
    if known is not None:
        return any(output.type == "LATENT" for output in known.outputs)
    return bool(
        re.search(r"latent|tovideo|img2vid|_conditioning", view.class_of(node), re.IGNORECASE)
    )


def file_kind(view: GraphView, path: InputPath, value: JsonValue) -> Kind | None:
    """The kind of an input file, or None when the value does not name one."""
    if not isinstance(value, str):
        return None
    known = view.input_def(path)
    if known is not None:
        kind = known.upload
    elif view.node_def(path.node) is not None:
        kind = None
    else:
        kind = loader_kind(view.class_of(path.node), path.name)
    if kind is Kind.IMAGE and _only_mask(view, path.node):
        return Kind.MASK
    return kind


def _only_mask(view: GraphView, node: str) -> bool:
    """Whether only the mask is used: a LoadImageMask, or a LoadImage with only that output."""
    if view.class_of(node) == "LoadImageMask":
        return True
    slots = {slot for _, _, slot in view.consumers[node]}
    return view.class_of(node) == "LoadImage" and slots == {1}


@dataclass(frozen=True)
class Size:
    """A node's width and height."""

    node: str
    names: tuple[str, str]
    """Of the inputs: width, then height."""
    makes: bool
    """Whether they determine the result's size."""


def sizes(view: GraphView) -> Iterator[Size]:
    """The sizes that nodes have."""
    found = [(node, names) for node in view.order for names in _pairs(view.inputs(node))]
    nodes = {node for node, _ in found}
    makes = {
        node
        for node, names in found
        if names == _EMPTY_LATENT or _is_latent(view, node) or is_service(view, node)
    }
    # A size that is linked to another node with a size is set there.
    links = [view.link(node, "width") for node in makes]
    makes |= {link[0] for link in links if link and link[0] in nodes}
    for node, names in found:
        yield Size(node, names, node in makes or not makes)


_EMPTY_LATENT: Final = ("empty_latent_width", "empty_latent_height")


def _pairs(inputs: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    if inputs.keys() >= set(_EMPTY_LATENT):
        yield _EMPTY_LATENT
    for name in inputs:
        group, _, last = name.rpartition(".")
        height = f"{group}.height" if group else "height"
        if last == "width" and height in inputs:
            yield name, height
