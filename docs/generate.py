"""Write what docs/reference includes: settings, commands, OpenAPI, error codes, Python names.

uv run python docs/generate.py FOLDER
"""

import ast
import dataclasses
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, cast, get_args, get_origin

import typer
from pydantic import BaseModel, PlainValidator, TypeAdapter

import comfysnap_client
import comfysnap_schema.models
from comfysnap_schema.cli import build_app
from comfysnap_schema.wire import ErrorCode
from comfysnap_schema.workflow import Workflow
from comfysnap_schema.workflow.map import InputSpec, OutputSpec, WorkflowSpec
from comfysnap_schema.workflow.project import ProjectTable
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.deploy.settings.containers import WorkerSettings
from comfysnap_server.deploy.settings.pools import PoolSettings
from comfysnap_server.deploy.settings.table import DeploySettings
from comfysnap_server.gateway import create_app
from comfysnap_server.gateway.openapi import build_openapi
from comfysnap_server.gateway.problems import STATUS_OF
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.jobs import WebhookSettings
from comfysnap_server.serve_settings import ServeSettings

ROOT: Final = Path(__file__).parents[1]
_TOML_TYPES: Final = {
    "string": "string", "integer": "integer", "number": "number", "boolean": "boolean",
    "object": "table", "array": "array",
}  # fmt: skip


# -- settings


class Setting(NamedTuple):
    """One key of a table."""

    name: str
    annotation: Any
    default: Any
    """``...`` if the key is required."""
    text: str


def settings_of(model: type[Any]) -> list[Setting]:
    """The keys of a model or a dataclass, in the order in which they are declared."""
    texts = field_docs(model)
    if dataclasses.is_dataclass(model):
        return [
            Setting(
                each.name, _resolved(model)[each.name], _default(each), texts.get(each.name, "")
            )
            for each in dataclasses.fields(model)
        ]
    found: list[Setting] = []
    for name, info in cast("type[BaseModel]", model).model_fields.items():
        annotation = (
            Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        )
        default = ... if info.is_required() else info.get_default(call_default_factory=True)
        found.append(Setting(name, annotation, default, texts.get(name, "")))
    return found


def _resolved(model: type[Any]) -> dict[str, Any]:
    from typing import get_type_hints

    return get_type_hints(model, include_extras=True)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return ... if field.default_factory is dataclasses.MISSING else field.default_factory()


