"""Finds prompts: follows links from the inputs that guide sampling back to the texts."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from comfysnap_schema.comfy import MATCH_TYPE, InputPath
from comfysnap_schema.propose.view import GraphView

Side = Literal["positive", "negative"]

_TEXT_NAMES: Final = frozenset(
    {
        "text", "prompt", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "llama", "bert", "mt5xl",
        "user_prompt", "tags", "lyrics", "positive", "negative", "positive_prompt", "string",
        "negative_prompt", "value", "string_a", "string_b", "text1", "text2", "text_a", "text_b",
        "populated_text", "wildcard_text", "caption", "instruction", "prompt_text",
    }
)  # fmt: skip
_NOT_CONDITIONING: Final = frozenset(
    {
        "clip", "vae", "model", "image", "images", "mask", "control_net", "latent", "latents",
        "latent_image", "samples", "pixels", "style_model", "clip_vision", "clip_vision_output",
        "noise", "sampler", "sigmas", "audio", "video", "hooks", "start_image", "end_image",
    }
)  # fmt: skip
_CONDITIONING: Final = ("CONDITIONING", "STRING", "GUIDER", MATCH_TYPE, "*")
_SIDES: Final[tuple[Side, Side]] = ("positive", "negative")
_ZEROED: Final = frozenset({"ConditioningZeroOut"})


@dataclass(frozen=True)
class FoundText:
    """A text that guides a sampler."""

    path: InputPath
    side: Side
    guide: str
    """The node that it guides."""


def find_prompts(view: GraphView) -> list[FoundText]:
    """Texts in execution order.

    One that is used on both sides counts as positive, except behind a second positive input, where
    guiders with two scales repeat the negative text.
    """
    found: dict[InputPath, FoundText] = {}
    for pattern, side in _GUIDES:
        for node in view.order:
            for name in view.inputs(node) if _samples(view, node) else ():
                if re.fullmatch(pattern, name):
                    for path, inner in texts_behind(view, node, name, side):
                        own = _named_side(view, path) or (inner if pattern == _SECOND else side)
                        found.setdefault(path, FoundText(path, own, node))
    return list(found.values())


_SECOND: Final = r"cond\d+"
_GUIDES: Final[tuple[tuple[str, Side], ...]] = (
    (r"positive(_\w+)?|conditioning|cond1?", "positive"),
    (r"negative(_\w+)?", "negative"),
    (_SECOND, "positive"),
)


def _samples(view: GraphView, node: str) -> bool:
    inputs = view.inputs(node)
    return "model" in inputs or "guider" in inputs


def texts_behind(
    view: GraphView, node: str, name: str, side: Side
) -> Iterator[tuple[InputPath, Side]]:
    """The texts in or behind an input, with the side that each came through last."""
    value = view.inputs(node)[name]
    if isinstance(value, str):
        yield InputPath(node, name), side
    start = view.link(node, name)
    stack: list[tuple[str, int, Side]] = []
    if start:
        stack.append((start[0], start[1], side))
    seen: set[tuple[str, int, Side]] = set()
    while stack:
        at = stack.pop()
        if at in seen or view.class_of(at[0]) in _ZEROED:
            continue
        seen.add(at)
        node, slot, came = at
        for path in _own_texts(view, node):
            yield path, came
        here: Side = _side_of_slot(view, node, slot, came)
        behind: list[tuple[str, int, Side]] = []
        for link, origin, made in view.links(node):
            if _follows(view, InputPath(node, link), here):
                behind.append((origin, made, here))
        stack.extend(reversed(behind))


def _own_texts(view: GraphView, node: str) -> Iterator[InputPath]:
    for path, value in view.values(node):
        if isinstance(value, str) and path.name.lower() in _TEXT_NAMES:
            known = view.input_def(path)
            if known is None or known.type == "STRING":
                yield path


def _named_side(view: GraphView, path: InputPath) -> Side | None:
    """The side in the name of a text, in a node that holds the texts of both."""
    texts = {other.name.lower() for other in _own_texts(view, path.node)}
    if not all(any(text.startswith(side) for text in texts) for side in _SIDES):
        return None
    return next((side for side in _SIDES if path.name.lower().startswith(side)), None)


def _follows(view: GraphView, path: InputPath, side: Side) -> bool:
    known = view.input_def(path)
    if known is not None:
        kinds = known.type.split(",")
        if "STRING" in kinds and not _joins_texts(view, path.node, path.name):
            return False
        if not any(kind in _CONDITIONING for kind in kinds):
            return False
    elif path.name in _NOT_CONDITIONING:
        return False
    return (
        not path.name.startswith(_SIDES)
        or not _has_sides(view, path.node)
        or (path.name.startswith(side))
    )


def _has_sides(view: GraphView, node: str) -> bool:
    """Whether a node has both sides; its outputs then have the order of its inputs."""
    return any(name.startswith("negative") for name in view.inputs(node))


def _joins_texts(view: GraphView, node: str, name: str) -> bool:
    """Whether a text input is content of its node, not a setting (``tracks``)."""
    known = view.node_def(node)
    makes_text = known is not None and any(output.type == "STRING" for output in known.outputs)
    return makes_text or name.lower() in _TEXT_NAMES


def _side_of_slot(view: GraphView, node: str, slot: int, side: Side) -> Side:
    if not _has_sides(view, node):
        return side
    known = view.node_def(node)
    name = known.outputs[slot].name if known and slot < len(known.outputs) else ""
    if name.startswith("positive") or (not known and slot == 0):
        return "positive"
    if name.startswith("negative") or (not known and slot == 1):
        return "negative"
    return side
