"""The object store for payloads too large for a message, over plain HTTP."""

import hashlib

from aiohttp import web
from modal_proto import api_pb2

from tests.control_plane.rpc import not_found, unary
from tests.control_plane.state import State


class BlobCalls:
    """Answers blob RPCs with URLs of the HTTP routes below."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.blobs: dict[str, bytes] = {}
        self.base = ""
        """Set once the server listens."""

    @unary
    async def BlobCreate(self, request: api_pb2.BlobCreateRequest) -> api_pb2.BlobCreateResponse:
        blob_id = self._state.new_id("bl")
        return api_pb2.BlobCreateResponse(
            blob_id=blob_id,
            blob_ids=[blob_id],
            upload_urls=api_pb2.UploadUrlList(items=[f"{self.base}/{blob_id}"]),
        )

    @unary
    async def BlobGet(self, request: api_pb2.BlobGetRequest) -> api_pb2.BlobGetResponse:
        if request.blob_id not in self.blobs:
            raise not_found(f"no blob {request.blob_id!r}")
        return api_pb2.BlobGetResponse(download_url=f"{self.base}/{request.blob_id}")

    def app(self) -> web.Application:
        """The HTTP application that stores and returns blobs."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_put("/{blob}", self._put)
        app.router.add_get("/{blob}", self._get)
        return app

    async def _put(self, request: web.Request) -> web.Response:
        data = await request.read()
        self.blobs[request.match_info["blob"]] = data
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return web.Response(headers={"ETag": f'"{etag}"'})

    async def _get(self, request: web.Request) -> web.Response:
        data = self.blobs.get(request.match_info["blob"])
        return web.Response(body=data) if data is not None else web.Response(status=404)
