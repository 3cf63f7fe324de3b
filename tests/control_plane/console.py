"""RPCs of Modal's commands: logs, rollback, secrets, and the files of a volume."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.control_plane.blobs import BlobCalls
from tests.control_plane.rpc import not_found, streaming, unary
from tests.control_plane.state import App, State
from tests.control_plane.volumes import Volumes


class ConsoleCalls:
    """Answers ``modal app`` and ``modal volume``, and their API."""

    def __init__(
        self,
        state: State,
        volumes: Volumes,
        blobs: BlobCalls,
        published: Callable[[App], Awaitable[None]],
    ) -> None:
        self._state = state
        self._published = published
        self._volumes = volumes
        self._blobs = blobs

    @streaming
    async def AppGetLogs(
        self, request: api_pb2.AppGetLogsRequest
    ) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        """Send no lines; end once the app's client has disconnected."""
        left = self._state.left
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(request.timeout), self._state.leaving:
                await self._state.leaving.wait_for(lambda: request.app_id in left)
        yield api_pb2.TaskLogsBatch(app_done=request.app_id in left)

    @unary
    async def AppRollback(self, request: api_pb2.AppRollbackRequest) -> api_pb2.AppRollbackResponse:
        self._state.requests["AppRollback"].append(request)
        app = self._state.apps[request.app_id]
        target = request.version if request.version > 0 else app.version + request.version
        if target not in app.published:
            raise not_found(f"app {app.name!r} has no version {target}")
        app.version += 1
        app.published[app.version] = app.published[target]
        self._state.drop_functions(app, set(app.published[target]))
        app.functions = {self._state.functions[key].name: key for key in app.published[target]}
        for function_id, definition in app.published[target].items():
            function = self._state.functions[function_id]
            function.definition.CopyFrom(definition)
            function.version = app.version
        app.deployed_at[app.version] = time.time()
        await self._published(app)
        deployed_at = app.deployed_at[app.version]
        return api_pb2.AppRollbackResponse(url="http://127.0.0.1/", deployed_at=deployed_at)

    @unary
    async def SecretUpdate(self, request: api_pb2.SecretUpdateRequest) -> Empty:
        values = self._state.secrets[request.secret_id]
        values.update({update.key: update.value for update in request.updates})
        return Empty()

    @streaming
    async def VolumeListFiles(
        self, request: api_pb2.VolumeListFilesRequest
    ) -> AsyncIterator[api_pb2.VolumeListFilesResponse]:
        folder = self._volumes.committed(request.volume_id)
        for path in sorted(folder.rglob("*")):
            kind = api_pb2.FileEntry.FILE if path.is_file() else api_pb2.FileEntry.DIRECTORY
            entry = api_pb2.FileEntry(
                path=str(path.relative_to(folder)), type=kind, size=path.stat().st_size
            )
            yield api_pb2.VolumeListFilesResponse(entries=[entry])

    @unary
    async def VolumeGetFile2(
        self, request: api_pb2.VolumeGetFile2Request
    ) -> api_pb2.VolumeGetFile2Response:
        content = self._file(request.volume_id, request.path).read_bytes()
        blob_id = self._state.new_id("bl")
        self._blobs.blobs[blob_id] = content
        url = f"{self._blobs.base}/{blob_id}"
        return api_pb2.VolumeGetFile2Response(get_urls=[url], size=len(content), len=len(content))

    @unary
    async def VolumeRemoveFile(self, request: api_pb2.VolumeRemoveFileRequest) -> Empty:
        self._file(request.volume_id, request.path).unlink()
        return Empty()

    def _file(self, volume_id: str, path: str) -> Path:
        found = self._volumes.committed(volume_id) / path.lstrip("/")
        if not found.is_file():
            raise not_found(f"no file {path!r}")
        return found
