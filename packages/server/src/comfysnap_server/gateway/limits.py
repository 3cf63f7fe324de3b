"""The routes of access: what the caller may do and use, and links."""

import time
from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, JsonValue, ValidationError
from starlette.responses import Response

from comfysnap_schema.wire import BudgetName, BudgetUse, Limits, Link, LinkRequest, routes
from comfysnap_server.backends.protocol import NO_BUDGET, Backend, OwnerBudget
from comfysnap_server.gateway.auth import Access
from comfysnap_server.gateway.bodies import BodyReader
from comfysnap_server.gateway.jobs import access_of, checked_owner, owner_of, owner_of_job
from comfysnap_server.gateway.json_bodies import parse_json_object
from comfysnap_server.gateway.links import Links
from comfysnap_server.gateway.rate import RateLimiter
from comfysnap_server.gateway.settings import GatewaySettings

_NO_STORE: Final = {"Cache-Control": "no-store"}


_MAX_BODY_BYTES: Final = 16 * 1024
_LINK_REQUEST: Final = {"$ref": f"#/components/schemas/{LinkRequest.__name__}"}
_LINK_BODY: Final = {"required": True, "content": {"application/json": {"schema": _LINK_REQUEST}}}


class LimitsQuery(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Whose limits to show."""

    owner: Annotated[str, Field(max_length=200)] | None = None
    """Whose usage. Others than the caller's own need the scope ``admin``."""


class AccessRoutes:
    """Handlers around one backend."""

    def __init__(
        self,
        backend: Backend,
        settings: GatewaySettings,
        bodies: BodyReader,
        links: Links,
        rates: RateLimiter,
    ) -> None:
        self._backend = backend
        self._bodies = bodies
        self._settings = settings
        self._links = links
        self._rates = rates

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(tags=["access"])
        router.get(routes.LIMITS, response_model=Limits)(self.limits)
        router.post(
            routes.LINKS,
            response_model=Link,
            status_code=201,
            openapi_extra={"requestBody": _LINK_BODY},
        )(self.link)
        return router

    async def limits(self, request: Request, query: Annotated[LimitsQuery, Query()]) -> Response:
        """What the caller may do and use, how much of it is used, and what the server takes."""
        access, settings = access_of(request), self._settings
        owner = checked_owner(request, query.owner)
        own = owner == access.owner
        limits = Limits(
            owner=owner,
            key=access.key if own else None,
            scopes=sorted(access.scopes),
            budgets={
                **(self._rate(access) if own else {}),
                **await self._stock(owner, access.budget if own else NO_BUDGET),
            },
            max_body_bytes=settings.max_body_bytes,
            max_file_bytes=settings.max_file_bytes,
            max_wait=settings.max_wait,
            max_sync_wait=settings.max_sync_wait,
            max_timeout=settings.max_timeout,
        )
        return Response(limits.model_dump_json(), headers=_NO_STORE, media_type="application/json")

    async def link(self, request: Request) -> Response:
        """A URL that opens one output, or the event stream, of a job without a key.

        It works with GET alone, for at most an hour, also after the key that made it was revoked.
        """
        content = await self._bodies.read_json(
            request,
            owner_of(request),
            _MAX_BODY_BYTES,
            forms=self._settings.auth != "proxy",
            parse=parse_json_object,
        )
        wanted = _link_request(content)
        owner = await owner_of_job(self._backend, request, wanted.job_id)
        await self._backend.get(owner, wanted.job_id)
        link = await self._links.sign(owner, wanted)
        return Response(link.model_dump_json(), 201, _NO_STORE, "application/json")

    def _rate(self, access: Access) -> dict[str, BudgetUse]:
        limit, use = access.requests_per_minute, BudgetUse()
        if limit is not None:
            now = time.monotonic()
            bucket = self._rates.bucket(access.bucket, limit, now)
            use = BudgetUse(
                limit=limit,
                used=bucket.used(now),
                at_once=bucket.at_once,
                reset_s=round(bucket.reset(now), 3),
            )
        return {BudgetName.REQUESTS_PER_MINUTE: use}

    async def _stock(self, owner: str, budget: OwnerBudget) -> dict[str, BudgetUse]:
        usage = await self._backend.usage(owner, budget)
        return {
            BudgetName.MAX_UNFINISHED_JOBS: BudgetUse(
                limit=usage.max_unfinished_jobs, used=usage.unfinished_jobs
            ),
            BudgetName.MAX_QUEUED_BYTES: BudgetUse(
                limit=usage.max_queued_bytes, used=usage.queued_bytes
            ),
            BudgetName.MAX_STORED_BYTES: BudgetUse(
                limit=usage.max_stored_bytes, used=usage.stored_bytes
            ),
        }


def _link_request(content: Mapping[str, JsonValue]) -> LinkRequest:
    try:
        return LinkRequest.model_validate(content)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(found) from error
