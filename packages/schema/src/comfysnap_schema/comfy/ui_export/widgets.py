"""The widgets that the editor makes for a node, and their values in a UI export: a bare list whose
order only the node's class defines.

The rules are those of litegraphService, widgets.ts, dynamicWidgets.ts and the core extensions
(comfyui-frontend-package 1.48).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, cast

from pydantic import JsonValue

from comfysnap_schema.comfy.definitions import LIVE_TYPES, NEW_VALUES, SEEDS, InputDef, NodeDef
from comfysnap_schema.comfy.ui_export.model import UiNode
from comfysnap_schema.wire import Kind

_CONTROL: Final = "control_after_generate"
_CONTROLS: Final = frozenset({"fixed", "increment", "decrement", "randomize", "increment-wrap"})
_FILTER: Final = "control_filter_list"
UPLOAD: Final = "upload"
"""The button of a loader, which older editors took for an input."""
_WITH_BUTTON: Final = frozenset({Kind.IMAGE, Kind.VIDEO, Kind.AUDIO})
_VIEWERS: Final[Mapping[str, str]] = {"SaveGLB": "image", "Preview3D": "image"}
"""Classes to which the editor adds a viewer; it sends an empty value for it."""
_CUSTOM_COMBO: Final = "CustomCombo"
_SHOWS_RESULTS: Final = frozenset({"ShowText|pysssss"})
"""Classes that store their last shown result after their widget values."""


class ConversionError(Exception):
    """A part of a UI export that only ComfyUI's own editor can convert."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)


@dataclass
class Widget:
    """One widget of a node."""

    name: str
    value: JsonValue
    entry: InputDef | None = None
    """None for a helper: a control, a button, a field of another widget."""
    stored: bool = True
    """Whether it takes a place in the list of values."""
    sent: bool = True
    is_prompt: bool = False
    """Whether the editor resolves comments and choices in its text."""

    def as_sent(self) -> JsonValue:
        """The value in the API graph; None when it is left out."""
        value = self.value
        if value is None and self.entry is not None and self.entry.choices:
            value = self.entry.choices[0]
        if isinstance(value, list):
            wrapped: dict[str, JsonValue] = {"__value__": cast("JsonValue", value)}
            curve = self.entry is not None and self.entry.widget == "CURVE"
            return {"__type__": "CURVE", **wrapped} if curve else wrapped
        return _without_choices(value) if self.is_prompt and isinstance(value, str) else value


def widgets_of(known: NodeDef, node: UiNode) -> dict[str, Widget]:
    """A node's widgets by name, with the values that the file has for them.

    Raises:
        ConversionError: ``widget_values``, ``custom_widget``.
    """
    layout = _Layout(known)
    if isinstance(node.values, dict):
        layout.read_by_name(node.values)
        return layout.by_name()
    values = _without_forced(known, layout, node.values)
    surplus = layout.read(values)
    own = known.module.startswith("custom_nodes") and known.class_type not in _SHOWS_RESULTS
    if own and any(value not in (None, "", "image") for value in surplus):
        raise ConversionError(
            "custom_widget",
            f"{known.class_type} has {len(surplus)} values of custom widgets of the editor",
        )
    return layout.by_name()


def stored_values(known: NodeDef, node: UiNode) -> list[tuple[str, JsonValue]]:
    """A node's list of values as its class has it now, each with the declared input that it is of;
    a helper is of the widget before it.

    Raises:
        ConversionError: ``widget_values``.
    """
    layout = _Layout(known)
    if isinstance(node.values, dict):
        layout.read_by_name(node.values)
    else:
        layout.read(_without_forced(known, layout, node.values))
    return list(layout.stored())


def readable_widgets(known: NodeDef, node: UiNode) -> dict[str, Widget]:
    """As ``widgets_of``, but empty for a node that cannot be converted."""
    try:
        return widgets_of(known, node)
    except ConversionError:
        return {}


def sent_value(known: NodeDef, widget: Widget) -> JsonValue:
    """The value of a widget as the editor sends it; None when it sends none.

    Raises:
        ConversionError: ``custom_widget``, ``dynamic_prompt``.
    """
    if widget.entry is not None and widget.entry.widget in LIVE_TYPES:
        raise ConversionError(
            "custom_widget",
            f"input {widget.name} of {known.class_type} is made by the editor for each job"
            f" ({widget.entry.widget})",
        )
    return widget.as_sent() if widget.sent else None


