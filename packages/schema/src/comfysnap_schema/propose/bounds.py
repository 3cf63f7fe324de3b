"""Ranges that a public API can live with, narrower than those of the nodes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Place:
    """An input that a parameter sets."""

    class_type: str
    definition: InputDef | None
    uses: Sequence[InputDef] = ()
    """Of a value node: the inputs that it is linked to."""


def bounds(
    role: str, value: JsonValue, places: Sequence[Place]
) -> tuple[Number | None, Number | None]:
    """The minimum and maximum to write for a parameter; None where the places' own will do.

    Args:
        role: The name of its role.
        value: In the graph; it is always within the range.
        places: What it sets.
    """
    own = [place.definition for place in places if place.definition is not None]
    listed = any(definition.choices for definition in own)
    if listed or isinstance(value, bool) or not isinstance(value, (int, float)):
        return None, None
    used = [*own, *(use for place in places for use in place.uses)]
    low, high = _range(used)
    if role in _RANGES:
        least, most = _RANGES[role]
        low = least if low is None else max(low, least)
        high = most if high is None else min(high, most)
    elif role == "seed":
        high = _seed_limit(places, high)
    if role != "seed":  # drawn at random, whatever the graph has
        low = None if low is None else min(low, value)
        high = None if high is None else max(high, value)
    own_low, own_high = _range(own) if len(own) == len(places) else (None, None)
    return None if low == own_low else low, None if high == own_high else high


def _range(definitions: Sequence[InputDef]) -> tuple[Number | None, Number | None]:
    lows = [each.minimum for each in definitions if each.minimum is not None]
    highs = [each.maximum for each in definitions if each.maximum is not None]
    return max(lows, default=None), min(highs, default=None)


def _seed_limit(places: Sequence[Place], high: Number | None) -> Number:
    """The largest seed that every place is known to take."""
    unknown = [place for place in places if place.definition is None]
    limits = [_limit_of(place.class_type) for place in unknown]
    return min([*limits, _SMALL_SEED if high is None else high])


def _limit_of(class_type: str) -> int:
    if class_type.startswith("Rodin3D"):
        return _SHORT_SEED
    return _SERVICE_SEED if _SERVICES.match(class_type) else _SMALL_SEED
