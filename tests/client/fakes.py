"""A small server scripted by the tests, and a workflow for it."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from comfysnap_client import PollPolicy, RetryPolicy
from comfysnap_schema.base import WorkflowInput, WorkflowOutput
from comfysnap_schema.wire.files import FileInput, ImageFile

QUICK = RetryPolicy(initial=0.01, maximum=0.05)
QUICK_POLLS = PollPolicy(initial=0.01, maximum=0.05)


class DrawOutput(WorkflowOutput):
    """Outputs of the test workflow."""

    images: tuple[ImageFile, ...] = ()
    text: str = ""


class DrawInput(WorkflowInput[DrawOutput]):
    """Inputs of the test workflow."""

    __workflow__ = "draw"
    __contract__ = "c0ffee"

    prompt: str
    steps: int = 4
    image: FileInput | None = None
    mask: FileInput | None = None


CONTRACT: dict[str, Any] = {
    "name": "draw", "title": "Draw", "contract": "c0ffee", "output_schema": {},
    "input_schema": {
        "type": "object",
        "required": ["prompt"],
        "properties": {
            "prompt": {"type": "string", "description": "What to draw."},
            "steps": {"type": "integer"},
            "scale": {"type": "number"},
            "tiled": {"type": "boolean"},
            "sampler": {"enum": ["euler", "heun"]},
            "seed": {"type": ["integer", "string"], "pattern": "^[0-9]+$", "x-random": True},
            "negative": {"type": ["string", "null"]},
            "strength": {"type": ["number", "null"]},
            "image": {"x-kind": "image", "oneOf": []},
            "extra": {},
        },
    },
}  # fmt: skip


Handler = Callable[[Request], Awaitable[Response | None]]


class Connections(set[Any]):
    """Open connections, which uvicorn adds and discards."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = asyncio.Event()
        self.peak = 0

    def add(self, element: Any) -> None:
        super().add(element)
        self.peak = max(self.peak, len(self))
        self.closed.clear()

    def discard(self, element: Any) -> None:
        super().discard(element)
        if not self:
            self.closed.set()


