"""The events of a job: server-sent events, or long polls where those are not available."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic import JsonValue, ValidationError

from comfysnap_client.errors import APIError, ComfysnapError, UnexpectedResponse
from comfysnap_client.polling import LongPolls, PollPolicy
from comfysnap_client.requests import events as events_request
from comfysnap_client.sse import ServerSentEvent, SseParser
from comfysnap_client.transport import Transport, is_header_value, is_transient
from comfysnap_schema.wire import ErrorCode, JobEvent, JobRecord, NamedOutput, Progress

logger: logging.Logger = logging.getLogger("comfysnap_client")

MAX_RETRY_S = 60.0
"""Maximum pause in seconds that a stream can ask for before a reconnect."""
MAX_EMPTY_STREAMS = 2
"""Number of consecutive streams without an event before falling back to polls."""


async def follow(
    transport: Transport, polls: LongPolls, polling: PollPolicy, job_id: str
) -> AsyncGenerator[JobEvent]:
    """Yield the events of a job until ``done``, across reconnects.

    Raises:
        APIError: The server rejected the request.
    """
    state = _State()
    while state.empty_streams < MAX_EMPTY_STREAMS:
        try:
            async with aclosing(_stream(transport, job_id, state)) as events:
                async for sent in events:
                    for event in state.news_in(sent):
                        yield event
                    if sent.type == "done":
                        return
        except ComfysnapError as error:
            if _is_unsupported(error):
                break
            if not is_transient(error):
                raise
            logger.info("job %s: the event stream failed: %s", job_id, error,
                        extra={"job_id": job_id, "request_id": error.request_id})  # fmt: skip
        state.empty_streams += 1
        await asyncio.sleep(
            state.pause
            if state.pause is not None
            else polling.pause(state.empty_streams, rand=random.random())  # noqa: S311 -- spreads load, not security
        )
    async with aclosing(polls.follow(job_id, after=state.version)) as records:
        async for record in records:
            for event in state.events_of(record):
                yield event


class _State:
    """What the caller has been given so far."""

    def __init__(self) -> None:
        self.last_id = ""
        self.version: int | None = None
        self.status: str | None = None
        self.progress: Progress | None = None
        self.outputs: dict[str, JsonValue] = {}
        self.empty_streams = 0
        self.pause: float | None = None

    def news_in(self, event: JobEvent) -> list[JobEvent]:
        """The event if it is new to the caller, after outputs that only its job has; updates the
        state."""
        if event.output is not None and not self._is_new_output(event.output):
            return []
        outputs: list[JobEvent] = []
        if event.job is not None:
            if not self._is_newer(event.job) and event.type != "done":
                return []
            self.version = event.job.version
            self.status = str(event.job.status)
            outputs = self._outputs_of(event.job)
        if event.progress is not None:
            if event.progress == self.progress:
                return []
            self.progress = event.progress
        return [*outputs, event]

    def events_of(self, record: JobRecord) -> list[JobEvent]:
        """The events for the news in a polled record; updates the state."""
        events = self._outputs_of(record)
        if record.is_final:
            return [*events, JobEvent(type="done", job=record)]
        if str(record.status) != self.status:
            events.append(JobEvent(type="status", job=record))
        if record.progress != (self.progress or Progress()):
            events.append(JobEvent(type="progress", progress=record.progress))
        self.version = record.version
        self.status = str(record.status)
        self.progress = record.progress
        return events

    def _outputs_of(self, record: JobRecord) -> list[JobEvent]:
        """An event for each output that is new to the caller."""
        outputs = [NamedOutput(name=n, value=value) for n, value in (record.outputs or {}).items()]
        return [JobEvent(type="output", output=one) for one in outputs if self._is_new_output(one)]

    def _is_new_output(self, output: NamedOutput) -> bool:
        if output.name in self.outputs and self.outputs[output.name] == output.value:
            return False
        self.outputs[output.name] = output.value
        return True

    def _is_newer(self, record: JobRecord) -> bool:
        return self.version is None or record.version > self.version


async def _stream(transport: Transport, job_id: str, state: _State) -> AsyncGenerator[JobEvent]:
    """Yield the events of one connection."""
    parser = SseParser()
    async with (
        transport.stream(events_request(job_id, state.last_id)) as response,
        aclosing(response.chunks()) as chunks,
    ):
        if not response.header("content-type").startswith("text/event-stream"):
            raise response.unexpected("not an event stream")
        async for chunk in chunks:
            for sent in _sent(parser, chunk, job_id):
                state.last_id = sent.id if is_header_value(sent.id) else ""
                state.pause = None if sent.retry is None else min(sent.retry / 1000, MAX_RETRY_S)
                event = _event(sent)
                if event is not None:
                    state.empty_streams = 0
                    yield event


def _sent(parser: SseParser, chunk: bytes, job_id: str) -> list[ServerSentEvent]:
    try:
        return parser.feed(chunk)
    except ValueError as error:
        raise UnexpectedResponse(str(error), job_id=job_id) from error


def _event(sent: ServerSentEvent) -> JobEvent | None:
    """The event, or None if it is not valid for this version of the client."""
    try:
        return JobEvent.model_validate_json(sent.data)
    except ValidationError:
        logger.warning("ignored an invalid event of type %r", sent.event)
        return None


def _is_unsupported(error: ComfysnapError) -> bool:
    """Whether the server, or a proxy in front of it, does not support event streams."""
    if isinstance(error, APIError):
        missing = (ErrorCode.NOT_FOUND, ErrorCode.METHOD_NOT_ALLOWED)
        return error.code in missing or error.status in (405, 406, 501)
    return isinstance(error, UnexpectedResponse)
