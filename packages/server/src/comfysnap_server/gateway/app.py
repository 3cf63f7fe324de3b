"""The gateway as an ASGI app."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from comfysnap_schema.wire import ErrorCode, FieldProblem, routes
from comfysnap_schema.workflow import Workflow
from comfysnap_server.backends.protocol import Backend
from comfysnap_server.errors import BackendError
from comfysnap_server.gateway.auth import Authenticator, Keys
from comfysnap_server.gateway.files import FileRoutes
from comfysnap_server.gateway.jobs import JobRoutes
from comfysnap_server.gateway.long_polls import LongPolls
from comfysnap_server.gateway.middleware import GatewayMiddleware
from comfysnap_server.gateway.openapi import build_openapi
from comfysnap_server.gateway.problems import ProblemError, problem_response
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.gateway.submit import JobSubmitter
from comfysnap_server.gateway.workflows import WorkflowRoutes, docs_router

_CODE_OF: Final = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}


def create_app(
    backend: Backend,
    workflows: Mapping[str, Workflow],
    settings: GatewaySettings,
    *,
    default: str | None = None,
    keys: Keys | None = None,
) -> FastAPI:
    """The gateway in front of ``backend``, which it starts and stops.

    Args:
        default: Workflow of the bare infer routes; None: the only one there is.
        keys: Keys that change while the app runs; None: those of the settings.

    Raises:
        ValueError: ``default`` is not a workflow, or ``auth = "keys"`` comes without keys.
    """
    if default is None and len(workflows) == 1:
        default = next(iter(workflows))
    if default is not None and default not in workflows:
        raise ValueError(f"unknown default workflow {default!r}; available: {', '.join(workflows)}")
    auth = Authenticator(settings, keys)
    waits = LongPolls(settings.max_waits, settings.max_held)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        await backend.start()
        try:
            yield
        finally:
            await backend.stop()

    app = FastAPI(
        title="comfysnap",
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers=dict.fromkeys(
            (ProblemError, BackendError, RequestValidationError, HTTPException), _refuse
        ),
    )
    app.state.waits = waits
    app.include_router(
        JobRoutes(
            backend, JobSubmitter(backend, workflows, settings), settings, waits, default
        ).router()
    )
    app.include_router(FileRoutes(backend, settings).router())
    app.include_router(WorkflowRoutes(backend, workflows, default).router())
    openapi = cache(lambda: build_openapi(app, workflows, default, settings.auth))
    app.include_router(docs_router(openapi))
    app.add_middleware(GatewayMiddleware, auth=auth, settings=settings)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Location", routes.REQUEST_ID, routes.REPLAYED, routes.RETRY_AFTER],
        )
    return app


def drain(app: FastAPI) -> None:
    """End held requests with what is known now; called in the app's loop when it has to stop."""
    waits: LongPolls = app.state.waits
    waits.drain()


async def _refuse(request: Request, error: Exception) -> Response:
    return problem_response(request.scope, _as_problem(error))


def _as_problem(error: Exception) -> ProblemError:
    match error:
        case ProblemError():
            return error
        case BackendError():
            return ProblemError(error.code, error.detail, retry_after=error.retry_after)
        case RequestValidationError():
            fields = tuple(_field_problem(found) for found in error.errors()[:50])
            detail = "; ".join(f"{item.field}: {item.message}" for item in fields[:3])
            return ProblemError(ErrorCode.INVALID_REQUEST, detail, fields=fields)
        case HTTPException():
            code = _CODE_OF.get(error.status_code, ErrorCode.INVALID_REQUEST)
            return ProblemError(code, error.detail, status=error.status_code, headers=error.headers)
        case _:
            raise error


def _field_problem(found: Mapping[str, Any]) -> FieldProblem:
    place = [str(part) for part in found["loc"]]
    name = place[1] if len(place) > 1 else place[0]
    message = found["msg"]
    if found["type"] == "extra_forbidden":
        message = "unknown query parameter; workflow inputs go in the JSON body"
    return FieldProblem(field=name[:100], message=message)
