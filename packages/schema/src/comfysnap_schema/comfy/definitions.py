"""Node classes: their inputs and outputs, parsed from ``/object_info``.

Node packs may put anything into their entries, so parsing never raises.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, cast

from pydantic import JsonValue

from comfysnap_schema.comfy.loaders import loader_kind
from comfysnap_schema.wire import KINDS, Kind

NEW_VALUES: Final[Mapping[str, JsonValue]] = {
    "INT": 0,
    "FLOAT": 0,
    "STRING": "",
    "BOOLEAN": False,
    "COMBO": None,
    "MARKDOWN": "",
    "TEXTAREA": "",
    "COLOR": "#000000",
    "COLORS": [],
    "CURVE": {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"},
    "RANGE": {"min": 0.0, "max": 1.0},
    "BOUNDING_BOX": {"x": 0, "y": 0, "width": 512, "height": 512},
    "BOUNDING_BOXES": [],
    "PAINTER": "",
    "COMPOSITOR": {},
    "CHART": {},
    "GALLERIA": [],
    "IMAGECOMPARE": ["", ""],
}
"""Types for which ComfyUI's editor has a widget (its ``ComfyWidgets``), with the value of a new
one that declares no default; other types are sockets."""
LIVE_TYPES: Final = frozenset(
    {"LOAD_3D", "LOAD_3D_ADVANCED", "LOAD_3D_ANIMATION", "WEBCAM", "AUDIO_RECORD"}
)
"""Widget types whose value the editor renders or records anew for each job."""
WIDGET_TYPES: Final = LIVE_TYPES.union(NEW_VALUES)
SEEDS: Final = frozenset({"seed", "noise_seed"})
"""Names for which an INT has a control widget unless it declares otherwise (``useIntWidget``)."""

MODEL_EXTENSIONS: Final = (
    ".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf", ".onnx",
)  # fmt: skip
"""Suffixes of model files: ``supported_pt_extensions`` of ComfyUI's folder_paths.py, and those
that node packs add."""
DYNAMIC_COMBO: Final = "COMFY_DYNAMICCOMBO_V3"
AUTOGROW: Final = "COMFY_AUTOGROW_V3"
DYNAMIC_SLOT: Final = "COMFY_DYNAMICSLOT_V3"
MATCH_TYPE: Final = "COMFY_MATCHTYPE_V3"

_ENTRY_KEYS: Final = (
    "output_name", "output_is_list", "output_matchtypes",
    "output_node", "api_node", "python_module",
)  # fmt: skip
_UPLOADS: Final[Mapping[str, Kind]] = {
    option: kind
    for kind, info in KINDS.items()
    if info.inputs is not None
    for option in info.inputs.options
}
_OPTION_KEYS: Final = frozenset(
    {
        "default", "min", "max", "step", "round", "options", "multiselect", "multi_select",
        "multiline", "dynamicPrompts", "forceInput", "control_after_generate", "widgetType",
        "remote", "template", "slotType", "prefix", "names", "inputs", "image_folder", *_UPLOADS,
    }
)  # fmt: skip
_DEPTH: Final = 8
_MAX_GROWN: Final = 128

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class InputDef:
    """One input of a node class, as ``/object_info`` declares it."""

    name: str
    """As in a graph's ``inputs``; a dynamic one is dotted (``resize_type.width``)."""
    type: str
    """``INT``, ``COMBO``, ``MODEL``, ``IMAGE,MASK`` (either), ``*`` (any)."""
    required: bool = True
    has_default: bool = False
    default: JsonValue = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    step: int | float | None = None
    round: float | None = None
    """Values of a FLOAT are rounded to this by ComfyUI's editor."""
    choices: tuple[JsonValue, ...] | None = None
    """Of a COMBO; None when unknown (fetched from the server later, or an upload)."""
    choices_in_type: bool = False
    """The older encoding, where the list itself is the type."""
    multiselect: bool = False
    multiline: bool = False
    dynamic_prompts: bool = False
    """ComfyUI's editor picks one of ``{a|b}`` and strips comments before it sends the text."""
    upload: Kind | None = None
    """Set when the value names an uploaded input file."""
    force_input: bool = False
    """A value type that ComfyUI's editor shows as a socket only."""
    control_after_generate: bool | None = None
    """ComfyUI's editor adds a second widget (fixed, increment, randomize) after this one; None
    when undeclared, which leaves it to the name."""
    widget_type: str | None = None
    """The widget type of an input that accepts several types."""
    remote: bool = False
    """ComfyUI's editor fetches the choices, and adds a switch for that after this widget."""
    refresh_button: bool = False
    """The editor adds a button too, and sends its value."""
    dynamic: "DynamicInput | None" = None

    @property
    def is_widget(self) -> bool:
        """Whether the input has a widget for a plain value in ComfyUI's editor."""
        if self.dynamic is not None:
            return self.dynamic.kind == "combo"
        return self.widget in WIDGET_TYPES and not self.force_input

    @property
    def widget(self) -> str:
        """The type of its widget, if it has one."""
        return self.widget_type or self.type

    @property
    def is_model_file(self) -> bool:
        """Whether the choices are the model files of one server, which may have none."""
        if self.type != "COMBO" or self.upload is not None or self.choices is None:
            return False
        return not self.choices or any(is_model_name(choice) for choice in self.choices)


