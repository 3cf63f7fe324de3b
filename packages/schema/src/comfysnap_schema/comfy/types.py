"""What is known of a node class: its inputs and outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Literal

from pydantic import JsonValue

from comfysnap_schema.wire import Kind

VALUE_TYPES: Final = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
"""Types whose inputs take a value and not only a link."""

MODEL_EXTENSIONS: Final = (
    ".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf", ".onnx",
)  # fmt: skip
"""Names that end so are model files: ``supported_pt_extensions`` of ComfyUI's folder_paths.py,
and what node packs add."""


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
    """Of a COMBO; None when they are not known (asked from the server later, or an upload)."""
    choices_in_type: bool = False
    """The older encoding, with the list itself as the type."""
    multiselect: bool = False
    multiline: bool = False
    dynamic_prompts: bool = False
    """ComfyUI's editor draws one of ``{a|b}`` and strips comments before it sends the text."""
    upload: Kind | None = None
    """Set when the value names an uploaded input file."""
    force_input: bool = False
    """A value type that ComfyUI's editor offers as a socket only."""
    control_after_generate: bool = False
    """ComfyUI's editor puts a second widget (fixed, increment, randomize) behind this one."""
    widget_type: str | None = None
    """The widget of an input that takes several types."""
    dynamic: "DynamicInput | None" = None

    @property
    def is_widget(self) -> bool:
        """Whether the input takes a plain value in ComfyUI's editor."""
        if self.dynamic is not None:
            return self.dynamic.kind == "combo"
        return (self.widget_type or self.type) in VALUE_TYPES and not self.force_input

    @property
    def is_model_file(self) -> bool:
        """Whether the choices are model files of the server that was asked (or none were there)."""
        if self.type != "COMBO" or self.upload is not None or self.choices is None:
            return False
        return not self.choices or any(is_model_name(choice) for choice in self.choices)


@dataclass(frozen=True, kw_only=True)
class DynamicInput:
    """How an input of the newer schema brings others with it."""

    kind: Literal["combo", "autogrow", "slot"]
    options: Mapping[str, tuple[InputDef, ...]] = field(
        default_factory=dict[str, tuple[InputDef, ...]]
    )
    """Of a combo: choice to the inputs it brings, by their short names."""
    template: InputDef | None = None
    """Of an autogrow: what each of its inputs is."""
    names: tuple[str, ...] = ()
    """Of an autogrow: the short names its inputs may have."""
    least: int = 0
    """Of an autogrow: how many of ``names`` are required."""
    extra: tuple[InputDef, ...] = ()
    """Of a slot: the inputs that come once it is linked."""


@dataclass(frozen=True, kw_only=True)
class OutputDef:
    """One output of a node class."""

    name: str
    type: str
    choices: tuple[JsonValue, ...] | None = None
    """Set for the older encoding of COMBO outputs: a list as the type."""
    is_list: bool = False
    match: str | None = None
    """The template whose linked input gives this output its type."""


@dataclass(frozen=True, kw_only=True)
class NodeDef:
    """One node class."""

    class_type: str
    declared: tuple[InputDef, ...]
    """Required inputs, then optional ones, in the order of ComfyUI's editor; ``expand`` gives
    those that a node really has."""
    outputs: tuple[OutputDef, ...] = ()
    output_node: bool = False
    api_node: bool = False
    """It calls a paid service of a third party."""
    module: str = ""
    """Where the class comes from: ``nodes``, ``comfy_extras.nodes_x``, ``custom_nodes.pack``."""

    @cached_property
    def inputs(self) -> Mapping[str, InputDef]:
        """The declared inputs by name."""
        return {entry.name: entry for entry in self.declared}

    def expand(self, values: Mapping[str, object]) -> dict[str, InputDef]:
        """The inputs of a node with these ``inputs``: dynamic ones bring theirs."""
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
    brought: tuple[InputDef, ...] = ()
    if dynamic.kind == "combo":
        brought = dynamic.options.get(str(values.get(name)), ())
    elif dynamic.kind == "slot" and name in values:
        brought = dynamic.extra
    elif dynamic.template is not None:
        brought = tuple(
            replace(dynamic.template, name=short, required=entry.required and index < dynamic.least)
            for index, short in enumerate(dynamic.names)
        )
    for child in brought:
        _expand(child, f"{name}.", values, found)
