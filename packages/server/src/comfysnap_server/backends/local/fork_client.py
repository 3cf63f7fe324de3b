"""The server's side of the fork server: starts it, has it fork workers, and learns how they end."""

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

import comfysnap_schema
import comfysnap_server
from comfysnap_server.backends.local.channel import (
    FORK_SERVER_MESSAGE,
    ExitedMessage,
    FailedMessage,
    ForkedMessage,
    ForkOrder,
    LoadedMessage,
    read_message,
)
from comfysnap_server.backends.local.worker_process import (
    StartTimings,
    WorkerProcess,
    WorkerStartError,
)
from comfysnap_server.engine.protocol import SCRATCH

logger = logging.getLogger(__name__)

_PARENT: Final = "comfysnap_server.backends.local.fork_server"
_GUARD: Final = Path(__file__).with_name("guard.py")
_STOP_PATIENCE_S: Final = 5.0
_STRAYS_PATIENCE_S: Final = 10.0
FORK_PATIENCE_S: Final = 10.0
"""A fork server that takes longer to fork hangs."""


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """How worker processes are started."""

    engine: str
    engine_options: Mapping[str, JsonValue]
    data: Path
    scratch: Path
    """Absolute; exists when a process is started."""
    python: str | None = None
    """Interpreter of the workers; None: this one."""
    python_path: Sequence[Path] = ()
    """Folders put before others on the workers' module path."""
    start_timeout: float = 600.0
    """Seconds for the engine to load and attach."""
    secrets: Collection[str] = ()
    """Environment variables that the processes do not get."""


