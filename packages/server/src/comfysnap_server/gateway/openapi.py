"""OpenAPI with the inputs, outputs and jobs of every workflow, built from the contracts."""

import copy
import re
from collections.abc import Mapping
from typing import Any, Final, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import JsonValue

from comfysnap_schema.wire import (
    PROBLEM_JSON,
    WEBHOOK_ID,
    WEBHOOK_SIGNATURE,
    WEBHOOK_TIMESTAMP,
    JobRecord,
    routes,
)
from comfysnap_schema.workflow import Parameter, Workflow, examples
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.gateway.wire_schemas import component_schemas, prose, ref

_INFER: Final = (routes.INFER_SYNC, routes.INFER_ASYNC)
_FILE: Final[dict[str, JsonValue]] = {"url": "https://example.com/picture.png"}
_KEYLESS: Final = (routes.HEALTH, routes.READY)
_OPEN_TO_LINKS: Final = (routes.EVENTS, routes.OUTPUTS)
_DESCRIPTION: Final = (
    "Runs ComfyUI workflows. Submit the inputs of a workflow with `POST /infer_async/{workflow}`,"
    " wait with `GET /check_status/{job_id}?wait=25`, and download the files that the job names."
    " Errors are problem details (RFC 9457); their `code` is stable."
)
_TAGS: Final = {
    "jobs": "Jobs of all workflows.",
    "files": "Input files, and the files that jobs made.",
    "workflows": "What the server offers, and whether it works.",
    "access": "What the caller may do and use, and links that need no key.",
}


def build_openapi(
    app: FastAPI,
    workflows: Mapping[str, Workflow],
    default: str | None,
    settings: GatewaySettings,
) -> dict[str, Any]:
    """The document: one infer path a workflow, problem responses, and how to authenticate."""
    document = get_openapi(
        title=app.title, version=app.version, routes=app.routes, description=_DESCRIPTION
    )
    paths: dict[str, Any] = document["paths"]
    for route in _INFER:
        generic = paths.pop(route + "/{workflow}")
        bare = paths.pop(route)
        if default is not None:
            paths[route] = _infer(bare, workflows[default], route[1:])
        for name, workflow in workflows.items():
            paths[f"{route}/{name}"] = _infer(generic, workflow, f"{route[1:]}_{name}")
    components: dict[str, Any] = document.setdefault("components", {})
    components["schemas"] = schemas = {
        **components.get("schemas", {}),
        **component_schemas(workflows),
    }
    for unused in ("HTTPValidationError", "ValidationError", JobRecord.__name__):
        schemas.pop(unused, None)
    for path, operations in paths.items():
        for method, operation in cast("dict[str, Any]", operations).items():
            _finish(operation, path, method)
    _point_to_jobs(paths, "Job")
    if settings.webhooks.enabled:
        document["webhooks"] = _webhooks()
    else:
        del schemas["WebhookPayload"], schemas["WebhookJob"]
    if settings.auth == "keys":
        _require_keys(document)
    titles = {name: entry.spec.description or entry.spec.title for name, entry in workflows.items()}
    document["tags"] = [
        {"name": name, "description": text} for name, text in {**titles, **_TAGS}.items()
    ]
    return document


def _require_keys(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path in _KEYLESS:
                operation["security"] = []
            elif path.startswith(_OPEN_TO_LINKS):  # a key, or the token of a link
                operation["security"] = [{"key": []}, {}]


def _webhooks() -> dict[str, Any]:
    """The request that a receiver of webhooks gets."""
    headers = {
        WEBHOOK_ID: "Names the event; the same when it is sent again",
        WEBHOOK_TIMESTAMP: "Seconds since 1970",
        WEBHOOK_SIGNATURE: "HMAC-SHA256, by the Standard Webhooks specification",
    }
    operation = {
        "operationId": "job_webhook",
        "summary": "A job ended",
        "description": "Any 2xx within 15 s accepts it; else it is sent again, for three days.",
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": text,
             "schema": {"type": "string"}}
            for name, text in headers.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ref("WebhookPayload")}},
        },
        "responses": {"2XX": {"description": "Accepted"}, "410": {"description": "Not again"}},
    }  # fmt: skip
    return {"job": {"post": operation}}


def _infer(generic: dict[str, Any], workflow: Workflow, name: str) -> dict[str, Any]:
    operation = copy.deepcopy(generic["post"])
    operation["operationId"] = name
    operation["summary"] = workflow.spec.title or workflow.name
    operation["tags"] = [workflow.name]
    operation["parameters"] = [
        found for found in operation["parameters"] if found["name"] != "workflow"
    ]
    operation["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {
                "schema": ref(f"{workflow.name}_Input"),
                "example": _example(workflow),
            }
        },
    }
    _point_to_jobs(operation["responses"], f"{workflow.name}_Job")
    return {"post": operation}


def _point_to_jobs(node: Any, name: str) -> None:
    """Make references to any job ones to ``name``."""
    if isinstance(node, dict):
        found = cast("dict[str, Any]", node)
        if found.get("$ref") == ref(JobRecord.__name__)["$ref"]:
            found.update(ref(name))
        for inner in found.values():
            _point_to_jobs(inner, name)
    elif isinstance(node, list):
        for inner in cast("list[Any]", node):
            _point_to_jobs(inner, name)


def _example(workflow: Workflow) -> dict[str, JsonValue]:
    """The shortest body that is taken."""
    return {
        name: _with_files(workflow.parameters[name], value)
        for name, value in examples(workflow).items()
    }


def _with_files(parameter: Parameter, value: JsonValue) -> JsonValue:
    if parameter.type != "file":
        return value
    return [_FILE for _ in value] if isinstance(value, list) else _FILE


def _finish(operation: dict[str, Any], path: str, method: str) -> None:
    """What FastAPI does not know, or says otherwise."""
    # it adds path and method; generators make it the name of a function
    added = re.sub(r"\W", "_", f"{path}_{method}")
    operation["operationId"] = operation["operationId"].removesuffix(added)
    operation["description"] = prose(operation["description"])
    for parameter in operation.get("parameters", ()):
        _clean_parameter(parameter)
    responses = operation["responses"]
    responses.pop("422", None)
    for response in responses.values():
        if response["description"] == "Successful Response":
            response["description"] = "Success"
        for content in response.get("content", {}).values():
            content["schema"].pop("title", None)
    responses["default"] = {
        "description": "A problem (RFC 9457)",
        "content": {PROBLEM_JSON: {"schema": ref("Problem")}},
    }


def _clean_parameter(parameter: dict[str, Any]) -> None:
    """No text is null, and names say what titles repeat."""
    schema: dict[str, Any] = parameter["schema"]
    schema.pop("title", None)
    text = schema.pop("description", None) or parameter.get("description")
    if text:
        parameter["description"] = prose(text)
    else:
        parameter.pop("description", None)
    options = [found for found in schema.get("anyOf", ()) if found != {"type": "null"}]
    if len(options) == 1:
        del schema["anyOf"]
        schema.update(options[0])
