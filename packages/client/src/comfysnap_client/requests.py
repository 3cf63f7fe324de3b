"""Every request of the API, built in one place; nothing is sent here."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from comfysnap_schema.wire import (
    CANCEL,
    CHECK_STATUS,
    CONTRACT,
    EVENTS,
    FILES,
    IDEMPOTENCY_KEY,
    INFER_ASYNC,
    JOBS,
    LIMITS,
    LINKS,
    WORKFLOWS,
    LinkRequest,
    OutputFile,
)

Params = tuple[tuple[str, str], ...]
"""Query parameters."""
Content = bytes | Callable[[], AsyncIterator[bytes]]
"""A request body; a callable returns a new stream for each attempt."""

KEEP_ALIVE_S = 45.0
"""Seconds without data, in addition to the read timeout, before a stream counts as broken; servers
send comments more often than that."""

_JOB_ID = re.compile(r"[0-9A-Za-z_-]{1,128}")


@dataclass(kw_only=True)
class Request:
    """One call, which may take several attempts."""

    method: str = "GET"
    url: str
    """Relative to the base URL, or absolute."""
    params: Params = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content: Content | None = None
    hold: float = 0.0
    """Seconds that the server may hold the response."""
    job_id: str | None = None
    sent: bool = False
    """Whether the server may have received any part of it; False while only connecting."""

    @property
    def name(self) -> str:
        """Method and path; a query may contain a signature."""
        path = self.url.partition("?")[0]
        return f"{self.method} {path if '://' in path else f'/{path}'}"


def submit(
    workflow: str, contract: str, body: bytes, *, idempotency_key: str, params: Params
) -> Request:
    """Submit a job."""
    headers = {IDEMPOTENCY_KEY: idempotency_key, "Content-Type": "application/json"}
    if contract:
        headers[CONTRACT] = contract
    return Request(
        method="POST", url=f"{INFER_ASYNC[1:]}/{quote(workflow, safe='')}", params=params,
        headers=headers, content=body,
    )  # fmt: skip


def status(job_id: str, *, hold: float = 0.0, after: int | None = None) -> Request:
    """Request a job, once it is final or newer than ``after``, or after ``hold`` seconds."""
    params: Params = (("wait", f"{hold:.3f}"),) if hold else ()
    if hold and after is not None:
        params += (("after", str(after)),)
    return _of_job(CHECK_STATUS, job_id, params=params, hold=hold)


def cancel(job_id: str) -> Request:
    """Cancel a job."""
    return _of_job(CANCEL, job_id, method="POST")


def events(job_id: str, last_id: str) -> Request:
    """Open the stream of a job's events after the one with ``last_id``, if any."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if last_id:
        headers["Last-Event-ID"] = last_id
    return _of_job(EVENTS, job_id, headers=headers, hold=KEEP_ALIVE_S)


def jobs(filters: Params, cursor: str | None) -> Request:
    """Request one page of jobs."""
    return Request(url=JOBS[1:], params=(*filters, ("cursor", cursor)) if cursor else filters)


def workflows() -> Request:
    """List the workflows."""
    return Request(url=WORKFLOWS[1:])


def workflow(name: str) -> Request:
    """Request one workflow."""
    return Request(url=f"{WORKFLOWS[1:]}/{quote(name, safe='')}")


def limits() -> Request:
    """Ask what the key may do and use."""
    return Request(url=LIMITS[1:])


def link(job_id: str, output: str | None, expires_in: int) -> Request:
    """Make a link to an output of a job, or to its events."""
    body = LinkRequest(job_id=job_id, output=output, expires_in=expires_in)
    return Request(
        method="POST", url=LINKS[1:], content=body.model_dump_json().encode(),
        headers={"Content-Type": "application/json"}, job_id=job_id,
    )  # fmt: skip


def output(file: OutputFile, *, start: int, etag: str) -> Request:
    """Download a file from byte ``start``, if its ETag is still the same."""
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    if start and etag:
        headers["If-Range"] = etag
    return Request(url=file.url.lstrip("/"), headers=headers)


def has_file(sha256: str) -> Request:
    """Ask whether the server has an input file."""
    return Request(method="HEAD", url=f"{FILES[1:]}/{sha256}")


def upload(sha256: str, content: Content, *, size: int, content_type: str) -> Request:
    """Upload an input file."""
    headers = {"Content-Length": str(size), "Content-Type": content_type}
    return Request(method="PUT", url=f"{FILES[1:]}/{sha256}", headers=headers, content=content)


def _of_job(
    route: str,
    job_id: str,
    *,
    method: str = "GET",
    params: Params = (),
    headers: Mapping[str, str] | None = None,
    hold: float = 0.0,
) -> Request:
    if not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"{job_id[:200]!r} is not a valid job ID")
    return Request(
        method=method, url=f"{route[1:]}/{job_id}", params=params, headers=headers or {},
        hold=hold, job_id=job_id,
    )  # fmt: skip
