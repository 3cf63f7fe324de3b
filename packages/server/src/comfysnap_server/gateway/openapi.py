"""OpenAPI with the inputs of every workflow, built from the contracts."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, cast

from fastapi import FastAPI, Header
from fastapi.openapi.utils import get_openapi
from pydantic import JsonValue

from comfysnap_schema.wire import PROBLEM_JSON, Problem, WebhookPayload, routes
from comfysnap_schema.workflow import Workflow, examples
from comfysnap_server.gateway.settings import AuthMode

_INFER: Final = (routes.INFER_SYNC, routes.INFER_ASYNC)
_FILE: Final[dict[str, JsonValue]] = {"url": "https://example.com/picture.png"}


def build_openapi(
    app: FastAPI, workflows: Mapping[str, Workflow], default: str | None, auth: AuthMode
) -> dict[str, Any]:
    """The document: one infer path a workflow, problem responses, and how to authenticate."""
    document = get_openapi(
        title=app.title, version=app.version, routes=app.routes, webhooks=app.webhooks.routes
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
    if auth == "keys":
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def document_webhooks(app: FastAPI) -> None:
    """Add the request that a receiver of webhooks gets."""

    def job_ended(
        body: WebhookPayload,
        webhook_id: Annotated[
            str, Header(description="Names the event; equal when it comes again")
        ],
        webhook_timestamp: Annotated[int, Header(description="Seconds since 1970")],
        webhook_signature: Annotated[str, Header(description="HMAC-SHA256 by Standard Webhooks")],
    ) -> None:
        """A job ended. Answer with any 2xx within 15 s; else it is sent again, for three days."""

    app.webhooks.post("job", summary="A job ended")(job_ended)


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
        name: _FILE if workflow.parameters[name].type == "file" else value
        for name, value in examples(workflow).items()
    }


def _set_errors(operation: dict[str, Any]) -> None:
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = {
        "description": "A problem (RFC 9457)",
        "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
