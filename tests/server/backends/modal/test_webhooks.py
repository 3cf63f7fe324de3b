"""Webhooks on Modal: sent at once by a function on CPU, and again by the sweep."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.wire import JobRecord, JobStatus, webhook_key
from comfysnap_server.backends.modal.backend import ModalBackend
from comfysnap_server.backends.modal.runner import JobRunner
from comfysnap_server.backends.modal.webhooks import JobWebhooks, WebhookDeliveries
from comfysnap_server.engine.registry import make_engine
from comfysnap_server.jobs import Delivery, WebhookPolicy, WebhookSender, WebhookSettings
from tests.receiver import SECRET, Receiver, answer, receiving
from tests.server.backends.modal.memory import Cloud, MemoryRecords, request
from tests.server.backends.suite import request as drawing

SETTINGS = WebhookSettings(hosts=("127.0.0.1",))


@dataclass
class Parts:
    """A gateway's backend, the Dict of webhooks, and the function on CPU."""

    cloud: Cloud
    sender: WebhookSender
    records: MemoryRecords = field(default_factory=MemoryRecords)
    spawned: list[str] = field(default_factory=list[str])
    failing: bool = False

    def __post_init__(self) -> None:
        self.cloud.now = datetime.now(UTC)
        webhooks = JobWebhooks(self.records, self.spawn)
        self.cloud.platform = replace(self.cloud.platform, webhooks=webhooks)
        self.backend = ModalBackend(self.cloud.platform, self.cloud.root / "local")
        self.deliveries = WebhookDeliveries(self.records, self.backend, self.sender)

    async def spawn(self, job_id: str) -> None:
        if self.failing:
            raise ConnectionError("Modal is away")
        self.spawned.append(job_id)

    def pass_time(self, job_id: str) -> None:
        """Have the next attempt due."""
        due = self.delivery(job_id).model_copy(update={"due_at": time.time()})
        self.records.entries[job_id] = due.model_dump_json()

    async def accept(self, url: str, number: int = 1, **changes: Any) -> str:
        asked = request(number, webhook=url, created_at=self.cloud.now, **changes)
        return (await self.backend.submit(asked)).job.id

    async def cancel(self, job_id: str) -> None:
        """A cancel of a queued job is the end of it, which a gateway writes."""
        assert (await self.backend.cancel("someone", job_id)).status is JobStatus.CANCELLED

    def delivery(self, job_id: str) -> Delivery:
        return Delivery.model_validate_json(self.records.entries[job_id])


def sender(*delays: float) -> WebhookSender:
    policy = WebhookPolicy(delays=delays, jitter=0) if delays else WebhookPolicy(jitter=0)
    return WebhookSender(SETTINGS, [webhook_key(SECRET)], policy)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(Cloud(tmp_path), sender(300, 600))


async def test_the_end_that_a_gateway_writes_is_sent_once(parts: Parts, receiver: Receiver) -> None:
    job_id = await parts.accept(receiver.url)
    assert (parts.delivery(job_id).state, parts.spawned) == ("waiting", [])
    await parts.cancel(job_id)
    await parts.cancel(job_id)
    assert parts.spawned == [job_id]
    await parts.deliveries.deliver(job_id)
    await parts.deliveries.deliver(job_id)
    (event,) = receiver.events
    assert (event.type, event.job.id) == ("job.cancelled", job_id)
    assert event.job == await parts.backend.get("someone", job_id)
    assert (parts.delivery(job_id).state, parts.delivery(job_id).owner) == ("delivered", "someone")


async def test_the_end_that_a_worker_writes_is_sent(parts: Parts, receiver: Receiver) -> None:
    engine = make_engine("simulated", {"step_seconds": 0})
    worker = JobRunner(engine, parts.cloud.platform)
    await asyncio.to_thread(worker.load)
    worker.attach(restored=False)
    asked = drawing(webhook=receiver.url)
    await parts.backend.submit(asked)
    assert await worker.run(asked.job_id, None, "fc-1") == "succeeded"
    worker.close()
    assert parts.spawned == [asked.job_id]
    await parts.deliveries.deliver(asked.job_id)
    (event,) = receiver.events
    assert event.output is not None
    assert [file.name for file in event.output.files()] == ["ComfyUI_00001_.png"]


async def test_a_job_without_webhook_has_no_entry(parts: Parts) -> None:
    job = (await parts.backend.submit(request(created_at=parts.cloud.now))).job
    await parts.cancel(job.id)
    assert (parts.records.entries, parts.spawned) == ({}, [])


async def test_an_end_that_is_not_chosen_is_not_sent(parts: Parts, receiver: Receiver) -> None:
    parts.cloud.now = datetime.now(UTC) - timedelta(seconds=100)
    job_id = await parts.accept(receiver.url, webhook_events=["job.failed"])
    await parts.cancel(job_id)
    await parts.deliveries.sweep()
    assert (parts.spawned, receiver.events) == ([], [])
    assert parts.delivery(job_id).state == "unwanted"