@dataclass(frozen=True, kw_only=True)
class DynamicInput:
    """How an input of the newer schema adds other inputs."""

    kind: Literal["combo", "autogrow", "slot"]
    options: Mapping[str, tuple[InputDef, ...]] = field(
        default_factory=dict[str, tuple[InputDef, ...]]
    )
    """Of a combo: choice to the inputs it adds, by their short names."""
    template: InputDef | None = None
    """Of an autogrow: what each of its inputs is."""
    names: tuple[str, ...] = ()
    """Of an autogrow: the short names its inputs may have."""
    least: int = 0
    """Of an autogrow: how many of ``names`` are required."""
    extra: tuple[InputDef, ...] = ()
    """Of a slot: the inputs that are added once it is linked."""


@dataclass(frozen=True, kw_only=True)
class OutputDef:
    """One output of a node class."""

    name: str
    type: str
    choices: tuple[JsonValue, ...] | None = None
    """Set for the older encoding of COMBO outputs: a list as the type."""
    is_list: bool = False
    match: str | None = None
    """The template whose linked input determines the type of this output."""


@dataclass(frozen=True, kw_only=True)
class NodeDef:
    """One node class."""

    class_type: str
    declared: tuple[InputDef, ...]
    """Required inputs, then optional ones, in the order of ComfyUI's editor; ``expand`` returns
    those that a given node has."""
    outputs: tuple[OutputDef, ...] = ()
    output_node: bool = False
    api_node: bool = False
    """Whether it calls a paid service of a third party."""
    module: str = ""
    """Where the class comes from: ``nodes``, ``comfy_extras.nodes_x``, ``custom_nodes.pack``."""

    @cached_property
    def inputs(self) -> Mapping[str, InputDef]:
        """The declared inputs by name."""
        return {entry.name: entry for entry in self.declared}

    def expand(self, values: Mapping[str, object]) -> dict[str, InputDef]:
        """The inputs of a node with these ``inputs``, including those that dynamic inputs add."""
        found: dict[str, InputDef] = {}
        for entry in self.declared:
            _expand(entry, "", values, found)
        return found


def is_model_name(value: object) -> bool:
    """Whether a value is the name of a model file."""
    return isinstance(value, str) and value.lower().endswith(MODEL_EXTENSIONS)


def _expand(
    entry: InputDef, prefix: str, values: Mapping[str, object], found: dict[str, InputDef]
) -> None:
    name = prefix + entry.name
    dynamic = entry.dynamic
    if dynamic is None or dynamic.kind != "autogrow":
        found[name] = replace(entry, name=name) if prefix else entry
    if dynamic is None:
        return
    children: tuple[InputDef, ...] = ()
    if dynamic.kind == "combo":
        children = dynamic.options.get(str(values.get(name)), ())
    elif dynamic.kind == "slot" and name in values:
        children = dynamic.extra
    elif dynamic.template is not None:
        children = tuple(
            replace(
                dynamic.template,
                name=short,
                required=dynamic.template.required and index < dynamic.least,
            )
            for index, short in enumerate(dynamic.names)
        )
    for child in children:
        _expand(child, f"{name}.", values, found)


