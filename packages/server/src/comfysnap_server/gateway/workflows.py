"""The routes that describe the server: workflows, health, readiness, OpenAPI."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from comfysnap_schema.wire import WorkflowDetail, WorkflowSummary, routes
from comfysnap_schema.workflow import Workflow
from comfysnap_server.backends.protocol import Backend
from comfysnap_server.gateway.submit import unknown_workflow


class WorkflowRoutes:
    """Handlers around the loaded workflows."""

    def __init__(
        self, backend: Backend, workflows: Mapping[str, Workflow], default: str | None
    ) -> None:
        self._backend = backend
        self._details = {
            name: _detail(workflow, default=name == default) for name, workflow in workflows.items()
        }

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(tags=["workflows"])
        router.get(routes.WORKFLOWS)(self.list_workflows)
        router.get(routes.WORKFLOWS + "/{name}", response_model=WorkflowDetail)(self.workflow)
        router.get(routes.HEALTH, responses={200: _status("ok")})(self.health)
        answers: dict[int | str, dict[str, Any]] = {
            200: _status("ready"),
            503: {**_status("not ready"), "description": "Not now"},
        }
        router.get(routes.READY, responses=answers)(self.ready)
        return router

    async def list_workflows(self) -> list[WorkflowSummary]:
        """Every workflow, without its schemas."""
        return [
            WorkflowSummary.model_validate(
                entry.model_dump(include=set(WorkflowSummary.model_fields))
            )
            for entry in self._details.values()
        ]

    async def workflow(self, name: str) -> Response:
        """One workflow with its contract."""
        detail = self._details.get(name)
        if detail is None:
            raise unknown_workflow(name, self._details)
        return Response(detail.model_dump_json(), media_type="application/json")

    async def health(self) -> Response:
        """Succeeds while the process runs."""
        return JSONResponse({"status": "ok"})

    async def ready(self) -> Response:
        """Jobs can be accepted now (200) or not (503)."""
        ready = await self._backend.ready()
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)


def _status(value: str) -> dict[str, Any]:
    """What OpenAPI says of a response with a status."""
    properties = {"status": {"type": "string", "const": value}}
    schema = {"type": "object", "properties": properties, "required": ["status"]}
    return {"description": "Success", "content": {"application/json": {"schema": schema}}}


def openapi_router(openapi: Callable[[], dict[str, Any]]) -> APIRouter:
    """``/openapi.json``, for callers with access."""
    router = APIRouter(include_in_schema=False)

    @router.get("/openapi.json")
    async def describe(_: Request) -> Response:
        return JSONResponse(openapi())

    return router


def _detail(workflow: Workflow, *, default: bool) -> WorkflowDetail:
    return WorkflowDetail(
        name=workflow.name,
        title=workflow.spec.title,
        description=workflow.spec.description,
        contract=workflow.contract.hash,
        default=default,
        input_schema=workflow.contract.input_schema,
        output_schema=workflow.contract.output_schema,
        compatible_contracts=sorted(workflow.compatible - {workflow.contract.hash}),
    )
