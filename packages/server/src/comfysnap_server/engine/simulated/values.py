"""Values that nodes pass along links, and the pictures that stand for a model's results."""

import colorsys
import random
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, TypeGuard, cast

from PIL import Image, ImageDraw, ImageFont

from comfysnap_server.errors import ComfysnapServerError

SIMULATED: Final = "simulated: no model ran"
"""Shown in every picture, and stored in every file that has a place for it."""
MAX_SIDE: Final = 16384
"""Maximum width and height of an image in pixels (ComfyUI's MAX_RESOLUTION)."""
MAX_PIXELS: Final = 128 * 1024 * 1024
"""Maximum number of pixels in one value (an image, a batch, a video): 384 MB in memory."""
MAX_FRAMES: Final = 2048
"""Maximum number of images in one value."""


class NodeError(ComfysnapServerError):
    """A node failed. ``input_name`` names the invalid input; None when no single input is."""

    def __init__(self, message: str, *, input_name: str | None = None) -> None:
        self.input_name = input_name
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class Properties:
    """Known properties of a value that only a model could compute; nodes pass them on."""

    width: int | None = None
    height: int | None = None
    batch: int = 1
    frames: int = 1
    scale: float | None = None
    """Factor of an upscale model."""
    prompt: str = ""
    seed: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Placeholder:
    """Stands for a value that needs a model: a latent, a conditioning, the model itself."""

    properties: Properties


@dataclass(frozen=True)
class Images:
    """A batch of images of one size."""

    frames: tuple[Image.Image, ...]
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True)
class Masks:
    """A batch of masks (mode ``L``, 255 is selected)."""

    frames: tuple[Image.Image, ...]


@dataclass(frozen=True)
class Audio:
    """A sound: a soft tone whose pitch depends on the seed."""

    seconds: float
    seed: int = 0


@dataclass(frozen=True)
class Video:
    """Frames and their rate per second."""

    images: Images
    fps: float


_FIRST_SOURCES: Final = ("latent", "samples", "pixels", "image", "positive", "guider", "cond")
_LAST_SOURCES: Final = ("negative", "vae", "clip", "control_net", "uncond")
_PROMPT_INPUTS: Final = ("prompt", "text", "t5xxl", "text_g", "clip_l", "text_l", "string", "value")


def merge_properties(values: Mapping[str, object]) -> Properties:
    """The properties that a node passes on.

    Its own values (``width``, ``seed``, ``text``, ...) come first, then those of linked latents
    and images, then of other links. Inputs named ``negative...`` are ignored.
    """
    merged = Properties()
    for name in sorted((n for n in values if not n.startswith("negative")), key=_rank):
        merged = _merge(merged, _properties_of(values[name]))
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


def _merge(properties: Properties, other: Properties) -> Properties:
    sized = properties.width is not None
    return Properties(
        width=properties.width if sized else other.width,
        height=properties.height if sized else other.height,
        batch=properties.batch if sized else other.batch,
        frames=properties.frames if sized else other.frames,
        scale=properties.scale or other.scale,
        prompt=properties.prompt or other.prompt,
        seed=other.seed if properties.seed is None else properties.seed,
        steps=properties.steps or other.steps,
    )


