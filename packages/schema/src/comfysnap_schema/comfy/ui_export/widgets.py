"""Widget values of a UI export: a bare list whose order only the node's class defines."""

import re
from collections.abc import Iterator
from typing import Any, Final, cast

from pydantic import JsonValue

from comfysnap_schema.comfy.definitions import VALUE_TYPES, InputDef, NodeDef
from comfysnap_schema.comfy.ui_export.model import UiNode

_CONTROL: Final = "control_after_generate"
_CONTROLS: Final = frozenset({"fixed", "increment", "decrement", "randomize", "increment-wrap"})
_ZERO: Final[dict[str, JsonValue]] = {"INT": 0, "FLOAT": 0, "STRING": "", "BOOLEAN": False}
_SHOWS_RESULTS: Final = frozenset({"ShowText|pysssss"})
"""Classes that store their last shown result after their widget values."""


class ConversionError(Exception):
    """A part of a UI export that only ComfyUI's own editor can convert."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)


def widget_values(known: NodeDef, node: UiNode) -> dict[str, JsonValue]:
    """The values of a node's widgets by input name, as the editor would send them.

    Raises:
        ConversionError: ``widget_values``, ``custom_widget``, ``dynamic_prompt``.
    """
    if isinstance(node.values, dict):
        return dict(_by_name(known, node.values))
    reader = _Reader(_without_forced(known, node.values))
    found: dict[str, JsonValue] = {
        name: value
        for entry in known.declared
        for name, value in reader.read(entry, "")
        if value is not None
    }
    surplus = [value for value in reader.rest() if value not in (None, "", "image")]
    own = known.module.startswith("custom_nodes") and known.class_type not in _SHOWS_RESULTS
    if surplus and own:
        raise ConversionError(
            "custom_widget",
            f"{known.class_type} has {len(surplus)} values of custom widgets of the editor",
        )
    return found


def _by_name(known: NodeDef, values: dict[str, Any]) -> Iterator[tuple[str, JsonValue]]:
    for entry in known.expand(values).values():
        if entry.is_widget:
            value = values.get(entry.name, _default(entry))
            if value is not None:
                yield entry.name, _sent(entry, value)


class _Reader:
    """Takes values off the list in the order in which the editor creates widgets."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values
        self._next = 0

    def read(self, entry: InputDef, prefix: str) -> Iterator[tuple[str, JsonValue]]:
        if not entry.is_widget:
            return
        name = prefix + entry.name
        value = self._take(_default(entry))
        yield name, None if value is None else _sent(entry, value)
        if entry.dynamic is not None:
            for child in entry.dynamic.options.get(str(value), ()):
                yield from self.read(child, f"{name}.")
        if _has_control(entry):
            control = self._take("fixed")
            if control not in _CONTROLS:
                raise ConversionError(
                    "widget_values",
                    f"expected the {_CONTROL} value of {name}, got {control!r}; the node class has"
                    " changed since the workflow was saved",
                )

    def rest(self) -> list[Any]:
        return self._values[self._next :]

    def _take(self, default: Any) -> Any:
        if self._next >= len(self._values):
            return default
        self._next += 1
        return self._values[self._next - 1]


def _has_control(entry: InputDef) -> bool:
    """Whether the editor adds the control; it does so for seeds by name too (useIntWidget)."""
    if entry.type == "INT" and entry.name in ("seed", "noise_seed"):
        return True
    return entry.control_after_generate and entry.type in ("INT", "COMBO")


def _without_forced(known: NodeDef, values: list[Any]) -> list[Any]:
    """Older files have values of inputs that have since become sockets; the editor drops them if
    the count matches (migrateWidgetsValues)."""
    slots = [
        entry.force_input
        for entry in known.declared
        if entry.is_widget or (entry.force_input and entry.type in VALUE_TYPES)
        for _ in range(2 if _has_control(entry) else 1)
    ]
    if not any(slots) or len(slots) != len(values):
        return values
    return [value for value, forced in zip(values, slots, strict=True) if not forced]


def _default(entry: InputDef) -> JsonValue:
    """The value of a new widget in the editor."""
    if entry.default is not None:
        return entry.default
    if entry.choices:
        return entry.choices[0]
    return _ZERO.get(entry.widget_type or entry.type)


def _sent(entry: InputDef, value: JsonValue) -> JsonValue:
    """Wrap a list value, because a bare list would be a link."""
    if isinstance(value, list):
        return {"__value__": cast("JsonValue", value)}
    if entry.dynamic_prompts and isinstance(value, str):
        return _without_choices(value)
    return value


def _without_choices(text: str) -> str:
    """Remove comments and escapes from a text, as the editor does (processDynamicPrompt)."""
    stripped = re.sub(r"/\*[\s\S]*?\*/|//.*", "", text)
    kept: list[str] = []
    depth = 0
    for part in re.findall(r"\\.|[^\\]|\\", stripped, re.DOTALL):
        if part == "{":
            depth += 1
        elif part == "}" and depth:
            depth -= 1
        elif part == "|" and depth:
            raise ConversionError(
                "dynamic_prompt",
                "its text has {a|b}, of which the editor picks one at random; keep only one",
            )
        else:
            kept.append(part[1] if part in ("\\{", "\\}", "\\|") else part)
    return "".join(kept)
