"""State of the control plane: apps, functions, calls and named objects."""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.message import Message
from modal_proto import api_pb2

from tests.control_plane.rpc import not_found

ENVIRONMENT = "main"
RESULT_LIFE_S = 7 * 86400
"""Seconds that a result is kept (https://modal.com/docs/guide/job-queue)."""


@dataclass
class Function:
    """A function, or the service function of a class; redeploys keep its id."""

    id: str
    app_id: str
    name: str
    staged: api_pb2.Function = field(default_factory=api_pb2.Function)
    """Created, but not current before the app's next publish."""
    definition: api_pb2.Function = field(default_factory=api_pb2.Function)
    definition_id: str = ""
    version: int = 0
    web_url: str = ""

    def handle(self) -> api_pb2.FunctionHandleMetadata:
        """Metadata for clients."""
        source = self.staged
        meta = api_pb2.FunctionHandleMetadata(
            function_name=self.name,
            function_type=source.function_type,
            web_url=self.web_url,
            definition_id=self.definition_id,
            class_parameter_info=source.class_parameter_info,
            function_schema=source.function_schema,
            supported_input_formats=source.supported_input_formats,
            supported_output_formats=source.supported_output_formats,
            app_id=self.app_id,
        )
        for name, method in source.method_definitions.items():
            meta.method_handle_metadata[name].CopyFrom(
                api_pb2.FunctionHandleMetadata(
                    function_name=method.function_name,
                    function_type=method.function_type,
                    is_method=True,
                    use_method_name=name,
                    definition_id=self.definition_id,
                    function_schema=method.function_schema,
                    supported_input_formats=method.supported_input_formats,
                    supported_output_formats=method.supported_output_formats,
                    app_id=self.app_id,
                )
            )
        return meta


@dataclass
class App:
    """An app, deployed or being deployed."""

    id: str
    name: str = ""
    version: int = 0
    functions: dict[str, str] = field(default_factory=dict[str, str])
    classes: dict[str, str] = field(default_factory=dict[str, str])
    published: dict[int, dict[str, api_pb2.Function]] = field(
        default_factory=dict[int, dict[str, api_pb2.Function]]
    )
    """Version to its functions' definitions by id, for a rollback."""
    tags: dict[int, str] = field(default_factory=dict[int, str])
    deployed_at: dict[int, float] = field(default_factory=dict[int, float])
    """Version to its note and its Unix time."""


@dataclass
class Input:
    """The input of a call; queued again if its container is lost."""

    id: str
    call: "Call"
    item: api_pb2.FunctionInput
    retries: int = 0
    cancelled: bool = False
    timer: asyncio.TimerHandle | None = None


