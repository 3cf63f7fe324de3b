"""A container: Modal's real entrypoint in a process of its own, with its own socket and folder."""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from grpclib.server import Server
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientBase

from tests.control_plane.isolation import HOME
from tests.control_plane.roots import write_root
from tests.control_plane.state import ENVIRONMENT, Function, Input, State
from tests.control_plane.volumes import FOLDER_DESCRIPTOR, View, Volumes

INHERITED = ("PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV")
"""Variables of this machine that containers inherit, in addition to those of coverage."""

Phase = Literal["starting", "checkpointed", "ready", "stopping", "dead"]


@dataclass(eq=False)
class Container:
    """A container: a process and its state."""

    task_id: str
    """Changes with a restore."""
    function: Function
    version: int
    folder: Path
    snapshot: bool
    """Started to be checkpointed and restored."""
    phase: Phase = "starting"
    wanted: bool = True
    """False: once checkpointed it stays frozen, until a restore wakes it."""
    preempted: bool = False
    """Modal wants its machine back: its outputs count no more."""
    started_at: float = field(default_factory=time.time)
    """Unix time."""
    marks: list[tuple[int, float, str]] = field(default_factory=list[tuple[int, float, str]])
    """Bytes of output, Unix time and call id, whenever it took or ended an input."""
    views: dict[str, View] = field(default_factory=dict[str, View])
    running: dict[str, Input] = field(default_factory=dict[str, Input])
    served: int = 0
    cancels: asyncio.Queue[str] = field(default_factory=asyncio.Queue[str])
    process: asyncio.subprocess.Process | None = None
    server: Server | None = None
    exit_code: int | None = None
    restored_at: float | None = None
    """Monotonic time of the restore."""
    first_poll_at: float | None = None
    """Monotonic time of the first request for an input."""
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    polled: asyncio.Event = field(default_factory=asyncio.Event)
    frozen: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        """Process id; 0 before it has started."""
        return self.process.pid if self.process else 0

    @property
    def alive(self) -> bool:
        """Whether it can still take inputs."""
        return self.phase in ("starting", "checkpointed", "ready")

    @property
    def capacity(self) -> int:
        """Maximum number of concurrent inputs."""
        return self.function.definition.max_concurrent_inputs or 1

    @property
    def log(self) -> str:
        """Output of the process so far."""
        return self.output.decode(errors="replace")

    @property
    def output(self) -> bytes:
        """Output of the process so far."""
        return (self.folder / "log").read_bytes()

    def mark(self, call_id: str) -> None:
        """Remember that what is written from now on is of a call; ``""`` for none."""
        self.marks.append((len(self.output), time.time(), call_id))

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the process a signal, if it still runs."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop a checkpointed process with SIGSTOP."""
        self.kill(signal.SIGSTOP)
        self.frozen.set()

    def resume(self, *, result: str) -> None:
        """Resume a checkpointed process; see ``Launcher.restore``."""
        (self.folder / "gvisor").write_text(result)
        self.restored_at = time.monotonic()
        partial = self.folder / "restored.partial"
        partial.write_text(json.dumps({"task_id": self.task_id, "function_id": self.function.id}))
        partial.replace(self.folder / "restored.json")
        self.phase = "ready"
        self.kill(signal.SIGCONT)