@cache
def field_docs(model: type[Any]) -> dict[str, str]:
    """The docstrings below the fields of a class and its bases."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if cls.__module__.startswith("comfysnap"):
            found.update(_own_docs(cls))
    return found


def _own_docs(cls: type[Any]) -> dict[str, str]:
    body = cast("ast.ClassDef", ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]).body
    found: dict[str, str] = {}
    for field, doc in pairwise(body):
        target = (
            field.targets[0] if isinstance(field, ast.Assign) else getattr(field, "target", None)
        )
        if isinstance(target, ast.Name) and isinstance(doc, ast.Expr):
            text = doc.value.value if isinstance(doc.value, ast.Constant) else None
            if isinstance(text, str):
                found[target.id] = inspect.cleandoc(text)
    return found


def table_of(annotation: Any) -> tuple[type[Any], str] | None:
    """The model that a key holds, and how: ``one``, ``list`` or ``dict``. None: a plain value."""
    origin = get_origin(annotation)
    arguments = [each for each in get_args(annotation) if each is not type(None)]
    if origin is Annotated:
        return table_of(arguments[0])
    if origin in (list, dict):
        inner = table_of(arguments[-1])
        return (inner[0], origin.__name__) if inner else None
    if isinstance(annotation, type):
        cls = cast("type[Any]", annotation)
        if issubclass(cls, BaseModel) or dataclasses.is_dataclass(cls):
            return cls, "one"
    return None


def schema_of(annotation: Any) -> dict[str, Any]:
    """The JSON Schema of a value; amounts that Modal takes in two forms have none of their own."""
    if any(isinstance(each, PlainValidator) for each in get_args(annotation)):
        return {"anyOf": [{"type": "number"}, {"const": ["request", "limit"]}]}
    return TypeAdapter(annotation).json_schema()


def type_text(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """What a value is, in the words of TOML."""
    if "$ref" in schema:
        schema = whole["$defs"][schema["$ref"].rpartition("/")[2]]
    if alternatives := schema.get("anyOf"):
        texts = [type_text(each, whole) for each in alternatives if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(texts))
    if values := schema.get("enum"):
        return ", ".join(f"`{json.dumps(value)}`" for value in values)
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "prefixItems" in schema:
        return "array"
    kind = _TOML_TYPES.get(str(schema.get("type")), "any value")
    if schema.get("format") == "path":
        kind = "path"
    if kind == "array" and schema.get("items"):
        return f"array of {type_text(schema['items'], whole)}"
    return kind


def limit_text(schema: Mapping[str, Any]) -> str:
    """What a value must keep to."""
    for branch in schema.get("anyOf", ()):
        if branch.get("type") != "null" and (text := limit_text(branch)):
            return text
    low, high = schema.get("minimum"), schema.get("maximum")
    above = schema.get("exclusiveMinimum")
    if low is not None and high is not None:
        return f"{low} to {high}"
    parts = [
        f"at least {low}" if low is not None else "",
        f"at most {high}" if high is not None else "",
        f"above {above}" if above is not None else "",
        f"at least {schema['minItems']} item" if "minItems" in schema else "",
        f"at most {schema['maxLength']} characters" if "maxLength" in schema else "",
        f"`{schema['pattern']}`" if "pattern" in schema else "",
    ]
    return ", ".join(part for part in parts if part)


def toml(value: Any) -> str:
    """A default as it would stand in the file; empty for None."""
    if value is None:
        return ""
    if value is ...:
        return "required"
    adapter: TypeAdapter[Any] = TypeAdapter(cast("type[Any]", type(value)))
    return f"`{json.dumps(adapter.dump_python(value, mode='json'))}`"


def cell(text: str) -> str:
    """A docstring as the cell of a table."""
    text = re.sub(r"\bNone: ", "Left out: ", code(" ".join(text.split())))
    return text.replace("|", "\\|")


def code(text: str) -> str:
    """Python's double backticks as those of Markdown."""
    return re.sub(r"``([^`]*)``", r"`\1`", text)


def rows(settings: list[Setting]) -> str:
    """A table of keys."""
    lines = ["| key | type | default | |", "|---|---|---|---|"]
    for each in settings:
        schema = schema_of(each.annotation)
        shown = ", ".join(filter(None, [type_text(schema, schema), limit_text(schema)]))
        cells = [f"`{each.name}`", shown, toml(each.default), each.text]
        lines.append("| " + " | ".join(cell(each) for each in cells) + " |")
    return "\n".join(lines)


def tables(name: str, model: type[Any], how: str = "one") -> Iterator[str]:
    """Sections for a table of ``comfysnap.toml`` and those inside of it."""
    heading = {"list": f"[[{name}]]", "dict": f"[{name}.NAME]"}.get(how, f"[{name}]")
    yield f"## {f'`{heading}`' if name else 'Top level'}"
    inner: list[tuple[str, type[Any], str]] = []
    plain: list[Setting] = []
    for each in settings_of(model):
        table = table_of(each.annotation)
        if each.name in ("serve", "deploy") and model is ProjectTable:
            settings = ServeSettings if each.name == "serve" else DeploySettings
            inner.append((each.name, settings, "one"))
        elif table is not None:
            inner.append((f"{name}.{each.name}".strip("."), *table))
        elif model is not PoolSettings or each.name not in WorkerSettings.model_fields:
            plain.append(each)
    text = inspect.cleandoc(model.__doc__ or "") if model is not ProjectTable else ""
    if text := re.sub(r"^`\[.*?\]`[:.] ?", "", code(text)):
        yield text[0].upper() + text[1:]
    yield rows(plain)
    if model is PoolSettings:
        shared = ", ".join(f"`{key}`" for key in WorkerSettings.model_fields)
        yield f"Also, as in `[deploy]`: {shared}."
    for each in inner:
        yield from tables(*each)


