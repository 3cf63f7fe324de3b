"""The gateway as an ASGI app."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any, Final, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from comfysnap_schema.wire import ErrorCode, FieldProblem, routes
from comfysnap_schema.workflow import Workflow
from comfysnap_server.backends.protocol import Backend
from comfysnap_server.errors import BackendError
from comfysnap_server.gateway import input_urls
from comfysnap_server.gateway.auth import Authenticator
from comfysnap_server.gateway.bodies import BodyReader
from comfysnap_server.gateway.capacity import Capacity, Places
from comfysnap_server.gateway.docs_page import docs_page_router
from comfysnap_server.gateway.files import FileRoutes
from comfysnap_server.gateway.jobs import JobRoutes
from comfysnap_server.gateway.keys import Keys
from comfysnap_server.gateway.limits import AccessRoutes
from comfysnap_server.gateway.links import LinkKey, Links, ProcessLinkKey
from comfysnap_server.gateway.long_polls import LongPolls
from comfysnap_server.gateway.mcp.route import McpRoute
from comfysnap_server.gateway.metrics import Metrics, metrics_router
from comfysnap_server.gateway.middleware import AllowedPages, GatewayMiddleware
from comfysnap_server.gateway.openai.images import ImageRoutes
from comfysnap_server.gateway.openapi import build_openapi
from comfysnap_server.gateway.output_links import LinkedBackend
from comfysnap_server.gateway.page.routes import page_router
from comfysnap_server.gateway.problems import ProblemError, problem_of, problem_response
from comfysnap_server.gateway.purge import purge_router
from comfysnap_server.gateway.rate import RATE, RATE_POLICY, RateLimiter
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.gateway.submit import JobSubmitter
from comfysnap_server.gateway.workflows import WorkflowRoutes, openapi_router
from comfysnap_server.jobs import FetchPolicy

_EXPOSED: Final = (
    "Location", "ETag", "Content-Range", "Content-Disposition", "WWW-Authenticate",
    routes.REQUEST_ID, routes.REPLAYED, routes.RETRY_AFTER, RATE, RATE_POLICY,
)  # fmt: skip
"""What pages of other origins may read beside the headers that every page may."""
_CODE_OF: Final = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}


def create_app(
    backend: Backend,
    workflows: Mapping[str, Workflow],
    settings: GatewaySettings,
    *,
    default: str | None = None,
    capacity: Capacity | None = None,
    fetch: FetchPolicy | None = None,
    keys: Keys | None = None,
    metrics: Metrics | None = None,
    link_key: LinkKey | None = None,
) -> FastAPI:
    """The gateway in front of ``backend``, which it starts and stops.

    Args:
        backend: Where jobs run.
        workflows: What it offers, by name.
        settings: Access and limits.
        default: Workflow of the bare infer routes; None: the only one there is.
        capacity: How much it holds at once; None: what this process may open.
        fetch: What may be downloaded as an input file; None: any public address, in 30 s.
        keys: Keys that change while the app runs; None: those of the settings.
        metrics: Where it counts; None: metrics of its own.
        link_key: Signs links; None: a key of this process.

    Raises:
        ValueError: ``default`` is not a workflow, or ``auth = "keys"`` comes without keys.
    """
    if default is None and len(workflows) == 1:
        default = next(iter(workflows))
    if default is not None and default not in workflows:
        raise ValueError(f"unknown default workflow {default!r}; available: {', '.join(workflows)}")
    auth = Authenticator(settings, keys)
    links, rates = Links(link_key or ProcessLinkKey()), RateLimiter()
    capacity = capacity or Capacity.of_process()
    places = _PlacesOf(settings)
    waits = LongPolls(
        places("waiting requests", capacity.waits, settings.max_waits), settings.max_held
    )
    metrics = metrics or Metrics()
    metrics.watch(backend, lambda: waits.held)
    receive = partial(BodyReader, patience=settings.body_timeout, min_rate=settings.min_upload_rate)
    bodies = receive(places("request bodies", capacity.bodies))
    uploads = receive(places("uploads", capacity.uploads))
    downloads = places("downloads", capacity.downloads)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        await backend.start()
        try:
            yield
        finally:
            await mcp.stop()
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
    app.state.capacity = capacity
    fetch = fetch or FetchPolicy(max_bytes=settings.max_file_bytes, timeout=input_urls.TIMEOUT_S)
    fetches = places("downloads of input files", input_urls.MAX_DOWNLOADS)
    downloader = input_urls.InputDownloads(backend, fetches, fetch)
    submitter = JobSubmitter(backend, workflows, settings, downloader, metrics)
    routers = [
        JobRoutes(backend, submitter, settings, waits, bodies, default).router(),
        FileRoutes(backend, settings, uploads, downloads).router(),
        WorkflowRoutes(backend, workflows, default).router(),
    ]
    if settings.openai.enabled:
        images = ImageRoutes(
            backend, submitter, workflows, default, settings,
            waits=waits, bodies=bodies, uploads=uploads, links=links,
        )  # fmt: skip
        routers.append(images.router())
    mcp = McpRoute(backend, submitter, workflows, settings, waits=waits, bodies=bodies, links=links)
    openapi = cache(lambda: build_openapi(app, workflows, default, settings))
    routers += [
        mcp.router(),
        metrics_router(metrics),
        AccessRoutes(backend, settings, bodies, links, rates).router(),
        purge_router(backend),
        openapi_router(openapi),
        docs_page_router(),
        page_router(backend.origin if isinstance(backend, LinkedBackend) else None),
    ]
    for router in routers:  # include_router would match each request twice
        app.router.routes.extend(router.routes)
    app.add_middleware(
        GatewayMiddleware, auth=auth, settings=settings, links=links, rates=rates, metrics=metrics
    )
    if settings.origins:
        app.add_middleware(
            AllowedPages,
            allow_origins=settings.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
            allow_private_network=True,
        )
    return app


def drain(app: FastAPI) -> None:
    """End held requests with what is known now; called in the app's loop when it has to stop."""
    waits: LongPolls = app.state.waits
    waits.drain()


def capacity_of(app: FastAPI) -> Capacity:
    """How much the app holds at once."""
    return cast("Capacity", app.state.capacity)


class _PlacesOf:
    """Makes places of which no owner gets more than half, where there may be several owners."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._alone = settings.auth != "keys"

    def __call__(self, what: str, limit: int, per_owner: int | None = None) -> Places:
        share = limit if self._alone else (limit + 1) // 2
        return Places(what, limit, share if per_owner is None else min(share, per_owner))


async def _refuse(request: Request, error: Exception) -> Response:
    return problem_response(request.scope, _as_problem(error))


def _as_problem(error: Exception) -> ProblemError:
    match error:
        case ProblemError():
            return error
        case BackendError():
            return problem_of(error)
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
        message = (
            "unknown field"
            if place[0] == "body"
            else "unknown query parameter; workflow inputs go in the JSON body"
        )
    return FieldProblem(field=name[:100], message=message)
