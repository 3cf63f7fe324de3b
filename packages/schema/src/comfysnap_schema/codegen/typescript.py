"""A typed TypeScript module of all workflows, for ``@comfysnap/client``."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

from comfysnap_schema.base import DIGITS_ABOVE
from comfysnap_schema.codegen.folder import Outdated
from comfysnap_schema.codegen.schema import HEADER, camel, prose, sentence
from comfysnap_schema.wire import FILE_KINDS, KINDS, Kind, ProjectError, WorkflowError
from comfysnap_schema.workflow import (
    SPEC_FILE,
    OutputSpec,
    Parameter,
    Workflow,
    travels_as_digits,
)

_WIDTH = 100
_HEAD = f"// {HEADER}\n"

_TAKEN: Final = ("FileInput", "ModelInput")
"""Types of the client, which the input of a workflow cannot be called."""
_RESERVED: Final = {
    "arguments", "async", "await", "break", "case", "catch", "class", "const", "continue",
    "debugger", "default", "defineWorkflow", "delete", "do", "else", "enum", "eval", "export",
    "extends", "false", "finally", "for", "function", "if", "implements", "import", "in",
    "instanceof", "interface", "let", "new", "null", "package", "private", "protected",
    "public", "return", "static", "super", "switch", "this", "throw", "true", "try", "typeof",
    "undefined", "var", "void", "while", "with", "yield",
}  # fmt: skip
"""What a constant cannot be called in a module."""


def generate_typescript(workflows: Mapping[str, Workflow]) -> str:
    """One module with the input and output types of each workflow, and its descriptor.

    Args:
        workflows: By name.

    Returns:
        The source; the same workflows always give the same text.

    Raises:
        WorkflowError: ``duplicate_class``: two workflows would have types of the same name.
    """
    owners: dict[str, str] = {}
    parts: list[str] = []
    for name, workflow in sorted(workflows.items()):
        prefix = _prefix(name)
        other = owners.setdefault(prefix, name)
        if other != name:
            raise WorkflowError(
                "duplicate_class",
                f"{name!r} and {other!r} both generate the type {prefix}Input; rename one",
                file=str(workflow.folder / SPEC_FILE),
                field="name",
            )
        parts.append(_workflow(workflow, prefix))
    used = {name for workflow in workflows.values() for name in _client_types(workflow)}
    imports = ",\n  ".join(["defineWorkflow", *(f"type {name}" for name in sorted(used))])
    head = f'{_HEAD}\nimport {{\n  {imports},\n}} from "@comfysnap/client";\n'
    return "\n".join([head, *parts])


def find_outdated_typescript(path: Path, source: str) -> list[Outdated]:
    """The module at ``path`` if it differs from ``source``.

    Raises:
        ProjectError: ``not_generated``: the file was written by hand.
    """
    if not path.exists():
        return [Outdated(path, "missing")]
    present = path.read_text(encoding="utf-8", errors="replace")
    if present == source:
        return []
    if present.strip() and not present.startswith(_HEAD):
        raise ProjectError(
            "not_generated",
            "not a generated file, so it is not overwritten; choose another name",
            file=str(path),
        )
    return [Outdated(path, "changed")]


def write_typescript(path: Path, source: str) -> list[Outdated]:
    """Write ``source`` to ``path`` if that differs; return what was written.

    Raises:
        ProjectError: ``not_generated``.
    """
    outdated = find_outdated_typescript(path, source)
    for item in outdated:
        item.path.parent.mkdir(parents=True, exist_ok=True)
        item.path.write_text(source, encoding="utf-8", newline="\n")
    return outdated


def _prefix(name: str) -> str:
    """What the names of a workflow's types begin with."""
    prefix = camel(name)
    return f"{prefix}Workflow" if f"{prefix}Input" in _TAKEN else prefix


def _constant(name: str) -> str:
    """The name of a workflow's descriptor."""
    first, *others = name.split("_")
    constant = first + "".join(part.capitalize() for part in others)
    return f"{constant}Workflow" if constant in _RESERVED else constant


def _client_types(workflow: Workflow) -> Iterator[str]:
    """The types of the client that a workflow's types use."""
    for found in (
        *(_client_type(parameter) for parameter in workflow.parameters.values()),
        *(KINDS[spec.kind].model for spec in workflow.outputs.values()),
    ):
        if found is not None:
            yield found


def _client_type(parameter: Parameter) -> str | None:
    """The type of the client for a value of a parameter, if it is not one of the language."""
    if parameter.type == "loras":
        return "NamedLora" if parameter.folder is None else "Lora"
    if _is_choice(parameter):
        return None
    return {"file": "FileInput", "model": "ModelInput", "json": "JsonValue"}.get(parameter.type)


def _is_choice(parameter: Parameter) -> bool:
    return parameter.choices is not None and parameter.type not in ("file", "model", "loras")


def _workflow(workflow: Workflow, prefix: str) -> str:
    name = workflow.name
    parameters = list(workflow.parameters.values())
    inputs = [
        _property(p.name, _input_type(p), _input_comment(p), optional=not p.required)
        for p in parameters
    ]
    outputs = [
        _property(key, _output_type(spec), spec.description)
        for key, spec in workflow.outputs.items()
    ]
    rules = {
        "name": name,
        "contract": workflow.contract.hash,
        "inputs": {p.name: _rule(p) for p in parameters},
        "outputs": {key: _output_rule(spec) for key, spec in workflow.outputs.items()},
    }
    title = sentence(workflow.spec.title or name)
    about = _comment("\n\n".join(filter(None, (title, workflow.spec.description))), 0)
    call = f"export const {_constant(name)} = defineWorkflow<{prefix}Input, {prefix}Output>("
    return (
        f"{_comment(f'Inputs of `{name}`.', 0)}{_interface(f'{prefix}Input', inputs)}\n"
        f"{_comment(f'Outputs of `{name}`.', 0)}{_interface(f'{prefix}Output', outputs)}\n"
        f"{about}{call}{_literal(rules, 0, _WIDTH)});\n"
    )