@dataclass
class Call:
    """A function call with one input."""

    id: str
    function_id: str
    invocation: "api_pb2.FunctionCallInvocationType.ValueType"
    input: Input = field(init=False)
    output: api_pb2.FunctionGetOutputsItem | None = None
    expired: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)
    data_in: list[api_pb2.DataChunk] = field(default_factory=list[api_pb2.DataChunk])
    data_out: list[api_pb2.DataChunk] = field(default_factory=list[api_pb2.DataChunk])
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    finished_at: float | None = None
    """``State.now`` of the first result."""
    now: Callable[[], float] = time.monotonic

    async def finish(
        self, result: api_pb2.GenericResult, data_format: int = 0, retry_count: int = 0
    ) -> None:
        """Record the first result; later ones are ignored."""
        if self.output is None:
            self.output = api_pb2.FunctionGetOutputsItem(
                result=result, idx=0, input_id=self.input.id, retry_count=retry_count
            )
            self.output.data_format = data_format  # pyright: ignore[reportAttributeAccessIssue]
            self.finished_at = self.now()
        if self.input.timer is not None:
            self.input.timer.cancel()
        self.done.set()
        async with self.changed:
            self.changed.notify_all()

    @property
    def is_expired(self) -> bool:
        """Whether the result is gone."""
        age = 0.0 if self.finished_at is None else self.now() - self.finished_at
        return self.expired or age > RESULT_LIFE_S

    async def more(self, chunks: list[api_pb2.DataChunk], seen: int) -> None:
        """Wait until ``chunks`` has more than ``seen`` items or the call is done."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(chunks) > seen or self.done.is_set())


class State:
    """The whole state, for one event loop."""

    def __init__(self) -> None:
        self._counters: defaultdict[str, Callable[[], int]] = defaultdict(
            lambda: itertools.count(1).__next__
        )
        self.apps: dict[str, App] = {}
        self.functions: dict[str, Function] = {}
        self.calls: dict[str, Call] = {}
        self.classes: dict[str, str] = {}
        """Class id to the id of its service function."""
        self.named: dict[tuple[str, str], str] = {}
        """Kind and name, or kind and content, to id."""
        self.names: dict[str, str] = {}
        """Id to name of named objects."""
        self.images: dict[str, api_pb2.Image] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.requests: defaultdict[str, list[Message]] = defaultdict(list)
        """RPC to its recorded requests."""
        self.left: set[str] = set()
        """Apps whose client has disconnected; ``leaving`` is notified."""
        self.leaving = asyncio.Condition()
        self.files: dict[str, bytes] = {}
        """Uploaded files, by SHA-256."""
        self.mounts: dict[str, dict[str, str]] = {}
        """Mount id to its files: path to SHA-256."""
        self.volume_versions: dict[str, api_pb2.VolumeFsVersion.ValueType] = {}
        """By volume id; others have version 1."""
        self.environments: defaultdict[str, set[str]] = defaultdict(set)
        """RPC to the environments that its requests named."""
        self.skipped = 0.0
        """Seconds that tests let pass at once."""

    def now(self) -> float:
        """Seconds on the plane's clock."""
        return time.monotonic() + self.skipped

    def new_id(self, prefix: str) -> str:
        """A new id like Modal's: type prefix and number."""
        return f"{prefix}-{self._counters[prefix]():016d}"

    def named_id(self, prefix: str, name: str) -> str:
        """Id of a named object, created at first use; an object without a name is always new."""
        if not name:
            return self.new_id(prefix)
        key = (prefix, name)
        if key not in self.named:
            self.named[key] = self.new_id(prefix)
            self.names[self.named[key]] = name
        return self.named[key]

    def volume_version(self, volume_id: str) -> "api_pb2.VolumeFsVersion.ValueType":
        """Version of a volume's file system."""
        return self.volume_versions.get(volume_id, api_pb2.VOLUME_FS_VERSION_V1)

    def forget(self, object_id: str) -> None:
        """Delete a named object: its name is free."""
        for key in [key for key, known in self.named.items() if known == object_id]:
            del self.named[key]

    def app(self, name: str) -> App:
        """The app deployed under this name."""
        for app in self.apps.values():
            if app.name == name and app.version:
                return app
        raise not_found(f"no app {name!r} is deployed")

    def drop_functions(self, app: App, kept: set[str]) -> None:
        """Unpublish the functions of an app that are not kept: their containers end their inputs
        and stop, and inputs in their queues stay there."""
        for function_id in set(app.functions.values()) - kept:
            self.functions[function_id].version = 0

    def function(self, function_id: str) -> Function:
        """The function of this id."""
        if function_id not in self.functions:
            raise not_found(f"no function {function_id!r}")
        return self.functions[function_id]

    def call(self, call_id: str) -> Call:
        """The call of this id."""
        if call_id not in self.calls:
            raise not_found(f"no function call {call_id!r}")
        return self.calls[call_id]

    def layout(self, app: App) -> api_pb2.AppLayout:
        """The objects that a container can look up by id."""
        layout = api_pb2.AppLayout(function_ids=app.functions, class_ids=app.classes)
        for function in self.functions.values():
            if function.app_id == app.id:
                layout.objects.add(
                    object_id=function.id, function_handle_metadata=function.handle()
                )
        for class_id, function_id in self.classes.items():
            layout.objects.add(
                object_id=class_id,
                class_handle_metadata=api_pb2.ClassHandleMetadata(class_function_id=function_id),
            )
        for (prefix, name), object_id in self.named.items():
            if prefix == "vo":
                version = self.volume_version(object_id)
                metadata = api_pb2.VolumeMetadata(name=name, version=version)
                layout.objects.add(object_id=object_id, volume_metadata=metadata)
            elif prefix == "mo":
                metadata = api_pb2.MountHandleMetadata(content_checksum_sha256_hex=name)
                layout.objects.add(object_id=object_id, mount_handle_metadata=metadata)
            else:
                layout.objects.add(object_id=object_id)
        return layout
