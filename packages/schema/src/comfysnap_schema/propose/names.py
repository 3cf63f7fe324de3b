"""What names say: which classes are outputs, which words of a title are distinctive."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.wire import KINDS, Kind

GENERIC_WORDS: Final = frozenset(
    {
        "a", "add", "advanced", "all", "and", "any", "apply", "audio", "base64", "basic", "batch",
        "by", "cfg", "change", "checkpoint", "choose", "clip", "color", "conditioning", "control",
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
"""Words of default titles, which do not distinguish nodes."""

_LONGEST: Final = 40
_LONGEST_QUALIFIED: Final = 60


@dataclass(frozen=True)
class OutputRole:
    """The output that a node class makes."""

    name: str
    kind: Kind
    many: bool = False
    preview: bool = False
    """Whether it shows a result without saving it."""


_SAVES_MODELS: Final = frozenset({"CheckpointSave", "CLIPSave", "VAESave", "ModelSave"})
_ROLES: Final = tuple(
    (nodes, OutputRole(nodes.name, kind, nodes.many, nodes.preview))
    for kind, info in reversed(KINDS.items())
    for nodes in info.outputs
)
_BY_CLASS: Final = {name: role for nodes, role in _ROLES for name in nodes.classes}
_BY_PATTERN: Final = tuple(
    (re.compile(nodes.pattern, re.IGNORECASE), role) for nodes, role in _ROLES if nodes.pattern
)
_ANIMATION: Final = next(role for _, role in _ROLES if role.kind is Kind.ANIMATION)
_FRAMES: Final = next(role for _, role in _ROLES if role.kind is Kind.IMAGE and role.many)


def output_of(class_type: str, inputs: Mapping[str, JsonValue]) -> OutputRole | None:
    """The output of a class, by its name; None when it does not look like an output node."""
    known = _BY_CLASS.get(class_type)
    if known is not None or class_type in _SAVES_MODELS:
        return known
    role = next((role for pattern, role in _BY_PATTERN if pattern.search(class_type)), None)
    if role and role.kind is Kind.VIDEO:
        made = str(inputs.get("format", ""))  # VideoHelperSuite: "image/gif", "video/16bit-png"
        if made.startswith("image/") or "gif" in made:
            return _ANIMATION
        return _FRAMES if made.endswith("png") else role
    return role


def words(text: str) -> list[str]:
    """Lower-case ASCII words of a title or a class name: ``KSampler (Advanced) - REFINER`` is
    ``ksampler advanced refiner``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    return re.findall(r"[a-z0-9]+", spaced.lower())


def distinctive_words(title: str, class_type: str) -> str:
    """The words of a title that are neither generic nor from the node's class, as a name:
    ``refiner`` for ``KSampler (Advanced) - REFINER``. Empty when there are none."""
    known = {*words(class_type), *GENERIC_WORDS, class_type.lower()}
    found = [word for word in words(title) if word not in known]
    if all(word.isdigit() for word in found):
        return ""
    text = "_".join(found[:3])
    return slug(text) or slug(re.sub(r"^(\d+)([a-z]+)", r"\2_\1", text))


def class_word(class_type: str) -> str:
    """The first distinctive word of a class: ``gemini`` for ``GeminiImage2Node``; may be empty."""
    own = (word for word in words(class_type) if word.rstrip("0123456789") not in GENERIC_WORDS)
    return slug(next(own, ""))


def slug(text: str) -> str:
    """A name of at most 40 characters that starts with a letter; may be empty. Numbers in front go
    to the end: ``45 left`` is ``left_45``."""
    parts = [part for part in re.split(r"[^a-z0-9]+", text.lower()) if part]
    first = next((index for index, part in enumerate(parts) if not part[0].isdigit()), None)
    if first is None:
        return ""
    return "_".join((*parts[first:], *parts[:first]))[:_LONGEST].strip("_")


def _qualified(base: str, qualifiers: Iterable[str]) -> Iterator[str]:
    for each in qualifiers:
        if each and each != base:
            yield f"{each}_{base}"[:_LONGEST_QUALIFIED]


def unique(
    base: str,
    qualifiers: Iterable[str],
    taken: Iterable[str],
    *,
    raw: str = "",
    last: Iterable[str] = (),
) -> str:
    """The first unused name of: ``base``, ``base`` with a qualifier, ``raw``, ``base`` with a
    qualifier of ``last``, a numbered one."""
    used = set(taken)
    plain = [raw] if raw and not re.search(r"\d|_name$", raw) else []
    for candidate in (base, *_qualified(base, qualifiers), *plain, *_qualified(base, last)):
        if candidate not in used:
            return candidate
    number = 2
    while f"{base}_{number}" in used:
        number += 1
    return f"{base}_{number}"
