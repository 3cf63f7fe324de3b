"""Ranges that a public API can live with, narrower than those of the nodes."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.comfy import InputDef

Number = int | float

_SMALL_SEED: Final = 2**32 - 1
"""The largest seed that numpy takes, and with it many nodes."""

_SERVICES: Final = re.compile(
    r"Beeble|Bria|ByteDance|Claude|ElevenLabs|FluxErase|Gemini|Grok|HappyHorse|HeyGen|Ideogram"
    r"|Kling|Krea|Luma\w+2$|Meshy|OpenAI|OpenRouter|Pixverse|Quiver|Qwen\w+Api|Reve|Sync|Tencent"
    r"|Vidu|Wan\w+Api"
)
"""ComfyUI's classes for services that take 31 bits (comfy_api_nodes)."""
_SHORT_SEED: Final = 2**16 - 1
_SERVICE_SEED: Final = 2**31 - 1

_RANGES: Final[dict[str, tuple[Number, Number]]] = {
    "batch_size": (1, 8),
    "steps": (1, 150),
    "width": (16, 4096),
    "height": (16, 4096),
    "size": (16, 4096),
    "fps": (1, 120),
    "frames": (1, 1024),
    "seconds": (0, 600),
    "duration": (0, 600),
}
"""Role to its range. A node of the catalogue keeps its own minimum, unless it is below this."""


def bounds(
    role: str, value: JsonValue, definitions: Sequence[InputDef | None], classes: Iterable[str] = ()
) -> tuple[Number | None, Number | None]:
    """The minimum and maximum to write for a parameter; None where the nodes' own will do.

    Args:
        role: The name of its role.
        value: In the graph; it is always within the range.
        definitions: Of the inputs that it sets; None for an unknown one.
        classes: Of their nodes.
    """
    listed = any(d is not None and d.choices for d in definitions)
    if listed or isinstance(value, bool) or not isinstance(value, (int, float)):
        return None, None
    low = max((d.minimum for d in definitions if d and d.minimum is not None), default=None)
    high = min((d.maximum for d in definitions if d and d.maximum is not None), default=None)
    if role == "seed":
        known = all(d is not None and d.maximum is not None for d in definitions)
        limits = [_seed_limit(each) for each in classes] + ([] if high is None else [high])
        return None, None if known else min(_SMALL_SEED, *limits)
    if role not in _RANGES:
        return None, None
    least, most = _RANGES[role]
    least, most = min(least, value), max(most, value)
    return (
        least if low is None or low < least else None,
        most if high is None or high > most else None,
    )


def _seed_limit(class_type: str) -> int:
    """The largest seed that a class is known to take, without its definition."""
    if class_type.startswith("Rodin3D"):
        return _SHORT_SEED
    return _SERVICE_SEED if _SERVICES.match(class_type) else _SMALL_SEED
