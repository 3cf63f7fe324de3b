"""The control plane for tests: a thread with the servers, and controls."""

import asyncio
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from aiohttp import web
from grpclib.server import Server
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientBase

from tests.control_plane.blobs import BlobCalls
from tests.control_plane.calls import ContainerCalls, FunctionCalls
from tests.control_plane.console import ConsoleCalls
from tests.control_plane.containers import Container, Launcher
from tests.control_plane.deploying import DeployCalls
from tests.control_plane.faults import CLIENT, Faults
from tests.control_plane.operating import OperateCalls
from tests.control_plane.rpc import service
from tests.control_plane.scheduler import Pool, Scheduler
from tests.control_plane.state import Call, Function, State
from tests.control_plane.stores import StoreCalls
from tests.control_plane.volumes import VolumeCalls, Volumes
from tests.control_plane.web import WebFront, listening_socket

Result = TypeVar("Result")

WAIT_S = 120.0
"""Timeout of each control, in seconds."""


class DeployFailed(Exception):
    """``modal deploy`` failed; the message is its output."""


class ControlPlane:
    """Runs from ``start`` to ``stop``; every method may be called from any thread.

    Args:
        isolated: Whether containers have a root folder of their own, with only the files that were
            uploaded, the volumes, and the packages of the image's requirement files. Only where
            ``isolation.is_possible()``.
        image_builder: Modal's image builder version of the environment.
    """

    def __init__(self, *, isolated: bool = False, image_builder: str = "2025.06") -> None:
        # short, because the path of a unix socket has at most 107 bytes
        self.root = Path(tempfile.mkdtemp(prefix="cp-"))
        self.mounts = self.root / "mnt"
        """Only volumes with a mount path in this folder are mounted."""
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="control-plane")
        self._blob_runner: web.AppRunner | None = None
        self._server: Server | None = None
        self._isolated = isolated
        self._image_builder = image_builder
        self.faults = Faults()
        """RPCs that fail or are slow, and the count of all."""

    def _build(self) -> None:
        self.state = State()
        self.volumes = Volumes(self.root / "vol", self.mounts)
        self._launcher = Launcher(self.state, self.root / "c", self.volumes, self._for_container)
        self._launcher.isolated = self._isolated
        self.scheduler = Scheduler(self.state, self._launcher)
        self._calls = FunctionCalls(self.state, self.scheduler)
        self.web = WebFront(self.state, self.scheduler, self._calls)
        self.stores = StoreCalls(self.state)
        self._blobs = BlobCalls(self.state)
        self._deploys = DeployCalls(
            self.state, self.web.url, self._published, self._blobs, self._image_builder
        )

    def start(self) -> Self:
        """Start the servers."""
        self._build()
        self._thread.start()
        self.do(self._start())
        return self

    async def _start(self) -> None:
        parts = (self._deploys, self._calls, self.stores, self._blobs)
        volumes = VolumeCalls(self.state, self.volumes, None)
        operate = OperateCalls(self.state, self.scheduler, self.stores)
        console = ConsoleCalls(self.state, self.volumes, self._blobs, self._published)
        self._server = Server([service(self.faults, CLIENT, *parts, volumes, console, operate)])
        listener = listening_socket()
        await self._server.start(sock=listener)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._blob_runner = web.AppRunner(self._blobs.app(), access_log=None, shutdown_timeout=1)
        await self._blob_runner.setup()
        blobs = listening_socket()
        await web.SockSite(self._blob_runner, blobs).start()
        self._blobs.base = f"http://127.0.0.1:{blobs.getsockname()[1]}"

    def stop(self) -> None:
        """Kill the containers, close the servers, remove the folder."""
        self.do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self.root, ignore_errors=True)

    async def _stop(self) -> None:
        await self.scheduler.close()
        await self.web.close()
        if self._blob_runner is not None:
            await self._blob_runner.cleanup()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        # Nothing runs the loop from now on: what is still connected would stay open.
        for transport in list(vars(self._loop)["_transports"].values()):
            transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def do(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run ``work`` on the plane's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def _for_container(self, container: Container) -> ModalClientBase:
        return service(
            self.faults,
            container.function.name,
            ContainerCalls(self.scheduler, container),
            self._calls,
            self.stores,
            self._blobs,
            VolumeCalls(self.state, self.volumes, container),
            self._deploys,
        )

    async def _published(self, app: Any) -> None:
        await self.web.serve()
        await self.scheduler.published(app)

    # what clients need

    @property
    def client_environment(self) -> dict[str, str]:
        """Variables that point Modal's client here."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": "ak-test",
            "MODAL_TOKEN_SECRET": "as-test",
            "MODAL_CONFIG_PATH": "/nonexistent",
        }

    def add_container_environment(self, variables: Mapping[str, str]) -> None:
        """Set variables of containers started from now on; they override the image's."""
        self._launcher.environment.update(variables)

    def use_python(self, name: str, python: str) -> None:
        """Set the interpreter of a function's containers."""
        self._launcher.pythons[name] = python

    def secret(self, name: str, values: Mapping[str, str]) -> None:
        """Create a named secret."""
        self.state.secrets[self.state.named_id("st", name)] = dict(values)

    def deploy(self, *target: str, environment: Mapping[str, str], cwd: Path | None = None) -> str:
        """Run the real ``modal deploy`` and return its output.

        Raises:
            DeployFailed: It exited with an error.
        """
        command: Sequence[str] = (sys.executable, "-m", "modal", "deploy", *target)
        env = {**os.environ, **self.client_environment, **environment}
        done = subprocess.run(
            command, env=env, cwd=cwd, capture_output=True, text=True, timeout=180, check=False
        )
        if done.returncode:
            raise DeployFailed(done.stdout + done.stderr)
        return done.stdout

    # state

    def function(self, name: str) -> Function:
        """The deployed function of this name."""
        (found,) = [f for f in self.state.functions.values() if f.name == name and f.version]
        return found

    def pool(self, name: str) -> Pool:
        """The queue and containers of a function."""
        return self.scheduler.pool(self.function(name).id)

    def calls(self, name: str) -> list[Call]:
        """All calls of a function, oldest first."""
        function_id = self.function(name).id
        return [c for c in list(self.state.calls.values()) if c.function_id == function_id]

    def logs(self) -> str:
        """Output of all containers."""
        paths = sorted((self.root / "c").glob("*/log"))
        return "\n".join(f"== {p.parent.name}\n{p.read_text(errors='replace')}" for p in paths)

    # controls

    def freeze(self, name: str, count: int) -> list[Container]:
        """Start containers and freeze them at their checkpoint."""
        pool = self.pool(name)

        async def work() -> list[Container]:
            made = [await self.scheduler.start(pool, wanted=False) for _ in range(count)]
            async with asyncio.timeout(WAIT_S):
                for container in made:
                    await _frozen(container)
            return made

        return self.do(work())

    def restore(self, container: Container) -> float:
        """Restore a frozen container.

        Returns:
            Seconds until its first request for an input.
        """

        async def work() -> float:
            container.wanted = True
            self._launcher.restore(container)
            async with asyncio.timeout(WAIT_S):
                await container.polled.wait()
            return (container.first_poll_at or 0.0) - (container.restored_at or 0.0)

        return self.do(work())

    def hold(self, name: str, held: bool = True) -> None:
        """Keep inputs of a function in its queue, or release them."""
        pool = self.pool(name)
        pool.hold = held
        self.do(self.scheduler.adjust(pool))

    def scale_to_zero(self, name: str, *, frozen: bool = True) -> None:
        """Kill all containers of a function, frozen ones too unless they are to stay, and wait
        until they have exited."""
        pool = self.pool(name)

        async def work() -> None:
            for container in list(pool.containers if frozen else pool.live):
                container.phase = "stopping"
                container.kill(signal.SIGCONT)
                container.kill()
                async with asyncio.timeout(WAIT_S):
                    await container.exited.wait()

        self.do(work())

    def kill(self, container: Container) -> None:
        """Kill a container and wait until it has exited."""

        async def work() -> None:
            container.kill()
            async with asyncio.timeout(WAIT_S):
                await container.exited.wait()

        self.do(work())

    def preempt(self, container: Container, *, grace: float = 5.0) -> None:
        """Interrupt a container, kill it after ``grace`` seconds (30 on Modal), and run its inputs
        again elsewhere; returns once it has exited."""
        self.do(self.scheduler.preempt(container, grace))

    def advance(self, *, days: float) -> None:
        """Let time pass for what the plane keeps: Dict entries, Queue partitions, results."""
        self.state.skipped += days * 86400

    def run_scheduled(self, name: str) -> Call:
        """Call a function as its schedule does, and wait for the end.

        Raises:
            ValueError: It has no schedule.
        """
        if not self.function(name).definition.HasField("schedule"):
            raise ValueError(f"{name} has no schedule")
        return self.run(name, pickle.dumps(((), {})))

    def fail_restores(self, name: str, count: int = 1) -> None:
        """Make the next restores of a function fail; the starts after them use no snapshot."""
        self.pool(name).failing_restores = count

    def expire(self, call: Call) -> None:
        """Drop a call's result, as Modal does after seven days."""
        call.expired = True

    def run(self, name: str, arguments: bytes = b"") -> Call:
        """Call a plain function, as a schedule does."""

        async def work() -> Call:
            call = await self._spawn(name, arguments)
            async with asyncio.timeout(WAIT_S):
                await call.done.wait()
            return call

        return self.do(work())

    def spawn(self, name: str, arguments: bytes, *, method: str = "") -> Call:
        """Queue a call of a function, or of a method of a class."""
        return self.do(self._spawn(name, arguments, method))

    async def _spawn(self, name: str, arguments: bytes, method: str = "") -> Call:
        item = api_pb2.FunctionInput(
            args=arguments, data_format=api_pb2.DATA_FORMAT_PICKLE, method_name=method
        )
        kind = api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC
        call = self._calls.make(self.function(name).id, item, kind)
        await self.scheduler.submit(call)
        return call


async def _frozen(container: Container) -> None:
    ends = [asyncio.create_task(e.wait()) for e in (container.frozen, container.exited)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()
    if not container.frozen.is_set():
        raise RuntimeError(f"the container ended before its checkpoint:\n{container.log}")
