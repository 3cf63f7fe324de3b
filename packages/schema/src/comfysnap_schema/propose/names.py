"""Clear, unique names: the role first, then what the title says, then a number."""

import re
from collections.abc import Iterable
from typing import Final

from comfysnap_schema.propose.view import words

_SAYS_NOTHING: Final = frozenset(
    {
        "a", "add", "advanced", "all", "and", "any", "apply", "audio", "base64", "basic", "batch",
        "by", "change", "checkpoint", "choose", "clip", "color", "conditioning", "control",
        "custom", "decode", "diffusion", "edit", "empty", "encode", "encoder", "encoders", "enter",
        "file",
        "float", "flux", "for", "from", "generate", "generation", "guider", "height", "here",
        "image", "images", "in", "input", "int", "integer", "k", "ksampler", "latent", "load",
        "loader", "lora", "mask", "me", "model", "multiline", "my", "negative", "new", "node",
        "noise", "number", "of", "only", "open", "or", "output", "pick", "picture",
        "positive", "preview",
        "primitive", "prompt", "prompts", "random", "reroute", "resize", "sampler", "samplers",
        "save", "scheduler", "select", "set", "size", "step", "string", "text", "the", "this",
        "title", "to", "type", "unet", "upload", "use", "using", "vae", "value", "video", "wan",
        "width", "with", "write", "your",
    }
)  # fmt: skip
"""Words of default titles: they do not tell one node from another."""

_LONGEST: Final = 40
_LONGEST_QUALIFIED: Final = 60


def telling(title: str, class_type: str) -> str:
    """What a title says beyond the node's class, as a name: ``KSampler (Advanced) - REFINER`` says
    ``refiner``. Empty when it says nothing."""
    known = {*words(class_type), *_SAYS_NOTHING, class_type.lower()}
    found = [word for word in words(title) if word not in known and not word.isdigit()]
    return slug("_".join(found[:3]))


def slug(text: str) -> str:
    """A name of at most 40 characters that starts with a letter; empty when nothing is left."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower())
    return re.sub(r"^[^a-z]+", "", name)[:_LONGEST].strip("_")


def unique(base: str, qualifiers: Iterable[str], taken: Iterable[str], *, raw: str = "") -> str:
    """``base``, or with the first qualifier that makes it new, or ``raw``, or with a number."""
    used = set(taken)
    qualified = [
        f"{each}_{base}"[:_LONGEST_QUALIFIED] for each in qualifiers if each and each != base
    ]
    plain = [raw] if raw and not re.search(r"\d|_name$", raw) else []
    for candidate in (base, *qualified, *plain):
        if candidate not in used:
            return candidate
    number = 2
    while f"{base}_{number}" in used:
        number += 1
    return f"{base}_{number}"