async def test_the_sweep_sends_what_could_not_be_spawned(
    parts: Parts, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    parts.failing = True
    job_id = await parts.accept(receiver.url)
    await parts.cancel(job_id)
    assert job_id in caplog.text
    await parts.deliveries.sweep()
    assert receiver.events == []  # it may be on its way: the job has only just ended
    parts.cloud.now = datetime.now(UTC) - timedelta(seconds=100)
    earlier = await parts.accept(receiver.url, 2)
    await parts.cancel(earlier)
    await parts.deliveries.sweep()
    assert [event.job.id for event in receiver.events] == [earlier]
    assert parts.delivery(earlier).state == "delivered"


class HangingSender(WebhookSender):
    """Answers of ``slow`` hosts come with ``release``."""

    def __init__(self) -> None:
        super().__init__(SETTINGS, [webhook_key(SECRET)], WebhookPolicy(jitter=0))
        self.release = asyncio.Event()
        self.begun: asyncio.Queue[str] = asyncio.Queue()

    async def attempt(self, delivery: Delivery, job: JobRecord) -> Delivery:
        self.begun.put_nowait(delivery.host)
        if delivery.host == "slow":
            await self.release.wait()
        return delivery.model_copy(update={"state": "delivered", "attempts": 1})


async def ended(parts: Parts, host: str, number: int) -> str:
    """A job that ended, whose webhook goes to this host."""
    job_id = await parts.accept(f"http://{host}/hook", number)
    await parts.cancel(job_id)
    return job_id


async def test_a_slow_host_gets_a_part_of_the_first_attempts_of_a_container(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hanging = HangingSender()
    parts = Parts(Cloud(tmp_path), hanging)
    quick, slow = (
        WebhookDeliveries(parts.records, parts.backend, hanging, slow_after=seconds)
        for seconds in (1000, 0)
    )
    for deliveries, begins in ((quick, 26), (slow, 25)):
        jobs = [await ended(parts, "slow", 100 * begins + number) for number in range(26)]
        tasks = [asyncio.create_task(deliveries.deliver(job_id)) for job_id in jobs[:25]]
        for _ in range(25):
            await hanging.begun.get()
        last = asyncio.create_task(deliveries.deliver(jobs[25]))
        if begins == 25:
            await last
            assert parts.delivery(jobs[25]).state == "waiting"
            assert f"{jobs[25]} is left to the sweep" in caplog.text
        else:
            assert await hanging.begun.get() == "slow"
        await deliveries.deliver(await ended(parts, "other", begins))
        assert await hanging.begun.get() == "other"
        hanging.release.set()
        await asyncio.gather(*tasks, last)
        hanging.release.clear()
        assert {parts.delivery(job_id).state for job_id in jobs[:25]} == {"delivered"}


async def test_the_sweep_tries_again_what_is_due(parts: Parts, receiver: Receiver) -> None:
    receiver.answers = [answer(500)] * 2
    job_id = await parts.accept(receiver.url)
    await parts.cancel(job_id)
    await parts.deliveries.deliver(job_id)
    assert (parts.delivery(job_id).state, parts.delivery(job_id).attempts) == ("pending", 1)
    await parts.deliveries.sweep()
    assert len(receiver.events) == 1
    for attempts, state in ((2, "pending"), (3, "delivered")):
        parts.pass_time(job_id)
        await parts.deliveries.sweep()
        assert (parts.delivery(job_id).attempts, parts.delivery(job_id).state) == (attempts, state)
    assert len({event.id for event in receiver.events}) == 1


async def test_what_is_due_within_seconds_does_not_wait_for_the_sweep(
    tmp_path: Path, receiver: Receiver
) -> None:
    parts = Parts(Cloud(tmp_path), sender(0.05, 300))
    receiver.answers = [answer(500)] * 2
    job_id = await parts.accept(receiver.url)
    await parts.cancel(job_id)
    await parts.deliveries.deliver(job_id)
    assert (parts.delivery(job_id).state, parts.delivery(job_id).attempts) == ("pending", 2)


async def test_a_job_that_has_not_ended_waits(parts: Parts, receiver: Receiver) -> None:
    job_id = await parts.accept(receiver.url)
    await parts.deliveries.sweep()
    await parts.deliveries.deliver(job_id)
    await parts.deliveries.deliver("job_unknown")
    assert (parts.delivery(job_id).state, receiver.events) == ("waiting", [])


async def test_the_sweep_leaves_a_job_alone_that_is_being_accepted(
    parts: Parts, receiver: Receiver
) -> None:
    """Its webhook is written first, so that no job is without the one it has."""
    asked = request(webhook=receiver.url, created_at=parts.cloud.now)
    assert asked.delivery is not None
    parts.records.entries[asked.job_id] = asked.delivery.model_dump_json()
    await parts.deliveries.sweep()
    assert parts.delivery(asked.job_id).state == "waiting"


async def test_a_job_whose_records_are_gone_is_given_up(parts: Parts, receiver: Receiver) -> None:
    parts.cloud.now = datetime.now(UTC) - timedelta(seconds=100)
    job_id = await parts.accept(receiver.url)
    parts.cloud.records.entries.clear()
    fresh = ModalBackend(parts.cloud.platform, parts.cloud.root / "other")
    deliveries = WebhookDeliveries(parts.records, fresh, parts.sender)
    await deliveries.sweep()
    assert parts.delivery(job_id).state == "failed"
    assert "retention" in (parts.delivery(job_id).last_error or "")


async def test_one_job_that_cannot_be_read_does_not_stop_the_sweep(
    parts: Parts, receiver: Receiver
) -> None:
    parts.cloud.now = datetime.now(UTC) - timedelta(seconds=100)
    first, second = [await parts.accept(receiver.url, number) for number in (1, 2)]
    for job_id in (first, second):
        await parts.cancel(job_id)
    parts.records.entries[first] = "{"
    await parts.deliveries.sweep()
    assert [event.job.id for event in receiver.events] == [second]
