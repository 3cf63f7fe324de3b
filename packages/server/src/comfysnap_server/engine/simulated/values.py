"""What travels along the links of a simulated graph."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeGuard, cast

from PIL import Image

from comfysnap_server.engine.simulated.picture import Scene, draw

MAX_SIDE: Final = 16384
"""Longest side of an image, as ComfyUI's own limit (nodes.py: MAX_RESOLUTION)."""
MAX_PIXELS: Final = 128 * 1024 * 1024
"""Most pixels of one value (an image, a batch, a video): 384 MB in memory."""
MAX_FRAMES: Final = 2048


class NodeProblem(Exception):
    """A node cannot do its work; ``input_name`` is the input at fault, when one is."""

    def __init__(self, message: str, *, input_name: str | None = None) -> None:
        self.input_name = input_name
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a thing that only a model could make; nodes hand it on."""

    width: int | None = None
    height: int | None = None
    batch: int = 1
    frames: int = 1
    scale: float | None = None
    """Of an upscale model."""
    prompt: str = ""
    seed: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Modelled:
    """What a model would have made: a latent, a conditioning, the model itself."""

    facts: Facts


@dataclass(frozen=True)
class Images:
    """A batch of images of one size."""

    frames: tuple[Image.Image, ...]
    facts: Facts = field(default_factory=Facts)


@dataclass(frozen=True)
class Masks:
    """A batch of masks (mode ``L``, 255 is selected)."""

    frames: tuple[Image.Image, ...]


@dataclass(frozen=True)
class Audio:
    """A sound; a simulated one is a soft tone."""

    seconds: float
    seed: int = 0


@dataclass(frozen=True)
class Video:
    """Frames with a rate."""

    images: Images
    fps: float


_FIRST_SOURCES: Final = ("latent", "samples", "pixels", "image", "positive", "guider", "cond")
_LAST_SOURCES: Final = ("negative", "vae", "clip", "control_net", "uncond")
_PROMPT_INPUTS: Final = ("prompt", "text", "t5xxl", "text_g", "clip_l", "text_l", "string", "value")


def merge_facts(values: Mapping[str, object]) -> Facts:
    """What a node of an unknown class knows, from its inputs: sizes of its own first, then those
    of latents and images, a negative prompt never."""
    merged = Facts()
    for name in sorted((n for n in values if not n.startswith("negative")), key=_rank):
        merged = _merge(merged, _facts_of(values[name]))
    own: dict[str, Any] = {}
    for name, key in (("width", "width"), ("height", "height"), ("batch_size", "batch")):
        own |= _own_int(values, name, key)
    for name, key in (("length", "frames"), ("num_frames", "frames"), ("steps", "steps")):
        own |= _own_int(values, name, key)
    for name, key in (("noise_seed", "seed"), ("seed", "seed")):
        own |= _own_int(values, name, key)
    prompt = _own_prompt(values)
    return replace(merged, **own, **({"prompt": prompt} if prompt else {}))


def _rank(name: str) -> int:
    if name.startswith(_LAST_SOURCES):
        return 2
    return 0 if name.startswith(_FIRST_SOURCES) else 1


def _merge(facts: Facts, other: Facts) -> Facts:
    sized = facts.width is not None
    return Facts(
        width=facts.width if sized else other.width,
        height=facts.height if sized else other.height,
        batch=facts.batch if sized else other.batch,
        frames=facts.frames if sized else other.frames,
        scale=facts.scale or other.scale,
        prompt=facts.prompt or other.prompt,
        seed=other.seed if facts.seed is None else facts.seed,
        steps=facts.steps or other.steps,
    )


def _facts_of(value: object) -> Facts:
    if isinstance(value, Modelled):
        return value.facts
    if isinstance(value, Images) and value.frames:
        width, height = value.frames[0].size
        return replace(value.facts, width=width, height=height, batch=len(value.frames), frames=1)
    if isinstance(value, Masks) and value.frames:
        width, height = value.frames[0].size
        return Facts(width=width, height=height)
    return Facts()


def _own_int(values: Mapping[str, object], name: str, key: str) -> dict[str, int]:
    value = values.get(name)
    return {key: value} if is_int(value) and value >= 0 else {}


def _own_prompt(values: Mapping[str, object]) -> str:
    for name in _PROMPT_INPUTS:
        value = values.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def is_int(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an integer; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Call:
    """One node about to run: its inputs with links resolved."""

    node: str
    class_type: str
    values: Mapping[str, object]

    def images(self, name: str) -> Images:
        """An image input; what a model would have made is drawn."""
        return as_images(self._present(name), name)

    def masks(self, name: str) -> Masks:
        """A mask input."""
        value = self._present(name)
        if isinstance(value, Masks):
            return value
        drawn = as_images(value, name)
        return Masks(tuple(frame.convert("L") for frame in drawn.frames))

    def integer(self, name: str, default: int, low: int = 0, high: int = MAX_SIDE) -> int:
        """A whole number within bounds."""
        return int(self.number(name, default, low, high))

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number within bounds."""
        value = self.values.get(name, default)
        if isinstance(value, Modelled):
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise NodeProblem(f"{name} has to be a number", input_name=name)
        if not low <= value <= high:
            raise NodeProblem(f"{name} has to be from {low} to {high}", input_name=name)
        return value

    def text(self, name: str, default: str = "") -> str:
        """A text."""
        value = self.values.get(name, default)
        return value if isinstance(value, str) else str(plain(value))

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A boolean."""
        return bool(self.values.get(name, default))

    def _present(self, name: str) -> object:
        if name not in self.values:
            raise NodeProblem(f"{name} is missing", input_name=name)
        return self.values[name]


def as_images(value: object, name: str) -> Images:
    """``value`` as images, drawn if need be.

    Raises:
        NodeProblem: A number or text where an image is wanted.
    """
    match value:
        case Images():
            return value
        case Video():
            return value.images
        case Masks():
            return Images(tuple(frame.convert("RGB") for frame in value.frames))
        case Modelled():
            return draw_images(value.facts)
        case _:
            raise NodeProblem(f"{name} is no image", input_name=name)


def draw_images(facts: Facts) -> Images:
    """The pictures that stand for what a model would have made."""
    width, height = facts.width or 512, facts.height or 512
    count = max(facts.batch, 1) * max(facts.frames, 1)
    check_size(width, height, count)
    moving = facts.frames > 1
    drawn = (
        draw(
            Scene(
                width=width,
                height=height,
                prompt=facts.prompt,
                seed=(facts.seed or 0) + (0 if moving else index),
                phase=(index % facts.frames) / facts.frames if moving else None,
            )
        )
        for index in range(count)
    )
    return Images(tuple(drawn), facts)


def check_size(width: int, height: int, count: int = 1) -> None:
    """Refuse what would not fit into memory.

    Raises:
        NodeProblem: Longer than ``MAX_SIDE``, or more than ``MAX_PIXELS`` or ``MAX_FRAMES``.
    """
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise NodeProblem(f"a side has to be from 1 to {MAX_SIDE} pixels, not {width}x{height}")
    if count > MAX_FRAMES or width * height * count > MAX_PIXELS:
        raise NodeProblem(
            f"{count} x {width}x{height} is more than the simulated engine holds: "
            f"{MAX_PIXELS} pixels, {MAX_FRAMES} frames"
        )


def plain(value: object) -> Any:
    """``value`` as JSON; pictures and models become a short description."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case dict():
            return {str(k): plain(v) for k, v in cast("dict[Any, Any]", value).items()}
        case list() | tuple():
            return [plain(item) for item in cast("Iterable[Any]", value)]
        case Modelled():
            return {"simulated": True, "prompt": value.facts.prompt, "seed": value.facts.seed}
        case Images() | Masks():
            size = value.frames[0].size if value.frames else (0, 0)
            return {"simulated": True, "count": len(value.frames), "size": list(size)}
        case _:
            return {"simulated": True}
