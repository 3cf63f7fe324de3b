"""LoRAs as a list parameter: a chain of loader nodes behind the node that loads the model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from pydantic import JsonValue

from comfysnap_schema.comfy import Catalogue, Graph, is_link
from comfysnap_schema.workflow.bypass import Slot, slot_of
from comfysnap_schema.workflow.map import InputSpec, Place

MAX_LORAS: Final = 8
"""Default of ``max_items``."""
STRENGTH: Final = 1.0
"""Default strength."""

_WITH_CLIP: Final = "LoraLoader"
_MODEL_ONLY: Final = "LoraLoaderModelOnly"
LORA_CLASSES: Final = (_WITH_CLIP, _MODEL_ONLY)
"""Node classes that are added to graphs; ComfyUI's own."""
_STRENGTH: Final = ["FLOAT", {"default": STRENGTH, "min": -100.0, "max": 100.0, "step": 0.01}]
_BUILT_IN: Final[dict[str, dict[str, Any]]] = {
    _WITH_CLIP: {
        "input": {
            "required": {
                "model": ["MODEL"],
                "clip": ["CLIP"],
                "lora_name": [[]],
                "strength_model": _STRENGTH,
                "strength_clip": _STRENGTH,
            }
        },
        "output": ["MODEL", "CLIP"],
        "python_module": "nodes",
    },
    _MODEL_ONLY: {
        "input": {"required": {"model": ["MODEL"], "lora_name": [[]], "strength_model": _STRENGTH}},
        "output": ["MODEL"],
        "python_module": "nodes",
    },
}


@dataclass(frozen=True)
class LoraChain:
    """Where the LoRAs of one parameter go."""

    parameter: str
    prefix: str
    """Node ids are this and a number from 0; no node of the graph has such an id."""
    model: Slot
    clip: Slot | None
    """None: the LoRAs change only the model."""

    def fields(self, count: int) -> Iterator[tuple[str, str]]:
        """``NODE.inputs.NAME`` and the API field that sets it, of ``count`` LoRAs."""
        names = {"lora_name": "name", "strength_model": "strength"}
        if self.clip is not None:
            names["strength_clip"] = "clip_strength"
        for index in range(count):
            for name, key in names.items():
                yield f"{self.prefix}{index}.inputs.{name}", f"{self.parameter}[{index}].{key}"


def plan_loras(
    graph: Graph, catalogue: Catalogue | None, entry: InputSpec, place: Place
) -> LoraChain:
    """Find the outputs that LoRAs change.

    Raises:
        WorkflowError: ``no_path``, ``no_such_node``, ``no_catalogue``, ``wrong_type``.
    """
    if entry.after is None:
        place.fail("no_path", "missing after: set the node whose model the LoRAs change", "after")
    model = _output(graph, catalogue, entry.after, "MODEL", place, "after")
    if model is None:
        _fail_type(graph, entry.after, "MODEL", place, "after")
    clip = _output(graph, catalogue, entry.clip_after or entry.after, "CLIP", place, "clip_after")
    if clip is None and entry.clip_after is not None:
        _fail_type(graph, entry.clip_after, "CLIP", place, "clip_after")
    name = place.table.removeprefix("inputs.")
    prefix = f"{name}:"
    while any(node.startswith(prefix) for node in graph):
        prefix += ":"
    return LoraChain(name, prefix, model, clip)


def apply_loras(
    graph: Graph, touched: set[str], chain: LoraChain, loras: Sequence[dict[str, Any]]
) -> None:
    """Insert LoRA loaders into ``graph`` in place; nodes not in ``touched`` are copied before a
    change."""
    model, clip = chain.model, chain.clip
    added: Graph = {}
    for index, lora in enumerate(loras):
        strength: JsonValue = lora.get("strength", STRENGTH)
        of_clip: JsonValue = lora.get("clip_strength")
        inputs: dict[str, JsonValue] = {
            "model": [*model],
            **({} if clip is None else {"clip": [*clip]}),
            "lora_name": lora["name"],
            "strength_model": strength,
            **({} if clip is None else {"strength_clip": strength if of_clip is None else of_clip}),
        }
        node = f"{chain.prefix}{index}"
        added[node] = {
            "class_type": _MODEL_ONLY if clip is None else _WITH_CLIP,
            "inputs": inputs,
            "_meta": {"title": f"{chain.parameter}[{index}]"},
        }
        model, clip = (node, 0), None if clip is None else (node, 1)
    moved = {chain.model: model, **({chain.clip: clip} if chain.clip and clip else {})}
    for user, entry in list(graph.items()) if added else ():
        for name, value in entry["inputs"].items():
            if not isinstance(value, list) or not is_link(value):
                continue
            last = moved.get((str(value[0]), slot_of(value)))
            if last is None:
                continue
            if user not in touched:
                graph[user] = {**entry, "inputs": dict(entry["inputs"])}
                touched.add(user)
            graph[user]["inputs"][name] = [*last]
    graph.update(added)


def with_lora_classes(catalogue: Catalogue) -> Catalogue:
    """The catalogue with the classes that are added to graphs; those it has are kept."""
    return Catalogue({**_BUILT_IN, **catalogue.entries}, catalogue.skipped)


def known_loras(catalogue: Catalogue | None) -> tuple[str, ...]:
    """The LoRA files that the catalogue lists, as Linux writes their names."""
    for class_type in LORA_CLASSES:
        known = catalogue.get(class_type) if catalogue else None
        choices = known.inputs["lora_name"].choices if known and "lora_name" in known.inputs else ()
        if choices:
            return tuple(str(choice).replace("\\", "/") for choice in choices)
    return ()


def _output(
    graph: Graph, catalogue: Catalogue | None, node: str, kind: str, place: Place, key: str
) -> Slot | None:
    if node not in graph:
        place.fail("no_such_node", f"the graph has no node {node!r}", key)
    class_type = graph[node]["class_type"]
    known = catalogue.get(class_type) if catalogue else None
    if known is None:
        place.fail(
            "no_catalogue",
            f"LoRAs require a node catalogue that has {class_type}; to get a nodes.json, run"
            " `comfysnap new` with --object-info",
            key,
        )
    slots = (index for index, output in enumerate(known.outputs) if kind in output.type.split(","))
    return next(((node, index) for index in slots), None)


def _fail_type(graph: Graph, node: str, kind: str, place: Place, key: str) -> NoReturn:
    message = f"node {node} ({graph[node]['class_type']}) has no {kind} output"
    place.fail("wrong_type", message, key)
