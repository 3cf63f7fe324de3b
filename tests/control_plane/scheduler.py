"""Gives inputs to containers, and starts, restores and stops containers to match."""

import asyncio
import contextlib
import signal
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from modal_proto import api_pb2

from tests.control_plane.containers import Container, Launcher
from tests.control_plane.state import App, Call, Function, Input, State

MAX_LOSSES = 8
"""Lost containers after which an input fails, as in ``modal._functions``."""
MAX_FAILED_STARTS = 2
GPU_RESTORE_FAILED = 222
DEFAULT_MAX_CONTAINERS = 4

SUCCESS = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
TERMINATED = api_pb2.GenericResult.GENERIC_STATUS_TERMINATED
TIMEOUT = api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT
INTERNAL_FAILURE = api_pb2.GenericResult.GENERIC_STATUS_INTERNAL_FAILURE


@dataclass(eq=False)
class Pool:
    """The queue and the containers of one function."""

    function: Function
    pending: deque[Input] = field(default_factory=deque[Input])
    containers: list[Container] = field(default_factory=list[Container])
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    scaling: asyncio.Lock = field(default_factory=asyncio.Lock)
    failed_starts: int = 0
    start_failure: api_pb2.GenericResult | None = None
    without_snapshot: int = 0
    """Number of next starts without a snapshot."""
    failing_restores: int = 0
    """Number of next restores that fail."""
    broken: bool = False
    """Whether containers fail to start; then none is started before the next input or version."""
    hold: bool = False
    """Whether to keep inputs queued."""

    @property
    def live(self) -> list[Container]:
        """Containers of the current version that take inputs, or will soon; without frozen ones."""
        return [
            c
            for c in self.containers
            if c.alive and c.wanted and c.version == self.function.version
        ]

    @property
    def reserve(self) -> list[Container]:
        """Frozen at their checkpoint."""
        return [
            c
            for c in self.containers
            if c.phase == "checkpointed" and not c.wanted and c.version == self.function.version
        ]


