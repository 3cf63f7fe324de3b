"""The events of a job as they come: over server-sent events, else by polling."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic import ValidationError

from comfysnap_client.errors import APIError, ComfysnapError, UnexpectedResponse
from comfysnap_client.polling import PollPolicy
from comfysnap_client.sse import ServerSentEvent, SseParser
from comfysnap_client.transport import Http, Request, is_transient, job_url
from comfysnap_client.watch import Poll
from comfysnap_schema.wire import EVENTS, ErrorCode, JobEvent, JobRecord, Progress

logger: logging.Logger = logging.getLogger("comfysnap_client")

KEEP_ALIVE_S = 45.0
"""Silence after which a stream counts as broken, on top of the read timeout's reach: servers send
a comment more often than that."""
FRUITLESS_STREAMS = 2
"""Streams in a row without one event, after which polling takes over for good."""


async def follow(
    http: Http, poll: Poll, polling: PollPolicy, job_id: str
) -> AsyncGenerator[JobEvent]:
    """Every event of a job until ``done``, across reconnects; the poll is the truth.

    Raises:
        APIError: The server refused to tell of the job.
    """
    state = _Followed()
    while state.fruitless < FRUITLESS_STREAMS:
        try:
            async with aclosing(_stream(http, job_id, state)) as events:
                async for event in events:
                    if state.news(event):
                        yield event
                    if event.type == "done":
                        return
        except ComfysnapError as error:
            if _no_stream_here(error):
                break
            if not is_transient(error):
                raise
            logger.info("job %s: the event stream broke: %s", job_id, error,
                        extra={"job_id": job_id, "request_id": error.request_id})  # fmt: skip
        state.fruitless += 1
        await asyncio.sleep(
            state.pause
            if state.pause is not None
            else polling.pause(state.fruitless, draw=random.random())  # noqa: S311 -- spreads load, guards nothing
        )
    async with aclosing(_poll(poll, polling, job_id, state)) as events:
        async for event in events:
            yield event


class _Followed:
    """What was told so far."""

    def __init__(self) -> None:
        self.last_id = ""
        self.version = -1
        self.status: str | None = None
        self.progress: Progress | None = None
        self.fruitless = 0
        self.pause: float | None = None

    def news(self, event: JobEvent) -> bool:
        """Whether the event tells more than what was told; remembers it."""
        if event.job is not None:
            if event.job.version <= self.version and event.type != "done":
                return False
            self.version = event.job.version
            self.status = str(event.job.status)
        if event.progress is not None:
            if event.progress == self.progress:
                return False
            self.progress = event.progress
        return True


async def _stream(http: Http, job_id: str, state: _Followed) -> AsyncGenerator[JobEvent]:
    """One connection to the event stream."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if state.last_id:
        headers["Last-Event-ID"] = state.last_id
    parser = SseParser()
    request = Request(
        method="GET", url=job_url(EVENTS, job_id), headers=headers, hold=KEEP_ALIVE_S, job_id=job_id
    )
    async with http.stream(request) as response:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise UnexpectedResponse("no event stream", job_id=job_id, status=response.status_code)
        async for chunk in response.aiter_bytes():
            for sent in _sent(parser, chunk, job_id):
                state.last_id = sent.id
                state.pause = None if sent.retry is None else sent.retry / 1000
                event = _event(sent)
                if event is not None:
                    state.fruitless = 0
                    yield event


def _sent(parser: SseParser, chunk: bytes, job_id: str) -> list[ServerSentEvent]:
    try:
        return parser.feed(chunk)
    except ValueError as error:
        raise UnexpectedResponse(str(error), job_id=job_id) from error


def _event(sent: ServerSentEvent) -> JobEvent | None:
    """The event; None for what this client cannot read."""
    try:
        return JobEvent.model_validate_json(sent.data)
    except ValidationError:
        logger.warning("an event of type %r is not understood", sent.event)
        return None


async def _poll(
    poll: Poll, polling: PollPolicy, job_id: str, state: _Followed
) -> AsyncGenerator[JobEvent]:
    """The same events from long-polls."""
    streak = 0
    while True:
        hint: float | None = None
        try:
            after = state.version if state.version >= 0 else None
            hold = polling.hold if after is not None else 0
            record, hint = await poll(job_id, hold=hold, after=after)
        except ComfysnapError as error:
            if not is_transient(error):
                raise
            hint = error.retry_after
            streak += 1
        else:
            streak = 0 if record.version > state.version else streak + 1
            for event in _told_by(record, state):
                yield event
            if record.is_final:
                return
        if streak or hint is not None or not polling.hold:
            await asyncio.sleep(
                polling.pause(max(streak, 1), hint=hint, draw=random.random())  # noqa: S311 -- spreads load, guards nothing
            )


def _told_by(record: JobRecord, state: _Followed) -> list[JobEvent]:
    """What a polled record tells that was not told yet."""
    if record.is_final:
        return [JobEvent(type="done", job=record)]
    events: list[JobEvent] = []
    if record.version > state.version and str(record.status) != state.status:
        events.append(JobEvent(type="status", job=record))
    if record.progress != (state.progress or Progress()):
        events.append(JobEvent(type="progress", progress=record.progress))
    state.version = max(state.version, record.version)
    state.status = str(record.status)
    state.progress = record.progress
    return events


def _no_stream_here(error: ComfysnapError) -> bool:
    """Whether the server, or what stands before it, has no event stream."""
    if isinstance(error, APIError):
        missing = (ErrorCode.NOT_FOUND, ErrorCode.METHOD_NOT_ALLOWED)
        return error.code in missing or error.status in (405, 406, 501)
    return isinstance(error, UnexpectedResponse)
