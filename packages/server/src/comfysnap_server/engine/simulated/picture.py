"""The picture that stands for what a model would have drawn, and says so."""

import colorsys
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

BADGE: Final = "SIMULATED"
BADGE_DETAIL: Final = "no model ran"
_SKY: Final = 96
_LAND: Final = 640
"""Longest sides of the small pictures that the sky and the hills are scaled up from."""

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What to draw; the same scene is always the same picture."""

    width: int
    height: int
    prompt: str = ""
    seed: int = 0
    phase: float | None = None
    """Where in a video this frame is, from 0 to 1."""


def resized(
    image: Image.Image,
    size: tuple[int, int],
    method: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """``image`` brought to a size."""
    resize: Callable[..., Image.Image] = image.resize  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- its hint names numpy
    return resize(size, method)


def draw(scene: Scene) -> Image.Image:
    """Draw a scene: colours by seed, the prompt, the seed, and that nothing was computed."""
    picture = resized(_ground(scene), (scene.width, scene.height))
    words = _words(scene.width, scene.height, scene.prompt, scene.seed)
    if words is not None:
        picture.paste(words, (0, 0), words)
    if scene.phase is not None:
        _draw_bar(picture, scene.phase)
    return picture


def _ground(scene: Scene) -> Image.Image:
    """A small dusk: a sky by the seed's hue, soft lights, two ridges of hills."""
    dice = random.Random(f"{scene.seed}/{scene.prompt}")  # noqa: S311 -- a picture, no secret
    hue = (scene.seed * 0.61803398875 + dice.random() * 0.08) % 1.0
    width, height = _fit(scene, _SKY)
    shift = scene.phase or 0.0
    sky = _gradient(width, height, _color(hue, 0.72, 0.30), _color(hue + 0.12, 0.55, 0.95))
    for _ in range(5):
        x, y = dice.uniform(0, 1), dice.uniform(0, 0.75)
        radius = dice.uniform(0.10, 0.28) * max(width, height)
        lamp = _color(hue + dice.uniform(-0.08, 0.22), dice.uniform(0.25, 0.6), 1.0)
        center = ((x + shift) % 1.0 * width, y * height)
        sky = _glow(sky, center, radius, lamp, dice.uniform(0.35, 0.7))
    land = resized(sky, _fit(scene, _LAND))
    brush = ImageDraw.Draw(land)
    for depth, (base, dark) in enumerate(((0.70, 0.42), (0.82, 0.22))):
        ridge = _ridge(dice, land.width, land.height, base, shift * (1 + depth))
        corners = [(0, land.height), *ridge, (land.width, land.height)]
        brush.polygon(corners, fill=_color(hue + 0.02 * depth, 0.7, dark))
    return land


def _fit(scene: Scene, longest: int) -> tuple[int, int]:
    scale = min(longest / max(scene.width, scene.height), 1.0)
    return max(round(scene.width * scale), 8), max(round(scene.height * scale), 8)


def _gradient(width: int, height: int, top: Color, bottom: Color) -> Image.Image:
    column = Image.new("RGB", (1, height))
    for y in range(height):
        part = y / max(height - 1, 1)
        red, green, blue = (round(a + (b - a) * part) for a, b in zip(top, bottom, strict=True))
        column.putpixel((0, y), (red, green, blue))
    return resized(column, (width, height), Image.Resampling.NEAREST)


def _glow(
    image: Image.Image, center: tuple[float, float], radius: float, color: Color, power: float
) -> Image.Image:
    light = Image.new("L", image.size, 0)
    x, y = center
    ImageDraw.Draw(light).ellipse(
        (x - radius, y - radius, x + radius, y + radius), fill=round(255 * power)
    )
    light = light.filter(ImageFilter.GaussianBlur(radius * 0.55))
    lit = ImageChops.screen(image, Image.new("RGB", image.size, color))
    return Image.composite(lit, image, light)


def _ridge(
    dice: random.Random, width: int, height: int, base: float, shift: float
) -> list[tuple[float, float]]:
    peaks = [base + dice.uniform(-0.09, 0.09) for _ in range(7)]
    points: list[tuple[float, float]] = []
    for x in range(width + 1):
        place = ((x / width + shift) * len(peaks)) % len(peaks)
        left, part = int(place), place - int(place)
        part = part * part * (3 - 2 * part)
        right = peaks[(left + 1) % len(peaks)]
        points.append((x, (peaks[left] * (1 - part) + right * part) * height))
    return points


def _color(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


@lru_cache(maxsize=8)
def _words(width: int, height: int, prompt: str, seed: int) -> Image.Image | None:
    """The lettering as a transparent layer; None where the picture is too small for any."""
    if width < 56 or height < 20:
        return None
    layer = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    brush = ImageDraw.Draw(layer)
    size = round(min(width, height) / 25 + 2)
    if min(width, height) < 120:
        brush.rectangle((0, 0, width, 12), fill=(255, 255, 255, 225))
        brush.text((2, 6), BADGE, font=ImageFont.load_default(9), fill=(20, 20, 32), anchor="lm")
        return layer
    margin = round(size * 1.1)
    _draw_badge(brush, margin, size, width)
    small = ImageFont.load_default(size * 0.72)
    foot = f"seed {seed}   {width} x {height}"
    lines = _wrap(prompt, ImageFont.load_default(size), width - 4 * margin, most=5)
    line_height = round(size * 1.35)
    panel = line_height * len(lines) + round(size * 2.2)
    top = height - margin - panel
    brush.rounded_rectangle(
        (margin, top, width - margin, height - margin), radius=size * 0.6, fill=(8, 10, 20, 165)
    )
    y = top + size * 0.6
    for line in lines:
        brush.text(
            (2 * margin, y), line, font=ImageFont.load_default(size), fill=(255, 255, 255, 245)
        )
        y += line_height
    brush.text((2 * margin, y + size * 0.1), foot, font=small, fill=(255, 255, 255, 170))
    return layer


def _draw_badge(brush: ImageDraw.ImageDraw, margin: int, size: int, width: int) -> None:
    bold, thin = ImageFont.load_default(size), ImageFont.load_default(size * 0.8)
    detail = f"  {BADGE_DETAIL}"
    first = brush.textlength(BADGE, font=bold)
    right = margin + first + brush.textlength(detail, font=thin) + size * 1.6
    if right > width - margin:
        detail, right = "", margin + first + size * 1.6
    brush.rounded_rectangle(
        (margin, margin, right, margin + size * 1.9), radius=size * 0.95, fill=(255, 255, 255, 225)
    )
    middle = margin + size * 0.95
    left = margin + size * 0.8
    brush.text((left, middle), BADGE, font=bold, fill=(20, 20, 32, 255), anchor="lm")
    brush.text((left + first, middle), detail, font=thin, fill=(70, 70, 90, 255), anchor="lm")


def _wrap(text: str, font: Font, room: int, most: int) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in " ".join(text[:2000].split()).split(" "):
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > room:
            lines.append(line)
            line = word
        else:
            line = longer
        while font.getlength(line) > room and len(line) > 1:
            cut = max(int(len(line) * room / font.getlength(line)), 1)
            lines.append(line[:cut])
            line = line[cut:]
    lines += [line] if line else []
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1].rstrip(" ,.;") + "…"]
    return lines


def _draw_bar(picture: Image.Image, phase: float) -> None:
    """A moving bar at the foot shows that frames follow each other."""
    thick = max(picture.height // 90, 2)
    ImageDraw.Draw(picture).rectangle(
        (0, picture.height - thick, round(picture.width * phase), picture.height),
        fill=(255, 255, 255),
    )