class Scheduler:
    """All pools of the plane."""

    def __init__(self, state: State, launcher: Launcher) -> None:
        self._state = state
        self._launcher = launcher
        self.pools: dict[str, Pool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.max_containers = DEFAULT_MAX_CONTAINERS
        self.closing = False
        self.everyone: list[Container] = []
        """All containers that were ever started."""

    def pool(self, function_id: str) -> Pool:
        """The function's pool, created at first use."""
        if function_id not in self.pools:
            self.pools[function_id] = Pool(self._state.function(function_id))
        return self.pools[function_id]

    async def submit(self, call: Call) -> None:
        """Queue the call's input."""
        pool = self.pool(call.function_id)
        pool.broken = False
        pool.pending.append(call.input)
        await self.adjust(pool)

    async def adjust(self, pool: Pool) -> None:
        """Notify containers, and start as many as the queue needs."""
        async with pool.changed:
            pool.changed.notify_all()
        async with pool.scaling:
            if not self.closing and pool.function.version:
                await self._scale(pool)

    async def _scale(self, pool: Pool) -> None:
        settings = pool.function.definition.autoscaler_settings
        most = settings.max_containers or self.max_containers
        room = sum(c.capacity - len(c.running) for c in pool.live if c.phase != "stopping")
        waiting = 0 if pool.hold else len(pool.pending)
        capacity = pool.function.definition.max_concurrent_inputs or 1
        wanted = -(-max(0, waiting - room) // capacity)
        busy = any(c.running for c in pool.live)
        spare = settings.buffer_containers if busy or waiting else 0
        if not pool.broken:
            wanted = max(wanted + spare, settings.min_containers - len(pool.live))
        for _ in range(min(wanted, most - len(pool.live))):
            await self._add(pool)

    async def _add(self, pool: Pool) -> None:
        if pool.reserve:
            container = pool.reserve[0]
            container.wanted = True
            self._restore(pool, container)
            return
        await self.start(pool, wanted=True)

    async def start(self, pool: Pool, *, wanted: bool) -> Container:
        """Start a container; one that is not wanted stops at its checkpoint."""
        snapshot = pool.function.definition.checkpointing_enabled
        if pool.without_snapshot and wanted:
            pool.without_snapshot -= 1
            snapshot = False
        container = await self._launcher.start(pool.function, snapshot=snapshot, wanted=wanted)
        pool.containers.append(container)
        self.everyone.append(container)
        if not snapshot:
            container.phase = "ready"
        self._spawn(self._watch(pool, container))
        return container

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def checkpointed(self, container: Container) -> None:
        """Handle a container that reached its checkpoint."""
        self._spawn(self._after_checkpoint(container))

    async def _after_checkpoint(self, container: Container) -> None:
        container.phase = "checkpointed"
        if container.wanted:
            self._restore(self.pool(container.function.id), container)
        else:
            # It drops its connections first, and nothing reports when it has.
            await asyncio.sleep(0.1)
            container.freeze()

    def _restore(self, pool: Pool, container: Container) -> None:
        gpu = container.function.definition.experimental_options.get("enable_gpu_snapshot")
        if not pool.failing_restores:
            self._launcher.restore(container)
            return
        pool.failing_restores -= 1
        pool.without_snapshot += 1
        if gpu:
            self._launcher.restore(container, result="error")
        else:
            container.kill()

    async def take(self, container: Container) -> Input | None:
        """The container's next input; None if it must stop."""
        pool = self.pool(container.function.id)
        if container.first_poll_at is None:
            container.first_poll_at = time.monotonic()
            container.polled.set()
            pool.failed_starts = 0
        window = pool.function.definition.autoscaler_settings.scaledown_window or 60
        async with pool.changed:
            try:
                async with asyncio.timeout(None if container.running else window):
                    await pool.changed.wait_for(lambda: self._has_work(pool, container))
            except TimeoutError:
                if len(pool.live) > pool.function.definition.autoscaler_settings.min_containers:
                    container.phase = "stopping"
            if not container.alive or container.version != pool.function.version:
                container.phase = "stopping"
                return None
            return self._hand_out(pool, container) if pool.pending else None

    def _has_work(self, pool: Pool, container: Container) -> bool:
        stale = not container.alive or container.version != pool.function.version
        return stale or bool(pool.pending and not pool.hold)

    def _hand_out(self, pool: Pool, container: Container) -> Input:
        item = pool.pending.popleft()
        container.running[item.id] = item
        container.mark(item.call.id if container.capacity == 1 else "")
        container.served += 1
        limit = pool.function.definition.timeout_secs
        if limit:
            loop = asyncio.get_running_loop()
            item.timer = loop.call_later(
                limit, lambda: self._spawn(self._timed_out(container, item))
            )
        return item

    async def _timed_out(self, container: Container, item: Input) -> None:
        if item.call.output is None and item.id in container.running:
            await item.call.finish(api_pb2.GenericResult(status=TIMEOUT, exception="timed out"))
            container.kill()

    async def put_output(
        self, container: Container | None, output: api_pb2.FunctionPutOutputsItem
    ) -> None:
        """Record the result of an input; that of a preempted container is lost."""
        if container is not None and container.preempted:
            return
        item = container.running.pop(output.input_id, None) if container else None
        if item is not None and container is not None:
            container.mark("")
            await item.call.finish(output.result, output.data_format, output.retry_count)
            await self.adjust(self.pool(container.function.id))

    async def cancel(self, call: Call, *, terminate: bool) -> None:
        """Cancel an input: drop a queued one, notify the container of a running one, or kill it."""
        pool = self.pool(call.function_id)
        call.input.cancelled = True
        if call.input in pool.pending:
            pool.pending.remove(call.input)
            await call.finish(api_pb2.GenericResult(status=TERMINATED, exception="cancelled"))
        for container in pool.containers:
            if call.input.id in container.running:
                if terminate:
                    container.kill()
                else:
                    container.cancels.put_nowait(call.input.id)

    async def start_failed(self, container: Container, result: api_pb2.GenericResult) -> None:
        """Record an error of user code before the first input."""
        self.pool(container.function.id).start_failure = result

    async def published(self, app: App) -> None:
        """Kill frozen containers of old versions; others finish their inputs and stop."""
        ours = [f.id for f in self._state.functions.values() if f.app_id == app.id]
        for function_id in ours:
            pool = self.pool(function_id)
            pool.broken = False
            for container in pool.containers:
                if container.phase == "checkpointed" and not container.wanted:
                    container.kill()
            await self.adjust(pool)

    async def _watch(self, pool: Pool, container: Container) -> None:
        assert container.process is not None
        container.exit_code = await container.process.wait()
        started = container.first_poll_at is not None
        was_stopping = container.phase == "stopping"
        container.phase = "dead"
        pool.containers.remove(container)
        if container.server is not None:
            container.server.close()
        lost = list(container.running.values())
        container.running.clear()
        container.exited.set()
        for item in reversed(lost):
            await self._lost(pool, item, preempted=container.preempted)
        failed_start = not started and not was_stopping and container.wanted
        if failed_start and container.exit_code != GPU_RESTORE_FAILED and not pool.without_snapshot:
            pool.failed_starts += 1
        if pool.failed_starts >= MAX_FAILED_STARTS:
            await self._fail_pending(pool)
        if not self.closing:
            await self.adjust(pool)

    async def preempt(self, container: Container, grace: float) -> None:
        """Interrupt a container, kill it after ``grace`` seconds, and queue its inputs again
        (https://modal.com/docs/guide/preemption)."""
        container.preempted = True
        container.phase = "stopping"
        container.kill(signal.SIGINT)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await container.exited.wait()
        container.kill()
        await container.exited.wait()

    async def stop(self, container: Container, *, graceful: bool) -> None:
        """Give a container no other inputs, or kill it."""
        container.phase = "stopping"
        if not graceful:
            container.kill()
        await self.adjust(self.pool(container.function.id))

    async def _lost(self, pool: Pool, item: Input, *, preempted: bool) -> None:
        if item.timer is not None:
            item.timer.cancel()
        if item.call.output is not None:
            return
        item.retries += not preempted
        if item.cancelled:
            await item.call.finish(api_pb2.GenericResult(status=TERMINATED, exception="cancelled"))
        elif item.retries > MAX_LOSSES:
            await item.call.finish(api_pb2.GenericResult(status=INTERNAL_FAILURE))
        else:
            pool.pending.appendleft(item)

    async def _fail_pending(self, pool: Pool) -> None:
        result = pool.start_failure or api_pb2.GenericResult(
            status=INTERNAL_FAILURE, exception="the container does not start"
        )
        while pool.pending:
            await pool.pending.popleft().call.finish(result, api_pb2.DATA_FORMAT_PICKLE)
        pool.failed_starts = 0
        pool.broken = True

    async def close(self) -> None:
        """Kill every container and wait until all have exited."""
        self.closing = True
        living = [c for pool in self.pools.values() for c in pool.containers]
        for container in living:
            container.kill(signal.SIGCONT)
            container.kill()
        for container in living:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await container.exited.wait()
        for task in list(self._tasks):
            task.cancel()
