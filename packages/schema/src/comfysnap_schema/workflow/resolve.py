"""Turns entries of the input map into parameters: the map narrows what the places allow."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.comfy import (
    MODEL_FOLDERS,
    RENAMED_FOLDERS,
    Catalogue,
    Graph,
    InputPath,
    is_link,
    title_of,
)
from comfysnap_schema.wire import FILE_KINDS, MAX_LORA_STRENGTH, GraphError, WorkflowError
from comfysnap_schema.workflow.loras import MAX_LORAS, STRENGTH, known_loras
from comfysnap_schema.workflow.map import InputSpec, Place
from comfysnap_schema.workflow.parameters import (
    Choices,
    InputConstraints,
    Number,
    Parameter,
    ParameterType,
    constraints_of,
    merge,
    type_of_value,
)
from comfysnap_schema.workflow.removal import fewest_values

_LARGEST_SEED: Final = 2**64 - 1

_NOT_OF_LORAS: Final = (
    "path", "each", "bypass", "kind", "folder", "default", "multiple_of", "multiline", "max_length",
)  # fmt: skip

_INSIDE: dict[ParameterType, tuple[ParameterType, ...]] = {
    "integer": ("integer",),
    "number": ("number", "integer"),
    "string": ("string", "file", "model"),
    "boolean": ("boolean",),
    "file": ("file",),
    "model": ("model",),
    "json": ("json", "string", "integer", "number", "boolean"),
}
"""Type of a place to the types that a parameter may narrow it to."""


@dataclass(frozen=True)
class Resolver:
    """Resolves the entries of one ``workflow.toml``."""

    graph: Graph
    catalogue: Catalogue | None
    file: str
    outputs: Collection[str] = ()
    """Nodes that make outputs of the workflow."""

    def parameter(self, name: str, entry: InputSpec) -> Parameter:
        """Check one entry and complete it.

        Raises:
            WorkflowError: ``invalid_path``, ``no_such_path``, ``no_such_node``, ``path_is_linked``,
                ``types_differ``, ``values_differ``, ``wrong_type``, ``unknown_type``, ``widens``,
                ``empty_range``, ``unknown_choice``, ``duplicate_choice``, ``mixed_choices``,
                ``not_applicable``, ``default_out_of_range``, ``default_not_a_choice``,
                ``wrong_default_type``, ``unknown_folder``, ``cannot_remove``, ``no_path``,
                ``no_catalogue``.
        """
        scope = Place(self.file, f"inputs.{name}")
        _refuse_mixtures(entry, scope)
        if entry.type == "loras":
            return self._loras(entry, scope)
        if entry.each is not None:
            return self._list(entry, scope)
        paths = tuple(self.path(text, scope.field("path")) for text in _listed(entry.path))
        place = self._constraints(paths, entry, scope)
        narrowed = _narrow(entry, place, scope, paths)
        bypass = tuple(_listed(entry.bypass))
        for node in bypass:
            if node not in self.graph:
                scope.fail("no_such_node", f"the graph has no node {node!r}", "bypass")
        return _with_default(replace(narrowed, paths=paths, bypass=bypass), entry, place, scope)

    def path(self, text: str, field: str) -> InputPath:
        """Parse a path and check that it exists in the graph.

        Raises:
            WorkflowError: ``invalid_path``, ``no_such_path``, ``path_is_linked``.
        """
        try:
            path = InputPath.parse(text)
        except GraphError as error:
            raise WorkflowError(error.code, error.message, file=self.file, field=field) from error
        node = self.graph.get(path.node)
        if node is None:
            message = f"the graph has no node {path.node!r}"
            raise WorkflowError("no_such_path", message, file=self.file, field=field)
        value = node["inputs"].get(path.name)
        if isinstance(value, list) and is_link(value):
            source = title_of(self.graph, str(value[0])) if value[0] in self.graph else "?"
            message = f"{text} is linked to node {value[0]} ({source}); use an input of that node"
            raise WorkflowError("path_is_linked", message, file=self.file, field=field)
        names = dict.fromkeys(name for name, v in node["inputs"].items() if not is_link(v))
        definition = self.catalogue.get(node["class_type"]) if self.catalogue else None
        if definition is not None:
            declared = definition.expand(node["inputs"])
            names.update(dict.fromkeys(n for n, known in declared.items() if known.is_widget))
        if path.name not in names:
            message = (
                f"node {path.node} ({node['class_type']}) has no value input {path.name!r};"
                f" available: {', '.join(names) or 'none'}"
            )
            raise WorkflowError("no_such_path", message, file=self.file, field=field)
        return path

    def _list(self, entry: InputSpec, scope: Place) -> Parameter:
        """A list with one value for each place."""
        texts = entry.each or []
        paths = tuple(self.path(text, scope.field("each")) for text in texts)
        places = [constraints_of(self.graph, path, self.catalogue) for path in paths]
        place = _merged(paths, places, scope, "each")
        needed, why = fewest_values(self.graph, self.catalogue, paths, self.outputs)
        least = needed if entry.min_items is None else entry.min_items
        most = len(paths) if entry.max_items is None else entry.max_items
        if most > len(paths):
            scope.fail("widens", f"there are {len(paths)} places, got {most}", "max_items")
        if least < needed or most < needed:
            key = "min_items" if least < needed else "max_items"
            message = f"must be at least {needed}: {paths[needed - 1]} cannot be removed ({why})"
            scope.fail("cannot_remove", message, key)
        _check_lengths(least, most, scope)
        parameter = replace(
            _narrow(entry, place, scope, paths),
            paths=paths,
            each=True,
            min_items=least,
            max_items=most,
        )
        return _with_list_default(parameter, entry, [each.value for each in places], scope)

    def _loras(self, entry: InputSpec, scope: Place) -> Parameter:
        """A list of LoRAs; the bounds are those of their strengths."""
        most = MAX_LORAS if entry.max_items is None else entry.max_items
        least = entry.min_items or 0
        _check_lengths(least, most, scope)
        place = InputConstraints(
            type="number", known=True, minimum=-MAX_LORA_STRENGTH, maximum=MAX_LORA_STRENGTH
        )
        minimum = _bound(entry.minimum, place.minimum, place, "minimum", scope)
        maximum = _bound(entry.maximum, place.maximum, place, "maximum", scope)
        if minimum is None or maximum is None or not minimum <= STRENGTH <= maximum:
            message = f"{STRENGTH}, the default strength, must be from minimum to maximum"
            scope.fail("default_out_of_range", message, "minimum")
        names = _choices(entry, InputConstraints(type="string"), scope)
        if names is not None and not all(isinstance(name, str) for name in names):
            scope.fail("wrong_type", "names of LoRA files must be strings", "choices")
        required = bool(least) if entry.required is None else entry.required
        return Parameter(
            name=scope.table.removeprefix("inputs."),
            type="loras",
            title=entry.title or "",
            description=entry.description,
            required=required or bool(least),
            default=None if required or least else [],
            minimum=float(minimum),
            maximum=float(maximum),
            choices=names or known_loras(self.catalogue) or None,
            folder="loras" if names is None else None,
            min_items=least,
            max_items=most,
        )

    def _constraints(
        self, paths: tuple[InputPath, ...], entry: InputSpec, scope: Place
    ) -> InputConstraints:
        if not paths:
            return _constraints_of_entry(entry, scope)
        places = [constraints_of(self.graph, path, self.catalogue) for path in paths]
        merged = _merged(paths, places, scope, "path")
        free = entry.random or entry.required or entry.kind or entry.default is not None
        if not free and any(place.value != merged.value for place in places):
            values = " and ".join(repr(place.value) for place in places)
            scope.fail("values_differ", f"the graph has {values}; set a default", "default")
        return merged


def _merged(
    paths: Sequence[InputPath], places: Sequence[InputConstraints], scope: Place, key: str
) -> InputConstraints:
    merged = merge(places)
    if merged is None:
        types = " and ".join(f"{p} ({f.type})" for p, f in zip(paths, places, strict=True))
        scope.fail("types_differ", f"the types differ: {types}", key)
    if merged.choices == ():
        scope.fail("types_differ", "these inputs have no choice in common", key)
    return merged


def _refuse_mixtures(entry: InputSpec, scope: Place) -> None:
    """Reject keys that only inputs of another kind have."""
    is_loras = entry.type == "loras"
    wrong: dict[str, Sequence[str]] = {
        "an input with each": ("path", "bypass") if entry.each is not None else (),
        "a list of LoRAs": _NOT_OF_LORAS if is_loras else (),
        "an input that is no list": ("min_items", "max_items")
        if entry.each is None and not is_loras
        else (),
        'an input without type = "loras"': () if is_loras else ("after", "clip_after"),
    }
    for what, keys in wrong.items():
        for key in keys:
            if getattr(entry, key) is not None:
                scope.fail("not_applicable", f"{what} cannot have {key}", key)
    if entry.random and (is_loras or entry.each is not None):
        scope.fail("not_applicable", "a list cannot be random", "random")


def _check_lengths(least: int, most: int, scope: Place) -> None:
    if least > most:
        message = f"min_items {least} is above max_items {most}"
        scope.fail("empty_range", message, "min_items")


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _constraints_of_entry(entry: InputSpec, scope: Place) -> InputConstraints:
    """The constraints of a parameter without a path, from the map alone."""
    if entry.bypass:
        return InputConstraints(type="boolean", value=True)
    if entry.kind:
        return InputConstraints(type="file", kind=entry.kind)
    if entry.random:
        return InputConstraints(type="integer")
    example = entry.choices[0] if entry.choices else entry.default
    if entry.type is None and example is None:
        scope.fail("unknown_type", "an input without a path must have a type or a default", "type")
    return InputConstraints(type=entry.type or type_of_value(example))


def _narrow(
    entry: InputSpec, place: InputConstraints, scope: Place, paths: Sequence[InputPath]
) -> Parameter:
    type_ = _type(entry, place, scope)
    numeric = type_ in ("integer", "number")
    choices = _choices(entry, place, scope) if type_ not in ("file", "model", "boolean") else None
    ranged = numeric and choices is None
    _refuse_inapplicable(entry, type_, ranged, scope)
    minimum = _bound(entry.minimum, place.minimum, place, "minimum", scope) if ranged else None
    maximum = _bound(entry.maximum, place.maximum, place, "maximum", scope) if ranged else None
    if entry.random and not place.known:  # what every sampler of ComfyUI takes
        minimum = 0 if minimum is None else minimum
        maximum = _LARGEST_SEED if maximum is None else maximum
    if minimum is not None and maximum is not None and minimum > maximum:
        scope.fail("empty_range", f"minimum {minimum} is above maximum {maximum}", "minimum")
    return Parameter(
        name=scope.table.removeprefix("inputs."),
        type=type_,
        title=entry.title or "",
        description=entry.description,
        minimum=minimum,
        maximum=maximum,
        multiple_of=(entry.multiple_of or place.multiple_of) if ranged else None,
        choices=choices,
        multiline=place.multiline if entry.multiline is None else entry.multiline,
        max_length=entry.max_length,
        random=entry.random,
        kind=(entry.kind or place.kind) if type_ == "file" else None,
        folder=_folder(entry, paths, scope) if type_ == "model" else None,
    )


def _type(entry: InputSpec, place: InputConstraints, scope: Place) -> ParameterType:
    if entry.kind is not None and entry.kind not in FILE_KINDS:
        files = ", ".join(sorted(FILE_KINDS))
        scope.fail("wrong_type", f"{entry.kind!s} is not a file kind; expected {files}", "kind")
    if entry.kind is not None and entry.type not in (None, "file"):
        scope.fail("wrong_type", f"with a kind, type must be file, got {entry.type}", "type")
    wanted: ParameterType = "file" if entry.kind else (entry.type or place.type)
    # Without a catalogue a whole number in the graph may well be one value of a float.
    guessed_integer = not place.known and place.type == "integer" and wanted == "number"
    unknown = not place.known and (place.value is None or place.type == "json")
    if wanted not in _INSIDE[place.type] and not guessed_integer and not unknown:
        key = "kind" if entry.kind else "type"
        scope.fail("wrong_type", f"the node expects {place.type}, got {wanted}", key)
    if entry.bypass and wanted != "boolean":
        scope.fail("wrong_type", f"with bypass, type must be boolean, got {wanted}", "type")
    if entry.random and wanted != "integer":
        scope.fail("wrong_type", f"with random, type must be integer, got {wanted}", "random")
    return wanted


def _choices(entry: InputSpec, place: InputConstraints, scope: Place) -> Choices | None:
    known = place.choices
    if entry.choices is None:
        usable = known is not None and (not place.are_files or place.value in known)
        return known if usable else None
    if len(set(map(repr, entry.choices))) != len(entry.choices):
        scope.fail("duplicate_choice", "duplicate choice", "choices")
    kinds = {type(choice) for choice in entry.choices}
    if bool in kinds and kinds & {int, float}:
        message = "must not mix booleans and numbers: some callers treat true as 1"
        scope.fail("mixed_choices", message, "choices")
    for choice in entry.choices:
        if known is not None and not place.are_files and choice not in known:
            message = f"{choice!r} is not a valid choice for the node; expected {_some(known)}"
            scope.fail("unknown_choice", message, "choices")
    return tuple(entry.choices)


def _folder(entry: InputSpec, paths: Sequence[InputPath], scope: Place) -> str:
    """The folder of ``models/`` under the name that ComfyUI has for it now."""
    found = {MODEL_FOLDERS.get(path.name, ("",))[0] for path in paths}
    folder = entry.folder or (found.pop() if len(found) == 1 else "")
    if not folder:
        message = 'the folder of models/ is not known; set it, for example folder = "loras"'
        scope.fail("unknown_folder", message, "folder")
    return RENAMED_FOLDERS.get(folder, folder)


def _refuse_inapplicable(
    entry: InputSpec, type_: ParameterType, ranged: bool, scope: Place
) -> None:
    """Reject keys that would have no effect."""
    keys = {
        "minimum": ranged,
        "maximum": ranged,
        "multiple_of": ranged and type_ == "integer",
        "max_length": type_ == "string",
        "multiline": type_ == "string",
        "choices": type_ not in ("file", "model", "boolean", "json"),
        "folder": type_ == "model",
    }
    for key, applies in keys.items():
        if getattr(entry, key) is not None and not applies:
            of = f"{type_} with choices" if entry.choices and type_ != "file" else type_
            scope.fail("not_applicable", f"{key} does not apply to type {of}", key)


def _bound(
    wanted: Number | None, known: Number | None, place: InputConstraints, key: str, scope: Place
) -> Number | None:
    if wanted is None or known is None:
        return known if wanted is None else wanted
    if place.known and (wanted < known if key == "minimum" else wanted > known):
        scope.fail("widens", f"must be within the node's own {key} {known}, got {wanted}", key)
    return wanted


def _with_default(
    parameter: Parameter, entry: InputSpec, place: InputConstraints, scope: Place
) -> Parameter:
    if entry.required and entry.random:
        scope.fail("not_applicable", "an input with random cannot be required", "required")
    if entry.default is not None and (entry.required or entry.random):
        how = "a required input" if entry.required else "an input with random"
        scope.fail("not_applicable", f"{how} cannot have a default", "default")
    if parameter.type == "file":
        if entry.default is not None:
            scope.fail(
                "not_applicable",
                "a file cannot have a default; set required = false to keep the graph's file",
                "default",
            )
        return replace(parameter, required=entry.required is not False)
    if parameter.random:
        return replace(parameter, required=False)
    default = place.value if entry.default is None else entry.default
    if entry.required or (default is None and entry.required is None):
        return replace(parameter, required=True)
    if default is None:
        return parameter
    return replace(parameter, default=checked_default(parameter, default, scope))


def _with_list_default(
    parameter: Parameter, entry: InputSpec, values: Sequence[JsonValue], scope: Place
) -> Parameter:
    if entry.required and entry.default is not None:
        scope.fail("not_applicable", "a required input cannot have a default", "default")
    if entry.required:
        return replace(parameter, required=True)
    if parameter.type == "file":
        if entry.default is not None:
            scope.fail("not_applicable", "files cannot have a default", "default")
        if entry.required is None and not parameter.min_items:
            return replace(parameter, default=[])
        return replace(parameter, required=entry.required is None)
    default = list(values[: parameter.max_items]) if entry.default is None else entry.default
    if not isinstance(default, list):
        scope.fail("wrong_default_type", f"{default!r} is not a list", "default")
    if not parameter.min_items <= len(default) <= parameter.max_items:
        message = f"must have {parameter.min_items} to {parameter.max_items} items"
        scope.fail("default_out_of_range", message, "default")
    if None in default:
        return replace(parameter, required=entry.required is None)
    checked = [checked_default(parameter, item, scope) for item in default]
    return replace(parameter, default=checked)


def checked_default(parameter: Parameter, default: JsonValue, scope: Place) -> JsonValue:
    """Check a default against the parameter's own rules, and convert it to the parameter's type."""
    if parameter.choices is not None:
        if not any(type(c) is type(default) and c == default for c in parameter.choices):
            message = f"{default!r} is not a valid choice; expected {_some(parameter.choices)}"
            scope.fail("default_not_a_choice", message, "default")
        return default
    fits = {
        "string": isinstance(default, str),
        "model": isinstance(default, str),
        "boolean": isinstance(default, bool),
        "integer": isinstance(default, int) and not isinstance(default, bool),
        "number": isinstance(default, (int, float))
        and not isinstance(default, bool)
        and math.isfinite(default),
    }
    if not fits.get(parameter.type, True):
        message = f"{default!r} is not a valid {parameter.type}"
        scope.fail("wrong_default_type", message, "default")
    if isinstance(default, str) and len(default) > (parameter.max_length or len(default)):
        message = f"longer than max_length {parameter.max_length}"
        scope.fail("default_out_of_range", message, "default")
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        _check_range(parameter, default, scope)
        return float(default) if parameter.type == "number" else default
    return default


def _check_range(parameter: Parameter, default: Number, scope: Place) -> None:
    minimum, maximum, step = parameter.minimum, parameter.maximum, parameter.multiple_of
    if minimum is not None and default < minimum:
        scope.fail("default_out_of_range", f"{default} is below the minimum {minimum}", "default")
    if maximum is not None and default > maximum:
        scope.fail("default_out_of_range", f"{default} is above the maximum {maximum}", "default")
    if step and default % step:
        scope.fail("default_out_of_range", f"{default} is not a multiple of {step}", "default")


def _some(choices: Choices) -> str:
    shown = ", ".join(map(repr, choices[:10]))
    return f"{shown} and {len(choices) - 10} more" if len(choices) > 10 else shown