def comfysnap_toml() -> str:
    """Every table of ``comfysnap.toml``."""
    return "\n\n".join(tables("", ProjectTable))


def workflow_toml() -> str:
    """Every table of ``workflow.toml``."""
    top = [each for each in settings_of(WorkflowSpec) if each.name not in ("inputs", "outputs")]
    return "\n\n".join([
        "## Top level", rows(top),
        "## `[inputs.NAME]`", "One API parameter. Keys that are left out come from the graph and "
        "the node catalogue.", rows(settings_of(InputSpec)),
        "## `[outputs.NAME]`", "One named output, read from one output node.",
        rows(settings_of(OutputSpec)),
    ])  # fmt: skip


# -- commands


def commands() -> str:
    """Every command with its arguments and options."""
    group: Any = typer.main.get_command(build_app())
    return "\n\n".join(_command(group, "comfysnap", 2))


def _command(command: Any, name: str, level: int) -> Iterator[str]:
    inner: dict[str, Any] = getattr(command, "commands", {})
    if level > 2 or not inner:
        yield f"{'#' * level} `{name}`"
        yield _prose(command.help or "")
        parameters = (
            [each for each in command.params if not each.hidden and each.name != "help"]
            if (not inner)
            else []
        )
        if parameters:
            lines = ["| argument or option | default | |", "|---|---|---|"]
            lines += [_parameter(each) for each in parameters]
            yield "\n".join(lines)
    for each in sorted(inner):
        yield from _command(inner[each], f"{name} {each}", 2 if level == 2 else 3)


def _prose(text: str) -> str:
    text = re.sub(r"\\\[", "[", inspect.cleandoc(text)).replace("\b\n", "")
    return re.sub(r"^Example: (.*)", r"Example: `\1`", text, flags=re.MULTILINE)


def _value(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return "|".join(annotation)
    inner = get_args(annotation)
    kind = cast("Any", inner[0] if inner else annotation)
    return {int: "N", float: "SECONDS", Path: "PATH"}.get(kind, "TEXT")


def _shown_default(each: Any) -> str:
    if each.default is True:
        return f"`{each.opts[0]}`"
    return "" if each.default in (None, False, (), "") else f"`{each.default!s}`"


def _parameter(each: Any) -> str:
    if each.param_type_name == "argument":
        name = f"`{each.metavar or each.name.upper()}`"
    else:
        names = ", ".join(each.opts + each.secondary_opts)
        value = (
            "" if each.is_flag else f" {each.metavar or _value(each.type_descriptor.annotation)}"
        )
        name = f"`{names}{value}`"
    shown = "required" if each.required else _shown_default(each)
    text = each.help or ""
    if each.envvar:
        text += f" Environment: `{each.envvar}`."
    cells = (name, shown, re.sub(r"\\\[", "[", text))
    return "| " + " | ".join(cell(each) for each in cells) + " |"


# -- HTTP


def http_api() -> str:
    """The routes and their schemas, from the OpenAPI document of a server with one workflow."""
    workflow = Workflow.load(ROOT / "workflows" / "hello")
    settings = GatewaySettings(webhooks=WebhookSettings(hosts=("hooks.example.com",)))
    app = create_app(LocalBackend(Path("unused")), {"hello": workflow}, settings)
    document = build_openapi(app, {"hello": workflow}, None, settings)
    parts: list[str] = ["## Routes"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path in ("/infer_sync", "/infer_async"):
                continue
            shown = path.replace("/hello", "/{workflow}")
            parts += [f"### `{method.upper()} {shown}`", *_operation(operation)]
    parts.append("## Schemas")
    for name, schema in sorted(document["components"]["schemas"].items()):
        if not name.startswith("hello_") and schema.get("properties"):
            parts += [f"### {name}", _described(schema), _fields(schema)]
    return "\n\n".join(part for part in parts if part)


def _operation(operation: Mapping[str, Any]) -> Iterator[str]:
    yield _described(operation)
    if parameters := operation.get("parameters"):
        lines = ["| parameter | in | type | |", "|---|---|---|---|"]
        for each in parameters:
            cells = (f"`{each['name']}`", each["in"], _json_type(each["schema"]),
                     each.get("description", ""))  # fmt: skip
            lines.append("| " + " | ".join(cell(each) for each in cells) + " |")
        yield "\n".join(lines)
    lines = ["| status | |", "|---|---|"]
    for status, response in operation["responses"].items():
        lines.append(f"| {status} | {cell(response.get('description', ''))} |")
    yield "\n".join(lines)


def _described(schema: Mapping[str, Any]) -> str:
    return schema.get("description", "").replace("hello", "{workflow}")


def _fields(schema: Mapping[str, Any]) -> str:
    lines = ["| field | type | |", "|---|---|---|"]
    for name, field in schema["properties"].items():
        cells = (f"`{name}`", _json_type(field), field.get("description", ""))
        lines.append("| " + " | ".join(cell(each) for each in cells) + " |")
    return "\n".join(lines)


def _json_type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "object" if name.startswith("hello_") else name
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_json_type(each) for each in schema[key]))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_json_type(schema.get('items', {}))}"
    return str(schema.get("type", "any value"))