def _properties_of(value: object) -> Properties:
    if isinstance(value, Placeholder):
        return value.properties
    if isinstance(value, Images) and value.frames:
        width, height = value.frames[0].size
        return replace(
            value.properties, width=width, height=height, batch=len(value.frames), frames=1
        )
    if isinstance(value, Masks) and value.frames:
        width, height = value.frames[0].size
        return Properties(width=width, height=height)
    return Properties()


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
    """Whether ``value`` is an integer and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Call:
    """One execution of a node: its inputs, with links replaced by values."""

    node: str
    class_type: str
    values: Mapping[str, object]

    def images(self, name: str) -> Images:
        """An image input; a placeholder is drawn."""
        return as_images(self._present(name), name)

    def masks(self, name: str) -> Masks:
        """A mask input."""
        value = self._present(name)
        if isinstance(value, Masks):
            return value
        drawn = as_images(value, name)
        return Masks(tuple(frame.convert("L") for frame in drawn.frames))

    def integer(self, name: str, default: int, low: int = 0, high: int = MAX_SIDE) -> int:
        """An integer input from ``low`` to ``high``."""
        return int(self.number(name, default, low, high))

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number input from ``low`` to ``high``; a placeholder gives the default."""
        value = self.values.get(name, default)
        if isinstance(value, Placeholder):
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise NodeError(f"{name} must be a number", input_name=name)
        if not low <= value <= high:
            raise NodeError(f"{name} must be from {low} to {high}", input_name=name)
        return value

    def text(self, name: str, default: str = "") -> str:
        """A text input; other values become text."""
        value = self.values.get(name, default)
        return value if isinstance(value, str) else str(plain(value))

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A boolean input."""
        return bool(self.values.get(name, default))

    def _present(self, name: str) -> object:
        if name not in self.values:
            raise NodeError(f"{name} is missing", input_name=name)
        return self.values[name]


def as_images(value: object, name: str) -> Images:
    """Convert ``value`` to images; a placeholder is drawn.

    Raises:
        NodeError: The value is a number or a text.
    """
    match value:
        case Images():
            return value
        case Video():
            return value.images
        case Masks():
            return Images(tuple(frame.convert("RGB") for frame in value.frames))
        case Placeholder():
            return draw_images(value.properties)
        case _:
            raise NodeError(f"{name} must be an image", input_name=name)


def draw_images(properties: Properties) -> Images:
    """Draw the pictures that stand for a model's result.

    Raises:
        NodeError: They would not fit into memory.
    """
    width, height = properties.width or 512, properties.height or 512
    count = max(properties.batch, 1) * max(properties.frames, 1)
    check_size(width, height, count)
    moving = properties.frames > 1
    seed = properties.seed or 0
    frames = tuple(
        draw(
            (width, height),
            prompt=properties.prompt,
            seed=seed if moving else seed + index,
            phase=(index % properties.frames) / properties.frames if moving else None,
        )
        for index in range(count)
    )
    return Images(frames, properties)


def draw(
    size: tuple[int, int], *, prompt: str = "", seed: int = 0, phase: float | None = None
) -> Image.Image:
    """Draw a card that says ``SIMULATED``, with the prompt, the seed and the size.

    The same arguments always draw the same picture.

    Args:
        size: Width and height in pixels.
        prompt: Shown on the card.
        seed: Shown on the card, and chooses its colour.
        phase: Position of the frame in a video, from 0 to 1; drawn as a bar.
    """
    picture = _card(size, prompt, seed).copy()
    if phase is not None:
        top = picture.height - max(picture.height // 60, 2)
        bar = (0, top, round(picture.width * phase), picture.height)
        ImageDraw.Draw(picture).rectangle(bar, fill="white")
    return picture


@lru_cache(maxsize=1)
def _card(size: tuple[int, int], prompt: str, seed: int) -> Image.Image:
    hue = random.Random(f"{seed}/{prompt}").random()  # noqa: S311 -- a colour, not a secret
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.6, 0.45))
    card = Image.new("RGB", size, (red, green, blue))
    letter = max(min(size) // 20, 10)
    columns = max(round((size[0] - letter) / (letter * 0.5)), 1)
    lines = [
        *textwrap.wrap(SIMULATED.replace("simulated", "SIMULATED"), columns),
        *textwrap.wrap(prompt[:2000], columns, max_lines=8, placeholder="…"),
        *textwrap.wrap(f"seed {seed}, {size[0]} x {size[1]}", columns),
    ]
    font = ImageFont.load_default(letter)
    ImageDraw.Draw(card).multiline_text(
        (letter // 2, letter // 2), "\n".join(lines), font=font, fill="white"
    )
    return card


def resized(
    image: Image.Image,
    size: tuple[int, int],
    method: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """Resize an image to ``size``."""
    resize: Callable[..., Image.Image] = image.resize  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- its hint names numpy
    return resize(size, method)


def check_size(width: int, height: int, count: int = 1) -> None:
    """Check that images fit into memory.

    Raises:
        NodeError: They exceed ``MAX_SIDE``, ``MAX_PIXELS`` or ``MAX_FRAMES``.
    """
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise NodeError(f"width and height must be from 1 to {MAX_SIDE}, got {width} x {height}")
    if count > MAX_FRAMES or width * height * count > MAX_PIXELS:
        raise NodeError(
            f"{count} images of {width} x {height} exceed the limit of the simulated engine: "
            f"{MAX_PIXELS} pixels or {MAX_FRAMES} images"
        )


def plain(value: object) -> Any:
    """Convert ``value`` to JSON; pictures and placeholders become a short description."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case dict():
            return {str(k): plain(v) for k, v in cast("dict[Any, Any]", value).items()}
        case list() | tuple():
            return [plain(item) for item in cast("Iterable[Any]", value)]
        case Placeholder():
            return {
                "simulated": True,
                "prompt": value.properties.prompt,
                "seed": value.properties.seed,
            }
        case Images() | Masks():
            size = value.frames[0].size if value.frames else (0, 0)
            return {"simulated": True, "count": len(value.frames), "size": list(size)}
        case _:
            return {"simulated": True}