class Launcher:
    """Starts containers."""

    def __init__(
        self,
        state: State,
        root: Path,
        volumes: Volumes,
        serve: Callable[[Container], ModalClientBase],
    ) -> None:
        self._state = state
        self._root = root
        self._volumes = volumes
        self._serve = serve
        self.environment: dict[str, str] = {}
        """Overrides the image's variables."""
        self.pythons: dict[str, str] = {}
        """Function name to the interpreter of its containers. Default: this one."""
        self.isolated = False
        """Whether containers only see what was uploaded, volumes, and packages of the image."""

    async def start(self, function: Function, *, snapshot: bool, wanted: bool) -> Container:
        """Start a process for the function's current definition."""
        task_id = self._state.new_id("ta")
        folder = self._root / task_id.lstrip("ta-0").rjust(3, "0")
        (folder / "tmp").mkdir(parents=True)
        container = Container(
            task_id, function, function.version, folder, snapshot=snapshot, wanted=wanted
        )
        for mount in function.definition.volume_mounts:
            view = self._volumes.mount(
                mount.volume_id, mount.mount_path, folder, anywhere=self.isolated
            )
            if view is not None:
                container.views[mount.volume_id] = view
        environment = self._environment(container)
        if self.isolated:
            views = {
                mount.mount_path: (container.views[mount.volume_id].folder, mount.read_only)
                for mount in function.definition.volume_mounts
            }
            plan = write_root(self._state, function, folder, views)
            environment |= {"CONTROL_PLANE_ROOT": str(plan), "PYTHONPATH": HOME, "HOME": HOME}
            environment["PATH"] = os.environ["PATH"]
        self._write_variables(container)
        arguments = self._arguments(container)
        (folder / "arguments").write_bytes(arguments.SerializeToString())
        (folder / "gvisor").write_text("restore")
        container.server = Server([self._serve(container)])
        await container.server.start(path=str(folder / "socket"))
        with (folder / "log").open("wb") as log:
            container.process = await asyncio.create_subprocess_exec(
                self.pythons.get(function.name, sys.executable),
                str(Path(__file__).with_name("entrypoint.py")),
                cwd=folder,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return container

    def _arguments(self, container: Container) -> api_pb2.ContainerArguments:
        function = container.function
        definition = api_pb2.Function()
        definition.CopyFrom(function.definition)
        definition.is_checkpointing_function = container.snapshot
        if definition.experimental_options.get("enable_gpu_snapshot") in ("True", "true", "1"):
            definition._experimental_enable_gpu_snapshot = True
        return api_pb2.ContainerArguments(
            task_id=container.task_id,
            function_id=function.id,
            app_id=function.app_id,
            function_def=definition,
            environment_name=ENVIRONMENT,
            checkpoint_id=f"ch-{container.task_id}" if container.snapshot else None,
            app_layout=self._state.layout(self._state.apps[function.app_id]),
        )

    def restore(self, container: Container, *, result: str = "restore") -> None:
        """Restore a checkpointed container, with a new task id and its variables of today.

        Args:
            container: At its checkpoint.
            result: The runtime's result for GPU memory, ``restore`` or ``error``.
        """
        container.task_id = self._state.new_id("ta")
        self._write_variables(container)
        container.resume(result=result)

    def _variables(self, definition: api_pb2.Function) -> dict[str, str]:
        """Those of the image and of the secrets, as they are now."""
        env = dict(image_environment(self._state, definition.image_id))
        for secret_id in definition.secret_ids:
            env |= self._state.secrets.get(secret_id, {})
        return env | self.environment

    def _write_variables(self, container: Container) -> None:
        variables = self._variables(container.function.definition)
        text = "\0".join(f"{key}={value}" for key, value in variables.items())
        (container.folder / "environment").write_text(text)

    def _environment(self, container: Container) -> dict[str, str]:
        definition = container.function.definition
        env = {key: os.environ[key] for key in INHERITED if key in os.environ}
        if not self.isolated:
            env |= {key: value for key, value in os.environ.items() if key.startswith("COV")}
        env |= self._variables(definition)
        env |= {
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(container.folder / "tmp"),
            "MODAL_IS_REMOTE": "1",
            "MODAL_SERVER_URL": f"unix://{container.folder / 'socket'}",
            "MODAL_CONFIG_PATH": "/nonexistent",
            "MODAL_TASK_ID": container.task_id,
            "MODAL_IMAGE_ID": definition.image_id,
            "MODAL_ENVIRONMENT": ENVIRONMENT,
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(container.folder / "arguments"),
            "MODAL_RESTORE_STATE_PATH": str(container.folder / "restored.json"),
            "CONTROL_PLANE_MODULES": sysconfig.get_path("purelib"),
            "CONTROL_PLANE_FOLDER_DESCRIPTOR": str(FOLDER_DESCRIPTOR),
            "CONTROL_PLANE_CHECKPOINT_FILE": str(container.folder / "gvisor"),
            "CONTROL_PLANE_ENVIRONMENT_FILE": str(container.folder / "environment"),
        }
        if container.snapshot:
            env["MODAL_ENABLE_SNAP_RESTORE"] = "1"
        return env


def image_environment(state: State, image_id: str) -> Mapping[str, str]:
    """Variables of the ``ENV`` lines of an image and its bases."""
    image = state.images.get(image_id)
    if image is None:
        return {}
    env: dict[str, str] = {}
    for base in image.base_images:
        env |= image_environment(state, base.image_id)
    for line in image.dockerfile_commands:
        if line.startswith("ENV "):
            for pair in shlex.split(line[4:]):
                key, _, value = pair.partition("=")
                env[key] = value
    env.pop("PATH", None)
    return env
