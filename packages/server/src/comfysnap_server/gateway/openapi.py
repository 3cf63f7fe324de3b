"""OpenAPI with the inputs of every workflow, built from the contracts."""

from collections.abc import Mapping
from typing import Any, Final, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from comfysnap_schema import routes
from comfysnap_schema.errors import Problem
from comfysnap_schema.routes import PROBLEM_JSON
from comfysnap_schema.workflow import Workflow
from comfysnap_server.gateway.settings import AuthMode

_INFER: Final = (routes.INFER_SYNC, routes.INFER_ASYNC)


def build_openapi(
    app: FastAPI, workflows: Mapping[str, Workflow], default: str | None, auth: AuthMode
) -> dict[str, Any]:
    """The document: one infer path a workflow, problem responses, and how to authenticate."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    paths: dict[str, Any] = document["paths"]
    for route in _INFER:
        generic = paths.pop(route + "/{workflow}")
        bare = paths.pop(route)
        if default is not None:
            paths[route] = _infer(bare, workflows[default])
        for name, workflow in workflows.items():
            paths[f"{route}/{name}"] = _infer(generic, workflow)
    components: dict[str, Any] = document.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}), Problem=problem)
    schemas.update(
        {f"{name}.input": entry.contract.input_schema for name, entry in workflows.items()}
    )
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path in paths.values():
        for operation in cast("dict[str, Any]", path).values():
            _set_errors(operation)
    if auth == "keys":
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _infer(generic: dict[str, Any], workflow: Workflow) -> dict[str, Any]:
    operation = dict(generic["post"])
    operation["operationId"] = f"{operation['operationId']}_{workflow.name}"
    operation["summary"] = workflow.spec.title or workflow.name
    operation["tags"] = [workflow.name]
    operation["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{workflow.name}.input"}}
        },
    }
    return {"post": operation}


def _set_errors(operation: dict[str, Any]) -> None:
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = {
        "description": "A problem (RFC 9457)",
        "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
