"""OpenAPI with the inputs of every workflow, built from the contracts."""

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
    Problem,
    WebhookPayload,
    routes,
)
from comfysnap_schema.workflow import Parameter, Workflow, examples
from comfysnap_server.gateway.settings import GatewaySettings

_INFER: Final = (routes.INFER_SYNC, routes.INFER_ASYNC)
_FILE: Final[dict[str, JsonValue]] = {"url": "https://example.com/picture.png"}


def build_openapi(
    app: FastAPI,
    workflows: Mapping[str, Workflow],
    default: str | None,
    settings: GatewaySettings,
) -> dict[str, Any]:
    """The document: one infer path a workflow, problem responses, and how to authenticate."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    paths: dict[str, Any] = document["paths"]
    for route in _INFER:
        generic = paths.pop(route + "/{workflow}")
        bare = paths.pop(route)
        if default is not None:
            paths[route] = _infer(bare, workflows[default], route[1:])
        for name, workflow in workflows.items():
            paths[f"{route}/{name}"] = _infer(generic, workflow, f"{route[1:]}_{name}")
    components: dict[str, Any] = document.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}), Problem=problem)
    schemas.update(
        {f"{name}.input": entry.contract.input_schema for name, entry in workflows.items()}
    )
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path, operations in paths.items():
        for method, operation in cast("dict[str, Any]", operations).items():
            _set_errors(operation)
            # FastAPI adds path and method; generators make it the name of a function
            added = re.sub(r"\W", "_", f"{path}_{method}")
            operation["operationId"] = operation["operationId"].removesuffix(added)
    if settings.webhooks.enabled:
        document["webhooks"] = _webhooks(schemas)
    if settings.auth == "keys":
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _webhooks(schemas: dict[str, Any]) -> dict[str, Any]:
    """The request that a receiver of webhooks gets."""
    payload = WebhookPayload.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update({**payload.pop("$defs", {}), **schemas}, WebhookPayload=payload)
    headers = {
        WEBHOOK_ID: "Names the event; the same when it is sent again",
        WEBHOOK_TIMESTAMP: "Seconds since 1970",
        WEBHOOK_SIGNATURE: "HMAC-SHA256, by the Standard Webhooks specification",
    }
    operation = {
        "summary": "A job ended",
        "description": "Any 2xx within 15 s accepts it; else it is sent again, for three days.",
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": text,
             "schema": {"type": "string"}}
            for name, text in headers.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/WebhookPayload"}}
            },
        },
        "responses": {"2XX": {"description": "Accepted"}, "410": {"description": "Not again"}},
    }  # fmt: skip
    return {"job": {"post": operation}}


def _infer(generic: dict[str, Any], workflow: Workflow, name: str) -> dict[str, Any]:
    operation = dict(generic["post"])
    operation["operationId"] = name
    operation["summary"] = workflow.spec.title or workflow.name
    operation["tags"] = [workflow.name]
    operation["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": f"#/components/schemas/{workflow.name}.input"},
                "example": _example(workflow),
            }
        },
    }
    return {"post": operation}


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


def _set_errors(operation: dict[str, Any]) -> None:
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = {
        "description": "A problem (RFC 9457)",
        "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
