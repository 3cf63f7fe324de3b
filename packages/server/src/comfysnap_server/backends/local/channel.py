"""Messages between the server and its processes: length-prefixed JSON on a socket."""

import asyncio
import logging
import socket
import struct
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, Field, JsonValue, TypeAdapter

from comfysnap_schema.wire import Preview, Progress
from comfysnap_server.jobs import Outcome

logger = logging.getLogger(__name__)

MessageT = TypeVar("MessageT")

_LENGTH: Final = struct.Struct("!I")


class RunOrder(BaseModel, frozen=True):
    """To a worker: run a job."""

    op: Literal["run"] = "run"
    request: str
    """A ``JobRequest`` in JSON, as it is stored: the server need not parse it."""
    models: dict[str, str]
    """Placeholder in the graph to the SHA-256 of the downloaded model."""
    input_dir: Path
    output_dir: Path
    files: Path
    """Folder of the uploaded files."""


class ForkOrder(BaseModel, frozen=True):
    """To the fork server, with the worker's end of its channel: fork one, or become it."""

    gpu: int | None
    """Index of the only GPU that the worker is to see; None: all."""


class InterruptOrder(BaseModel, frozen=True):
    """To a worker: stop the job."""

    op: Literal["interrupt"] = "interrupt"
    job_id: str


class ReadyMessage(BaseModel, frozen=True):
    """From a worker: the engine is attached."""

    op: Literal["ready"] = "ready"
    attach: float
    """Seconds that it took."""
    device: str | None


class FailedMessage(BaseModel, frozen=True):
    """From a worker or the fork server: the engine cannot be attached or loaded."""

    op: Literal["failed"] = "failed"
    detail: str


class StartedMessage(BaseModel, frozen=True):
    """From a worker: it has the job."""

    op: Literal["started"] = "started"


class ProgressMessage(BaseModel, frozen=True):
    """From a worker."""

    op: Literal["progress"] = "progress"
    progress: Progress


class PreviewMessage(BaseModel, frozen=True):
    """From a worker."""

    op: Literal["preview"] = "preview"
    preview: Preview


class OutputMessage(BaseModel, frozen=True):
    """From a worker: an output of the running job is complete."""

    op: Literal["output"] = "output"
    name: str
    value: JsonValue


class DoneMessage(BaseModel, frozen=True):
    """From a worker: the job ended."""

    op: Literal["done"] = "done"
    outcome: Outcome


class LoadedMessage(BaseModel, frozen=True):
    """From the fork server: the engine is loaded."""

    op: Literal["loaded"] = "loaded"
    pid: int
    seconds: float
    threads: list[str]
    """Who left threads behind; empty when the process can be forked."""


class ForkedMessage(BaseModel, frozen=True):
    """From the fork server: the worker that was asked for."""

    op: Literal["forked"] = "forked"
    pid: int
    keeper: int
    """Its parent, to which orphans of what it starts return."""


class ExitedMessage(BaseModel, frozen=True):
    """From the fork server: a worker ended."""

    op: Literal["exited"] = "exited"
    pid: int
    code: int


Order = RunOrder | InterruptOrder
WorkerMessage = (
    ReadyMessage
    | FailedMessage
    | StartedMessage
    | ProgressMessage
    | PreviewMessage
    | OutputMessage
    | DoneMessage
)
ForkServerMessage = LoadedMessage | FailedMessage | ForkedMessage | ExitedMessage

ORDER: Final[TypeAdapter[Order]] = TypeAdapter(Annotated[Order, Field(discriminator="op")])
WORKER_MESSAGE: Final[TypeAdapter[WorkerMessage]] = TypeAdapter(
    Annotated[WorkerMessage, Field(discriminator="op")]
)
FORK_SERVER_MESSAGE: Final[TypeAdapter[ForkServerMessage]] = TypeAdapter(
    Annotated[ForkServerMessage, Field(discriminator="op")]
)


def frame(message: BaseModel) -> bytes:
    """One message ready to send.

    Raises:
        ValueError: Part of it is not JSON, such as half of a surrogate pair.
    """
    data = message.model_dump_json().encode()
    return _LENGTH.pack(len(data)) + data


def receive(channel: socket.socket) -> bytes | None:
    """The next message, JSON; None when the other side is gone."""
    head = _exactly(channel, _LENGTH.size)
    return None if head is None else _exactly(channel, _LENGTH.unpack(head)[0])


def _exactly(channel: socket.socket, count: int) -> bytes | None:
    parts: list[bytes] = []
    while count:
        try:
            part = channel.recv(min(count, 1 << 20))
        except OSError:
            return None
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


async def read_message(
    reader: asyncio.StreamReader, kind: TypeAdapter[MessageT]
) -> MessageT | None:
    """The next message; None when the other side is gone, or sends what cannot be read."""
    try:
        head = await reader.readexactly(_LENGTH.size)
        return kind.validate_json(await reader.readexactly(_LENGTH.unpack(head)[0]))
    except (asyncio.IncompleteReadError, OSError):
        return None
    except ValueError:
        logger.exception("a process sent an invalid message")
        return None
