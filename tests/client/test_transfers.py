"""Files up and down."""

import asyncio
import base64
import hashlib
import io
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from comfysnap_client import (
    APIError,
    Client,
    DownloadFailed,
    Lora,
    OutputExpired,
    RetryPolicy,
    ServerError,
    untyped,
)
from comfysnap_client.downloads import safe_name
from comfysnap_schema.wire.files import FileBySha256, OutputFile
from tests.client.fakes import DrawInput, FakeServer, Handler, names, rejecting

BIG = os.urandom(1_500_000)
SHA = hashlib.sha256(BIG).hexdigest()


async def sent(client: Client, server: FakeServer, **files: object) -> dict[str, object]:
    await client.infer_async(DrawInput.model_validate({"prompt": "x", **files}))
    return next(reversed(server.jobs.values()))["inputs"]


async def test_a_small_file_is_sent_inline(
    client: Client, server: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "fox.png"
    path.write_bytes(b"png")
    inputs = await sent(client, server, image=path, mask=b"mask")

    assert inputs["image"] == {
        "data": base64.b64encode(b"png").decode(),
        "content_type": "image/png",
    }
    assert inputs["mask"] == {
        "data": base64.b64encode(b"mask").decode(), "content_type": "application/octet-stream",
    }  # fmt: skip
    assert not server.requests_to("/files")


async def test_a_large_file_is_sent_once(
    client: Client, server: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "fox.png"
    path.write_bytes(BIG)
    assert (await sent(client, server, image=path))["image"] == {"sha256": SHA}
    assert server.files[SHA] == BIG
    assert (await sent(client, server, image=BIG))["image"] == {"sha256": SHA}
    assert [r.method for r in server.requests_to("/files")] == ["HEAD", "PUT", "HEAD"]
    assert server.requests_to("/files")[1].headers["content-length"] == str(len(BIG))


async def test_an_open_file_is_read_from_its_position_and_left_open(
    client: Client, server: FakeServer
) -> None:
    file = io.BytesIO(b"header" + BIG)
    file.seek(6)
    assert (await sent(client, server, image=file))["image"] == {"sha256": SHA}
    assert not file.closed


async def test_a_pipe_is_uploaded(client: Client, server: FakeServer) -> None:
    reading, writing = os.pipe()

    def fill() -> None:
        with os.fdopen(writing, "wb") as end:
            end.write(BIG)

    thread = threading.Thread(target=fill)
    thread.start()
    pipe: BinaryIO = os.fdopen(reading, "rb")
    with pipe:
        assert (await sent(client, server, image=pipe))["image"] == {"sha256": SHA}
    thread.join()


async def test_urls_and_hashes_are_sent_unchanged(client: Client, server: FakeServer) -> None:
    inputs = await sent(
        client, server, image="https://example.com/fox.png", mask=FileBySha256(sha256=SHA)
    )
    assert inputs["image"] == {"url": "https://example.com/fox.png"}
    assert inputs["mask"] == {"sha256": SHA}
    assert not server.requests_to("/files")


async def test_files_in_a_list_are_sent_like_single_ones(
    client: Client, server: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "fox.png"
    path.write_bytes(b"png")
    given: dict[str, object] = {
        "images": [path, BIG, FileBySha256(sha256=SHA), io.BytesIO(BIG[1:])],
        "texts": ["a", None],
        "loras": [Lora(name="ink.safetensors", strength=0.5)],
        "none": [],
    }
    await client.infer_async(untyped("draw", given))
    (job,) = server.jobs.values()
    assert job["inputs"] == {
        "images": [
            {"data": base64.b64encode(b"png").decode(), "content_type": "image/png"},
            {"sha256": SHA},
            {"sha256": SHA},
            {"sha256": hashlib.sha256(BIG[1:]).hexdigest()},
        ],
        "texts": ["a", None],
        "loras": [{"name": "ink.safetensors", "strength": 0.5}],
        "none": [],
    }
    assert list(job["inputs"]) == list(given)
    assert sorted(server.files.values()) == sorted([BIG, BIG[1:]])


async def test_an_interrupted_upload_restarts_from_the_beginning(
    client: Client, server: FakeServer
) -> None:
    server.on("/files", rejecting(404, "unknown_file"), rejecting(503, "unavailable"))
    await sent(client, server, image=BIG)
    assert server.files[SHA] == BIG


async def test_a_failed_upload_stops_the_concurrent_one_and_the_submit(
    client: Client, server: FakeServer
) -> None:
    both = asyncio.Barrier(2)

    async def meet(_request: Request) -> None:
        async with asyncio.timeout(60):
            await both.wait()

    server.on("/files", meet, meet)
    await sent(client, server, image=BIG, mask=BIG[::-1])
    assert len(server.files) == 2

    server.on("/files", rejecting(413, "file_too_large"))
    with pytest.raises(APIError):
        await sent(client, server, image=BIG[1:], mask=BIG[2:])
    assert len(server.jobs) == 1


async def test_inline_files_share_one_limit(client: Client, server: FakeServer) -> None:
    piece = 200 * 1024
    pieces = {f"part{n}": os.urandom(piece) for n in range(7)}
    await client.infer_async(untyped("draw", pieces))
    inputs = next(iter(server.jobs.values()))["inputs"]
    assert sum("data" in value for value in inputs.values()) == 5
    assert len(server.files) == 2


async def test_a_missing_input_file_raises_file_not_found(client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await client.infer_async(DrawInput(prompt="x", image=tmp_path / "none.png"))


async def made(client: Client, server: FakeServer, content: bytes, **changes: object) -> OutputFile:
    server.outputs = {"images": [{**server.stored("fox.png", content), **changes}]}
    return (await client.infer_sync(DrawInput(prompt="x"))).images[0]


def breaking(server: FakeServer, after: int, *, ranges: bool = True) -> Handler:
    """Send ``after`` bytes of the response, then drop the connection."""

    async def respond(request: Request) -> Response:
        first = int(request.headers.get("range", "bytes=0-")[6:-1]) if ranges else 0
        content = server.files["fox.png"][first:]

        async def body() -> AsyncIterator[bytes]:
            yield content[:after]

        return StreamingResponse(
            body(), 206 if first else 200,
            headers={"content-length": str(len(content)), "etag": '"1"'},
        )  # fmt: skip

    return respond


@pytest.mark.filterwarnings("ignore")  # the server logs that the response is cut short
async def test_a_download_interrupted_ten_times_is_complete(
    client: Client, server: FakeServer, tmp_path: Path
) -> None:
    file = await made(client, server, BIG)
    server.on("/outputs", *[breaking(server, 100_000) for _ in range(10)])
    saved = await file.save(tmp_path)

    assert saved == tmp_path / "fox.png"
    assert saved.read_bytes() == BIG
    asked = server.requests_to("/outputs")
    assert [r.headers.get("range") for r in asked[:2]] == [None, "bytes=100000-"]
    assert asked[1].headers["if-range"] == '"1"'
    assert len(asked) == 11
    assert names(tmp_path) == ["fox.png"]


async def test_a_server_without_ranges_restarts_the_download(
    client: Client, server: FakeServer
) -> None:
    file = await made(client, server, BIG)
    server.on("/outputs", breaking(server, 1_200_000), breaking(server, len(BIG), ranges=False))
    assert await file.read() == BIG


async def test_a_download_that_makes_no_progress_gives_up(server: FakeServer) -> None:
    async with Client(server.url, retry=RetryPolicy(attempts=3, initial=0.01)) as client:
        file = await made(client, server, BIG)
        server.on("/outputs", *[rejecting(503, "unavailable")] * 3)
        with pytest.raises(ServerError) as caught:
            await file.read()
    assert caught.value.attempts == 3


async def test_a_stream_comes_in_chunks(client: Client, server: FakeServer) -> None:
    file = await made(client, server, BIG)
    chunks = [chunk async for chunk in file.stream()]
    assert b"".join(chunks) == BIG
    assert len(chunks) > 1


async def test_an_empty_file(client: Client, server: FakeServer, tmp_path: Path) -> None:
    file = await made(client, server, b"")
    assert (await file.save(tmp_path / "x")).read_bytes() == b""


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"size": 4}, {"size": 2}])
async def test_a_corrupt_download_fails_and_leaves_no_file(
    client: Client, server: FakeServer, tmp_path: Path, changes: dict[str, object]
) -> None:
    file = await made(client, server, b"fox", **changes)
    with pytest.raises(DownloadFailed):
        await file.save(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [500_000, 5_000_000])
async def test_a_download_that_cannot_be_written_fails_and_leaves_no_file(
    client: Client, server: FakeServer, tmp_path: Path, size: int
) -> None:
    resource = pytest.importorskip("resource")
    file = await made(client, server, os.urandom(size))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            await file.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


async def test_an_expired_file_raises_output_expired_and_leaves_no_file(
    client: Client, server: FakeServer, tmp_path: Path
) -> None:
    file = await made(client, server, b"fox")
    server.on("/outputs", *[rejecting(410, "output_expired")] * 2)
    with pytest.raises(OutputExpired):
        await file.read()
    with pytest.raises(OutputExpired):
        await file.save(tmp_path)
    assert names(tmp_path) == []


async def test_credentials_are_not_sent_to_a_signed_url(client: Client, server: FakeServer) -> None:
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    file = await made(client, server, b"fox", url=f"{elsewhere}/outputs/job/fox.png?sig=1")
    assert await file.read() == b"fox"

    asked = server.requests_to("/outputs")[0]
    assert "authorization" not in asked.headers
    assert asked.query_params["sig"] == "1"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("fox.png", "fox.png"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\x:y|.png", "xy.png"),
        ("..", "output"),
        ("", "output"),
        ("a\0b\n.png", "ab.png"),
        (".hidden", "hidden"),
    ],
)
def test_a_file_name_from_the_server_stays_in_the_folder(name: str, safe: str) -> None:
    assert safe_name(name) == safe


async def test_a_connection_lost_after_the_last_byte_does_not_fail_the_download(
    client: Client, server: FakeServer
) -> None:
    async def whole_then_cut(_request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield BIG
            raise ConnectionResetError

        return StreamingResponse(body())

    server.outputs = {"images": [server.stored("big.png", BIG)]}
    output = await client.infer_sync(DrawInput(prompt="x"))
    server.on("/outputs", whole_then_cut)
    assert await output.images[0].read() == BIG
    assert len(server.requests_to("/outputs")) == 1