# -- errors and Python


def error_codes() -> str:
    """Every code with its status, cause and cure."""
    lines = ["| code | status | cause | cure |", "|---|---|---|---|"]
    for code, (cause, cure) in causes_and_cures().items():
        cells = (f"`{code}`", str(STATUS_OF.get(code, "")), cause, cure)
        lines.append("| " + " | ".join(cell(each) for each in cells) + " |")
    return "\n".join(lines)


def causes_and_cures() -> dict[ErrorCode, tuple[str, str]]:
    """Code to its cause and its cure, as they stand below the members of the enum."""
    texts = _own_docs(ErrorCode)
    found: dict[ErrorCode, tuple[str, str]] = {}
    for code in ErrorCode:
        matched = re.fullmatch(r"Cause: (.+)\nCure: (.+)", texts.get(code.name, ""), re.DOTALL)
        if matched is None:
            sys.exit(f"ErrorCode.{code.name}: missing docstring with `Cause: ...` and `Cure: ...`")
        found[code] = (_sentence(matched[1]), _sentence(matched[2]))
    return found


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def python_client() -> str:
    """Everything that ``comfysnap_client`` exports, for mkdocstrings."""
    names = [
        name for name in comfysnap_client.__all__ if not hasattr(comfysnap_schema.models, name)
    ]
    first = ["Client", "Job"]
    errors = [name for name in names if _is_error(name)]
    others = [name for name in names if name not in (*first, *errors)]
    testing = ["MockServer", "Scenario", "Call", "WebhookRequest", "mock_server"]
    return "\n\n".join([
        "## The client", *[f"::: comfysnap_client.{name}" for name in first],
        "## Without `await`", "::: comfysnap_client.blocking.Client",
        "::: comfysnap_client.blocking.Job",
        "## Policies, events and values", *[f"::: comfysnap_client.{name}" for name in others],
        "## Errors", *[f"::: comfysnap_client.{name}" for name in errors],
        "## Testing", *[f"::: comfysnap_client.testing.{name}" for name in testing],
        "## Used by generated modules",
        *[f"::: comfysnap_schema.models.{name}" for name in comfysnap_schema.models.__all__
          if name not in ("Field", "JsonValue")],
    ])  # fmt: skip


def _is_error(name: str) -> bool:
    value = getattr(comfysnap_client, name)
    return isinstance(value, type) and issubclass(value, Exception)


PARTS: Final = {
    "workflow-toml": workflow_toml,
    "comfysnap-toml": comfysnap_toml,
    "http-api": http_api,
    "commands": commands,
    "python": python_client,
    "errors": error_codes,
}


def write(folder: Path) -> None:
    """Write each part into a file that its page includes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        (folder / f"{name}.md").write_text(part() + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
