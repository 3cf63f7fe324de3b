"""Parsing of ``KEY=VALUE`` arguments, by the JSON Schema of the workflow."""

import difflib
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from comfysnap_schema.wire import FieldProblem, FileByUrl, ModelUrl

Schema = Mapping[str, Any]

_STRENGTH = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_LORA = re.compile(
    rf"(?P<name>.*?)(?::(?P<strength>{_STRENGTH})(?::(?P<clip_strength>{_STRENGTH}))?)?"
)


class InvalidArguments(Exception):
    """The arguments are not valid inputs; ``fields`` lists each problem."""

    def __init__(self, fields: Sequence[FieldProblem]) -> None:
        self.fields: tuple[FieldProblem, ...] = tuple(fields)
        super().__init__("; ".join(f"{f.field}: {f.message}" for f in self.fields))


def parse_inputs(words: Sequence[str], schema: Schema) -> dict[str, Any]:
    """Return the inputs; the server checks their ranges.

    Raises:
        InvalidArguments: An input is unknown, missing, given twice or not of its type.
    """
    known = cast("Mapping[str, Schema]", schema.get("properties", {}))
    problems: list[FieldProblem] = []
    inputs: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            problems.append(FieldProblem(field=word, message="expected KEY=VALUE"))
        elif name not in known:
            problems.append(FieldProblem(field=name, message=_unknown(name, list(known))))
        elif name in inputs and "items" not in known[name]:
            problems.append(FieldProblem(field=name, message="given more than once"))
        else:
            try:
                if "items" in known[name]:
                    inputs[name] = [*inputs.get(name, []), *_items(text, known[name]["items"])]
                else:
                    inputs[name] = _value(text, known[name])
            except ValueError as error:
                problems.append(FieldProblem(field=name, message=str(error)))
    reported = {problem.field for problem in problems}
    problems += [
        FieldProblem(field=name, message=f"missing input{_hint(known[name])}")
        for name in cast("Sequence[str]", schema.get("required", ()))
        if name not in inputs and name not in reported
    ]
    if problems:
        raise InvalidArguments(problems)
    return inputs


def _items(text: str, schema: Schema) -> list[Any]:
    """One value of a list, whose key is repeated for others; ``[]`` is an empty list."""
    return [] if text == "[]" else [_value(text, schema)]


def _value(text: str, schema: Schema) -> Any:
    if "x-kind" in schema:
        return _file(text)
    if "x-model" in schema:
        return _model(text)
    if schema.get("x-type") == "lora":
        return _lora(text, schema)
    if "enum" in schema:
        return _choice(text, cast("Sequence[Any]", schema["enum"]))
    declared = schema.get("type")
    types = cast("list[str]", declared if isinstance(declared, list) else [declared])
    if text == "null" and "null" in types and "string" not in types:
        return None
    match types[0]:  # the first type is the usual one, before a string of digits or null
        case "string":
            return text
        case "integer":
            return _number(text, int, "an integer")
        case "number":
            return _number(text, float, "a number")
        case "boolean":
            return _boolean(text)
        case _:
            return _json(text)


def _file(text: str) -> Any:
    if _is_url(text):
        return FileByUrl(url=text)
    if text == "@-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        raise ValueError(f"expected a file: @{text or 'FILE'} or a URL")
    path = Path(text[1:]).expanduser()
    if not path.is_file():
        raise ValueError(f"file not found: {path}")
    return path


def _model(text: str) -> Any:
    """A file name, a URL, or an object with a URL and its hash."""
    if _is_url(text):
        return ModelUrl(url=text)
    return _json(text) if text.startswith("{") else text


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _lora(text: str, schema: Schema) -> dict[str, Any]:
    """``NAME``, ``NAME:STRENGTH`` or ``NAME:STRENGTH:CLIP_STRENGTH``; the name may be a URL."""
    found = _LORA.fullmatch(text)
    name = found["name"] if found else text
    if not name:
        raise ValueError("expected NAME[:STRENGTH[:CLIP_STRENGTH]]")
    names = cast("Schema", schema["properties"]["name"]).get("enum")
    strengths = {key: found[key] for key in ("strength", "clip_strength")} if found else {}
    if _is_url(name):
        file = {"url": name}
    else:
        file = {"name": name if names is None else _choice(name, names)}
    return {
        **file,
        **{key: float(value) for key, value in strengths.items() if value is not None},
    }


def _choice(text: str, choices: Sequence[Any]) -> Any:
    for choice in choices:
        if text == str(choice):
            return choice
    near = difflib.get_close_matches(text, [str(choice) for choice in choices], 1, 0.5)
    shown = ", ".join(str(choice) for choice in choices[:12]) + (", ..." if choices[12:] else "")
    guess = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{text!r} is not one of {shown}{guess}")


def _number(text: str, kind: type[int] | type[float], description: str) -> int | float:
    try:
        number = kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {description}") from None
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not {description}")
    return number


def _boolean(text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True,
             "false": False, "no": False, "off": False, "0": False}  # fmt: skip
    if text.lower() not in words:
        raise ValueError(f"{text!r} is not a boolean (true or false)")
    return words[text.lower()]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    if near:
        return f"unknown input; did you mean {near[0]!r}?"
    return f"unknown input; available: {', '.join(known) or 'none'}"


def _hint(schema: Schema) -> str:
    return f" ({schema['description']})" if schema.get("description") else ""
