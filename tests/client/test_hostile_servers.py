"""Servers that are broken or hostile: bounded memory, and only the client's own errors."""

import asyncio
import gzip
import hashlib
import json
import socket
import socketserver
import threading
import time
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfysnap_client import (
    NO_RETRY,
    Client,
    ComfysnapError,
    ConnectionFailed,
    DownloadFailed,
    RetryPolicy,
    UnexpectedResponse,
    UntypedOutput,
    sse,
)
from comfysnap_client.downloads import safe_name
from comfysnap_client.retry import retry_after
from comfysnap_client.sse import MAX_EVENT_BYTES, SseParser
from comfysnap_client.transport import MAX_JSON_BYTES
from comfysnap_schema.wire import OutputFile
from tests.client.fakes import QUICK, QUICK_POLLS, DrawInput, names

MIB = 1024 * 1024
JOB: dict[str, Any] = {
    "id": "job_1", "workflow": "draw", "status": "succeeded", "version": 1,
    "created_at": datetime.now(UTC).isoformat(), "outputs": {},
}  # fmt: skip

Script = Callable[[str], Iterator[bytes]]
"""From the first line of a request to the bytes of the response, which may be endless."""


class RawServer:
    """Writes what ``script`` yields, whatever it is, then closes the connection."""

    def __init__(self) -> None:
        self.script: Script = lambda line: iter(())
        self.heads: list[str] = []
        self.url = ""

    def answer(self, connection: socket.socket) -> None:
        """Answer one request; returns when the client has closed its end too."""
        with suppress(OSError), connection.makefile("rb") as file:
            head = ""
            while not head.endswith("\r\n\r\n"):
                if not (line := file.readline()):
                    return
                head += line.decode("latin-1")
            self.heads.append(head)
            for chunk in self.script(head.partition("\r\n")[0]):
                connection.sendall(chunk)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(MIB):  # a close before it was read would take the answer back
                pass


class ThreadedServer(socketserver.ThreadingTCPServer):
    request_queue_size = 100


@asynccontextmanager
async def raw_server() -> AsyncGenerator[RawServer]:
    """The server until the block ends; by then its clients are closed, and so its connections."""
    made = RawServer()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            made.answer(self.request)

    with ThreadedServer(("127.0.0.1", 0), Handler) as listening:
        made.url = f"http://127.0.0.1:{listening.server_address[1]}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made
        finally:
            await asyncio.to_thread(listening.shutdown)
            await asyncio.to_thread(listening.server_close)
            thread.join()


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with raw_server() as made:
        yield made


@pytest.fixture
async def client(server: RawServer) -> AsyncIterator[Client]:
    async with Client(server.url, retry=QUICK, polling=QUICK_POLLS, timeout=60) as made:
        yield made


def head(status: str = "200 OK", kind: str = "application/json", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def answer(
    body: Iterator[bytes] | bytes, status: str = "200 OK", kind: str = "application/json", **h: str
) -> Script:
    def script(_line: str) -> Iterator[bytes]:
        yield head(status, kind, **h)
        yield from [body] if isinstance(body, bytes) else body

    return script


def endless(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def bomb(size: int, layers: int = 1) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB)) + packer.flush()
    for _ in range(layers - 1):
        packed = gzip.compress(packed)
    return packed