class FakeServer:
    """A server with jobs in memory; ``on`` overrides its responses, ``finish`` ends a job."""

    def __init__(self) -> None:
        self.url = ""
        self.jobs: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.handlers: list[tuple[str, Handler]] = []
        self.seen = asyncio.Condition()
        self.outputs: dict[str, Any] | None = {"text": "done"}
        self.open_streams = 0
        self.connections = Connections()

    def on(self, path: str, *handlers: Handler) -> None:
        """Use each handler once, for a path that starts with ``path``; None falls through."""
        self.handlers.extend((path, handler) for handler in handlers)

    async def handle(self, request: Request) -> Response:
        async with self.seen:
            self.requests.append(request)
            self.seen.notify_all()
        for place, (path, handler) in enumerate(self.handlers):
            if request.url.path.startswith(path):
                del self.handlers[place]
                response = await handler(request)
                if response is not None:
                    return response
                break
        kind, _, name = request.url.path.strip("/").partition("/")
        route: Callable[[Request, str], Awaitable[Response]] = getattr(self, f"_{kind}")
        return await route(request, name)

    async def _infer_async(self, request: Request, workflow: str) -> Response:
        return await self.accept(request, workflow)

    async def accept(self, request: Request, workflow: str) -> Response:
        """Create the job of a submit, or return that of its idempotency key."""
        key = request.headers["idempotency-key"]
        body = json.loads(await request.body())
        if key not in self.keys:
            self.keys[key] = await self.create(workflow, body)
        return JSONResponse(self.jobs[self.keys[key]], 202)

    async def create(self, workflow: str = "draw", inputs: object = None) -> str:
        """Create a job, with ``outputs`` if they are set, and return its ID."""
        job_id = f"job_{len(self.jobs):026d}"
        self.jobs[job_id] = {
            "id": job_id, "workflow": workflow, "status": "queued", "version": 1,
            "inputs": inputs or {}, "created_at": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        if self.outputs is not None:
            await self.finish(job_id, outputs=self.outputs)
        return job_id

    async def _check_status(self, request: Request, job_id: str) -> Response:
        if job_id not in self.jobs:
            return problem(404, "unknown_job")
        wait = float(request.query_params.get("wait", 0))
        after = request.query_params.get("after")

        def news() -> bool:
            job = self.jobs[job_id]
            final = job["status"] not in ("queued", "running")
            return final or (after is not None and job["version"] > int(after))

        try:
            async with asyncio.timeout(wait), self.seen:
                await self.seen.wait_for(news)
        except TimeoutError:
            pass
        return JSONResponse(self.jobs[job_id])

    async def _cancel(self, _request: Request, job_id: str) -> Response:
        if self.jobs[job_id]["status"] in ("queued", "running"):
            await self.finish(job_id, status="cancelled")
        return JSONResponse(self.jobs[job_id])

    async def _jobs(self, request: Request, _: str) -> Response:
        start = int(request.query_params.get("cursor", 0))
        newest = list(reversed(self.jobs.values()))
        more = str(start + 2) if start + 2 < len(newest) else None
        return JSONResponse({"jobs": newest[start : start + 2], "cursor": more})

    async def _workflows(self, _request: Request, name: str) -> Response:
        if not name:
            return JSONResponse([{key: CONTRACT[key] for key in ("name", "title", "contract")}])
        return JSONResponse(CONTRACT) if name == "draw" else problem(404, "unknown_workflow")

    async def _outputs(self, request: Request, path: str) -> Response:
        content = self.files[path.rpartition("/")[2]]
        first, status = 0, 200
        if given := request.headers.get("range"):
            first, status = int(given.removeprefix("bytes=").removesuffix("-")), 206
        return Response(content[first:], status, headers={"ETag": '"1"'})

    async def _events(self, request: Request, job_id: str) -> Response:
        return StreamingResponse(self._stream(job_id), media_type="text/event-stream")

    async def _stream(self, job_id: str) -> AsyncIterator[str]:
        self.open_streams += 1
        try:
            async for text in self._sse(job_id):
                yield text
        finally:
            async with self.seen:
                self.open_streams -= 1
                self.seen.notify_all()

    async def _sse(self, job_id: str) -> AsyncIterator[str]:
        version = -1
        while True:
            async with self.seen:
                while self.jobs[job_id]["version"] <= version:
                    await self.seen.wait()
            job = self.jobs[job_id]
            version = job["version"]
            final = job["status"] not in ("queued", "running")
            for event in (
                {"type": "done" if final else "status", "job": job},
                {"type": "progress", "progress": job.get("progress", {})},
            )[: 1 if final else 2]:
                yield f"event: {event['type']}\nid: {version}\ndata: {json.dumps(event)}\n\n"
            if final:
                return

    def stored(self, name: str, content: bytes) -> dict[str, Any]:
        """Store an output file and return its entry in a job's outputs."""
        self.files[name] = content
        return {
            "name": name, "kind": "image", "content_type": "image/png", "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(), "url": f"/outputs/job/{name}",
        }  # fmt: skip

    async def _files(self, request: Request, sha256: str) -> Response:
        if request.method == "HEAD":
            return Response(status_code=200 if sha256 in self.files else 404)
        body = await request.body()
        if hashlib.sha256(body).hexdigest() != sha256:
            return problem(422, "hash_mismatch")
        self.files[sha256] = body
        return Response(status_code=201)

    async def finish(self, job_id: str, status: str = "succeeded", **changes: Any) -> None:
        """Change a job and notify those who wait for it."""
        async with self.seen:
            job = self.jobs[job_id]
            self.jobs[job_id] = {**job, "status": status, "version": job["version"] + 1, **changes}
            self.seen.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds; it is checked at each request and job change."""
        async with asyncio.timeout(60), self.seen:
            await self.seen.wait_for(condition)

    async def requested(self, path: str, count: int = 1) -> None:
        """Wait for ``count`` requests whose path starts with ``path``."""
        await self.until(lambda: len(self.requests_to(path)) >= count)

    def requests_to(self, path: str) -> list[Request]:
        """The requests whose path starts with ``path``."""
        return [request for request in self.requests if request.url.path.startswith(path)]


def names(folder: Path) -> list[str]:
    """The names of the files in a folder."""
    return sorted(path.name for path in folder.iterdir())


def responding(response: Response) -> Handler:
    """Return a fixed response."""

    async def respond(_request: Request) -> Response:
        return response

    return respond


def holding(until: asyncio.Event) -> Handler:
    """Hold the request until the event, then fall through."""

    async def hold(_request: Request) -> None:
        await until.wait()

    return hold


def rejecting(status: int, code: str, **headers: str) -> Handler:
    """Return a problem."""
    return responding(problem(status, code, **headers))


def problem(status: int, code: str, **headers: str) -> Response:
    """A problem+json response."""
    return JSONResponse(
        {"title": code, "code": code, "status": status}, status,
        {name.replace("_", "-"): value for name, value in headers.items()},
        media_type="application/problem+json",
    )  # fmt: skip
