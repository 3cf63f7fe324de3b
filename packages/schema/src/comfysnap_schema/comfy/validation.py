"""Validates a graph against the node catalogue, with the same verdict as ComfyUI.

The rules are those of ``validate_prompt`` and ``validate_inputs`` (ComfyUI: execution.py) and
``validate_node_input`` (comfy_execution/validation.py), but no node's own checks are run.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from pydantic import JsonValue

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.definitions import (
    MATCH_TYPE,
    InputDef,
    NodeDef,
    OutputDef,
    is_model_name,
)
from comfysnap_schema.comfy.graph import Graph, InputPath, title_of
from comfysnap_schema.wire import FieldProblem

_NO_FIELDS: Final[Mapping[str, str]] = {}
_SHOWN_CHOICES: Final = 12
_SHOWN_LENGTH: Final = 60
_ANY: Final = frozenset({"*", MATCH_TYPE})
_CONVERT: Final[Mapping[str, Callable[..., Any]]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
}
_WORDS: Final = {
    "INT": "an integer",
    "FLOAT": "a number",
    "STRING": "a string",
    "COMBO": "a choice that the server lists",
}


@dataclass(frozen=True, kw_only=True)
class Issue:
    """One reason why ComfyUI would reject a graph."""

    code: str
    """ComfyUI's name for it: ``value_not_in_list``, ``value_smaller_than_min``,
    ``value_bigger_than_max``, ``required_input_missing``, ``return_type_mismatch``,
    ``bad_linked_input``, ``invalid_input_type``, ``dependency_cycle``, ``missing_node_type``,
    ``prompt_no_outputs``; ours is ``not_an_output_node``."""
    message: str
    """What is wrong and what is valid, in one sentence."""
    field: str | None = None
    """The API parameter that sets the input, if any."""
    node: str | None = None
    input: str | None = None
    title: str | None = None
    """The node's title, or its class."""

    def problem(self) -> FieldProblem:
        """The issue as an entry of a problem+json body."""
        return FieldProblem(field=self.field, message=str(self), node=self.node)

    def __str__(self) -> str:
        """``node 'title': input: message``."""
        node = f"node {self.node} ({self.title})" if self.node is not None else None
        return ": ".join(part for part in (node, self.input, self.message) if part)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The issues of a graph, and which output nodes would run.

    ComfyUI accepts a prompt when one output is valid, and silently skips the others; here a graph
    is valid only if it has no issues.
    """

    issues: tuple[Issue, ...]
    outputs: Mapping[str, bool]
    """Output node to whether everything that it depends on is valid."""

    @property
    def accepted(self) -> bool:
        """Whether ComfyUI would run any of it."""
        return any(self.outputs.values())


def validate_graph(
    graph: Graph,
    catalogue: Catalogue,
    fields: Mapping[str, str] = _NO_FIELDS,
    *,
    outputs: Iterable[str] = (),
    check_models: bool = False,
) -> list[Issue]:
    """Everything that ComfyUI would reject, in the order of the graph; empty when it is valid.

    As in ComfyUI, nodes that no output depends on are not checked, but their classes must exist.

    Args:
        graph: The graph to send, with all inputs set.
        catalogue: The node catalogue of the server.
        fields: ``NODE.inputs.NAME`` to the API parameter that sets it.
        outputs: Ids of the nodes that must be output nodes.
        check_models: Whether model files must be in the catalogue's lists. These come from one
            server, which is rarely the one that runs the job, so by default the names of model
            files are trusted. Uploaded files are never checked: each job has its own.
    """
    return list(
        judge_graph(graph, catalogue, fields, outputs=outputs, check_models=check_models).issues
    )


def judge_graph(
    graph: Graph,
    catalogue: Catalogue,
    fields: Mapping[str, str] = _NO_FIELDS,
    *,
    outputs: Iterable[str] = (),
    check_models: bool = False,
) -> Verdict:
    """As ``validate_graph``, but with the verdict on each output node."""
    validator = _Validator(graph, catalogue, fields, check_models)
    return validator.verdict(tuple(outputs))


class _Validator:
    def __init__(
        self, graph: Graph, catalogue: Catalogue, fields: Mapping[str, str], check_models: bool
    ) -> None:
        self._graph = graph
        self._catalogue = catalogue
        self._defs = {node: catalogue.get(entry["class_type"]) for node, entry in graph.items()}
        self._fields = fields
        self._check_models = check_models
        self._found: dict[str, list[Issue]] = {}
        self._needs: dict[str, tuple[tuple[str, str], ...]] = {}
        self._valid: dict[str, bool] = {}

    def verdict(self, expected: tuple[str, ...]) -> Verdict:
        unknown = [self._unknown(node) for node, known in self._defs.items() if known is None]
        outputs = [node for node, known in self._defs.items() if known and known.output_node]
        for node in outputs:
            self._walk(node)
        issues = [*unknown, *self._not_outputs(expected)]
        if not outputs:
            issues.append(
                Issue(
                    code="prompt_no_outputs",
                    message="the graph has no output node; add one, for example SaveImage",
                )
            )
        issues += [found for node in self._graph for found in self._found.get(node, ())]
        return Verdict(
            issues=tuple(issues),
            outputs={node: self._valid[node] and not unknown for node in outputs},
        )

    def _unknown(self, node: str) -> Issue:
        class_type = self._graph[node]["class_type"]
        message = (
            f"unknown node class {class_type!r}{_suggestion(class_type, self._catalogue)};"
            " is its node pack installed?"
        )
        if class_type in self._catalogue.skipped:
            message = f"node class {class_type!r} is malformed: its node pack declares no outputs"
        issue = Issue(code="missing_node_type", message=message)
        return self._at(node, None, issue)

    def _not_outputs(self, expected: tuple[str, ...]) -> Iterator[Issue]:
        for node in expected:
            known = self._defs.get(node)
            if node not in self._graph or (known is not None and not known.output_node):
                yield Issue(
                    code="not_an_output_node",
                    message="not an output node: it saves and shows no result",
                    node=node,
                    title=title_of(self._graph, node) if node in self._graph else None,
                )

    def _at(self, node: str, name: str | None, issue: Issue) -> Issue:
        """The issue with the place where it was found."""
        field = None if name is None else self._fields.get(str(InputPath(node, name)))
        return replace(issue, field=field, node=node, input=name, title=title_of(self._graph, node))

    def _walk(self, start: str) -> None:
        """Check what ``start`` depends on, depth first; a node is valid if all of that is."""
        if start in self._valid:
            return
        self._open(start)
        path = {start: iter(self._needs[start])}
        while path:
            node, rest = next(reversed(path.items()))
            step = next(rest, None)
            if step is None:
                path.popitem()
                needs = all(self._valid.get(origin, False) for _, origin in self._needs[node])
                self._valid[node] = needs and not self._found[node]
                continue
            name, origin = step
            if origin in path:
                cycle = [*path][[*path].index(origin) :]
                self._found[node].append(self._at(node, name, _cycle(cycle)))
            elif origin not in self._valid:
                self._open(origin)
                path[origin] = iter(self._needs[origin])

    def _open(self, node: str) -> None:
        """Check the node itself, and note the nodes behind its valid links."""
        found: list[Issue] = []
        needs: list[tuple[str, str]] = []
        known = self._defs[node]
        values = self._graph[node]["inputs"]
        for name, definition in (known.expand(values) if known else {}).items():
            if name not in values:
                if definition.required:
                    issue = Issue(
                        code="required_input_missing",
                        message=f"missing; expected {_describe(definition)}",
                    )
                    found.append(self._at(node, name, issue))
                continue
            value = values[name]
            if isinstance(value, list):
                issue = _check_link(self._graph, self._defs, value, definition)
                if issue is None:
                    needs.append((name, cast("str", value[0])))
            else:
                issue = _check_value(value, definition, check_models=self._check_models)
            if issue is not None:
                found.append(self._at(node, name, issue))
        self._found[node] = found
        self._needs[node] = tuple(needs)


def _cycle(nodes: list[str]) -> Issue:
    around = " -> ".join([*nodes, nodes[0]])
    return Issue(
        code="dependency_cycle", message=f"dependency cycle: {around}; remove one of its links"
    )


def _check_link(
    graph: Graph,
    defs: Mapping[str, NodeDef | None],
    value: list[JsonValue],
    definition: InputDef,
) -> Issue | None:
    """Check a list, which is always a link, against the type of the output that it names."""
    origin, slot = value if len(value) == 2 else (None, None)
    if not isinstance(origin, str) or not isinstance(slot, int):
        return Issue(
            code="bad_linked_input",
            message=f"{_shown(value)} is not a valid link; expected [node id as a string, output"
            " index]",
        )
    if origin not in graph:
        return Issue(
            code="bad_linked_input", message=f"linked to node {origin!r}, which does not exist"
        )
    known = defs[origin]
    if known is None:
        return None  # the unknown class is an issue of its own
    exists = -len(known.outputs) <= slot < len(known.outputs)
    if exists and fits(known.outputs[slot], definition):
        return None
    title = title_of(graph, origin)
    if not exists:
        return Issue(
            code="bad_linked_input",
            message=f"linked to output {slot} of {title!r}, which has {len(known.outputs)}",
        )
    made = known.outputs[slot].type
    return Issue(
        code="return_type_mismatch",
        message=f"expected {definition.type}, got {made} from output {slot} of {title!r}"
        + _instead(known.outputs, definition),
    )


def _instead(outputs: tuple[OutputDef, ...], definition: InputDef) -> str:
    good = [str(index) for index, output in enumerate(outputs) if fits(output, definition)]
    return f"; use output {' or '.join(good)} instead" if good else ""


def fits(output: OutputDef, definition: InputDef) -> bool:
    """Whether ComfyUI accepts a link from an output to an input: types are comma-separated lists,
    and one in common is enough (comfy_execution/validation.py: validate_node_input)."""
    if output.type in _ANY or definition.type in _ANY:
        return True
    if definition.choices_in_type:
        unknown = definition.choices is None  # those of uploads are not kept
        return output.choices is not None and (unknown or output.choices == definition.choices)
    if output.choices is not None:
        return definition.type == "COMBO"
    if output.type == definition.type:
        return True
    made = {part.strip() for part in output.type.split(",")}
    wanted = {part.strip() for part in definition.type.split(",")}
    return "*" in made | wanted or not made.isdisjoint(wanted)


def _check_value(value: JsonValue, definition: InputDef, *, check_models: bool) -> Issue | None:
    """Convert a plain value to the input's type, then check its range and choices."""
    plain = _unwrapped(value)
    convert = _CONVERT.get(definition.type)
    try:
        converted = convert(plain) if convert else plain
        issue = _check_range(converted, definition)
    except (TypeError, ValueError, OverflowError):
        return Issue(
            code="invalid_input_type",
            message=f"{_shown(plain)} is not a valid {definition.type}; expected"
            f" {_describe(definition)}",
        )
    listed = definition.choices is not None or definition.type == "COMBO"
    if issue is None and listed and definition.upload is None:
        return _check_choice(converted, definition, check_models=check_models)
    return issue


