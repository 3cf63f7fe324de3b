"""Dicts and Queues."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.control_plane.rpc import not_found, streaming, unary
from tests.control_plane.state import State

MAX_PARTITION_ITEMS = 5000
ENTRY_LIFE_S = 7 * 86400
"""Seconds that a Dict entry is kept after its last use (https://modal.com/docs/guide/dicts)."""


@dataclass
class Partition:
    """A queue's items, in order."""

    items: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    last: int = 0
    ttl: int = 0
    """Seconds, from the last put. 0: no limit."""
    put_at: float = 0.0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


class StoreCalls:
    """Answers ``modal.Dict`` and ``modal.Queue``."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.dicts: dict[str, dict[bytes, bytes]] = {}
        self._used: dict[tuple[str, bytes], float] = {}
        """Dict id and key to the time of the last use."""
        self.queues: dict[str, defaultdict[bytes, Partition]] = {}

    def _dict(self, dict_id: str, used: bytes | None = None) -> dict[bytes, bytes]:
        if dict_id not in self.dicts:
            raise not_found(f"no dict {dict_id!r}")
        entries, now = self.dicts[dict_id], self._state.now()
        for key in list(entries):
            if now - self._used.setdefault((dict_id, key), now) > ENTRY_LIFE_S:
                del entries[key], self._used[dict_id, key]
        if used is not None:
            self._used[dict_id, used] = now
        return entries

    @unary
    async def DictGetOrCreate(
        self, request: api_pb2.DictGetOrCreateRequest
    ) -> api_pb2.DictGetOrCreateResponse:
        self._must_exist("di", request.deployment_name, request.object_creation_type)
        dict_id = self._state.named_id("di", request.deployment_name)
        entries = self.dicts.setdefault(dict_id, {})
        entries.update({entry.key: entry.value for entry in request.data})
        return api_pb2.DictGetOrCreateResponse(
            dict_id=dict_id, metadata=api_pb2.DictMetadata(name=request.deployment_name)
        )

    @unary
    async def DictUpdate(self, request: api_pb2.DictUpdateRequest) -> api_pb2.DictUpdateResponse:
        entries = self._dict(request.dict_id)
        created = False
        for update in request.updates:
            self._used[request.dict_id, update.key] = self._state.now()
            if update.key not in entries or not request.if_not_exists:
                created = update.key not in entries
                entries[update.key] = update.value
        return api_pb2.DictUpdateResponse(created=created)

    @unary
    async def DictGet(self, request: api_pb2.DictGetRequest) -> api_pb2.DictGetResponse:
        value = self._dict(request.dict_id, request.key).get(request.key)
        return api_pb2.DictGetResponse(found=value is not None, value=value)

    @unary
    async def DictPop(self, request: api_pb2.DictPopRequest) -> api_pb2.DictPopResponse:
        value = self._dict(request.dict_id).pop(request.key, None)
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    @unary
    async def DictContains(
        self, request: api_pb2.DictContainsRequest
    ) -> api_pb2.DictContainsResponse:
        return api_pb2.DictContainsResponse(found=request.key in self._dict(request.dict_id))

    @unary
    async def DictLen(self, request: api_pb2.DictLenRequest) -> api_pb2.DictLenResponse:
        return api_pb2.DictLenResponse(len=len(self._dict(request.dict_id)))

    @streaming
    async def DictContents(
        self, request: api_pb2.DictContentsRequest
    ) -> AsyncIterator[api_pb2.DictEntry]:
        for key, value in list(self._dict(request.dict_id).items()):
            yield api_pb2.DictEntry(
                key=key if request.keys else b"", value=value if request.values else b""
            )

    def _partition(self, queue_id: str, key: bytes) -> Partition:
        if queue_id not in self.queues:
            raise not_found(f"no queue {queue_id!r}")
        partition = self.queues[queue_id][key]
        if partition.ttl and self._state.now() - partition.put_at > partition.ttl:
            partition.items.clear()
        return partition

    @unary
    async def QueueGetOrCreate(
        self, request: api_pb2.QueueGetOrCreateRequest
    ) -> api_pb2.QueueGetOrCreateResponse:
        self._must_exist("qu", request.deployment_name, request.object_creation_type)
        queue_id = self._state.named_id("qu", request.deployment_name)
        self.queues.setdefault(queue_id, defaultdict(Partition))
        return api_pb2.QueueGetOrCreateResponse(
            queue_id=queue_id, metadata=api_pb2.QueueMetadata(name=request.deployment_name)
        )

    @unary
    async def QueuePut(self, request: api_pb2.QueuePutRequest) -> Empty:
        partition = self._partition(request.queue_id, request.partition_key)
        if len(partition.items) + len(request.values) > MAX_PARTITION_ITEMS:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, "the partition is full")
        async with partition.changed:
            for value in request.values:
                partition.last += 1
                partition.items.append((partition.last, value))
            partition.ttl = request.partition_ttl_seconds
            partition.put_at = self._state.now()
            partition.changed.notify_all()
        return Empty()

    @unary
    async def QueueGet(self, request: api_pb2.QueueGetRequest) -> api_pb2.QueueGetResponse:
        partition = self._partition(request.queue_id, request.partition_key)
        await _wait(partition, lambda: bool(partition.items), request.timeout)
        count = max(1, request.n_values)
        taken, partition.items = partition.items[:count], partition.items[count:]
        return api_pb2.QueueGetResponse(values=[value for _, value in taken])

    @unary
    async def QueueNextItems(
        self, request: api_pb2.QueueNextItemsRequest
    ) -> api_pb2.QueueNextItemsResponse:
        partition = self._partition(request.queue_id, request.partition_key)
        after = int(request.last_entry_id or 0)
        await _wait(partition, lambda: partition.last > after, request.item_poll_timeout)
        return api_pb2.QueueNextItemsResponse(
            items=[
                api_pb2.QueueItem(value=value, entry_id=str(number))
                for number, value in partition.items
                if number > after
            ]
        )

    @unary
    async def QueueLen(self, request: api_pb2.QueueLenRequest) -> api_pb2.QueueLenResponse:
        partition = self._partition(request.queue_id, request.partition_key)
        return api_pb2.QueueLenResponse(len=len(partition.items))

    @unary
    async def QueueClear(self, request: api_pb2.QueueClearRequest) -> Empty:
        if request.all_partitions:
            self.queues[request.queue_id].clear()
        else:
            self.queues[request.queue_id].pop(request.partition_key, None)
        return Empty()

    def _must_exist(self, prefix: str, name: str, creation: int) -> None:
        unspecified = creation == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED
        if unspecified and (prefix, name) not in self._state.named:
            raise not_found(f"{name!r} not found")


async def _wait(partition: Partition, ready: Callable[[], bool], timeout: float) -> None:
    async with partition.changed:
        if timeout > 0 and not ready():
            try:
                async with asyncio.timeout(timeout):
                    await partition.changed.wait_for(ready)
            except TimeoutError:
                return