def slim_node(entry: object) -> Json | None:
    """An entry without descriptions and names of uploaded files; None when it is malformed."""
    if not isinstance(entry, dict):
        return None
    raw = cast("Json", entry)
    if not isinstance(raw.get("input"), dict) or not isinstance(raw.get("output"), (list, tuple)):
        return None
    inputs = {
        group: _slim_group(members)
        for group, members in raw["input"].items()
        if group in ("required", "optional")
    }
    order = _object(raw.get("input_order"))
    slim: Json = {
        "input": inputs,
        "input_order": {
            group: [
                name
                for name in _list(order.get(group, list(members)))
                if isinstance(name, str) and name in members
            ]
            for group, members in inputs.items()
        },
        "output": list(raw["output"]),
    }
    return slim | {key: raw[key] for key in _ENTRY_KEYS if raw.get(key) not in (None, False, "")}


def _slim_group(members: object, depth: int = 0) -> Json:
    return {str(name): _slim_spec(spec, depth) for name, spec in _object(members).items()}


def _slim_spec(spec: object, depth: int) -> list[Any]:
    kind, options = _spec(spec)
    kind = _list(kind) if _is_list(kind) else kind
    kept = {
        key: value
        for key, value in options.items()
        if key in _OPTION_KEYS and not _is_endless(value)
    }
    if _upload(options) is not None:
        kept.pop("options", None)
        kept.pop("default", None)
        kind = [] if _is_list(kind) else kind
    if depth < _DEPTH and isinstance(kept.get("options"), list):
        kept["options"] = [_slim_option(option, depth) for option in _list(kept["options"])]
    if depth < _DEPTH and "inputs" in kept:
        kept["inputs"] = _slim_inputs(kept["inputs"], depth)
    template = _object(kept.get("template"))
    if depth < _DEPTH and "input" in template:
        kept["template"] = {**template, "input": _slim_inputs(template["input"], depth)}
    return [kind, kept] if kept else [kind]


def _slim_option(option: object, depth: int) -> Any:
    """An option of a dynamic combo may have inputs of its own."""
    members = _object(option)
    if "inputs" not in members:
        return option
    return {"key": members.get("key"), "inputs": _slim_inputs(members["inputs"], depth)}


def _slim_inputs(groups: object, depth: int) -> Json:
    return {
        group: _slim_group(members, depth + 1)
        for group, members in _object(groups).items()
        if group in ("required", "optional")
    }


def parse_node(class_type: str, entry: Mapping[str, Any]) -> NodeDef:
    """Parse a slim entry."""
    types = _list(entry.get("output"))
    names = _list(entry.get("output_name"))
    lists = _list(entry.get("output_is_list"))
    matches = _list(entry.get("output_matchtypes"))
    outputs = tuple(
        _output(kind, _at(names, index), _at(lists, index), _at(matches, index))
        for index, kind in enumerate(types)
    )
    return NodeDef(
        class_type=class_type,
        declared=tuple(
            _uploaded(class_type, each)
            for each in _inputs(entry.get("input"), _object(entry.get("input_order")))
        ),
        outputs=outputs,
        output_node=entry.get("output_node") is True,
        api_node=entry.get("api_node") is True,
        module=str(entry.get("python_module", "")),
    )


def _uploaded(class_type: str, entry: InputDef) -> InputDef:
    """Some packs list the files of the server; their own editor code adds the upload."""
    kind = loader_kind(class_type, entry.name)
    models = any(is_model_name(choice) for choice in entry.choices or ())
    if kind is None or entry.upload is not None or entry.type != "COMBO" or models:
        return entry
    return replace(entry, upload=kind, choices=None)


def _output(kind: object, name: object, is_list: object, match: object) -> OutputDef:
    choices = tuple(_list(kind)) if _is_list(kind) else None
    type_name = "COMBO" if choices is not None else str(kind)
    return OutputDef(
        name=name if isinstance(name, str) and name else type_name,
        type=type_name,
        choices=choices,
        is_list=is_list is True,
        match=match if isinstance(match, str) and match else None,
    )


