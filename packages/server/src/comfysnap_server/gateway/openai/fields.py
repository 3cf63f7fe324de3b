"""The fields of OpenAI's image requests, and the inputs of a workflow that they set."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic import JsonValue

from comfysnap_schema.wire import FieldProblem, Kind
from comfysnap_schema.workflow import Parameter, Workflow
from comfysnap_server.gateway.json_bodies import parse_json
from comfysnap_server.gateway.problems import ProblemError, invalid_input

_LONGEST_JSON: Final = 64 * 1024
"""Characters of a form's text that is parsed: it holds up other requests meanwhile."""
_SIZE: Final = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_COUNTS: Final = ("count", "batch_size", "n")
"""Inputs that ``n`` sets, the first that there is."""
_IGNORED: Final = frozenset({
    "quality", "background", "moderation", "style", "complexity", "user", "safety_identifier",
    "input_fidelity",
})  # fmt: skip
"""Fields without a meaning here, unless the workflow has an input of that name."""
_AUTOMATIC: Final = _IGNORED | {"size", "output_format"}
"""Fields that may be ``auto``."""
_FORMATS: Final = ("png", "jpeg", "webp")
MAX_PARTIAL_IMAGES: Final = 3


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """What a request asks for besides the inputs of the workflow."""

    inputs: dict[str, JsonValue]
    response_format: str | None = None
    """``url`` or ``b64_json``; None: both."""
    output_format: str | None = None
    compression: int = 100
    stream: bool = False
    partial_images: int = 0
    fields: dict[str, str] = field(default_factory=dict[str, str])
    """Input to the field of the request that set it, where the names differ."""

    def renamed(self, error: ProblemError) -> ProblemError:
        """A refusal that names the fields of the request."""
        problems = tuple(
            problem.model_copy(
                update={"field": self.fields.get(problem.field or "", problem.field)}
            )
            for problem in error.fields
        )
        if problems == error.fields:
            return error
        renamed = invalid_input(*problems)
        renamed.code, renamed.status, renamed.headers = error.code, error.status, error.headers
        return renamed


def read_request(workflow: Workflow, body: Mapping[str, JsonValue]) -> ImageRequest:
    """The request of a body without ``model``; null, and ``auto`` where OpenAI has
    it, are as if left out.

    Raises:
        ProblemError: ``invalid_input``; it names the field.
    """
    given: dict[str, JsonValue] = {
        name: value
        for name, value in body.items()
        if value is not None and not (value == "auto" and name in _AUTOMATIC)
    }
    inputs: dict[str, JsonValue] = {}
    fields: dict[str, str] = {}
    if "prompt" in given:
        name = prompt_of(workflow)
        if name is None:
            raise _refused("prompt", f"workflow {workflow.name!r} has no text input")
        inputs[name] = given.pop("prompt")
        fields[name] = "prompt"
    _set_size(workflow, given.pop("size", None), inputs, fields)
    _set_count(workflow, given.pop("n", None), inputs, fields)
    request = ImageRequest(
        inputs=inputs,
        fields=fields,
        response_format=_choice(given, "response_format", ("url", "b64_json")),
        output_format=_choice(given, "output_format", _FORMATS),
        compression=_integer(given, "output_compression", 0, 100, default=100),
        stream=_flag(given, "stream"),
        partial_images=_integer(given, "partial_images", 0, MAX_PARTIAL_IMAGES, default=0),
    )
    for name, value in given.items():
        if name in workflow.parameters and name not in inputs:
            inputs[name] = value
        elif name not in _IGNORED:
            known = ", ".join(workflow.parameters)
            raise _refused(name, f"unknown input of workflow {workflow.name!r}; available: {known}")
    return request


def set_files(
    workflow: Workflow,
    name: Literal["image", "mask"],
    digests: list[str],
    body: dict[str, JsonValue],
) -> None:
    """Put uploaded files into the inputs of their kind, in the order of the workflow.

    Raises:
        ProblemError: ``invalid_input``: it takes fewer.
    """  # fmt: skip
    left: list[JsonValue] = [{"sha256": digest} for digest in digests]
    for parameter in workflow.parameters.values():
        if parameter.type != "file" or parameter.kind != Kind(name) or not left:
            continue
        if parameter.is_list:
            body[parameter.name], left = left[: parameter.max_items], left[parameter.max_items :]
        else:
            body[parameter.name] = left.pop(0)
    if left:
        count = len(digests) - len(left)
        raise _refused(
            name, f"workflow {workflow.name!r} takes {count} of these, not {len(digests)}"
        )


def typed_values(workflow: Workflow, form: Mapping[str, str]) -> dict[str, JsonValue]:
    """Values of a form, in which all are text, as the contract has them."""
    return {
        name: text if _is_text(workflow.parameters.get(name), name) else _parsed(text)
        for name, text in form.items()
    }


def prompt_of(workflow: Workflow) -> str | None:
    """The input that ``prompt`` sets: the one of that name, or the only required text."""
    if "prompt" in workflow.parameters:
        return "prompt"
    texts = [p.name for p in workflow.parameters.values() if p.type == "string" and p.required]
    return texts[0] if len(texts) == 1 else None


def image_outputs(workflow: Workflow) -> list[str]:
    """Names of the outputs that are images."""
    return [name for name, spec in workflow.outputs.items() if spec.kind is Kind.IMAGE]


def _is_text(parameter: Parameter | None, name: str) -> bool:
    if parameter is not None:
        return parameter.type in ("string", "model")
    return name not in ("n", "stream", "partial_images", "output_compression")


def _parsed(text: str) -> JsonValue:
    if len(text) > _LONGEST_JSON:
        return text
    try:
        return parse_json(text.encode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return text


def _set_size(
    workflow: Workflow, size: JsonValue, inputs: dict[str, JsonValue], fields: dict[str, str]
) -> None:
    if size is None:
        return
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None:
        raise _refused("size", "must be WIDTHxHEIGHT, for example 1024x1024, or auto")
    if not {"width", "height"} <= workflow.parameters.keys():
        raise _refused("size", f"workflow {workflow.name!r} has a fixed size; leave it out")
    inputs.update(width=int(found[1]), height=int(found[2]))
    fields.update(width="size", height="size")


def _set_count(
    workflow: Workflow, count: JsonValue, inputs: dict[str, JsonValue], fields: dict[str, str]
) -> None:
    if count is None:
        return
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise _refused("n", "must be an integer of at least 1")
    name = next((name for name in _COUNTS if name in workflow.parameters), None)
    if name is not None:
        inputs[name] = count
        fields[name] = "n"
    elif count > 1:
        raise _refused("n", f"workflow {workflow.name!r} makes one image at a time")


def _choice(given: dict[str, JsonValue], name: str, choices: Collection[str]) -> str | None:
    value = given.pop(name, None)
    if value is not None and (not isinstance(value, str) or value not in choices):
        raise _refused(name, f"must be one of {', '.join(choices)}")
    return value


def _integer(given: dict[str, JsonValue], name: str, low: int, high: int, *, default: int) -> int:
    value = given.pop(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _refused(name, f"must be an integer from {low} to {high}")
    return value


def _flag(given: dict[str, JsonValue], name: str) -> bool:
    value = given.pop(name, False)
    if not isinstance(value, bool):
        raise _refused(name, "must be true or false")
    return value


def _refused(name: str, message: str) -> ProblemError:
    return invalid_input(FieldProblem(field=name[:100], message=message))
