"""Webhooks of the local backend: what ends is sent, at least once, whatever happens in between."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.wire import JobStatus, webhook_key
from comfysnap_server.backends.local import (
    DATABASE,
    DataFolderError,
    LocalBackend,
    list_webhooks,
    resend_webhook,
)
from comfysnap_server.backends.local.webhooks import MAX_PER_HOST
from comfysnap_server.jobs import Delivery, WebhookPolicy, WebhookSender, WebhookSettings
from tests.receiver import SECRET, Answer, Receiver, answer, receiving
from tests.server.backends.local.conftest import StartBackend
from tests.server.backends.suite import FOREVER, finish, request, sampling

SETTINGS = WebhookSettings(hosts=("127.0.0.1", "localhost"))


def sender(*delays: float, timeout: float = 60) -> WebhookSender:
    policy = WebhookPolicy(delays=delays or (0.02,) * 9, jitter=0, timeout=timeout)
    return WebhookSender(SETTINGS, [webhook_key(SECRET)], policy)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
async def backend(start_backend: StartBackend) -> LocalBackend:
    return await start_backend(webhooks=sender())


async def came(receiver: Receiver, count: int = 1) -> list[str]:
    """The types of the first events."""
    return [event.type for event in await asyncio.to_thread(receiver.wait, count)]


async def settled(data: Path, count: int = 1) -> list[Delivery]:
    """The deliveries once none is to be sent now."""
    async with asyncio.timeout(60):
        while True:
            found = [entry for _, entry in await asyncio.to_thread(list_webhooks, data / DATABASE)]
            if len(found) == count and not any(is_due(entry) for entry in found):
                return found
            await asyncio.sleep(0.02)


def is_due(entry: Delivery) -> bool:
    return entry.state == "pending" and entry.due_at < time.time() + 1000


def holding(until: threading.Event) -> Answer:
    def hold(handler: BaseHTTPRequestHandler) -> None:
        until.wait(200)
        answer()(handler)

    return hold


async def test_every_way_to_end_is_sent(backend: LocalBackend, receiver: Receiver) -> None:
    hook: dict[str, Any] = {"webhook": receiver.url}
    done = await backend.submit(request(labels={"order": "7"}, **hook))
    assert await came(receiver) == ["job.succeeded"]
    slow = await backend.submit(request(sampling(FOREVER), timeout=0.2, **hook))
    assert (await came(receiver, 2))[1] == "job.timed_out"
    cancelled = await backend.submit(request(sampling(FOREVER), **hook))
    waiting = await backend.submit(request(queue_timeout=0.01, **hook))
    assert (await came(receiver, 3))[2] == "job.expired"
    await backend.cancel("anna", cancelled.job.id)
    broken = await backend.submit(request({"1": {"class_type": "Nothing", "inputs": {}}}, **hook))
    types = await came(receiver, 5)
    assert set(types[3:]) == {"job.cancelled", "job.failed"}
    jobs = {event.job.id: event.job for event in receiver.events}
    for submitted in (done, slow, waiting, cancelled, broken):
        record = await backend.get("anna", submitted.job.id)
        assert jobs[record.id] == record.model_copy(update={"inputs": {}})
    assert receiver.events[0].job.labels == {"order": "7"}


async def test_a_job_without_webhook_sends_nothing(
    backend: LocalBackend, receiver: Receiver, data: Path
) -> None:
    await finish(backend, (await backend.submit(request())).job)
    await finish(backend, (await backend.submit(request(webhook=receiver.url))).job)
    await came(receiver)
    assert len(await settled(data)) == 1


async def test_only_chosen_events_are_sent(
    backend: LocalBackend, receiver: Receiver, data: Path
) -> None:
    chosen: dict[str, Any] = {"webhook": receiver.url, "webhook_events": {"job.failed"}}
    await finish(backend, (await backend.submit(request(**chosen))).job)
    graph: Any = {"1": {"class_type": "Nothing", "inputs": {}}}
    await finish(backend, (await backend.submit(request(graph, **chosen))).job)
    assert await came(receiver) == ["job.failed"]
    assert len(await settled(data)) == 1


async def test_what_fails_is_tried_again_until_it_is_delivered(
    backend: LocalBackend, receiver: Receiver, data: Path
) -> None:
    receiver.answers = [answer(500), answer(302), answer(404)]
    await backend.submit(request(webhook=receiver.url))
    events = await asyncio.to_thread(receiver.wait, 4)
    assert len({event.id for event in events}) == 1
    (delivery,) = await settled(data)
    assert (delivery.state, delivery.attempts, delivery.last_error) == ("delivered", 4, None)


async def test_the_load_counts_what_is_still_to_be_sent(
    start_backend: StartBackend, receiver: Receiver
) -> None:
    backend = await start_backend(webhooks=sender(600))
    assert backend.load().webhooks == 0
    receiver.answers = [answer(500)]
    await backend.submit(request(webhook=receiver.url))
    await came(receiver)
    for _ in range(1000):
        if backend.load().webhooks == 1:
            break
        await asyncio.sleep(0.02)
    assert backend.load().webhooks == 1


async def test_it_is_given_up_in_the_end_and_sent_again_on_request(
    start_backend: StartBackend, receiver: Receiver, data: Path
) -> None:
    backend = await start_backend(webhooks=sender(0.01, 0.01))
    receiver.answers = [answer(500)] * 3
    job = (await backend.submit(request(webhook=receiver.url))).job
    (delivery,) = await settled(data)
    assert (delivery.state, delivery.attempts, delivery.owner) == ("failed", 3, "anna")
    assert [job_id for job_id, _ in list_webhooks(data / DATABASE, failed=True)] == [job.id]
    resend_webhook(data / DATABASE, job.id)
    assert len(await asyncio.to_thread(receiver.wait, 4)) == 4
    (delivery,) = await settled(data)
    assert (delivery.state, delivery.attempts) == ("delivered", 1)
    assert list_webhooks(data / DATABASE, failed=True) == []


async def test_410_stops_it(backend: LocalBackend, receiver: Receiver, data: Path) -> None:
    receiver.answers = [answer(410)]
    await backend.submit(request(webhook=receiver.url))
    (delivery,) = await settled(data)
    assert (delivery.state, delivery.attempts) == ("failed", 1)


async def test_what_was_not_delivered_is_sent_by_the_next_server(
    start_backend: StartBackend, receiver: Receiver, data: Path
) -> None:
    first = await start_backend(webhooks=sender(3600))
    receiver.answers = [answer(500)]
    job = (await first.submit(request(webhook=receiver.url))).job
    await finish(first, job)
    (delivery,) = await settled(data)
    assert (delivery.state, delivery.attempts) == ("pending", 1)
    await first.stop()
    with closing(sqlite3.connect(data / DATABASE)) as store, store:
        store.execute(
            "UPDATE webhooks SET due_at = ?1, delivery = json_set(delivery, '$.due_at', ?1)",
            (time.time(),),
        )
    await start_backend(webhooks=sender())
    events = await asyncio.to_thread(receiver.wait, 2)
    assert events[0].id == events[1].id
    assert (await settled(data))[0].attempts == 2


async def test_a_job_that_ended_with_the_server_is_sent_by_the_next_one(
    start_backend: StartBackend, receiver: Receiver, data: Path
) -> None:
    """The transaction that ends the job is the one that makes its webhook due."""
    silent = await start_backend()  # as if killed right after that transaction
    done = (await silent.submit(request(webhook=receiver.url))).job
    await finish(silent, done)
    lost = (await silent.submit(request(sampling(FOREVER), webhook=receiver.url))).job
    async with asyncio.timeout(60):
        while (await silent.get("anna", lost.id)).status is not JobStatus.RUNNING:
            lost = await silent.wait("anna", lost.id, after=lost.version, timeout=10)
    await silent.stop()
    with closing(sqlite3.connect(data / DATABASE)) as store, store:
        running = "UPDATE jobs SET status = 'running',"
        record = " record = json_set(record, '$.status', 'running', '$.attempt', 1) WHERE id = ?"
        store.execute(running + record, (lost.id,))
    await start_backend(webhooks=sender())
    await came(receiver, 2)
    assert {event.job.id: event.type for event in receiver.events} == {
        done.id: "job.succeeded", lost.id: "job.failed",
    }  # fmt: skip


async def test_a_slow_host_does_not_hold_up_another(
    backend: LocalBackend, receiver: Receiver, data: Path
) -> None:
    freed = threading.Event()
    with receiving() as slow:
        slow.answers = [holding(freed)] * 20
        url = slow.url.replace("127.0.0.1", "localhost")
        jobs = MAX_PER_HOST + 3
        for _ in range(jobs):
            await backend.submit(request(webhook=url))
        await asyncio.to_thread(slow.wait, MAX_PER_HOST)
        await backend.submit(request(webhook=receiver.url))
        await came(receiver)
        assert len(slow.events) == MAX_PER_HOST
        freed.set()
        await asyncio.to_thread(slow.wait, jobs)
        assert {entry.state for entry in await settled(data, jobs + 1)} == {"delivered"}


async def test_a_stop_does_not_wait_for_a_slow_receiver(
    start_backend: StartBackend, receiver: Receiver, data: Path
) -> None:
    freed = threading.Event()
    backend = await start_backend(webhooks=sender(timeout=200))
    receiver.answers = [holding(freed)]
    await backend.submit(request(webhook=receiver.url))
    await came(receiver)
    async with asyncio.timeout(60):
        await backend.stop()
    freed.set()
    ((_, delivery),) = list_webhooks(data / DATABASE)
    assert (delivery.state, delivery.attempts) == ("pending", 0)
    await start_backend(webhooks=sender())
    assert (await settled(data))[0].state == "delivered"


async def test_a_damaged_webhook_keeps_neither_its_job_nor_others_from_their_end(
    start_backend: StartBackend, receiver: Receiver, data: Path
) -> None:
    silent = await start_backend()
    for _ in range(2):
        await finish(silent, (await silent.submit(request(webhook=receiver.url))).job)
    waiting = (await silent.submit(request(sampling(FOREVER), webhook=receiver.url))).job
    with closing(sqlite3.connect(data / DATABASE)) as store, store:
        store.execute("UPDATE webhooks SET delivery = '{' WHERE seq <> 2")
        store.execute("UPDATE jobs SET record = '{' WHERE seq = 1")
    await silent.cancel("anna", waiting.id)
    assert (await finish(silent, waiting)).status is JobStatus.CANCELLED
    await silent.stop()
    await start_backend(webhooks=sender())
    await came(receiver)
    states = [entry.state for entry in await settled(data, 3)]
    assert sorted(states) == ["delivered", "failed", "failed"]


async def test_a_webhook_is_deleted_with_its_job(
    backend: LocalBackend, receiver: Receiver, data: Path
) -> None:
    await backend.submit(request(webhook=receiver.url))
    await settled(data)
    await backend.stop()
    with closing(sqlite3.connect(data / DATABASE)) as store, store:
        store.execute("DELETE FROM jobs")
        assert store.execute("SELECT count(*) FROM webhooks").fetchone() == (0,)


async def test_what_cannot_be_sent_again_is_said(
    backend: LocalBackend, receiver: Receiver, data: Path
) -> None:
    plain = await finish(backend, (await backend.submit(request())).job)
    running = (await backend.submit(request(sampling(FOREVER), webhook=receiver.url))).job
    for job_id, words in ((plain.id, "without a webhook"), ("job_x", "unknown"),
                          (running.id, "not ended")):  # fmt: skip
        with pytest.raises(DataFolderError, match=words):
            resend_webhook(data / DATABASE, job_id)
    for unreadable in (data / "nothing.sqlite3", data):
        with pytest.raises(DataFolderError):
            list_webhooks(unreadable)
        with pytest.raises(DataFolderError):
            resend_webhook(unreadable, plain.id)
    await backend.cancel("anna", running.id)


def test_a_store_of_another_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    sqlite3.connect(path).close()
    with closing(sqlite3.connect(path)) as store:
        store.execute("PRAGMA user_version = 1")
    with pytest.raises(DataFolderError, match="another version"):
        list_webhooks(path)
    with pytest.raises(DataFolderError, match="another version"):
        resend_webhook(path, "job_x")
