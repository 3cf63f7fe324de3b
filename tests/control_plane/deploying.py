"""The RPCs of ``modal deploy`` and of lookups by name."""

import hashlib
import time
from collections.abc import Awaitable, Callable

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.control_plane.blobs import BlobCalls
from tests.control_plane.rpc import not_found, unary
from tests.control_plane.state import ENVIRONMENT, App, Function, State


class DeployCalls:
    """Answers clients that create, publish and look up apps."""

    def __init__(
        self,
        state: State,
        web_url: Callable[[Function], str],
        published: Callable[[App], Awaitable[None]],
        blobs: BlobCalls,
        image_builder: str,
    ) -> None:
        self._state = state
        self._blobs = blobs
        self._image_builder = image_builder
        self._web_url = web_url
        self._published = published

    @unary
    async def ClientHello(self, request: Empty) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse(image_builder_version=self._image_builder)

    @unary
    async def AuthTokenGet(
        self, request: api_pb2.AuthTokenGetRequest
    ) -> api_pb2.AuthTokenGetResponse:
        return api_pb2.AuthTokenGetResponse(token="none")

    @unary
    async def EnvironmentGetOrCreate(
        self, request: api_pb2.EnvironmentGetOrCreateRequest
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        settings = api_pb2.EnvironmentSettings(image_builder_version=self._image_builder)
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id=self._state.named_id("en", request.deployment_name or ENVIRONMENT),
            metadata=api_pb2.EnvironmentMetadata(
                name=request.deployment_name or ENVIRONMENT, settings=settings
            ),
        )

    @unary
    async def AppGetByDeploymentName(
        self, request: api_pb2.AppGetByDeploymentNameRequest
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        known = [app.id for app in self._state.apps.values() if app.name == request.name]
        return api_pb2.AppGetByDeploymentNameResponse(
            app_id=known[0] if known else "",
            environment_name=ENVIRONMENT,
            lifecycle=api_pb2.AppLifecycle(app_state=api_pb2.APP_STATE_DEPLOYED),
        )

    @unary
    async def AppGetLayout(
        self, request: api_pb2.AppGetLayoutRequest
    ) -> api_pb2.AppGetLayoutResponse:
        layout = self._state.layout(self._state.apps[request.app_id])
        return api_pb2.AppGetLayoutResponse(app_layout=layout)

    @unary
    async def AppCreate(self, request: api_pb2.AppCreateRequest) -> api_pb2.AppCreateResponse:
        app = App(self._state.new_id("ap"))
        self._state.apps[app.id] = app
        return api_pb2.AppCreateResponse(app_id=app.id, app_page_url=f"http://127.0.0.1/{app.id}")

    @unary
    async def AppHeartbeat(self, request: api_pb2.AppHeartbeatRequest) -> Empty:
        return Empty()

    @unary
    async def AppClientDisconnect(self, request: api_pb2.AppClientDisconnectRequest) -> Empty:
        async with self._state.leaving:
            self._state.left.add(request.app_id)
            self._state.leaving.notify_all()
        return Empty()

    @unary
    async def AppPublish(self, request: api_pb2.AppPublishRequest) -> api_pb2.AppPublishResponse:
        state = self._state
        state.requests["AppPublish"].append(request)
        app = state.apps[request.app_id]
        app.name = request.name
        app.version += 1
        state.drop_functions(app, set(request.function_ids.values()))
        app.functions = dict(request.function_ids)
        app.classes = dict(request.class_ids)
        for function_id in app.functions.values():
            function = state.functions[function_id]
            function.definition.CopyFrom(function.staged)
            function.version = app.version
        app.published[app.version] = _definitions(state, app)
        app.tags[app.version] = request.deployment_tag
        app.deployed_at[app.version] = time.time()
        await self._published(app)
        return api_pb2.AppPublishResponse(
            url=f"http://127.0.0.1/{app.name}", deployed_at=app.deployed_at[app.version]
        )

    @unary
    async def SecretGetOrCreate(
        self, request: api_pb2.SecretGetOrCreateRequest
    ) -> api_pb2.SecretGetOrCreateResponse:
        state = self._state
        state.requests["SecretGetOrCreate"].append(request)
        creating = request.object_creation_type != api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED
        if not creating and ("st", request.deployment_name) not in state.named:
            raise not_found(f"no secret {request.deployment_name!r}")
        secret_id = state.named_id("st", request.deployment_name or repr(sorted(request.env_dict)))
        if creating:
            state.secrets[secret_id] = dict(request.env_dict)
        missing = set(request.required_keys) - set(state.secrets[secret_id])
        if missing:
            raise not_found(f"secret {request.deployment_name!r} lacks {sorted(missing)}")
        return api_pb2.SecretGetOrCreateResponse(
            secret_id=secret_id, metadata=api_pb2.SecretMetadata(name=request.deployment_name)
        )

    @unary
    async def MountGetOrCreate(
        self, request: api_pb2.MountGetOrCreateRequest
    ) -> api_pb2.MountGetOrCreateResponse:
        # the client lists files in the order in which it read them
        files = "".join(sorted(f"{file.filename} {file.sha256_hex}\n" for file in request.files))
        content = hashlib.sha256((request.deployment_name + files).encode()).hexdigest()
        self._state.requests["MountGetOrCreate"].append(request)
        mount_id = self._state.named_id("mo", content)
        self._state.mounts[mount_id] = {file.filename: file.sha256_hex for file in request.files}
        return api_pb2.MountGetOrCreateResponse(
            mount_id=mount_id,
            handle_metadata=api_pb2.MountHandleMetadata(content_checksum_sha256_hex=content),
        )

    @unary
    async def MountBatchedCheckExistence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        missing = [sha for sha in request.sha256_hex_hashes if sha not in self._state.files]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    @unary
    async def MountPutFile(
        self, request: api_pb2.MountPutFileRequest
    ) -> api_pb2.MountPutFileResponse:
        kind = request.WhichOneof("data_oneof")
        if kind is not None:
            data = request.data if kind == "data" else self._blobs.blobs[request.data_blob_id]
            self._state.files[request.sha256_hex] = data
        return api_pb2.MountPutFileResponse(exists=request.sha256_hex in self._state.files)

    @unary
    async def ImageGetOrCreate(
        self, request: api_pb2.ImageGetOrCreateRequest
    ) -> api_pb2.ImageGetOrCreateResponse:
        content = hashlib.sha256(request.image.SerializeToString(deterministic=True)).hexdigest()
        image_id = self._state.named_id("im", content)
        self._state.images[image_id] = request.image
        return api_pb2.ImageGetOrCreateResponse(
            image_id=image_id,
            result=api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS),
            metadata=api_pb2.ImageMetadata(image_builder_version=self._image_builder),
        )

    @unary
    async def FunctionPrecreate(
        self, request: api_pb2.FunctionPrecreateRequest
    ) -> api_pb2.FunctionPrecreateResponse:
        function = self._function(
            request.existing_function_id, request.app_id, request.function_name
        )
        function.staged = api_pb2.Function(
            function_name=request.function_name,
            function_type=request.function_type,
            method_definitions=request.method_definitions,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
        )
        return api_pb2.FunctionPrecreateResponse(
            function_id=function.id, handle_metadata=function.handle()
        )

    @unary
    async def FunctionCreate(
        self, request: api_pb2.FunctionCreateRequest
    ) -> api_pb2.FunctionCreateResponse:
        state = self._state
        state.requests["FunctionCreate"].append(request)
        ranked = request.function_data.ranked_functions
        definition = ranked[0].function if ranked else request.function
        function = self._function(
            request.existing_function_id, request.app_id, definition.function_name
        )
        function.staged.CopyFrom(definition)
        function.definition_id = state.new_id("de")
        if definition.webhook_config.type != api_pb2.WEBHOOK_TYPE_UNSPECIFIED:
            function.web_url = self._web_url(function)
        return api_pb2.FunctionCreateResponse(
            function_id=function.id,
            function=definition,
            handle_metadata=function.handle(),
            function_data=data_of(definition),
        )

    def _function(self, existing: str, app_id: str, name: str) -> Function:
        if existing:
            return self._state.functions[existing]
        known = [f for f in self._state.functions.values() if f.app_id == app_id and f.name == name]
        function = known[0] if known else Function(self._state.new_id("fu"), app_id, name)
        self._state.functions[function.id] = function
        return function

    @unary
    async def ClassCreate(self, request: api_pb2.ClassCreateRequest) -> api_pb2.ClassCreateResponse:
        class_id = request.existing_class_id or self._state.new_id("cs")
        self._state.classes.setdefault(class_id, "")
        return api_pb2.ClassCreateResponse(class_id=class_id)

    @unary
    async def ClassGet(self, request: api_pb2.ClassGetRequest) -> api_pb2.ClassGetResponse:
        app = self._state.app(request.app_name)
        if request.object_tag not in app.classes:
            raise not_found(f"app {app.name!r} has no class {request.object_tag!r}")
        return api_pb2.ClassGetResponse(class_id=app.classes[request.object_tag])

    @unary
    async def FunctionGet(self, request: api_pb2.FunctionGetRequest) -> api_pb2.FunctionGetResponse:
        app = self._state.app(request.app_name)
        if request.object_tag not in app.functions:
            raise not_found(f"app {app.name!r} has no function {request.object_tag!r}")
        function = self._state.functions[app.functions[request.object_tag]]
        return api_pb2.FunctionGetResponse(
            function_id=function.id,
            handle_metadata=function.handle(),
            function=data_of(function.definition),
        )


def _definitions(state: State, app: App) -> dict[str, api_pb2.Function]:
    kept: dict[str, api_pb2.Function] = {}
    for function_id in app.functions.values():
        kept[function_id] = api_pb2.Function()
        kept[function_id].CopyFrom(state.functions[function_id].definition)
    return kept


def data_of(definition: api_pb2.Function) -> api_pb2.FunctionData:
    """What clients see of a function."""
    data = api_pb2.FunctionData(
        module_name=definition.module_name,
        function_name=definition.function_name,
        function_type=definition.function_type,
    )
    data.ranked_functions.add(rank=0, function=definition)
    return data
