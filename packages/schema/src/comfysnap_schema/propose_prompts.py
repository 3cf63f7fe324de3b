"""Finds prompts: follows links from where sampling is guided back to the texts."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from comfysnap_schema.graph import InputPath
from comfysnap_schema.propose_view import GraphView

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
_CONDITIONING: Final = ("CONDITIONING", "STRING", "GUIDER")
_ZEROED: Final = frozenset({"ConditioningZeroOut"})


@dataclass(frozen=True)
class FoundText:
    """A text that guides a sampler."""

    path: InputPath
    side: Side
    guide: str
    """The node whose guidance it is."""


def find_prompts(view: GraphView) -> list[FoundText]:
    """Texts in the order of what runs; one that guides both ways counts as positive."""
    found: dict[InputPath, FoundText] = {}
    for side in ("positive", "negative"):
        for node in view.order:
            for name in _guided_by(view, node, side):
                for path in _texts(view, node, name, side):
                    found.setdefault(path, FoundText(path, side, node))
    return list(found.values())


def _guided_by(view: GraphView, node: str, side: Side) -> Iterator[str]:
    """Inputs of a sampler or guider that take conditioning of one side."""
    inputs = view.inputs(node)
    if "model" not in inputs and "guider" not in inputs:
        return
    for name in inputs:
        guides = re.fullmatch(r"(positive|negative)(_\w+)?|conditioning|cond\d*", name)
        if guides and name.startswith("negative") == (side == "negative"):
            yield name


def _texts(view: GraphView, node: str, name: str, side: Side) -> Iterator[InputPath]:
    """Texts behind one input."""
    value = view.inputs(node)[name]
    if isinstance(value, str):
        yield InputPath(node, name)
    start = view.link(node, name)
    stack = [start] if start else []
    seen: set[tuple[str, int]] = set()
    while stack:
        at = stack.pop()
        if at in seen or view.class_of(at[0]) in _ZEROED:
            continue
        seen.add(at)
        yield from _own_texts(view, at[0])
        behind = [
            (origin, slot)
            for link, origin, slot in view.links(at[0])
            if _follows(view, at, InputPath(at[0], link), side)
        ]
        stack.extend(reversed(behind))


def _own_texts(view: GraphView, node: str) -> Iterator[InputPath]:
    for path, value in view.values(node):
        if isinstance(value, str) and path.name.lower() in _TEXT_NAMES:
            known = view.input_def(path)
            if known is None or known.type == "STRING":
                yield path


def _follows(view: GraphView, at: tuple[str, int], path: InputPath, side: Side) -> bool:
    known = view.input_def(path)
    if known is not None:
        if not any(kind in _CONDITIONING for kind in known.type.split(",")):
            return False
    elif path.name in _NOT_CONDITIONING:
        return False
    sides = {name for name in view.inputs(at[0]) if name.startswith(("positive", "negative"))}
    if not any(name.startswith("negative") for name in sides) or path.name not in sides:
        return True
    # A node with both sides hands them out in the same order: positive first.
    return path.name.startswith(_side_of_slot(view, at, side))


def _side_of_slot(view: GraphView, at: tuple[str, int], side: Side) -> Side:
    known = view.node_def(at[0])
    name = known.outputs[at[1]].name if known and at[1] < len(known.outputs) else ""
    if name.startswith("positive") or (not known and at[1] == 0):
        return "positive"
    if name.startswith("negative") or (not known and at[1] == 1):
        return "negative"
    return side