def _unwrapped(value: JsonValue) -> Any:
    """ComfyUI's editor sends a list value as ``{"__value__": [...]}``."""
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


def _check_range(value: Any, definition: InputDef) -> Issue | None:
    if definition.minimum is not None and value < definition.minimum:
        return Issue(
            code="value_smaller_than_min",
            message=f"{value} is too small; must be at least {definition.minimum}",
        )
    if definition.maximum is not None and value > definition.maximum:
        return Issue(
            code="value_bigger_than_max",
            message=f"{value} is too large; must be at most {definition.maximum}",
        )
    return None


def _check_choice(value: JsonValue, definition: InputDef, *, check_models: bool) -> Issue | None:
    choices = definition.choices or ()
    several = definition.multiselect and isinstance(value, list)
    wrong = [
        each
        for each in (cast("list[JsonValue]", value) if several else [value])
        if each not in choices
    ]
    if not wrong:
        return None
    slashed = wrong[0].replace("\\", "/") if isinstance(wrong[0], str) else None
    if slashed != wrong[0] and slashed in choices:
        return Issue(
            code="value_not_in_list",
            message=f"{_shown(wrong[0])} has the backslashes of Windows; write {_shown(slashed)}",
        )
    of_one_server = definition.choices is None or definition.is_model_file
    if (of_one_server or is_model_name(wrong[0])) and not check_models:
        return None
    return Issue(
        code="value_not_in_list",
        message=f"{_shown(wrong[0])} is not a valid choice"
        f"{_suggestion(str(wrong[0]), map(str, choices))}; expected {_describe(definition)}",
    )


def _describe(definition: InputDef) -> str:
    """What an input accepts, for a message: ``a number from 0.0 to 100.0``, ``one of a, b``."""
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
        return "a file on the server, which has none"
    shown = ", ".join(str(choice) for choice in choices[:_SHOWN_CHOICES])
    more = len(choices) - _SHOWN_CHOICES
    return f"one of {shown}" + (f" and {more} more" if more > 0 else "")


def _suggestion(text: str, known: Iterable[str]) -> str:
    """`` (did you mean x?)`` when something is close, else empty."""
    close = difflib.get_close_matches(text, list(known), n=1, cutoff=0.75)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _shown(value: JsonValue) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 3] + "..."
