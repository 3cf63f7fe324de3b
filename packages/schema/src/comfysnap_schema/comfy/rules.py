"""The rules for one input: links by type, values by conversion, range and choice."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic import JsonValue

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.definitions import MATCH_TYPE
from comfysnap_schema.comfy.graph import Graph, title_of
from comfysnap_schema.comfy.types import InputDef, OutputDef, is_model_name

_SHOWN_CHOICES: Final = 12
_SHOWN_LENGTH: Final = 60
_ANY: Final = frozenset({"*", MATCH_TYPE})
_CONVERT: Final[Mapping[str, Callable[..., Any]]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
}
_WORDS: Final = {"INT": "a whole number", "FLOAT": "a number", "STRING": "a text"}


@dataclass(frozen=True)
class Fault:
    """What is wrong with one input."""

    code: str
    message: str


def link_target(value: list[JsonValue]) -> str:
    """The node that a good link names."""
    return cast("str", value[0])


def check_link(
    graph: Graph, catalogue: Catalogue, value: list[JsonValue], definition: InputDef
) -> Fault | None:
    """A list is always a link; it must lead to an output of a type that the input takes."""
    origin, slot = value if len(value) == 2 else (None, None)
    if not isinstance(origin, str) or not isinstance(slot, int):
        return Fault(
            "bad_linked_input",
            f"{_shown(value)} is no link; a link is [node id as text, number of the output]",
        )
    if origin not in graph:
        return Fault("bad_linked_input", f"it is linked to node {origin!r}, which does not exist")
    known = catalogue.get(graph[origin]["class_type"])
    if known is None:
        return None  # the unknown class is a finding of its own
    title = title_of(graph, origin)
    if not -len(known.outputs) <= slot < len(known.outputs):
        return Fault(
            "bad_linked_input",
            f"it is linked to output {slot} of {title!r}, which has {len(known.outputs)}",
        )
    if fits(known.outputs[slot], definition):
        return None
    made = known.outputs[slot].type
    return Fault(
        "return_type_mismatch",
        f"takes {definition.type}, but output {slot} of {title!r} is {made}"
        + _instead(known.outputs, definition),
    )


def _instead(outputs: tuple[OutputDef, ...], definition: InputDef) -> str:
    good = [str(index) for index, output in enumerate(outputs) if fits(output, definition)]
    return f"; its output {' or '.join(good)} would fit" if good else ""


def fits(output: OutputDef, definition: InputDef) -> bool:
    """Whether ComfyUI lets an output feed an input: types are lists joined by commas, and one in
    common is enough (comfy_execution/validation.py: validate_node_input)."""
    if output.type in _ANY or definition.type in _ANY:
        return True
    if output.choices is not None or definition.choices_in_type:
        return definition.choices_in_type and output.choices == definition.choices
    made = {part.strip() for part in output.type.split(",")}
    return not made.isdisjoint(part.strip() for part in definition.type.split(","))


def check_value(value: JsonValue, definition: InputDef, *, check_models: bool) -> Fault | None:
    """A plain value is converted to the input's type, then held against range and choices."""
    plain = _unwrapped(value)
    convert = _CONVERT.get(definition.type)
    try:
        converted = convert(plain) if convert else plain
        fault = _check_range(converted, definition)
    except (TypeError, ValueError, OverflowError):
        wanted = describe_input(definition)
        return Fault(
            "invalid_input_type", f"{_shown(plain)} is no {definition.type}; give {wanted}"
        )
    if fault is None and definition.choices is not None:
        return _check_choice(converted, definition, check_models=check_models)
    return fault


def _unwrapped(value: JsonValue) -> Any:
    """ComfyUI's editor sends a list that is a value as ``{"__value__": [...]}``."""
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


def _check_range(value: Any, definition: InputDef) -> Fault | None:
    if definition.minimum is not None and value < definition.minimum:
        return Fault(
            "value_smaller_than_min", f"{value} is too small; at least {definition.minimum}"
        )
    if definition.maximum is not None and value > definition.maximum:
        return Fault("value_bigger_than_max", f"{value} is too large; at most {definition.maximum}")
    return None


def _check_choice(value: JsonValue, definition: InputDef, *, check_models: bool) -> Fault | None:
    choices = definition.choices or ()
    several = definition.multiselect and isinstance(value, list)
    wrong = [
        each
        for each in (cast("list[JsonValue]", value) if several else [value])
        if each not in choices
    ]
    if not wrong:
        return None
    if (definition.is_model_file or is_model_name(wrong[0])) and not check_models:
        return None
    return Fault(
        "value_not_in_list",
        f"{_shown(wrong[0])} is no choice{nearest(str(wrong[0]), map(str, choices))}; "
        f"give {describe_input(definition)}",
    )


def describe_input(definition: InputDef) -> str:
    """What an input takes, for a message: ``a number from 0.0 to 100.0``, ``one of a, b``."""
    if definition.upload is not None:
        return f"the name of an uploaded {definition.upload} file"
    if definition.choices is not None:
        return _describe_choices(definition.choices)
    words = _WORDS.get(definition.type)
    if words is None:
        return "true or false" if definition.type == "BOOLEAN" else f"a link to {definition.type}"
    low, high = definition.minimum, definition.maximum
    if low is not None and high is not None:
        return f"{words} from {low} to {high}"
    if low is not None or high is not None:
        return f"{words} of at least {low}" if low is not None else f"{words} of at most {high}"
    return words


def _describe_choices(choices: tuple[JsonValue, ...]) -> str:
    if not choices:
        return "a file that the server has (it has none)"
    shown = ", ".join(str(choice) for choice in choices[:_SHOWN_CHOICES])
    more = len(choices) - _SHOWN_CHOICES
    return f"one of {shown}" + (f" and {more} more" if more > 0 else "")


def nearest(text: str, known: Iterable[str]) -> str:
    """``, did you mean x?`` when something is close."""
    close = difflib.get_close_matches(text, list(known), n=1, cutoff=0.75)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _shown(value: JsonValue) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 3] + "..."