def _inputs(groups: object, order: Json, depth: int = 0) -> tuple[InputDef, ...]:
    found: list[InputDef] = []
    for group in ("required", "optional"):
        members = _object(_object(groups).get(group))
        ordered = [name for name in _list(order.get(group)) if name in members]
        for name in dict.fromkeys([*ordered, *members]):
            found.append(_input(str(name), members[name], group == "required", depth))
    return tuple(found)


def _input(name: str, spec: object, required: bool, depth: int) -> InputDef:
    kind, options = _spec(spec)
    upload = _upload(options)
    is_list = _is_list(kind)
    type_name = "COMBO" if is_list else str(kind)
    listed: object = kind if is_list else options.get("options")
    known = upload is None and _is_list(listed) and type_name == "COMBO"
    dynamic = _dynamic(type_name, options, depth) if depth < _DEPTH else None
    if dynamic is not None and dynamic.kind == "combo":
        listed, known = list(dynamic.options), True
    widget = options.get("widgetType")
    remote = options.get("remote")
    return InputDef(
        name=name,
        type=type_name,
        required=required,
        has_default="default" in options,
        default=options.get("default"),
        minimum=_number(options.get("min")),
        maximum=_number(options.get("max")),
        step=_number(options.get("step")),
        round=_number(options.get("round")),
        choices=tuple(_list(listed)) if known else None,
        choices_in_type=is_list,
        multiselect=bool(options.get("multiselect") or options.get("multi_select")),
        multiline=options.get("multiline") is True,
        dynamic_prompts=options.get("dynamicPrompts") is True,
        upload=upload,
        force_input=options.get("forceInput") is True,
        control_after_generate=_flag(options.get("control_after_generate")),
        widget_type=widget if isinstance(widget, str) else None,
        remote=isinstance(remote, dict),
        refresh_button=_object(remote).get("refresh_button") is True,
        dynamic=dynamic,
    )


def _dynamic(type_name: str, options: Json, depth: int) -> DynamicInput | None:
    """Inputs of the newer schema that add other inputs (ComfyUI: comfy_api/latest/_io.py)."""
    if type_name == DYNAMIC_COMBO:
        branches = {
            str(_object(option).get("key")): _inputs(_object(option).get("inputs"), {}, depth + 1)
            for option in _list(options.get("options"))
        }
        return DynamicInput(kind="combo", options=branches)
    if type_name == DYNAMIC_SLOT:
        return DynamicInput(kind="slot", extra=_inputs(options.get("inputs"), {}, depth + 1))
    if type_name == AUTOGROW:
        return _autogrow(options | _object(options.get("template")), depth)
    return None


def _autogrow(template: Json, depth: int) -> DynamicInput:
    members = _inputs(template.get("input"), {}, depth + 1)
    least = _number(template.get("min"))
    most = _number(template.get("max"))
    names = tuple(str(name) for name in _list(template.get("names")))
    if not names:
        prefix = str(template.get("prefix", ""))
        count = min(int(most) if most is not None else _MAX_GROWN, _MAX_GROWN)
        names = tuple(f"{prefix}{index}" for index in range(count))
    return DynamicInput(
        kind="autogrow",
        template=members[0] if members else None,
        names=names,
        least=int(least) if least is not None else 1,
    )


def _spec(spec: object) -> tuple[Any, Json]:
    """Type and options of an input, declared as ``[type, options]`` or as a bare type."""
    if not isinstance(spec, (list, tuple)):
        return spec, {}
    items = cast("list[Any]", spec)
    if not items:
        return "*", {}
    return items[0], _object(items[1]) if len(items) > 1 else {}


def _upload(options: Json) -> Kind | None:
    return next((kind for key, kind in _UPLOADS.items() if options.get(key) is True), None)


def _object(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _list(value: object) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return []
    return [item for item in cast("list[Any]", value) if not _is_endless(item)]


def _at(values: list[Any], index: int) -> object:
    return values[index] if index < len(values) else None


def _flag(value: object) -> bool | None:
    return None if value is None else bool(value)


def _number(value: object) -> int | float | None:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return cast("int | float", value) if plain and not _is_endless(value) else None


def _is_endless(value: object) -> bool:
    """Whether a value is NaN or infinite: node packs write a range without an end so."""
    return isinstance(value, float) and not math.isfinite(value)
