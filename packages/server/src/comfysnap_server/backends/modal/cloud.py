"""The platform on Modal's own objects, through their async interface."""

# modal's stubs leave the types of .aio partly unknown
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportPrivateUsage=false, reportUnknownLambdaType=false
# pyright: reportUnknownArgumentType=false

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import modal
import modal.exception
from grpclib.exceptions import StreamTerminatedError
from modal._serialization import deserialize
from modal._utils.async_utils import synchronize_api
from modal._utils.grpc_utils import Retry
from modal_proto import api_pb2

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.backends.modal.platform import CallEnd, CallState
from comfysnap_server.errors import BackendError

log = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_POLL_S: Final = 30.0
_FULL_PAGE: Final = 50
"""Entries that one answer may have had no room for others beside."""
_ANSWER_S: Final = 5.0
"""How much later than asked for an answer that was held back may come."""
_UNANSWERED: Final = (
    modal.exception.ConnectionError,
    modal.exception.InternalError,
    modal.exception.ResourceExhaustedError,
    modal.exception.ServiceError,
    StreamTerminatedError,
    OSError,
)
"""Modal could not be asked, or had no answer."""


class Patience:
    """Asks Modal again while it does not answer; its client alone gives up within a second.

    Args:
        seconds: For each request, all attempts together.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of ``work``, which may have been done more than once.

        Raises:
            BackendError: ``unavailable``.
        """
        deadline, pause = time.monotonic() + self._seconds, 0.1
        while True:
            try:
                return await work()
            except _UNANSWERED as error:
                if time.monotonic() + pause > deadline:
                    log.warning("Modal did not answer for %g s: %r", self._seconds, error)
                    raise BackendError(
                        ErrorCode.UNAVAILABLE, "Modal does not answer", retry_after=5
                    ) from error
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311, no secret
            pause = min(2 * pause, 2)


class DictRecords:
    """``Records`` on a named Dict."""

    def __init__(self, entries: modal.Dict, patience: Patience) -> None:
        self._entries = entries
        self._patience = patience

    async def get(self, key: str) -> str | None:
        """See ``Records``."""
        return await self._patience.ask(lambda: self._entries.get.aio(key))

    async def add(self, key: str, value: str) -> bool:
        """See ``Records``."""
        put = self._entries.put.aio
        if await self._patience.ask(lambda: put(key, value, skip_if_exists=True)):
            return True
        return await self.get(key) == value  # an attempt whose answer was lost wrote it

    async def put(self, key: str, value: str) -> None:
        """See ``Records``."""
        await self._patience.ask(lambda: self._entries.put.aio(key, value))

    async def update(self, values: Mapping[str, str]) -> None:
        """See ``Records``."""
        await self._patience.ask(lambda: self._entries.update.aio(dict(values)))

    async def pop(self, key: str) -> None:
        """See ``Records``."""
        await self._patience.ask(lambda: self._entries.pop.aio(key, None))

    async def items(self) -> AsyncIterator[tuple[str, str]]:
        """See ``Records``."""

        async def read() -> list[tuple[str, str]]:
            return [item async for item in self._entries.items.aio()]

        for item in await self._patience.ask(read):
            yield item


class QueueFeed:
    """``Feed`` on a named Queue."""

    def __init__(self, queue: modal.Queue, patience: Patience) -> None:
        self._queue = queue
        self._patience = patience

    async def append(self, job_id: str, entry: str, *, keep: int) -> None:
        """See ``Feed``."""
        put = self._queue.put.aio
        # a put that may block waits for ever once a partition holds its 5,000 entries
        await self._patience.ask(
            lambda: put(entry, block=False, partition=job_id, partition_ttl=keep)
        )

    async def read(self, job_id: str, *, wait: float) -> AsyncIterator[str]:
        """See ``Feed``."""
        last, until = "", time.monotonic() + wait
        while True:
            left = max(0.0, min(_LONGEST_POLL_S, until - time.monotonic()))
            page = await self._patience.ask(
                lambda last=last, left=left: self._page(job_id, last, left)
            )
            for last, entry in page:  # noqa: B007, the next page begins after the last one
                yield entry
            if page:
                until = time.monotonic() + wait
            elif time.monotonic() >= until:
                return
            if not wait and len(page) < _FULL_PAGE:
                return

    async def _page(self, job_id: str, last: str, wait: float) -> list[tuple[str, str]]:
        await self._queue.hydrate.aio()
        return await _items.aio(self._queue.client, self._queue.object_id, job_id, last, wait)