class _Layout:
    """The widgets of a node in the editor's order; values go to them one after the other."""

    def __init__(self, known: NodeDef) -> None:
        self._known = known
        self._widgets: list[Widget] = []
        for entry in known.declared:
            self._grow(entry, entry.name)
        for entry in known.declared:
            self._add(entry, entry.name)
        self._add_helpers_of_class()
        for widget in self._widgets:  # those that a dynamic combo adds later stay as they are
            widget.is_prompt = widget.entry is not None and widget.entry.dynamic_prompts

    def by_name(self) -> dict[str, Widget]:
        helpers = [widget for widget in self._widgets if widget.entry is None]
        return {widget.name: widget for widget in (*helpers, *self._widgets)}

    def stored(self) -> Iterator[tuple[str, JsonValue]]:
        """The values in their order, with the declared input of each."""
        owner = ""
        for widget in self._widgets:
            if widget.entry is not None:
                owner = widget.name.partition(".")[0]
            if widget.stored:
                yield UPLOAD if widget.name == UPLOAD else owner, widget.value

    def read(self, values: list[Any]) -> list[Any]:
        """Set the widgets, and return the values that are left."""
        if self._known.class_type == _CUSTOM_COMBO:
            return self._read_custom_combo(*values[:1], options=values[2:])
        rest = list(values)
        for widget in self._each():
            if rest and widget.stored:
                self._set(widget, rest.pop(0))
        return rest

    def read_by_name(self, values: Mapping[str, Any]) -> None:
        for widget in self._each():
            if widget.entry is not None and widget.name in values:
                self._set(widget, values[widget.name])

    def _each(self) -> Iterator[Widget]:
        """The widgets, including those that setting one of them adds behind it."""
        index = 0
        while index < len(self._widgets):
            yield self._widgets[index]
            index += 1

    def _set(self, widget: Widget, value: Any) -> None:
        control = widget.entry is None and widget.name == _CONTROL
        if control and not (isinstance(value, bool) or value in [*_CONTROLS]):
            raise ConversionError(
                "widget_values",
                f"expected a {_CONTROL} value, got {value!r}; {self._known.class_type} has changed"
                " since the workflow was saved",
            )
        widget.value = value
        self._choose(widget)

    def _add(self, entry: InputDef, name: str) -> None:
        if not entry.is_widget:
            return
        kind = entry.widget
        widget = Widget(name, _new_value(entry), entry, stored=kind != "IMAGECOMPARE")
        self._widgets.append(widget)
        if kind == "BOUNDING_BOX":
            fields = ("x", "y", "width", "height")
            self._widgets += [Widget(field, None, sent=False) for field in fields]
        if entry.remote:
            self._widgets.append(Widget("Auto-refresh after generation", False, sent=False))
        if entry.refresh_button:
            self._widgets.append(Widget("refresh", "refresh"))
        if _has_control(entry, name):
            self._widgets.append(Widget(_CONTROL, "fixed", sent=False))
            if kind == "COMBO" and not entry.multiselect:
                self._widgets.append(Widget(_FILTER, "", sent=False))
        self._choose(widget)

    def _grow(self, entry: InputDef, name: str) -> None:
        dynamic = entry.dynamic
        if dynamic is not None and dynamic.template is not None:
            for short in dynamic.names[: max(dynamic.least + 1, 1)]:
                self._add(dynamic.template, f"{name}.{short}")

    def _choose(self, widget: Widget) -> None:
        """Replace the widgets that a dynamic combo adds; controls among them stay behind."""
        if widget.entry is None or widget.entry.dynamic is None:
            return
        prefix = f"{widget.name}."
        self._widgets = [each for each in self._widgets if not each.name.startswith(prefix)]
        before = len(self._widgets)
        for child in widget.entry.dynamic.options.get(str(widget.value), ()):
            self._grow(child, prefix + child.name)
            self._add(child, prefix + child.name)
        added = self._widgets[before:]
        del self._widgets[before:]
        at = self._widgets.index(widget) + 1
        self._widgets[at:at] = added

    def _add_helpers_of_class(self) -> None:
        if any(_has_button(entry) for entry in self._known.declared):
            self._widgets.append(Widget(UPLOAD, None, sent=False))
        viewer = _VIEWERS.get(self._known.class_type)
        if viewer is not None:
            self._widgets.append(Widget(viewer, "", stored=False))

    def _read_custom_combo(self, choice: Any = None, *, options: list[Any]) -> list[Any]:
        """Its options are widgets that the editor adds one by one; it also sends the index of the
        chosen one."""
        texts = [*takewhile(bool, options), ""]
        self._widgets[0].value = choice
        self._widgets.append(Widget("index", texts.index(choice) if choice in texts else -1))
        named = enumerate(texts, start=1)
        self._widgets += [Widget(f"option{number}", text) for number, text in named]
        return []


def _has_button(entry: InputDef) -> bool:
    """Whether the editor adds an upload button behind the widgets."""
    return entry.required and entry.type == "COMBO" and entry.upload in _WITH_BUTTON


def _has_control(entry: InputDef, name: str) -> bool:
    if entry.control_after_generate is None:
        return entry.widget == "INT" and name in SEEDS
    return entry.control_after_generate and entry.widget in ("INT", "FLOAT", "COMBO")


def _without_forced(known: NodeDef, layout: _Layout, values: list[Any]) -> list[Any]:
    """Older files have values of inputs that have since become sockets; the editor drops them if
    the count matches (migrateWidgetsValues)."""
    shown = layout.by_name()
    slots = [
        forced
        for entry in known.declared
        if entry.name in shown or entry.force_input
        for forced in (
            (entry.force_input, False) if entry.control_after_generate else (entry.force_input,)
        )
    ]
    slots += [False for name in (UPLOAD,) if name in shown]
    if not any(slots) or len(slots) != len(values):
        return values
    return [value for value, forced in zip(values, slots, strict=True) if not forced]


def _new_value(entry: InputDef) -> JsonValue:
    """The value of a new widget."""
    if entry.dynamic is not None:
        return next(iter(entry.dynamic.options), None)
    if entry.default is not None and (entry.default or entry.widget != "COMBO"):
        return entry.default
    return entry.choices[0] if entry.choices else NEW_VALUES.get(entry.widget)


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