@pytest.fixture
def small_memory() -> Iterator[None]:
    """Fails if the test takes much more memory than the limit of a response."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MAX_JSON_BYTES


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize(
    "script",
    [
        answer(b'{"x": "' + b"x" * MIB for _ in range(1000)),
        answer(iter([bomb(256 * MIB)]), Content_Encoding="gzip"),
        answer(iter([bomb(256 * MIB, 2)]), Content_Encoding="gzip, gzip"),
        answer(b"not gzip", Content_Encoding="gzip"),
        answer(b"?", Content_Encoding="br"),
        answer(gzip.compress(b"{}") + b"junk" * MIB, Content_Encoding="gzip"),
        answer(gzip.compress(b'{"id": "job_1"}')[:-12], Content_Encoding="gzip"),
        answer(b"[" * MIB),
        answer(b'{"id": ' + b"9" * MIB + b"}"),
    ],
    ids=[
        "endless",
        "bomb",
        "bomb in a bomb",
        "no gzip",
        "br",
        "trailing",
        "cut",
        "deep",
        "long number",
    ],
)
async def test_an_answer_that_is_too_large_or_not_readable_is_unexpected(
    client: Client, server: RawServer, script: Script
) -> None:
    server.script = script
    with pytest.raises(UnexpectedResponse):
        await client.check_status("job_1")
    assert len(server.heads) == 1


async def test_a_compressed_answer_is_read(client: Client, server: RawServer) -> None:
    job = {**JOB, "outputs": {"text": "fox" * MIB}}
    server.script = answer(gzip.compress(json.dumps(job).encode()), Content_Encoding="gzip")
    assert (await client.check_status("job_1")).outputs == job["outputs"]
    assert "accept-encoding: gzip\r\n" in server.heads[0].lower()


async def test_an_answer_that_an_event_hook_has_read_is_parsed() -> None:
    async def read(response: httpx.Response) -> None:
        await response.aread()

    async with raw_server() as server:
        server.script = answer(json.dumps(JOB).encode())
        async with Client(server.url, event_hooks={"response": [read]}) as client:
            assert (await client.check_status("job_1")).id == "job_1"


@pytest.mark.usefixtures("small_memory")
async def test_the_body_of_an_error_is_bounded_and_the_error_is_still_retried(
    client: Client, server: RawServer
) -> None:
    scripts = iter([
        answer(endless(b"x" * MIB), "503 Service Unavailable", "application/problem+json"),
        answer(json.dumps(JOB).encode()),
    ])  # fmt: skip
    server.script = lambda line: next(scripts)(line)
    assert (await client.check_status("job_1")).id == "job_1"

    server.script = answer(endless(b"x" * MIB), "400 Bad Request", "application/problem+json")
    with pytest.raises(UnexpectedResponse) as caught:
        await client.check_status("job_1")
    assert caught.value.status == 400


def output_job(**changes: object) -> dict[str, Any]:
    file = {
        "name": "fox.png", "kind": "image", "content_type": "image/png", "size": 3,
        "sha256": "0" * 64, "url": "/outputs/job_1/fox.png", **changes,
    }  # fmt: skip
    return {**JOB, "outputs": {"image": file}}


def serving(job: dict[str, Any], file: Script) -> Script:
    """A server of one finished job and its file."""

    def script(line: str) -> Iterator[bytes]:
        if " /check_status/" in line:
            yield from answer(json.dumps(job).encode())(line)
        else:
            yield from file(line)

    return script


async def first_file(client: Client) -> OutputFile:
    output = await client.job("job_1").result()
    assert isinstance(output, UntypedOutput)
    return next(output.files())


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize(
    "file",
    [
        answer(endless(b"x" * MIB)),
        answer(bomb(256 * MIB), Content_Encoding="gzip"),
        answer(b"four"),
    ],
    ids=["endless", "bomb", "one byte more"],
)
async def test_a_download_ends_at_the_size_in_the_job(
    client: Client, server: RawServer, tmp_path: Path, file: Script
) -> None:
    server.script = serving(output_job(), file)
    saved = await first_file(client)
    with pytest.raises(DownloadFailed):
        await saved.save(tmp_path)
    with pytest.raises(DownloadFailed):
        await saved.read()
    assert names(tmp_path) == []


async def test_an_etag_that_cannot_be_sent_back_does_not_break_a_resumed_download(
    client: Client, server: RawServer
) -> None:
    content = b"a fox"
    sha = hashlib.sha256(content).hexdigest()
    parts = iter([
        answer(content[:2], Content_Length="5", ETag='"ü"'),
        answer(content[2:], "206 Partial Content", Content_Length="3"),
    ])  # fmt: skip
    server.script = serving(output_job(size=5, sha256=sha), lambda line: next(parts)(line))
    assert await (await first_file(client)).read() == content
    assert "range: bytes=2-" in server.heads[-1].lower()
    assert "if-range" not in server.heads[-1].lower()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999/x",
        "http://[::1/x",
        "http://xn--\uffff/x",
        f"http://{'a' * 70}.test/",
        "http:///x",
        "ftp://127.0.0.1/x",
        "a\0b",
        "x" * 70_000,
    ],
)
async def test_an_output_url_that_is_not_valid_fails_with_an_own_error(
    server: RawServer, url: str
) -> None:
    server.script = serving(output_job(url=url), answer(b"fox"))
    async with Client(server.url, retry=NO_RETRY, timeout=60) as client:
        file = await first_file(client)
        with pytest.raises(ComfysnapError):
            await file.read()


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("x" * 5000 + ".png", "x" * 196 + ".png"),
        ("🦊" * 500 + ".png", "🦊" * 49 + ".png"),
        ("fox." + "y" * 5000, "fox." + "y" * 196),
        ("fox" + "." * 300 + "png", "fox" + "." * 193 + ".png"),
        ("CON", "_CON"),
        ("nul.tar.gz", "_nul.tar.gz"),
    ],
)
async def test_a_long_or_reserved_output_name_is_shortened_and_keeps_its_suffix(
    client: Client, server: RawServer, tmp_path: Path, name: str, safe: str
) -> None:
    assert safe_name(name) == safe
    sha = "776cb326ab0cd5f0a974c1b9606044d8485201f2db19cf8e3749bdee5f36e200"
    server.script = serving(output_job(name=name, sha256=sha), answer(b"fox"))
    assert (await (await first_file(client)).save(tmp_path)).read_bytes() == b"fox"
    assert names(tmp_path) == [safe]


@given(st.text(max_size=400))
def test_a_safe_name_is_one_part_of_a_path(name: str) -> None:
    safe = safe_name(name)
    assert Path(safe).name == safe
    assert safe not in (".", "..")
    assert len(safe.encode()) <= 200


@pytest.mark.parametrize(
    "job_id", ["../x", "a/b", "a\nb", "a b", "", "jöb", "x" * 5000, "..", "a?b=c"]
)
async def test_a_job_id_that_is_not_safe_in_a_path_is_unexpected(
    client: Client, server: RawServer, job_id: str
) -> None:
    server.script = answer(json.dumps({**JOB, "status": "queued", "id": job_id}).encode())
    with pytest.raises(UnexpectedResponse):
        await client.infer_sync(DrawInput(prompt="x"))
    assert {line.split()[0] for line in server.heads} == {"POST"}

    page = {"jobs": [{**JOB, "id": job_id}]}
    server.script = answer(json.dumps(page).encode())
    with pytest.raises(UnexpectedResponse):
        [record async for record in client.jobs()]


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "308 Moved"])
@pytest.mark.parametrize(
    "location", [None, "", "http://[", "http://xn--\uffff/", "//", "a\tb:\x7f"]
)
async def test_a_redirect_to_nowhere_fails_with_an_own_error(
    client: Client, server: RawServer, status: str, location: str | None
) -> None:
    headers = {} if location is None else {"Location": location.encode().decode("latin-1")}
    server.script = answer(b"", status, "text/plain", Content_Length="0", **headers)
    with pytest.raises((UnexpectedResponse, ConnectionFailed)) as caught:
        await client.check_status("job_1")
    if not location:
        assert caught.value.status == int(status[:3])


def event(data: object, event_id: str) -> bytes:
    return f"id: {event_id}\ndata: {json.dumps(data)}\n\n".encode()


@pytest.mark.parametrize("event_id", ["füchse", "🦊", "\x01", " 7 ", "x\x7f"])
async def test_an_event_id_that_cannot_be_sent_back_does_not_break_the_reconnect(
    client: Client, server: RawServer, event_id: str
) -> None:
    running = {"type": "status", "job": {**JOB, "status": "running", "version": 1}}
    done = {"type": "done", "job": {**JOB, "version": 2}}
    bodies = iter([event(running, event_id), event(done, "2")])
    server.script = lambda line: answer(next(bodies), kind="text/event-stream")(line)
    events = [one async for one in client.job("job_1").events()]
    assert [one.type for one in events] == ["status", "done"]
    assert "last-event-id" not in server.heads[1].lower()


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize(
    "body",
    [
        lambda: endless(b"data: " + b"x" * MIB),
        lambda: endless(b"data:\n" * (MIB // 6)),
        lambda: endless(b"x" * MIB),
    ],
    ids=["line", "event", "field"],
)
async def test_an_endless_event_falls_back_to_polls(
    client: Client,
    server: RawServer,
    monkeypatch: pytest.MonkeyPatch,
    body: Callable[[], Iterator[bytes]],
) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", MIB)
    job = json.dumps(JOB).encode()

    def script(line: str) -> Iterator[bytes]:
        if " /events/" in line:
            return answer(body(), kind="text/event-stream")(line)
        return answer(job)(line)

    server.script = script
    assert [one.type async for one in client.job("job_1").events()] == ["done"]


def test_the_time_of_the_event_parser_is_linear() -> None:
    def seconds(chunks: int) -> float:
        parser, started = SseParser(), time.thread_time()
        for _ in range(chunks):
            parser.feed(b"x" * 100)
        return time.thread_time() - started

    def best(chunks: int) -> float:  # without what the interpreter does now and then
        return min(seconds(chunks) for _ in range(3))

    assert best(80_000) < 40 * max(best(10_000), 0.005)


def test_a_byte_order_mark_in_two_pieces_is_skipped() -> None:
    parser = SseParser()
    assert parser.feed(b"\xef\xbb") == []
    assert parser.feed(b"") == []
    assert [one.data for one in parser.feed(b"\xbfdata: 1\n\n")] == ["1"]


def test_the_largest_job_fits_into_an_event() -> None:
    assert MAX_EVENT_BYTES >= MAX_JSON_BYTES


async def test_a_long_pause_that_a_stream_asks_for_is_cut(
    client: Client, server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfysnap_client.events.MAX_RETRY_S", 0.01)
    done = {"type": "done", "job": JOB}
    bodies = iter([b"retry: 999999999\ndata: {}\n\n", event(done, "2")])
    server.script = lambda line: answer(next(bodies), kind="text/event-stream")(line)
    async with asyncio.timeout(60):
        assert [one.type async for one in client.job("job_1").events()] == ["done"]


@pytest.mark.parametrize(
    "value", ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "1e999", "nan", "-1", "+9" * 99]
)
def test_an_odd_retry_after_is_ignored(value: str) -> None:
    assert not retry_after({"retry-after": value})


ODD_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ODD_FILES: st.SearchStrategy[Any] = st.builds(
    output_job,
    name=ODD_JSON | st.text(), content_type=st.text() | st.just("a\r\nb"), kind=ODD_JSON,
    size=st.integers(-1, 5) | ODD_JSON, sha256=st.text(max_size=70),
    url=st.text() | st.sampled_from(["/outputs/x", "http://[", "//", "\n", "javascript:x"]),
)  # fmt: skip
ODD_JOBS: st.SearchStrategy[Any] = st.one_of(
    st.dictionaries(st.sampled_from([*JOB, "error", "progress", "labels"]), ODD_JSON).map(
        lambda odd: {**JOB, **odd}
    ),
    ODD_FILES,
    ODD_JSON,
)
ODD_BODIES: st.SearchStrategy[bytes] = st.one_of(
    st.binary(max_size=300),
    ODD_JOBS.map(lambda odd: json.dumps(odd).encode()),
    ODD_JOBS.map(lambda odd: event({"type": "done", "job": odd}, "1")),
)
HEADER_NAMES = [
    "Location", "Retry-After", "Date", "ETag", "Content-Encoding", "X-Request-Id", "Content-Length",
    "Transfer-Encoding", "Set-Cookie",
]  # fmt: skip
ODD_HEADERS: st.SearchStrategy[dict[str, str]] = st.dictionaries(
    st.sampled_from(HEADER_NAMES),
    st.text(st.characters(max_codepoint=255), max_size=30)
    | st.sampled_from(["gzip", "chunked", "/x", "0", "99999", "Mon, 01 Jan 0001 00:00:00 +2359"]),
    max_size=3,
)


def odd_answer(status: int, kind: str, headers: dict[str, str], body: bytes) -> bytes:
    return head(str(status), kind, **headers) + body


ODD_ANSWERS: st.SearchStrategy[bytes] = st.one_of(
    st.builds(
        odd_answer,
        st.sampled_from([200, 202, 204, 206, 101, 301, 303, 304, 400, 404, 410, 413, 429, 500, 999])
        | st.integers(0, 1200),
        st.sampled_from(["application/json", "application/problem+json", "text/event-stream"])
        | st.text(st.characters(max_codepoint=255), max_size=20),
        ODD_HEADERS,
        ODD_BODIES,
    ),
    st.binary(max_size=200),
)


async def everything(client: Client, folder: Path) -> None:
    """Each call in turn; the client's own errors are the only ones that may end it."""

    async def stream() -> None:
        async for _ in client.job("job_1").events():
            pass

    async def jobs() -> None:
        async for record in client.jobs():
            await client.job(record.id).status()
            return

    async def files() -> None:
        output = await client.job("job_1").result(timeout=0.1)
        for file in output.files():
            saved = await file.save(folder)
            assert saved.parent == folder

    calls: list[Callable[[], Any]] = [
        lambda: client.infer_sync(DrawInput(prompt="x", image=b"x" * 300_000), timeout=0.2),
        lambda: client.check_status("job_1"), lambda: client.cancel("job_1"),
        lambda: client.workflow("draw"), client.workflows, stream, jobs, files,
    ]  # fmt: skip
    for call in calls:
        with suppress(ComfysnapError):
            async with asyncio.timeout(0.3):
                await call()


@settings(
    max_examples=30, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(answers=st.lists(ODD_ANSWERS, min_size=1, max_size=3))
def test_odd_answers_raise_only_the_errors_of_the_client(
    tmp_path: Path, answers: list[bytes]
) -> None:
    folder = tmp_path / "inside"
    folder.mkdir(exist_ok=True)

    async def run() -> None:
        async with raw_server() as server:
            server.script = lambda line: iter([answers[len(server.heads) % len(answers)]])
            async with Client(
                server.url,
                retry=RetryPolicy(attempts=2, initial=0),
                polling=QUICK_POLLS,
                timeout=0.3,
                cancel_on_timeout=False,
            ) as client:
                with suppress(TimeoutError):  # of a stream that goes on
                    await everything(client, folder)

    asyncio.run(run())
    assert names(tmp_path) == ["inside"]