class ForkServerClient:
    """A process that loaded the engine and forks workers from it. Where that is not safe, it
    becomes the one worker itself, and ``forks`` is false."""

    def __init__(self, options: ProcessOptions, lock: int) -> None:
        self._options = options
        self._lock = lock
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._workers: dict[int, WorkerProcess] = {}
        self._forked: asyncio.Future[ForkedMessage] | None = None
        self._forking = asyncio.Lock()
        self._tasks: list[asyncio.Task[Any]] = []
        self._loads = True
        self._hung = False
        self._ended = False
        self._asked = 0
        self._spawning = 0
        self._pid = 0
        self._life: socket.socket | None = None
        """To the guard, which ends all processes when it is closed."""
        self._asking = asyncio.Lock()
        self.gone = asyncio.Event()
        self.began = time.time()
        self.load = 0.0
        self.thread_holders: list[str] = []
        self.spawned = 0

    @property
    def forks(self) -> bool:
        """Whether more than one worker can come from it."""
        return not self.thread_holders

    @property
    def usable(self) -> bool:
        """Whether another worker can come from it."""
        broken = self._loads or self._hung or self._ended or self.gone.is_set()
        return not broken and (self.forks or self._asked == 0)

    @property
    def has_workers(self) -> bool:
        """Whether a worker of it lives or starts; those of a process that hangs may run jobs."""
        alive = any(not worker.lost.is_set() for worker in self._workers.values())
        return alive or self._spawning > 0

    async def start(self) -> None:
        """Start the process and wait for the engine to be loaded.

        Raises:
            WorkerStartError: It could not be loaded.
        """
        python = self._options.python
        if python is not None and shutil.which(python) is None:
            raise WorkerStartError(f"{python}: not an interpreter")
        self._control, theirs = socket.socketpair()
        self._life, their_life = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(their_life.fileno(), theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(their_life.fileno(), theirs.fileno(), self._lock),
                start_new_session=True,
                env=self._environment(),
            )
        except OSError as error:
            raise WorkerStartError(f"{sys.executable}: {error.strerror}") from error
        finally:
            theirs.close()
            their_life.close()
        self._tasks.append(asyncio.create_task(self._watch(self._process), name="warm-parent"))
        self._life.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=self._control.dup())
        await self._loaded(reader)
        self._tasks.append(asyncio.create_task(self._listen(reader), name="warm-parent-listener"))

    async def spawn(self, gpu: int | None = None) -> WorkerProcess:
        """Start a worker and wait for it to be ready.

        Args:
            gpu: Index of the only GPU that it sees; None: all.

        Raises:
            WorkerStartError: It died before that, or took too long.
        """
        self._asked += 1
        self._spawning += 1
        try:
            return await self._spawn(gpu)
        finally:
            self._spawning -= 1

    async def _spawn(self, gpu: int | None) -> WorkerProcess:
        began = time.time()
        ours, theirs = socket.socketpair()
        try:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        try:
            forked = await self._fork(ForkOrder(gpu=gpu), theirs)
        except BaseException as error:
            writer.close()
            if isinstance(error, TimeoutError):
                self._hung = True
                raise WorkerStartError("the fork server hangs; it is replaced") from error
            if isinstance(error, OSError):
                raise WorkerStartError("the fork server is gone") from error
            raise
        finally:
            theirs.close()
        end_strays = partial(self._end_strays, forked)
        worker = self._workers[forked.pid] = WorkerProcess(forked.pid, reader, writer, end_strays)
        try:
            async with asyncio.timeout(self._options.start_timeout):
                attach, device = await worker.ready()
        except BaseException as error:
            worker.kill()
            await worker.close()
            if isinstance(error, TimeoutError):
                raise WorkerStartError("the engine took too long to attach") from error
            raise
        warm = self.forks and self.spawned > 0
        self.spawned += 1
        worker.start = StartTimings(
            load=self.load,
            attach=attach,
            device=device,
            began=began if warm else self.began,
            ready=time.time(),
            forked=warm,
        )
        return worker

    async def stop(self) -> None:
        """Close the control socket, which ends the process unless it still loads; make sure that it
        ended."""
        if self._writer is not None:
            self._writer.close()
        if self._control is not None:
            self._control.close()
        if self._process is None:
            self._close_life()
            return
        if self._loads or self._hung:
            self._end_all()
        for worker in [*self._workers.values()]:
            await worker.close()
        if not await self._is_gone_in(_STOP_PATIENCE_S):
            self._end_all()
            if not await self._is_gone_in(2 * _STOP_PATIENCE_S):
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                await self.gone.wait()
        self._close_life()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _is_gone_in(self, patience: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.gone.wait()
        return self.gone.is_set()

    def _end_all(self) -> None:
        """Have the guard end the process and all that came of it."""
        self._ended = True
        if self._life is not None:
            with suppress(OSError):
                self._life.shutdown(socket.SHUT_RDWR)

    def _close_life(self) -> None:
        self._end_all()
        if self._life is not None:
            self._life.close()

    async def _end_strays(self, forked: ForkedMessage, since: int) -> None:
        """Have the guard end what a job left behind; see ``WorkerProcess.end_strays``."""
        if self._life is None or self._ended or self.gone.is_set():
            return
        loop = asyncio.get_running_loop()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_STRAYS_PATIENCE_S), self._asking:
                order = f"{forked.keeper} {forked.pid} {since}\n"
                await loop.sock_sendall(self._life, order.encode())
                await loop.sock_recv(self._life, 64)

    def _command(self, life: int, control: int) -> list[str]:
        options = self._options
        return [
            sys.executable,
            "-I",
            "-S",
            str(_GUARD),
            str(life),
            str(control),
            options.python or sys.executable,
            "-m",
            _PARENT,
            f"--engine={options.engine}",
            f"--options={json.dumps(dict(options.engine_options))}",
            f"--control={control}",
            f"--lock={self._lock}",
        ]

    def _environment(self) -> dict[str, str]:
        """Another interpreter sees our packages through a folder that holds nothing else: beside
        them may lie versions of libraries that are not its own."""
        folders = [str(folder) for folder in self._options.python_path]
        if self._options.python is not None:
            folders.append(str(_linked_packages(self._options.data / "packages")))
        inherited = os.environ.get("PYTHONPATH")
        if inherited:
            folders.append(inherited)
        environment = {**os.environ, SCRATCH: str(self._options.scratch)}
        for name in self._options.secrets:
            environment.pop(name, None)
        if folders:
            environment["PYTHONPATH"] = os.pathsep.join(folders)
        return environment

    async def _loaded(self, reader: asyncio.StreamReader) -> None:
        try:
            async with asyncio.timeout(self._options.start_timeout):
                message = await read_message(reader, FORK_SERVER_MESSAGE)
        except TimeoutError as error:
            raise WorkerStartError("the engine took too long to load") from error
        if isinstance(message, FailedMessage):
            raise WorkerStartError(message.detail)
        if not isinstance(message, LoadedMessage):
            raise WorkerStartError("the process ended before the engine was loaded")
        self._loads = False
        self._pid = message.pid
        self.load = message.seconds
        self.thread_holders = message.threads

    async def _fork(self, order: ForkOrder, channel: socket.socket) -> ForkedMessage:
        """Hand a channel to the parent; the worker at its other end."""
        async with self._forking:
            if self._control is None or self._hung or self.gone.is_set():
                raise BrokenPipeError
            data = order.model_dump_json().encode()
            if not self.forks:
                socket.send_fds(self._control, [data], [channel.fileno()])
                return ForkedMessage(pid=self._pid, keeper=self._pid)
            self._forked = asyncio.get_running_loop().create_future()
            socket.send_fds(self._control, [data], [channel.fileno()])
            async with asyncio.timeout(FORK_PATIENCE_S):
                return await self._forked

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while (message := await read_message(reader, FORK_SERVER_MESSAGE)) is not None:
            if isinstance(message, ForkedMessage):
                if self._forked is not None and not self._forked.done():
                    self._forked.set_result(message)
            elif isinstance(message, ExitedMessage):
                worker = self._workers.pop(message.pid, None)
                if worker is not None:
                    worker.exited(describe_exit(message.code))

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        self.gone.set()
        if self._forked is not None and not self._forked.done():
            self._forked.set_exception(BrokenPipeError())
        for worker in self._workers.values():
            worker.exited(describe_exit(code) if not self.forks else "its parent process died")
        self._workers.clear()


