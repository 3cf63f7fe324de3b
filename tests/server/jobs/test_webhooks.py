"""Where webhooks may go, when they are tried again, and one attempt."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler

import pytest
from pydantic import ValidationError
from standardwebhooks.webhooks import Webhook

from comfysnap_schema.wire import JobRecord, JobStatus, webhook_key
from comfysnap_server.jobs import (
    Delivery,
    WebhookPolicy,
    WebhookSender,
    WebhookSettings,
    webhook_keys,
)
from comfysnap_server.jobs.webhooks import Reply, retry_after
from tests.receiver import SECRET, Receiver, answer, receiving

NOW = 1_000_000.0
JOB = JobRecord(
    id="job_" + "1" * 26, workflow="draw", status=JobStatus.FAILED, version=2,
    created_at=datetime(2026, 1, 1, tzinfo=UTC), finished_at=datetime(2026, 1, 2, tzinfo=UTC),
    inputs={"prompt": "a secret fox"},
)  # fmt: skip
LOOPBACK = WebhookSettings(hosts=("127.0.0.1",))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def sender(settings: WebhookSettings = LOOPBACK, *, timeout: float = 60) -> WebhookSender:
    return WebhookSender(settings, [webhook_key(SECRET)], WebhookPolicy(timeout=timeout))


async def attempt(url: str, settings: WebhookSettings = LOOPBACK) -> Delivery:
    return await sender(settings).attempt(Delivery(url=url), JOB)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://hooks.example.com/a?b=c", None),
        ("https://HOOKS.example.com:8443/", None),
        ("https://a.apps.example.org/", None),
        ("https://a.b.apps.example.org/", None),
        ("https://apps.example.org/", "does not allow"),
        ("https://evilapps.example.org/", "does not allow"),
        ("https://hooks.example.com.evil.example/", "does not allow"),
        ("https://evil.example/?hooks.example.com", "does not allow"),
        ("https://10.0.0.1/", "does not allow"),
        ("https://evil.example\\@hooks.example.com/", "user name"),
        ("https://me:pw@hooks.example.com/", "user name"),
        ("https://hooks.example.com/#part", "fragment"),
        ("https://hooks.example.com/a b", "spaces"),
        ("http://hooks.example.com/", "https://"),
        ("http://127.0.0.1:9000/", None),
        ("http://[::1]:9000/", None),
        ("http://localhost:9000/", "does not allow"),
        ("ftp://hooks.example.com/", "https://"),
        ("https://[::1/", "https://"),
        ("https://hooks.example.com:99999/", "https://"),
        ("https://hooks.example.com:0/", "https://"),
        ("https:///path", "https://"),
        ("hooks.example.com", "https://"),
        ("", "https://"),
    ],
)
def test_a_webhook_goes_to_listed_hosts_over_https(url: str, words: str | None) -> None:
    settings = WebhookSettings(
        hosts=("hooks.example.com", "*.Apps.example.org", "127.0.0.1", "::1")
    )
    refusal = settings.refusal(url)
    assert refusal is None if words is None else words in (refusal or "")


def test_the_host_of_the_default_url_is_allowed_by_itself() -> None:
    settings = WebhookSettings(url="https://hooks.example.com/all")
    assert settings.enabled
    assert settings.refusal("https://hooks.example.com/mine") is None
    assert settings.refusal("https://other.example.com/") is not None
    assert not WebhookSettings().enabled


@pytest.mark.parametrize(
    "table",
    [{"hosts": ["https://a.example"]}, {"hosts": ["a.example/x"]}, {"hosts": ["*"]},
     {"hosts": [""]}, {"hosts": ["a.example:8443"]}, {"hosts": ["a.*.example"]},
     {"url": "http://a.example/"}, {"url": "nowhere"},
     {"events": ["job.done"]}, {"events": []}, {"networks": ["10.0.0.0/99"]}, {"secret": "x"}],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WebhookSettings.model_validate(table)


def test_nine_retries_are_spread_over_three_days() -> None:
    policy = WebhookPolicy()
    delivery, now, draws = Delivery(url="https://a.example/"), NOW, [0.0, 1.0, 0.5] * 4
    waits: list[float] = []
    while delivery.state != "failed":
        delivery = policy.after(delivery, Reply(status=500), now, draws[delivery.attempts])
        if delivery.state == "pending":
            waits.append(delivery.due_at - now)
            now = delivery.due_at
    assert delivery.attempts == 10
    assert delivery.last_error == "the receiver answered 500"
    assert waits[:4] == pytest.approx([4.5, 330, 1800, 6480])
    assert 3 * 86_400 < sum(waits) < 3.5 * 86_400


def test_only_an_answer_of_2xx_counts_as_delivered() -> None:
    policy, asked = WebhookPolicy(), Delivery(url="https://a.example/", last_error="earlier")
    for status in (200, 204, 299):
        done = policy.after(asked, Reply(status=status), NOW, 0.5)
        assert (done.state, done.attempts, done.last_error) == ("delivered", 1, None)
    for reply in (Reply(status=301), Reply(status=400), Reply(status=500), Reply(error="broken")):
        after = policy.after(asked, reply, NOW, 0.5)
        assert (after.state, after.due_at) == ("pending", NOW + 5)
    gone = policy.after(asked, Reply(status=410), NOW, 0.5)
    assert (gone.state, gone.last_error) == ("failed", "the receiver answered 410")


@pytest.mark.parametrize(
    ("status", "asked", "wait"),
    [(503, 100, 100), (429, 100, 100), (429, 1, 5), (503, 1e9, 86_400), (500, 100, 5),
     (503, None, 5)],
)  # fmt: skip
def test_retry_after_of_a_busy_receiver_is_kept_within_bounds(
    status: int, asked: float | None, wait: float
) -> None:
    reply = Reply(status=status, retry_after=asked)
    after = WebhookPolicy().after(Delivery(url="https://a.example/"), reply, NOW, 0.5)
    assert after.due_at == NOW + wait


def test_retry_after_may_be_seconds_or_a_date() -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    later = format_datetime(now + timedelta(seconds=90), usegmt=True)
    assert retry_after("120", now) == 120
    assert retry_after(later, now) == 90
    assert retry_after(format_datetime(now - timedelta(days=1), usegmt=True), now) == 0
    assert retry_after("Wed, 21 Oct 2015 07:28:00", now) == 0
    for text in (None, "", "soon", "-1", "1e9", "\u0661"):
        assert retry_after(text, now) is None


@pytest.mark.parametrize("text", [None, "", "  ", "sesame", f"{SECRET} sesame"])
def test_a_server_without_a_usable_secret_says_so(text: str | None) -> None:
    with pytest.raises(ValueError, match="secret") as caught:
        webhook_keys(text)
    assert "sesame" not in str(caught.value)


async def test_the_reference_accepts_what_is_sent(receiver: Receiver) -> None:
    delivery = await attempt(receiver.url)
    assert (delivery.state, delivery.attempts) == ("delivered", 1)
    (body,), (headers,) = receiver.bodies, receiver.headers
    said = Webhook(SECRET).verify(body.decode(), {k.lower(): v for k, v in headers.items()})
    assert said["type"] == "job.failed"
    assert said["data"]["id"] == JOB.id
    assert datetime.fromisoformat(said["timestamp"]) == JOB.finished_at
    assert b"secret fox" not in body
    assert headers["content-type"] == "application/json"


async def test_every_attempt_has_the_same_id_and_body_and_a_time_of_its_own(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.answers = [answer(500)]
    first = await attempt(receiver.url)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 100)
    assert (await sender().attempt(first, JOB)).attempts == 2
    one, two = receiver.headers
    assert one["webhook-id"] == two["webhook-id"]
    assert int(two["webhook-timestamp"]) - int(one["webhook-timestamp"]) >= 99
    assert receiver.bodies[0] == receiver.bodies[1]


async def test_all_secrets_sign_while_one_is_replaced(receiver: Receiver) -> None:
    fresh = f"whsec_{'A' * 43}="
    both = WebhookSender(LOOPBACK, webhook_keys(f"{fresh} {SECRET}"))
    await both.attempt(Delivery(url=receiver.url), JOB)
    (headers,), (body,) = receiver.headers, receiver.bodies
    lower = {key.lower(): value for key, value in headers.items()}
    assert len(lower["webhook-signature"].split()) == 2
    for secret in (fresh, SECRET):
        assert Webhook(secret).verify(body.decode(), lower)


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    with receiving() as other:
        receiver.answers = [answer(307, {"Location": other.url})]
        delivery = await attempt(receiver.url)
        assert delivery.last_error == "the receiver answered 307"
        assert other.events == []


async def test_an_endless_answer_is_not_read_to_its_end(receiver: Receiver) -> None:
    hung_up = threading.Event()

    def endless(handler: BaseHTTPRequestHandler) -> None:
        answer(200, {"Content-Length": str(10**12)})(handler)
        try:
            while True:
                handler.wfile.write(b"x" * 100_000)
        except OSError:
            hung_up.set()

    receiver.answers = [endless]
    assert (await attempt(receiver.url)).state == "delivered"
    assert await asyncio.to_thread(hung_up.wait, 60)


async def test_a_receiver_that_does_not_answer_is_left_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        delivery = await sender(timeout=0.3).attempt(Delivery(url=url), JOB)
    assert (delivery.state, delivery.attempts) == ("pending", 1)
    assert delivery.last_error == "no answer in time"


async def test_a_receiver_that_is_not_there_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}/"
    delivery = await attempt(url)
    assert (delivery.state, delivery.last_error) == ("pending", "Connection refused")


async def test_a_receiver_that_hangs_up_is_tried_again(receiver: Receiver) -> None:
    receiver.answers = [lambda handler: setattr(handler, "close_connection", True)]
    delivery = await attempt(receiver.url)
    assert delivery.last_error == "the connection was closed without an answer"


async def test_a_listed_name_that_means_a_private_address_is_not_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = socket.getaddrinfo("127.0.0.1", receiver.port, type=socket.SOCK_STREAM)

    def resolve(*_: object, **__: object) -> object:
        return found

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    settings = WebhookSettings(hosts=("hooks.example.com",))
    url = f"https://hooks.example.com:{receiver.port}/"
    delivery = await attempt(url, settings)
    assert delivery.last_error == "the host is not on the public internet"
    allowed = WebhookSettings(hosts=("hooks.example.com",), networks=("127.0.0.0/8",))
    assert "TLS" in ((await attempt(url, allowed)).last_error or "")  # connected, to plain HTTP
    assert receiver.events == []


async def test_a_host_that_is_no_longer_allowed_is_given_up(receiver: Receiver) -> None:
    delivery = await attempt(receiver.url, WebhookSettings(hosts=("hooks.example.com",)))
    assert (delivery.state, delivery.attempts) == ("failed", 0)
    assert receiver.events == []
