"""``KEY=VALUE`` words into inputs, by the JSON Schema that the server tells; pure but for stdin."""

import difflib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from comfysnap_schema.wire import FieldProblem, FileByUrl

Schema = Mapping[str, Any]


class WrongInputs(Exception):
    """The words do not fit the workflow; ``fields`` names each."""

    def __init__(self, fields: Sequence[FieldProblem]) -> None:
        self.fields: tuple[FieldProblem, ...] = tuple(fields)
        super().__init__("; ".join(f"{f.field}: {f.message}" for f in self.fields))


def parse_inputs(words: Sequence[str], schema: Schema) -> dict[str, Any]:
    """The inputs that the words tell; ranges are left to the server.

    Raises:
        WrongInputs: Something is no input of the workflow, missing, or not of its type.
    """
    known = cast("Mapping[str, Schema]", schema.get("properties", {}))
    found: list[FieldProblem] = []
    inputs: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            found.append(FieldProblem(field=word, message="write it as KEY=VALUE"))
        elif name not in known:
            found.append(FieldProblem(field=name, message=_unknown(name, list(known))))
        elif name in inputs:
            found.append(FieldProblem(field=name, message="is given twice"))
        else:
            try:
                inputs[name] = _value(text, known[name])
            except ValueError as error:
                found.append(FieldProblem(field=name, message=str(error)))
    told = {problem.field for problem in found}
    found += [
        FieldProblem(field=name, message=f"is missing{_hint(known[name])}")
        for name in cast("Sequence[str]", schema.get("required", ()))
        if name not in inputs and name not in told
    ]
    if found:
        raise WrongInputs(found)
    return inputs


def _value(text: str, schema: Schema) -> Any:
    if "x-kind" in schema:
        return _file(text)
    if "enum" in schema:
        return _choice(text, cast("Sequence[Any]", schema["enum"]))
    told = schema.get("type")
    types = cast("list[str]", told if isinstance(told, list) else [told])
    if text == "null" and "null" in types and "string" not in types:
        return None
    match types[0]:  # the plain form stands first: before digits as a string, before null
        case "string":
            return text
        case "integer":
            return _number(text, int, "a whole number")
        case "number":
            return _number(text, float, "a number")
        case "boolean":
            return _boolean(text)
        case _:
            return _json(text)


def _file(text: str) -> Any:
    if text.startswith(("http://", "https://")):
        return FileByUrl(url=text)
    if text == "@-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        raise ValueError(f"is a file: write @{text or 'FILE'} or give a URL")
    path = Path(text[1:]).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    return path


def _choice(text: str, choices: Sequence[Any]) -> Any:
    for choice in choices:
        if text == str(choice):
            return choice
    near = difflib.get_close_matches(text, [str(choice) for choice in choices], 1, 0.5)
    shown = ", ".join(str(choice) for choice in choices[:12]) + (", ..." if choices[12:] else "")
    guess = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{text!r} is none of {shown}{guess}")


def _number(text: str, kind: type[int] | type[float], called: str) -> int | float:
    try:
        number = kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {called}") from None
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not {called}")
    return number


def _boolean(text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True,
             "false": False, "no": False, "off": False, "0": False}  # fmt: skip
    if text.lower() not in words:
        raise ValueError(f"{text!r} is neither true nor false")
    return words[text.lower()]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    if near:
        return f"is no input; did you mean {near[0]!r}?"
    return f"is no input; there are {', '.join(known)}" if known else "is no input; there are none"


def _hint(schema: Schema) -> str:
    return f" ({schema['description']})" if schema.get("description") else ""