class ForkServers:
    """Where the workers of a server come from: one fork server for all of them, or one for each
    where forking is not safe.

    Args:
        options: How they are started.
        lock: Descriptor that all processes hold open.
    """

    def __init__(self, options: ProcessOptions, lock: int) -> None:
        self._options = options
        self._lock = lock
        self._clients: list[ForkServerClient] = []
        self._starting: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> bool:
        """Whether the engine was loaded, and a worker came of it."""
        return any(client.spawned for client in self._clients)

    @property
    def thread_holders(self) -> list[str]:
        """Node packs (or threads) that keep workers from being forked; empty when they are."""
        return [name for client in self._clients[:1] for name in client.thread_holders]

    async def spawn(self, gpu: int | None) -> WorkerProcess:
        """Start a worker, and a fork server first where none can be used.

        Raises:
            WorkerStartError: Either could not be started.
        """
        while True:
            await self._drop_spent()
            for client in self._clients:
                if client.usable:
                    return await client.spawn(gpu)
            if self._starting is None or self._starting.done():
                self._starting = asyncio.create_task(self._start(), name="fork-server-start")
            await asyncio.shield(self._starting)  # the same failure for all who wait

    async def stop(self) -> None:
        """End all of them, also one that just starts."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await asyncio.gather(*(client.stop() for client in self._clients))
        self._clients.clear()

    async def _drop_spent(self) -> None:
        """End those that no worker comes from any more, once their workers are dead."""
        starting = self._starting is not None and not self._starting.done()
        for client in [] if starting else [*self._clients]:
            if not client.usable and not client.has_workers:
                await client.stop()
                self._forget(client)

    async def _start(self) -> None:
        client = ForkServerClient(self._options, self._lock)
        self._clients.append(client)  # so that ``stop`` ends it whenever it comes
        try:
            await client.start()
        except Exception:
            await client.stop()
            self._forget(client)
            raise
        if not client.forks:
            logger.warning(
                "workers are started afresh instead of forked, because threads were left by: %s",
                ", ".join(client.thread_holders),
            )

    def _forget(self, client: ForkServerClient) -> None:
        if client in self._clients:
            self._clients.remove(client)


def describe_exit(code: int) -> str:
    """An exit code in words; negative ones are signals."""
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
    return f"it was killed by {name}{hint}"


def _linked_packages(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for package in (comfysnap_schema, comfysnap_server):
        source = Path(str(package.__file__)).resolve().parent
        link = folder / source.name
        if not link.is_symlink() or link.resolve() != source:
            link.unlink(missing_ok=True)
            link.symlink_to(source, target_is_directory=True)
    return folder
