"""Names of model files in the inputs of nodes: values, objects such as LoRA rows, embeddings in
prompts."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, cast

from pydantic import JsonValue

from comfysnap_schema.comfy.definitions import is_model_name
from comfysnap_schema.comfy.graph import Graph, is_link

EMBEDDING: Final = "embedding"
"""The key of embeddings: their names are in texts, and may have no suffix."""
_EMBEDDING: Final = re.compile(r"(?<!\w)embedding:(?P<name>[^\s,()\[\]:|]+)")
MODEL_FOLDERS: Final[dict[str, tuple[str, ...]]] = {
    "ckpt_name": ("checkpoints",),
    "vae_name": ("vae", "vae_approx"),
    "lora_name": ("loras",),
    "control_net_name": ("controlnet",),
    "unet_name": ("diffusion_models", "unet"),
    "clip_name": ("text_encoders", "clip", "clip_vision"),
    "clip_name1": ("text_encoders", "clip"),
    "clip_name2": ("text_encoders", "clip"),
    "clip_name3": ("text_encoders", "clip"),
    "clip_name4": ("text_encoders", "clip"),
    "style_model_name": ("style_models",),
    "gligen_name": ("gligen",),
    "hypernetwork_name": ("hypernetworks",),
    "photomaker_model_name": ("photomaker",),
    "audio_encoder_name": ("audio_encoders",),
    "lora": ("loras",),
    EMBEDDING: ("embeddings",),
}
"""Input of ComfyUI's own loaders to the folders it reads (``nodes.py``, ``comfy_extras``), and keys
in rows of LoRA nodes."""
RENAMED_FOLDERS: Final = {"unet": "diffusion_models", "clip": "text_encoders"}
"""Older names of folders to the present ones (``folder_paths.py``: map_legacy)."""
_SWITCHES: Final = ("on", "enabled", "active")
_WINDOWS: Final = re.compile(r"\\(?=\w)")


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """A model file that an input names."""

    key: str
    """The input's name; in an object the last key, in a text ``EMBEDDING``."""
    name: str
    """With forward slashes; may contain folders."""
    inside: str = ""
    """Keys that lead to it in an object, for example ``.lora``."""
    is_on: bool = True
    """False in a row that is switched off, whose file is not loaded."""


def model_names(key: str, value: object) -> Iterator[ModelName]:
    """The model files that the value of an input names.

    Args:
        key: The input's name.
        value: Its value; links name none.
    """
    yield from _names(key, value, "", is_on=True)


def _names(key: str, value: object, inside: str, *, is_on: bool) -> Iterator[ModelName]:
    if isinstance(value, str):
        if is_model_name(value):
            yield ModelName(key=key, name=value.replace("\\", "/"), inside=inside, is_on=is_on)
        else:
            for found in _EMBEDDING.finditer(value):
                name = _WINDOWS.sub("/", found["name"]).strip("\\.;")
                yield ModelName(key=EMBEDDING, name=name, inside=inside, is_on=is_on)
    elif isinstance(value, dict):
        entries = cast("Mapping[str, object]", value)
        on = is_on and not any(entries.get(switch) is False for switch in _SWITCHES)
        for inner, item in entries.items():
            yield from _names(inner, item, f"{inside}.{inner}", is_on=on)
    elif isinstance(value, list) and not is_link(cast("object", value)):
        for index, item in enumerate(cast("list[object]", value)):
            yield from _names(key, item, f"{inside}.{index}", is_on=is_on)


def with_forward_slashes(graph: Graph) -> tuple[Graph, tuple[str, ...]]:
    """The graph with the model names of a Windows export as Linux has them, and the paths of the
    inputs that were changed."""
    changed: list[str] = []
    result: Graph = {}
    for node_id, node in graph.items():
        inputs = {name: _forward(value) for name, value in node["inputs"].items()}
        changed += [
            f"{node_id}.inputs.{name}"
            for name, value in inputs.items()
            if value != node["inputs"][name]
        ]
        result[node_id] = {**node, "inputs": inputs}
    return result, tuple(changed)


def _forward(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        if is_model_name(value):
            return value.replace("\\", "/")
        return _EMBEDDING.sub(lambda found: _WINDOWS.sub("/", found[0]), value)
    if isinstance(value, dict):
        return {key: _forward(item) for key, item in value.items()}
    if isinstance(value, list) and not is_link(value):
        return [_forward(item) for item in value]
    return value
