"""A receiver of webhooks on the loopback, which verifies them as its users would."""

import base64
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from comfysnap_client import UntypedOutput, WebhookEvent, verify_webhook

SECRET = "whsec_" + base64.b64encode(bytes(range(100, 132))).decode()

Event = WebhookEvent[UntypedOutput]
Answer = Callable[[BaseHTTPRequestHandler], None]


def answer(
    status: int = 200, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Answer:
    """What sends this answer."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return send


@dataclass
class Receiver:
    """Answers as ``answers`` say, one after the other, then with 200."""

    port: int = 0
    answers: list[Answer] = field(default_factory=list[Answer])
    events: list[Event] = field(default_factory=list[Event])
    """Of all requests, whatever was answered."""
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    bodies: list[bytes] = field(default_factory=list[bytes])
    news: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def wait(self, count: int, timeout: float = 60) -> list[Event]:
        """The first ``count`` events, once they came."""
        with self.news:
            if not self.news.wait_for(lambda: len(self.events) >= count, timeout):
                raise AssertionError(f"{len(self.events)} of {count} webhooks came")
            return self.events[:count]

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        headers = dict(handler.headers.items())
        event = verify_webhook(headers, body, SECRET)
        with self.news:
            chosen = self.answers.pop(0) if self.answers else answer()
            self.headers.append(headers)
            self.bodies.append(body)
            self.events.append(event)
            self.news.notify_all()
        chosen(handler)


@contextmanager
def receiving() -> Generator[Receiver]:
    """A receiver until the block ends."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.take(self)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
