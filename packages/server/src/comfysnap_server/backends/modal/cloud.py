"""The platform on Modal's own objects, through their async interface."""

# modal's stubs leave the types of .aio partly unknown
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import modal
from modal.exception import (
    ExecutionError,
    FunctionTimeoutError,
    InternalFailure,
    NotFoundError,
    OutputExpiredError,
    RemoteError,
)

from comfysnap_server.backends.modal.platform import CallState
from comfysnap_server.engine.protocol import EngineStartError

FEED_TTL_S: Final = 24 * 3600
"""How long a job's progress is kept after its last entry."""


class DictRecords:
    """``Records`` on a named Dict."""

    def __init__(self, entries: modal.Dict) -> None:
        self._entries = entries

    async def get(self, key: str) -> str | None:
        """See ``Records``."""
        return await self._entries.get.aio(key)

    async def add(self, key: str, value: str) -> bool:
        """See ``Records``."""
        return await self._entries.put.aio(key, value, skip_if_exists=True)

    async def put(self, key: str, value: str) -> None:
        """See ``Records``."""
        await self._entries.put.aio(key, value)

    async def items(self) -> AsyncIterator[tuple[str, str]]:
        """See ``Records``."""
        async for key, value in self._entries.items.aio():
            yield key, value


class QueueFeed:
    """``Feed`` on a named Queue."""

    def __init__(self, queue: modal.Queue) -> None:
        self._queue = queue

    async def append(self, job_id: str, entry: str) -> None:
        """See ``Feed``."""
        # a put that may block waits for ever once a partition holds its 5,000 entries
        await self._queue.put.aio(entry, block=False, partition=job_id, partition_ttl=FEED_TTL_S)

    async def read(self, job_id: str, *, wait: float) -> AsyncIterator[str]:
        """See ``Feed``."""
        async for entry in self._queue.iterate.aio(partition=job_id, item_poll_timeout=wait):
            yield entry


class FunctionCalls:
    """``Calls`` of one method."""

    def __init__(self, method: Any) -> None:
        self._method = method

    async def spawn(self, job_id: str, request: str | None) -> str:
        """See ``Calls``."""
        call = await self._method.spawn.aio(job_id, request)
        return call.object_id

    async def state(self, call_id: str, *, wait: float) -> CallState:
        """See ``Calls``."""
        try:
            await modal.FunctionCall.from_id(call_id).get.aio(timeout=wait)
        except TimeoutError:
            return CallState.PENDING
        except FunctionTimeoutError:
            return CallState.TIMED_OUT
        except (OutputExpiredError, NotFoundError):
            return CallState.GONE
        except InternalFailure:
            return CallState.LOST
        except RemoteError:
            return CallState.STOPPED
        except ExecutionError:
            return CallState.RAISED  # with an exception that cannot be read here
        except EngineStartError:
            return CallState.UNEQUIPPED
        except Exception as error:
            if type(error).__module__.partition(".")[0] in {"modal", "grpclib"}:
                raise  # Modal could not be asked
            return CallState.RAISED
        return CallState.RETURNED

    async def cancel(self, call_id: str, *, terminate: bool) -> None:
        """See ``Calls``."""
        try:
            await modal.FunctionCall.from_id(call_id).cancel.aio(terminate_containers=terminate)
        except NotFoundError:
            return


class VolumeFolder:
    """``SharedFolder`` on a Volume."""

    def __init__(self, volume: modal.Volume, root: Path) -> None:
        self._volume = volume
        self.root = root

    async def commit(self) -> None:
        """See ``SharedFolder``."""
        await self._volume.commit.aio()

    async def reload(self) -> None:
        """See ``SharedFolder``."""
        await self._volume.reload.aio()
