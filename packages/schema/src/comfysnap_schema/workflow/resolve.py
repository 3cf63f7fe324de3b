"""From an entry of the input map to a parameter: the map narrows what graph and catalogue allow."""

import math
from dataclasses import dataclass, replace
from typing import Final, NoReturn

from pydantic import JsonValue

from comfysnap_schema.comfy import Catalogue, Graph, InputPath, is_link, title_of
from comfysnap_schema.wire import FILE_KINDS, GraphError, WorkflowError
from comfysnap_schema.workflow.facts import Choices, Facts, Number, facts_of, merge, type_of_value
from comfysnap_schema.workflow.map import InputSpec
from comfysnap_schema.workflow.parameters import Parameter, ParameterType

_LARGEST_SEED: Final = 2**64 - 1

_INSIDE: dict[ParameterType, tuple[ParameterType, ...]] = {
    "integer": ("integer",),
    "number": ("number", "integer"),
    "string": ("string", "file"),
    "boolean": ("boolean",),
    "file": ("file",),
    "json": ("json", "string", "integer", "number", "boolean"),
}
"""Type of a place to the types that a parameter for it may narrow to."""


@dataclass(frozen=True)
class Resolver:
    """Resolves the entries of one ``workflow.toml``."""

    graph: Graph
    catalogue: Catalogue | None
    file: str

    def parameter(self, name: str, entry: InputSpec) -> Parameter:
        """Check one entry and complete it.

        Raises:
            WorkflowError: ``invalid_path``, ``no_such_path``, ``no_such_node``, ``path_is_linked``,
                ``types_differ``, ``values_differ``, ``wrong_type``, ``unknown_type``, ``widens``,
                ``empty_range``, ``unknown_choice``, ``duplicate_choice``, ``mixed_choices``,
                ``not_applicable``, ``default_out_of_range``, ``default_not_a_choice``,
                ``wrong_default_type``.
        """
        scope = _Scope(self.file, name)
        paths = tuple(self.path(text, scope.field("path")) for text in _listed(entry.path))
        facts = self._facts(paths, entry, scope)
        narrowed = _narrow(entry, facts, scope)
        bypass = tuple(_listed(entry.bypass))
        for node in bypass:
            if node not in self.graph:
                scope.fail("no_such_node", f"the graph has no node {node!r}", "bypass")
        return _with_default(replace(narrowed, paths=paths, bypass=bypass), entry, facts, scope)

    def path(self, text: str, field: str) -> InputPath:
        """Parse a path and see that the graph has its place.

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
            message = f"{text} is fed by node {value[0]} ({source}); name an input of that node"
            raise WorkflowError("path_is_linked", message, file=self.file, field=field)
        names = dict.fromkeys(name for name, v in node["inputs"].items() if not is_link(v))
        definition = self.catalogue.get(node["class_type"]) if self.catalogue else None
        if definition is not None:
            declared = definition.expand(node["inputs"])
            names.update(dict.fromkeys(n for n, known in declared.items() if known.is_widget))
        if path.name not in names:
            message = (
                f"node {path.node} ({node['class_type']}) has no input {path.name!r} that takes a"
                f" value; it has {', '.join(names) or 'none'}"
            )
            raise WorkflowError("no_such_path", message, file=self.file, field=field)
        return path

    def _facts(self, paths: tuple[InputPath, ...], entry: InputSpec, scope: "_Scope") -> Facts:
        if not paths:
            return _facts_of_entry(entry, scope)
        places = [facts_of(self.graph, path, self.catalogue) for path in paths]
        merged = merge(places)
        if merged is None:
            types = " and ".join(f"{p} ({f.type})" for p, f in zip(paths, places, strict=True))
            scope.fail("types_differ", f"one value cannot fit {types}", "path")
        if merged.choices == ():
            scope.fail("types_differ", "no choice is one of all these places", "path")
        free = entry.random or entry.required or entry.kind or entry.default is not None
        if not free and any(place.value != merged.value for place in places):
            values = " and ".join(repr(place.value) for place in places)
            scope.fail("values_differ", f"the graph has {values}; say which", "default")
        return merged


@dataclass(frozen=True)
class _Scope:
    """Where in ``workflow.toml`` we are."""

    file: str
    name: str

    def field(self, key: str) -> str:
        return f"inputs.{self.name}.{key}"

    def fail(self, code: str, message: str, key: str) -> NoReturn:
        raise WorkflowError(code, message, file=self.file, field=self.field(key))


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _facts_of_entry(entry: InputSpec, scope: _Scope) -> Facts:
    """Of a parameter that no place takes: what the map says is all there is."""
    if entry.bypass:
        return Facts(type="boolean", value=True)
    if entry.kind:
        return Facts(type="file", kind=entry.kind)
    if entry.random:
        return Facts(type="integer")
    example = entry.choices[0] if entry.choices else entry.default
    if entry.type is None and example is None:
        scope.fail("unknown_type", "without a path, say its type (or give a default)", "type")
    return Facts(type=entry.type or type_of_value(example))


def _narrow(entry: InputSpec, facts: Facts, scope: _Scope) -> Parameter:
    type_ = _type(entry, facts, scope)
    numeric = type_ in ("integer", "number")
    choices = _choices(entry, facts, scope) if type_ not in ("file", "boolean") else None
    ranged = numeric and choices is None
    _refuse_inapplicable(entry, type_, ranged, scope)
    minimum = _bound(entry.minimum, facts.minimum, facts, "minimum", scope) if ranged else None
    maximum = _bound(entry.maximum, facts.maximum, facts, "maximum", scope) if ranged else None
    if entry.random and not facts.known:  # what every sampler of ComfyUI takes
        minimum = 0 if minimum is None else minimum
        maximum = _LARGEST_SEED if maximum is None else maximum
    if minimum is not None and maximum is not None and minimum > maximum:
        scope.fail("empty_range", f"{minimum} is above {maximum}", "minimum")
    return Parameter(
        name=scope.name,
        type=type_,
        title=entry.title or "",
        description=entry.description,
        minimum=minimum,
        maximum=maximum,
        multiple_of=(entry.multiple_of or facts.multiple_of) if ranged else None,
        choices=choices,
        multiline=facts.multiline if entry.multiline is None else entry.multiline,
        max_length=entry.max_length,
        random=entry.random,
        kind=(entry.kind or facts.kind) if type_ == "file" else None,
    )


def _type(entry: InputSpec, facts: Facts, scope: _Scope) -> ParameterType:
    if entry.kind is not None and entry.kind not in FILE_KINDS:
        files = ", ".join(sorted(FILE_KINDS))
        scope.fail("wrong_type", f"an input of a kind is a file: {files}", "kind")
    if entry.kind is not None and entry.type not in (None, "file"):
        scope.fail("wrong_type", f"an input of a kind is a file, not {entry.type}", "type")
    wanted: ParameterType = "file" if entry.kind else (entry.type or facts.type)
    # Without a catalogue a whole number in the graph may well be one value of a float.
    guessed_integer = not facts.known and facts.type == "integer" and wanted == "number"
    untold = not facts.known and (facts.value is None or facts.type == "json")
    if wanted not in _INSIDE[facts.type] and not guessed_integer and not untold:
        key = "kind" if entry.kind else "type"
        scope.fail("wrong_type", f"the node takes {facts.type}, not {wanted}", key)
    if entry.bypass and wanted != "boolean":
        scope.fail("wrong_type", "what switches a node off is a boolean", "type")
    if entry.random and wanted != "integer":
        scope.fail("wrong_type", f"only integers can be drawn at random, not {wanted}", "random")
    return wanted


def _choices(entry: InputSpec, facts: Facts, scope: _Scope) -> Choices | None:
    known = facts.choices
    if entry.choices is None:
        usable = known is not None and (not facts.are_files or facts.value in known)
        return known if usable else None
    if len(set(map(repr, entry.choices))) != len(entry.choices):
        scope.fail("duplicate_choice", "each choice once", "choices")
    kinds = {type(choice) for choice in entry.choices}
    if bool in kinds and kinds & {int, float}:
        scope.fail("mixed_choices", "true is 1 to some callers; do not mix the two", "choices")
    for choice in entry.choices:
        if known is not None and not facts.are_files and choice not in known:
            message = f"the node does not take {choice!r}; it takes {_some(known)}"
            scope.fail("unknown_choice", message, "choices")
    return tuple(entry.choices)


def _refuse_inapplicable(
    entry: InputSpec, type_: ParameterType, ranged: bool, scope: _Scope
) -> None:
    """A key that would have no effect is a mistake of whoever wrote it."""
    keys = {
        "minimum": ranged,
        "maximum": ranged,
        "multiple_of": ranged and type_ == "integer",
        "max_length": type_ == "string",
        "multiline": type_ == "string",
        "choices": type_ not in ("file", "boolean", "json"),
    }
    for key, applies in keys.items():
        if getattr(entry, key) is not None and not applies:
            of = f"{type_} with choices" if entry.choices and type_ != "file" else type_
            scope.fail("not_applicable", f"{key} has no meaning for type {of}", key)


def _bound(
    wanted: Number | None, known: Number | None, facts: Facts, key: str, scope: _Scope
) -> Number | None:
    if wanted is None or known is None:
        return known if wanted is None else wanted
    if facts.known and (wanted < known if key == "minimum" else wanted > known):
        scope.fail("widens", f"the node's own {key} is {known}, not {wanted}", key)
    return wanted


def _with_default(parameter: Parameter, entry: InputSpec, facts: Facts, scope: _Scope) -> Parameter:
    if entry.required and entry.random:
        scope.fail("not_applicable", "what is drawn when left out is not required", "required")
    if entry.default is not None and (entry.required or entry.random):
        how = "required" if entry.required else "drawn when left out"
        scope.fail("not_applicable", f"what is {how} has no default", "default")
    if parameter.type == "file":
        if entry.default is not None:
            scope.fail(
                "not_applicable",
                "a file has no default; required = false keeps the graph's",
                "default",
            )
        return replace(parameter, required=entry.required is not False)
    if parameter.random:
        return replace(parameter, required=False)
    default = facts.value if entry.default is None else entry.default
    if entry.required or (default is None and entry.required is None):
        return replace(parameter, required=True)
    if default is None:
        return parameter
    return replace(parameter, default=checked_default(parameter, default, scope))


def checked_default(parameter: Parameter, default: JsonValue, scope: _Scope) -> JsonValue:
    """The default as the parameter's type has it, when the parameter's own rules allow it."""
    if parameter.choices is not None:
        if not any(type(c) is type(default) and c == default for c in parameter.choices):
            message = f"{default!r} is none of {_some(parameter.choices)}"
            scope.fail("default_not_a_choice", message, "default")
        return default
    fits = {
        "string": isinstance(default, str),
        "boolean": isinstance(default, bool),
        "integer": isinstance(default, int) and not isinstance(default, bool),
        "number": isinstance(default, (int, float))
        and not isinstance(default, bool)
        and math.isfinite(default),
    }
    if not fits.get(parameter.type, True):
        scope.fail("wrong_default_type", f"{default!r} is no {parameter.type}", "default")
    if isinstance(default, str) and len(default) > (parameter.max_length or len(default)):
        message = f"it is longer than max_length {parameter.max_length}"
        scope.fail("default_out_of_range", message, "default")
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        _check_range(parameter, default, scope)
        return float(default) if parameter.type == "number" else default
    return default


def _check_range(parameter: Parameter, default: Number, scope: _Scope) -> None:
    minimum, maximum, step = parameter.minimum, parameter.maximum, parameter.multiple_of
    if minimum is not None and default < minimum:
        scope.fail("default_out_of_range", f"{default} is below the minimum {minimum}", "default")
    if maximum is not None and default > maximum:
        scope.fail("default_out_of_range", f"{default} is above the maximum {maximum}", "default")
    if step and default % step:
        scope.fail("default_out_of_range", f"{default} is no multiple of {step}", "default")


def _some(choices: Choices) -> str:
    shown = ", ".join(map(repr, choices[:10]))
    return f"{shown} and {len(choices) - 10} more" if len(choices) > 10 else shown
