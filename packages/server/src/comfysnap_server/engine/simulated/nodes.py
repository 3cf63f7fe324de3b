"""ComfyUI's image nodes, computed with Pillow."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from PIL import Image, ImageChops, ImageFilter, ImageOps, ImageSequence

from comfysnap_server.engine.simulated.values import (
    MAX_SIDE,
    Call,
    Images,
    Masks,
    NodeError,
    Placeholder,
    Video,
    check_size,
    draw_images,
    merge_properties,
    resized,
)

Outputs = tuple[object, ...]
Handler = Callable[[Call, Path], Outputs]
"""Computes a node from the call and the job's input folder; returns one value per output slot."""


@dataclass(frozen=True)
class NodeClass:
    """A node class that is computed."""

    run: Handler
    required: tuple[str, ...]


NODES: Final[dict[str, NodeClass]] = {}

_RESAMPLING: Final[Mapping[str, Image.Resampling]] = {
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_FORMATS: Final = frozenset(
    {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP"}
)
"""Pillow reads more: EPS through Ghostscript, and others that are seldom used and tested."""


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(_FORMATS & Image.OPEN.keys())


def node(*classes: str, required: tuple[str, ...] = ()) -> Callable[[Handler], Handler]:
    """Register a handler for node classes."""

    def register(run: Handler) -> Handler:
        NODES.update({name: NodeClass(run, required) for name in classes})
        return run

    return register


@node("LoadImage", "LoadImageOutput", required=("image",))
def load_image(call: Call, folder: Path) -> Outputs:
    """Images and masks of a file in the job's input folder."""
    frames, masks = read_image(folder, call.text("image"), "image")
    return Images(tuple(frames)), Masks(tuple(masks))


@node("LoadImageMask", required=("image",))
def load_image_mask(call: Call, folder: Path) -> Outputs:
    """One channel of a file as a mask."""
    frames, masks = read_image(folder, call.text("image"), "image")
    channel = call.text("channel", "alpha")
    if channel == "alpha":
        return (Masks(tuple(masks)),)
    return (Masks(tuple(_channel(frame, channel) for frame in frames)),)


def input_file(folder: Path, name: str, input_name: str) -> Path:
    """Find an input file by the name that a graph uses; files outside the folder are never found.

    Raises:
        NodeError: No such file.
    """
    bare = name.removesuffix(" [input]").removesuffix(" [output]").removesuffix(" [temp]")
    root = folder.resolve()
    path = (root / bare).resolve()
    if "\0" in bare or not path.is_relative_to(root) or not path.is_file():
        raise NodeError(f"input file {bare!r} not found", input_name=input_name)
    return path


def read_image(
    folder: Path, name: str, input_name: str
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Read the frames (RGB) and masks (255 where transparent) of an image file.

    Raises:
        NodeError: The file is missing, not a readable image, or exceeds the limits.
    """
    path = input_file(folder, name, input_name)
    frames: list[Image.Image] = []
    masks: list[Image.Image] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_formats()) as image:
                check_size(*image.size, getattr(image, "n_frames", 1))
                for raw in ImageSequence.Iterator(image):
                    frame = ImageOps.exif_transpose(raw)
                    alpha = frame.convert("RGBA").getchannel("A")
                    frames.append(frame.convert("RGB"))
                    masks.append(ImageChops.invert(alpha))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise NodeError("the image has too many pixels", input_name=input_name) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise NodeError("not a readable image", input_name=input_name) from error
    return frames, masks


@node("EmptyImage")
def empty_image(call: Call, _folder: Path) -> Outputs:
    """A batch of images of one colour."""
    width, height = call.integer("width", 512, 1), call.integer("height", 512, 1)
    count = call.integer("batch_size", 1, 1, 4096)
    check_size(width, height, count)
    color = call.integer("color", 0, 0, 0xFFFFFF)
    rgb = (color >> 16 & 255, color >> 8 & 255, color & 255)
    return (Images(tuple(Image.new("RGB", (width, height), rgb) for _ in range(count))),)


def _each(call: Call, name: str, change: Callable[[Image.Image], Image.Image]) -> Outputs:
    images = call.images(name)
    return (replace(images, frames=tuple(change(frame) for frame in images.frames)),)


def _size(call: Call, name: str) -> tuple[int, int, int]:
    frames = call.images(name).frames
    return (*frames[0].size, len(frames))


def _scaled(call: Call, width: int, height: int) -> Outputs:
    check_size(width, height, _size(call, "image")[2])
    method = _RESAMPLING.get(call.text("upscale_method", "bilinear"), Image.Resampling.BILINEAR)
    return _each(call, "image", lambda frame: resized(frame, (width, height), method))


@node("ImageScale", required=("image", "width", "height"))
def image_scale(call: Call, _folder: Path) -> Outputs:
    """Resize; a side of 0 keeps the aspect ratio, as does ``crop = center``."""
    width, height = call.integer("width", 512), call.integer("height", 512)
    old_width, old_height, count = _size(call, "image")
    if width == 0 and height == 0:
        return (call.images("image"),)
    width = width or max(1, round(old_width * height / old_height))
    height = height or max(1, round(old_height * width / old_width))
    if call.text("crop", "disabled") != "center":
        return _scaled(call, width, height)
    check_size(width, height, count)
    method = _RESAMPLING.get(call.text("upscale_method", "bilinear"), Image.Resampling.BILINEAR)
    return _each(call, "image", lambda frame: ImageOps.fit(frame, (width, height), method))


@node("ImageScaleBy", required=("image", "scale_by"))
def image_scale_by(call: Call, _folder: Path) -> Outputs:
    """Resize by a factor."""
    factor = call.number("scale_by", 1.0, 0.01, 8.0)
    width, height, _ = _size(call, "image")
    return _scaled(call, max(1, round(width * factor)), max(1, round(height * factor)))


@node("ImageScaleToTotalPixels", required=("image",))
def image_scale_to_total_pixels(call: Call, _folder: Path) -> Outputs:
    """Resize to a number of megapixels (of 1024 x 1024 pixels)."""
    width, height, _ = _size(call, "image")
    wanted = call.number("megapixels", 1.0, 0.01, 16.0) * 1024 * 1024
    factor = (wanted / (width * height)) ** 0.5
    return _scaled(call, max(1, round(width * factor)), max(1, round(height * factor)))


@node("ImageCrop", required=("image", "width", "height"))
def image_crop(call: Call, _folder: Path) -> Outputs:
    """Crop, within the image as ComfyUI does (comfy_extras/nodes_images.py: ImageCrop)."""
    old_width, old_height, _ = _size(call, "image")
    x = min(call.integer("x", 0), old_width - 1)
    y = min(call.integer("y", 0), old_height - 1)
    right = min(x + call.integer("width", 512, 1), old_width)
    bottom = min(y + call.integer("height", 512, 1), old_height)
    return _each(call, "image", lambda frame: frame.crop((x, y, right, bottom)))


@node("ImageInvert", required=("image",))
def image_invert(call: Call, _folder: Path) -> Outputs:
    """Invert the colours."""
    return _each(call, "image", ImageChops.invert)


@node("ImageFlip", required=("image",))
def image_flip(call: Call, _folder: Path) -> Outputs:
    """Flip at an axis."""
    vertical = call.text("flip_method", "x-axis: vertically").startswith("x")
    return _each(call, "image", ImageOps.flip if vertical else ImageOps.mirror)


@node("ImageRotate", required=("image",))
def image_rotate(call: Call, _folder: Path) -> Outputs:
    """Rotate clockwise by 90, 180 or 270 degrees."""
    turns: Mapping[str, Image.Transpose] = {
        "90": Image.Transpose.ROTATE_270,
        "180": Image.Transpose.ROTATE_180,
        "270": Image.Transpose.ROTATE_90,
    }
    turn = turns.get(call.text("rotation", "none").split(" ")[0])
    return _each(call, "image", lambda frame: frame if turn is None else frame.transpose(turn))


@node("ImageBlur", required=("image",))
def image_blur(call: Call, _folder: Path) -> Outputs:
    """Apply a Gaussian blur."""
    sigma = call.number("sigma", 1.0, 0.1, 10.0)
    return _each(call, "image", lambda frame: frame.filter(ImageFilter.GaussianBlur(sigma)))


@node("ImageSharpen", required=("image",))
def image_sharpen(call: Call, _folder: Path) -> Outputs:
    """Apply an unsharp mask."""
    sigma, alpha = call.number("sigma", 1.0, 0.1, 10.0), call.number("alpha", 1.0, 0.0, 5.0)
    sharpen = ImageFilter.UnsharpMask(sigma, round(alpha * 100), 0)
    return _each(call, "image", lambda frame: frame.filter(sharpen))


@node("ImageBatch", required=("image1", "image2"))
def image_batch(call: Call, _folder: Path) -> Outputs:
    """Join two batches; the second is resized to the size of the first."""
    first, second = call.images("image1"), call.images("image2")
    size = first.frames[0].size
    check_size(*size, len(first.frames) + len(second.frames))
    fitted = (ImageOps.fit(frame, size, Image.Resampling.BILINEAR) for frame in second.frames)
    return (replace(first, frames=(*first.frames, *fitted)),)


@node("RepeatImageBatch", required=("image",))
def repeat_image_batch(call: Call, _folder: Path) -> Outputs:
    """Repeat a batch."""
    images, amount = call.images("image"), call.integer("amount", 1, 1, 4096)
    check_size(*images.frames[0].size, len(images.frames) * amount)
    return (replace(images, frames=images.frames * amount),)


@node("ImageFromBatch", required=("image",))
def image_from_batch(call: Call, _folder: Path) -> Outputs:
    """Take images from a batch."""
    images = call.images("image")
    start = min(call.integer("batch_index", 0), len(images.frames) - 1)
    length = call.integer("length", 1, 1, 4096)
    return (replace(images, frames=images.frames[start : start + length]),)


_BLENDS: Final[Mapping[str, Callable[[Image.Image, Image.Image], Image.Image]]] = {
    "normal": lambda _one, two: two,
    "multiply": ImageChops.multiply,
    "screen": ImageChops.screen,
    "overlay": ImageChops.overlay,
    "soft_light": ImageChops.soft_light,
    "difference": ImageChops.subtract,
}


@node("ImageBlend", required=("image1", "image2"))
def image_blend(call: Call, _folder: Path) -> Outputs:
    """Blend the second image over the first with strength ``blend_factor``."""
    factor = call.number("blend_factor", 0.5, 0.0, 1.0)
    mode = call.text("blend_mode", "normal")
    if mode not in _BLENDS:
        raise NodeError(f"unknown blend mode {mode!r}", input_name="blend_mode")
    second = call.images("image2").frames
    images = call.images("image1")
    frames: list[Image.Image] = []
    for index, one in enumerate(images.frames):
        two = ImageOps.fit(second[min(index, len(second) - 1)], one.size)
        frames.append(Image.blend(one, _BLENDS[mode](one, two), factor))
    return (replace(images, frames=tuple(frames)),)


@node("ImageCompositeMasked", required=("destination", "source"))
def image_composite_masked(call: Call, _folder: Path) -> Outputs:
    """Paste the source onto the destination, through the mask if one is given."""
    source = call.images("source").frames[0]
    x, y = call.integer("x", 0), call.integer("y", 0)
    images = call.images("destination")
    if call.flag("resize_source"):
        source = resized(source, images.frames[0].size)
    mask = resized(call.masks("mask").frames[0], source.size) if "mask" in call.values else None

    def paste(frame: Image.Image) -> Image.Image:
        result = frame.copy()
        result.paste(source, (x, y), mask)
        return result

    return _each(call, "destination", paste)


@node("ImagePadForOutpaint", required=("image",))
def image_pad_for_outpaint(call: Call, _folder: Path) -> Outputs:
    """Add grey borders, and a mask that selects them."""
    left, top = call.integer("left", 0), call.integer("top", 0)
    right, bottom = call.integer("right", 0), call.integer("bottom", 0)
    images = call.images("image")
    width, height = images.frames[0].size
    size = (width + left + right, height + top + bottom)
    check_size(*size, len(images.frames))
    frames: list[Image.Image] = []
    for frame in images.frames:
        padded = Image.new("RGB", size, (128, 128, 128))
        padded.paste(frame, (left, top))
        frames.append(padded)
    mask = Image.new("L", size, 255)
    mask.paste(0, (left, top, left + width, top + height))
    return replace(images, frames=tuple(frames)), Masks((mask,))


@node("SolidMask")
def solid_mask(call: Call, _folder: Path) -> Outputs:
    """A mask of one value."""
    width, height = call.integer("width", 512, 1), call.integer("height", 512, 1)
    check_size(width, height)
    value = round(call.number("value", 1.0, 0.0, 1.0) * 255)
    return (Masks((Image.new("L", (width, height), value),)),)


@node("InvertMask", required=("mask",))
def invert_mask(call: Call, _folder: Path) -> Outputs:
    """Invert a mask."""
    return (Masks(tuple(ImageChops.invert(frame) for frame in call.masks("mask").frames)),)


@node("MaskToImage", required=("mask",))
def mask_to_image(call: Call, _folder: Path) -> Outputs:
    """A mask as a grey image."""
    return (Images(tuple(frame.convert("RGB") for frame in call.masks("mask").frames)),)


@node("ImageToMask", required=("image",))
def image_to_mask(call: Call, _folder: Path) -> Outputs:
    """A channel of an image as a mask."""
    channel = call.text("channel", "red")
    return (Masks(tuple(_channel(frame, channel) for frame in call.images("image").frames)),)


def _channel(frame: Image.Image, channel: str) -> Image.Image:
    names = {"red": "R", "green": "G", "blue": "B"}
    if channel == "alpha":
        return Image.new("L", frame.size, 255)
    return frame.getchannel(names.get(channel, "R"))


@node("GetImageSize", required=("image",))
def get_image_size(call: Call, _folder: Path) -> Outputs:
    """Width, height and batch size."""
    return _size(call, "image")


@node("VAEDecode", "VAEDecodeTiled", required=("samples",))
def vae_decode(call: Call, _folder: Path) -> Outputs:
    """Draw the picture that stands for the decoded latent."""
    return (draw_images(merge_properties(call.values)),)


@node("ImageUpscaleWithModel", required=("image",))
def image_upscale_with_model(call: Call, _folder: Path) -> Outputs:
    """Draw a picture of the upscaled size."""
    properties = merge_properties(call.values)
    factor = properties.scale or 4.0
    width, height, count = _size(call, "image")
    size = {"width": round(width * factor), "height": round(height * factor), "batch": count}
    return (draw_images(replace(properties, **size)),)


@node("UpscaleModelLoader", required=("model_name",))
def upscale_model_loader(call: Call, _folder: Path) -> Outputs:
    """The factor in the model's name (``4x-UltraSharp``, ``RealESRGAN_x2``), or 4."""
    name = call.text("model_name").lower()
    factor = next((n for n in (1, 2, 3, 4, 8) if f"{n}x" in name or f"x{n}" in name), 4)
    return (Placeholder(replace(merge_properties({}), scale=float(factor))),)


@node("LatentUpscaleBy", required=("samples",))
def latent_upscale_by(call: Call, _folder: Path) -> Outputs:
    """A larger latent."""
    properties = merge_properties(call.values)
    factor = call.number("scale_by", 1.5, 0.01, 8.0)
    width = min(round((properties.width or 512) * factor), MAX_SIDE)
    height = min(round((properties.height or 512) * factor), MAX_SIDE)
    return (Placeholder(replace(properties, width=width, height=height)),)


@node("CreateVideo", required=("images",))
def create_video(call: Call, _folder: Path) -> Outputs:
    """Combine frames and a frame rate."""
    return (Video(call.images("images"), call.number("fps", 24.0, 0.1, 240.0)),)


@node(
    "PrimitiveInt",
    "PrimitiveFloat",
    "PrimitiveString",
    "PrimitiveStringMultiline",
    "PrimitiveBoolean",
    required=("value",),
)
def primitive(call: Call, _folder: Path) -> Outputs:
    """The value itself."""
    return (call.values["value"],)


@node("StringConcatenate", required=("string_a", "string_b"))
def string_concatenate(call: Call, _folder: Path) -> Outputs:
    """Join two texts with a delimiter."""
    return (call.text("delimiter").join((call.text("string_a"), call.text("string_b"))),)
