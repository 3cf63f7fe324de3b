"""The route that deletes ended jobs and uploads of a running server."""

import logging
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from comfysnap_schema.wire import PurgeReport, routes
from comfysnap_server.backends.protocol import Backend, PurgeRequest
from comfysnap_server.gateway.jobs import access_of
from comfysnap_server.logs import fields

log = logging.getLogger("comfysnap.gateway")

_LONGEST_S: Final = 10 * 366 * 24 * 3600


class PurgeQuery(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What to delete."""

    older_than: Annotated[float, Field(ge=0, le=_LONGEST_S, allow_inf_nan=False)]
    """Seconds since a job ended, or an upload was last used."""
    owner: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Whose. Default: of all owners."""
    jobs: bool = True
    """Ended jobs, with their outputs and with webhooks that were not delivered."""
    files: bool = True
    """Uploads that no unfinished job reads; those used in the last ten minutes stay."""
    dry_run: bool = False
    """Only count."""


def purge_router(backend: Backend) -> APIRouter:
    """The route, around one backend."""
    router = APIRouter(tags=["access"])

    @router.post(routes.PURGE, response_model=PurgeReport)
    async def purge(request: Request, query: Annotated[PurgeQuery, Query()]) -> Response:
        """Delete ended jobs and unused uploads for good; needs the scope `admin`.

        At most some hundred jobs at once: while `complete` is false, repeat the request.
        """
        report = await backend.purge(PurgeRequest(**query.model_dump()))
        if not query.dry_run:
            log.info(
                "purged",
                extra=fields(
                    key=access_of(request).key,
                    owner=query.owner,
                    older_than=query.older_than,
                    jobs=report.jobs,
                    files=report.files,
                ),
            )
        return Response(
            report.model_dump_json(),
            headers={"Cache-Control": "no-store"},
            media_type="application/json",
        )

    return router