class FunctionCalls:
    """``Calls`` of the method that runs a job.

    Args:
        methods: That of each pool.
        patience: For each request.
    """

    def __init__(self, methods: Mapping[str, Any], patience: Patience) -> None:
        self._methods = methods
        self._patience = patience

    async def spawn(self, job_id: str, request: str | None, pool: str) -> str:
        """See ``Calls``."""
        spawn = self._methods[pool].spawn.aio
        call = await self._patience.ask(lambda: spawn(job_id, request))
        return call.object_id

    async def end(self, call_id: str, *, wait: float) -> CallEnd | None:
        """See ``Calls``."""
        client = await modal.Client.from_env.aio()
        try:
            result = await self._patience.ask(lambda: _result.aio(client, call_id, wait))
        except modal.exception.NotFoundError:
            return CallEnd(call_id, CallState.GONE)
        if result is None:
            return None
        return CallEnd(call_id, _STATES.get(result.status, CallState.GONE), result.exception)

    async def cancel(self, call_id: str, *, terminate: bool) -> None:
        """See ``Calls``."""
        cancel = modal.FunctionCall.from_id(call_id).cancel.aio
        try:
            await self._patience.ask(lambda: cancel(terminate_containers=terminate))
        except modal.exception.NotFoundError:
            return


class FunctionFetcher:
    """``Fetcher`` on the function that downloads models."""

    def __init__(self, function: modal.Function[..., Any, Any], patience: Patience) -> None:
        self._function = function
        self._patience = patience

    async def fetch(self, wanted: str) -> str:
        """See ``Fetcher``."""
        call = await self._patience.ask(lambda: self._function.spawn.aio(wanted))
        try:
            return await call.get.aio()
        except asyncio.CancelledError:
            with suppress(Exception):  # the download ends by itself then, and is kept
                async with asyncio.timeout(_ANSWER_S):
                    await call.cancel.aio()
            raise


async def _ask_for_items(
    client: Any, queue_id: str, partition: str, last: str, wait: float
) -> list[tuple[str, str]]:
    """Entries of a partition behind ``last``, with their ids. ``Queue.iterate`` asks once more to
    learn that there are no others."""
    request = api_pb2.QueueNextItemsRequest(
        queue_id=queue_id,
        partition_key=partition.encode(),
        last_entry_id=last,
        item_poll_timeout=wait,
    )
    response = await client._stub.QueueNextItems(request)
    return [(item.entry_id, deserialize(item.value, client)) for item in response.items]


_items: Final[Any] = synchronize_api(_ask_for_items)
_Result = api_pb2.GenericResult
_STATES: Final = {
    _Result.GENERIC_STATUS_SUCCESS: CallState.RETURNED,
    _Result.GENERIC_STATUS_FAILURE: CallState.RAISED,
    _Result.GENERIC_STATUS_INIT_FAILURE: CallState.RAISED,
    _Result.GENERIC_STATUS_TERMINATED: CallState.STOPPED,
    _Result.GENERIC_STATUS_IDLE_TIMEOUT: CallState.STOPPED,
    _Result.GENERIC_STATUS_TIMEOUT: CallState.TIMED_OUT,
    _Result.GENERIC_STATUS_INTERNAL_FAILURE: CallState.LOST,
}


async def _ask_for_result(client: Any, call_id: str, wait: float) -> "_Result | None":
    """The raw result of a call. ``FunctionCall.get`` raises what the call raised beside its own
    errors, so that a ``TimeoutError`` or a lost connection of the worker looks like one of here.
    """
    request = api_pb2.FunctionGetOutputsRequest(
        function_call_id=call_id, timeout=wait, last_entry_id="0-0", start_idx=0, end_idx=0
    )
    response = await client._stub.FunctionGetOutputs(
        request, retry=Retry(attempt_timeout=wait + _ANSWER_S)
    )
    if response.outputs:
        return response.outputs[0].result
    return None if response.num_unfinished_inputs else _Result()


_result: Final[Any] = synchronize_api(_ask_for_result)


class VolumeFolder:
    """``SharedFolder`` on a Volume."""

    def __init__(self, volume: modal.Volume, root: Path, patience: Patience) -> None:
        self._volume = volume
        self._patience = patience
        self.root = root

    async def commit(self) -> None:
        """See ``SharedFolder``."""
        await self._patience.ask(self._volume.commit.aio)

    async def reload(self) -> None:
        """See ``SharedFolder``."""
        await self._patience.ask(self._volume.reload.aio)