def _interface(name: str, properties: list[str]) -> str:
    if not properties:
        return f"export type {name} = Record<string, never>;\n"
    return f"export interface {name} {{\n{''.join(properties)}}}\n"


def _property(name: str, types: list[str], comment: str, *, optional: bool = False) -> str:
    head = f"  readonly {name}{'?' if optional else ''}:"
    line = f"{head} {' | '.join(types)};"
    if len(line) > _WIDTH:
        line = "\n    | ".join([head, *types]) + ";"
    return f"{_comment(comment, 2)}{line}\n"


def _comment(text: str, indent: int) -> str:
    """A wrapped JSDoc comment for any text; empty for an empty text."""
    printable = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    escaped = printable.replace("*/", "*\\/").strip()
    if not escaped:
        return ""
    margin = " " * indent
    if "\n" not in escaped and len(margin) + len(escaped) + len("/**  */") <= _WIDTH:
        return f"{margin}/** {escaped} */\n"
    room = _WIDTH - indent - len(" * ")
    lines = [
        wrapped
        for line in escaped.split("\n")
        for wrapped in textwrap.wrap(
            line.strip(), room, break_long_words=False, break_on_hyphens=False
        )
        or [""]
    ]
    body = "".join(f"{margin} * {line}".rstrip() + "\n" for line in lines)
    return f"{margin}/**\n{body}{margin} */\n"


def _input_comment(parameter: Parameter) -> str:
    default = parameter.default
    text = prose(parameter)
    return text if default is None else f"{text}\n@defaultValue {_scalar(default)}"


def _input_type(parameter: Parameter) -> list[str]:
    types = _item_type(parameter)
    if parameter.is_list:
        types = [f"ReadonlyArray<{' | '.join(types)}>"]
    return [*types, "null"] if parameter.nullable and types != ["JsonValue"] else types


def _item_type(parameter: Parameter) -> list[str]:
    choices = list(dict.fromkeys(_scalar(choice) for choice in parameter.choices or ()))
    if _is_choice(parameter):
        return choices
    if travels_as_digits(parameter):
        return ["number", "bigint", "`${bigint}`"]
    plain = "number" if parameter.type == "integer" else parameter.type
    name = _client_type(parameter) or plain
    return [f"{name}<{' | '.join(choices)}>" if choices else name]


def _rule(parameter: Parameter) -> dict[str, Any]:
    bounded = not _is_choice(parameter)
    type_ = parameter.type.removesuffix("s") if bounded else "choice"  # loras: of each item
    length = (parameter.min_items, parameter.max_items)
    rule: dict[str, Any] = {
        "type": type_,
        "required": parameter.required or None,
        "nullable": parameter.nullable or None,
        "items": list(length) if parameter.is_list else None,
        "digits": travels_as_digits(parameter) or None,
        "minimum": _bound(parameter.minimum) if bounded else None,
        "maximum": _bound(parameter.maximum) if bounded else None,
        "multipleOf": parameter.multiple_of if bounded else None,
        "maxLength": parameter.max_length if bounded else None,
        "choices": list(parameter.choices or ()) or None,
        "urls": (type_ == "lora" and parameter.folder is not None) or None,
    }
    return {key: value for key, value in rule.items() if value is not None}


def _bound(bound: float | None) -> float | str | None:
    """A bound; digits where a number of JavaScript cannot hold it."""
    is_exact = bound is None or isinstance(bound, float) or abs(bound) < DIGITS_ABOVE
    return bound if is_exact else str(bound)


def _output_type(spec: OutputSpec) -> list[str]:
    one = KINDS[spec.kind].model or "string"
    return [f"ReadonlyArray<{one}>" if spec.many else one]


def _output_rule(spec: OutputSpec) -> str:
    rule = "file" if spec.kind in FILE_KINDS else "text" if spec.kind is Kind.TEXT else "json"
    return f"{rule}s" if spec.many else rule


def _literal(value: Any, indent: int, room: int) -> str:
    """A JavaScript literal on one line if it has ``room``, else with a line for each item."""
    if not isinstance(value, dict | list) or not value:
        return _scalar(cast("Any", value))
    margin = " " * (indent + 2)
    if isinstance(value, dict):
        given = [(f"{key}: ", item) for key, item in cast("dict[str, Any]", value).items()]
        opening, closing, space = "{", "}", " "
    else:
        given = [("", item) for item in cast("list[Any]", value)]
        opening, closing, space = "[", "]", ""
    nested = indent > 0  # the rules of a workflow are never on one line
    one_line = ", ".join(f"{key}{_literal(item, indent, 10**6)}" for key, item in given)
    if nested and len(one_line) + 4 <= room:
        return f"{opening}{space}{one_line}{space}{closing}"
    lines = "".join(
        f"{margin}{key}{_literal(item, indent + 2, _WIDTH - len(margin + key) - 1)},\n"
        for key, item in given
    )
    return f"{opening}\n{lines}{' ' * indent}{closing}"


def _scalar(value: Any) -> str:
    """A literal that has only printable characters."""
    if isinstance(value, float) and value.is_integer() and abs(value) < DIGITS_ABOVE:
        value = int(value)
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in text)
