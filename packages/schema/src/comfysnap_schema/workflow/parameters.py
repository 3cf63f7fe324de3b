"""API parameters, and what the graph and the node catalogue allow for their places."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar, cast

from pydantic import JsonValue

from comfysnap_schema.comfy import Catalogue, Graph, InputDef, InputPath
from comfysnap_schema.wire import Kind

ParameterType = Literal[
    "string", "integer", "number", "boolean", "file", "model", "json", "loras"
]  # fmt: skip

RANDOM_BELOW = 2**53
"""Random values stay below this, so that JavaScript clients keep them exact."""

Number = int | float
_NumberT = TypeVar("_NumberT", int, int | float)
Choices = tuple[str | int | float | bool, ...]

_TYPES: Final[dict[str, ParameterType]] = {
    "INT": "integer",
    "FLOAT": "number",
    "STRING": "string",
    "BOOLEAN": "boolean",
}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One API parameter of a workflow; of a list, type and bounds are those of its items."""

    name: str
    type: ParameterType
    paths: tuple[InputPath, ...] = ()
    bypass: tuple[str, ...] = ()
    title: str = ""
    description: str = ""
    required: bool = False
    default: JsonValue = None
    """None with ``required=False``: the graph keeps its own value."""
    minimum: int | float | None = None
    maximum: int | float | None = None
    multiple_of: int | float | None = None
    choices: tuple[str | int | float | bool, ...] | None = None
    multiline: bool = False
    max_length: int | None = None
    random: bool = False
    kind: Kind | None = None
    """Set for ``type == "file"``."""
    folder: str | None = None
    """Folder of ``models/`` for files that callers name by URL; set for ``type == "model"``, and
    for LoRAs unless the map lists their names."""
    each: bool = False
    """Whether it is a list, with one value for each of ``paths``."""
    min_items: int = 0
    max_items: int = 0
    """Of a list."""

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return self.each or self.type == "loras"

    def placed(self, value: JsonValue) -> Iterator[tuple[InputPath, JsonValue]]:
        """Each place with its value; those of a list that get none are left out."""
        if self.each:
            return zip(self.paths, cast("list[JsonValue]", value), strict=False)
        return ((path, value) for path in self.paths)

    @property
    def nullable(self) -> bool:
        """Whether null means the same as leaving it out: the graph keeps its own value."""
        return not self.required and self.default is None


@dataclass(frozen=True, kw_only=True)
class InputConstraints:
    """What one input of one node allows."""

    type: ParameterType
    known: bool = False
    """Whether they come from the catalogue, so that the map may narrow but not widen them."""
    value: JsonValue = None
    """The value in the graph, as ComfyUI would read it."""
    minimum: Number | None = None
    maximum: Number | None = None
    multiple_of: int | None = None
    choices: Choices | None = None
    are_files: bool = False
    """Whether the choices are the model files of one server."""
    multiline: bool = False
    kind: Kind | None = None


def constraints_of(graph: Graph, path: InputPath, catalogue: Catalogue | None) -> InputConstraints:
    """Look up the constraints of one place."""
    node = graph[path.node]
    value = node["inputs"].get(path.name)
    definition = catalogue.get(node["class_type"]) if catalogue else None
    known = definition.expand(node["inputs"]).get(path.name) if definition else None
    if known is None:
        return InputConstraints(type=type_of_value(value), value=value)
    return _from_catalogue(known, known.default if value is None else value)


def merge(places: Sequence[InputConstraints]) -> InputConstraints | None:
    """The constraints of several places together; None when their types differ."""
    first = places[0]
    for other in places[1:]:
        if {first.type, other.type} == {"integer", "number"}:
            first = replace(first, type="integer", known=first.known or other.known)
        elif first.type != other.type:
            return None
        first = replace(
            first,
            minimum=_tighter(max, first.minimum, other.minimum),
            maximum=_tighter(min, first.maximum, other.maximum),
            multiple_of=_tighter(math.lcm, first.multiple_of, other.multiple_of),
            choices=_common(first.choices, other.choices),
            multiline=first.multiline or other.multiline,
        )
    return first


def type_of_value(value: JsonValue) -> ParameterType:
    """The type of a value in a graph."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "string" if isinstance(value, str) else "json"


def _from_catalogue(known: InputDef, value: JsonValue) -> InputConstraints:
    if known.upload is not None:
        return InputConstraints(type="file", known=True, value=value, kind=known.upload)
    if known.type == "COMBO":
        return _of_choices(known, value)
    if known.type not in _TYPES:
        return InputConstraints(type=type_of_value(value), value=value)
    type_ = _TYPES[known.type]
    return InputConstraints(
        type=type_,
        known=True,
        value=_as_comfyui_reads(type_, value),
        minimum=known.minimum,
        maximum=known.maximum,
        multiple_of=_multiple_of(known, value),
        multiline=known.multiline,
    )


def _of_choices(known: InputDef, value: JsonValue) -> InputConstraints:
    if known.multiselect:
        return InputConstraints(type="json", value=value)
    choices = tuple(c for c in known.choices or () if isinstance(c, (str, int, float)))
    kinds = {type(choice) for choice in choices}
    if bool in kinds and kinds & {int, float}:
        choices = ()  # some callers treat True as 1
    return InputConstraints(
        type=type_of_value(choices[0] if choices else value),
        known=bool(choices),
        value=value,
        choices=choices or None,
        are_files=known.is_model_file,
    )


def _multiple_of(known: InputDef, value: JsonValue) -> int | None:
    """ComfyUI's step counts from the minimum and only matters in its editor, so it becomes a rule
    only when minimum, default and the graph's own value already follow it."""
    step = known.step
    if known.type != "INT" or not isinstance(step, int) or step < 2:
        return None
    seen = (known.minimum, known.default, value)
    kept = all(item % step == 0 for item in seen if isinstance(item, int))
    return step if kept else None


def _as_comfyui_reads(type_: ParameterType, value: JsonValue) -> JsonValue:
    """ComfyUI converts values before it checks them (``execution.py``: validate_inputs)."""
    convert = {"integer": int, "number": float, "string": str, "boolean": bool}[type_]
    try:
        read = None if value is None else convert(cast("str", value))
    except (TypeError, ValueError, OverflowError):
        return value
    return value if isinstance(read, float) and not math.isfinite(read) else read


def _tighter(
    pick: Callable[[_NumberT, _NumberT], _NumberT], one: _NumberT | None, other: _NumberT | None
) -> _NumberT | None:
    if one is None or other is None:
        return other if one is None else one
    return pick(one, other)


def _common(one: Choices | None, other: Choices | None) -> Choices | None:
    if one is None or other is None:
        return other if one is None else one
    return tuple(choice for choice in one if choice in other)
