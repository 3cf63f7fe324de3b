"""A receiver of webhooks that fails half the time: errors, silence, broken connections."""

import base64
import random
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from comfysnap_client import InvalidWebhook, verify_webhook
from comfysnap_schema.wire import webhook_key
from comfysnap_server.jobs import WebhookPolicy, WebhookSender, WebhookSettings

SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32))).decode()
SETTINGS: Final = WebhookSettings(hosts=("127.0.0.1",))
TIMEOUT_S: Final = 0.5
ATTEMPTS: Final = 30
FAILURES: Final = ("500", "429", "302", "drop", "silence")


def make_sender() -> WebhookSender:
    """As in a server, but for delays that a benchmark can wait for."""
    policy = WebhookPolicy(delays=(0.1,) * (ATTEMPTS - 1), timeout=TIMEOUT_S)
    return WebhookSender(SETTINGS, [webhook_key(SECRET)], policy)


class FailingReceiver:
    """Verifies every request, and accepts about half of them."""

    def __init__(self, seed: int) -> None:
        self._rand = random.Random(seed)
        self._lock = threading.Condition()
        self.url = ""
        self.accepted: dict[str, str] = {}
        """Type of the event by job id."""
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    def wait_for(self, ends: dict[str, str], patience: float) -> None:
        """Return once all of these jobs came with their final status, or note which did not."""
        wanted = {job_id: f"job.{status}" for job_id, status in ends.items()}
        with self._lock:
            self._lock.wait_for(lambda: wanted.keys() <= self.accepted.keys(), patience)
            for job_id, kind in wanted.items():
                if self.accepted.get(job_id) != kind:
                    came = self.accepted.get(job_id, "nothing")
                    self.problems.append(f"{job_id}: webhook {kind} expected, {came} came")

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request, or do not."""
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self._lock:
            chosen = self._rand.choice(FAILURES) if self._rand.random() < 0.5 else "200"
            self.counts[chosen] += 1
            try:
                event = verify_webhook(dict(handler.headers.items()), body, SECRET)
            except InvalidWebhook as error:
                self.problems.append(f"a webhook that is not valid: {error.code}")
                return
            if chosen == "200":
                self.counts["again"] += event.job.id in self.accepted
                self.accepted[event.job.id] = event.type
                self._lock.notify_all()
        if chosen == "silence":
            time.sleep(2 * TIMEOUT_S)
        if chosen in ("drop", "silence"):
            handler.close_connection = True
            return
        handler.send_response(int(chosen))
        handler.send_header("Content-Length", "0")
        handler.end_headers()


@contextmanager
def failing_receiver(seed: int) -> Generator[FailingReceiver]:
    """A receiver on the loopback until the block ends."""
    receiver = FailingReceiver(seed)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Take a webhook."""
            receiver.take(self)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
