"""The control plane plays what ``modal`` 1.6.4 and its documentation say of the cloud."""

import asyncio
import queue
from typing import Any, cast

import httpx
import modal
import modal.exception
import pytest
from google.protobuf.message import Message
from grpclib import Status

from comfysnap_server.backends.modal.cloud import Patience, QueueFeed
from tests.control_plane import ControlPlane

pytestmark = pytest.mark.modal

AUTH = {"Modal-Key": "wk-test", "Modal-Secret": "ws-test"}


@pytest.fixture
def worker(toy: ControlPlane) -> Any:
    return toy_class("Toy").run


@pytest.fixture
async def started() -> modal.Queue:
    queue = modal.Queue.from_name("toy-log", create_if_missing=True)
    await queue.clear.aio(partition="starts")
    return queue


def toy_class(name: str) -> Any:
    return cast("Any", modal.Cls.from_name("toy", name))()


async def next_start(started: modal.Queue) -> int:
    """The process of the next input that starts."""
    entry: Any = await started.get.aio(partition="starts", timeout=60)
    return entry[1]


def created(plane: ControlPlane, name: str) -> Any:
    requests: list[Message] = plane.state.requests["FunctionCreate"]
    (found,) = [r for r in cast("list[Any]", requests) if r.function.function_name == name]
    return found


async def test_a_deploy_registers_what_the_decorators_say(toy: ControlPlane) -> None:
    function = created(toy, "Toy.*").function
    assert function.checkpointing_enabled
    assert function.timeout_secs == 60
    assert function.autoscaler_settings.max_containers == 3
    assert created(toy, "web").function.webhook_config.requires_proxy_auth


async def test_enter_hooks_run_around_the_snapshot_and_the_container_is_reused(
    worker: Any,
) -> None:
    first = await worker.remote.aio("echo", "a")
    second = await worker.remote.aio("echo", "b" * 20_000)
    assert first["order"] == ["load", "attach"]
    assert first["restored"]
    assert second["got"] == "b" * 20_000
    assert first["pid"] == second["pid"]


async def test_a_frozen_container_takes_the_next_input(toy: ControlPlane, worker: Any) -> None:
    toy.scale_to_zero("Toy.*")
    (frozen,) = toy.freeze("Toy.*", 1)
    assert (await worker.remote.aio("echo"))["pid"] == frozen.pid


@pytest.mark.parametrize("timeout", [0, 0.05])
async def test_a_pending_result_is_a_timeout(worker: Any, timeout: float) -> None:
    call = await worker.spawn.aio("sleep", 30)
    with pytest.raises(TimeoutError):
        await call.get.aio(timeout=timeout)
    await call.cancel.aio()


async def test_an_exception_comes_back(worker: Any) -> None:
    with pytest.raises(ValueError, match="no"):
        await worker.remote.aio("fail", "no")


async def test_a_queued_call_that_is_cancelled_never_starts(
    toy: ControlPlane, worker: Any, started: modal.Queue
) -> None:
    toy.hold("Toy.*")
    call = await worker.spawn.aio("echo", "never")
    await call.cancel.aio()
    toy.hold("Toy.*", held=False)
    with pytest.raises(modal.exception.RemoteError):
        await call.get.aio(timeout=60)
    assert await started.len.aio(partition="starts") == 0


async def test_cancelling_a_running_call_leaves_its_container(
    toy: ControlPlane, worker: Any, started: modal.Queue
) -> None:
    toy.scale_to_zero("Toy.*")
    call = await worker.spawn.aio("sleep", 30)
    pid = await next_start(started)
    await call.cancel.aio()
    with pytest.raises(modal.exception.RemoteError):
        await call.get.aio(timeout=60)
    await worker.remote.aio("echo")
    assert pid in [container.pid for container in toy.pool("Toy.*").live]


async def test_terminating_a_running_call_ends_its_container(
    worker: Any, started: modal.Queue
) -> None:
    call = await worker.spawn.aio("sleep", 30)
    pid = await next_start(started)
    await call.cancel.aio(terminate_containers=True)
    with pytest.raises(modal.exception.RemoteError):
        await call.get.aio(timeout=60)
    assert (await worker.remote.aio("echo"))["pid"] != pid


async def test_a_killed_container_gives_its_input_back(
    toy: ControlPlane, worker: Any, started: modal.Queue
) -> None:
    call = await worker.spawn.aio("sleep", 3)
    pid = await next_start(started)
    toy.kill(next(c for c in toy.pool("Toy.*").containers if c.pid == pid))
    assert await call.get.aio(timeout=60) == "slept"
    again = await next_start(started)
    assert again != pid


async def test_a_call_over_its_time_is_ended(toy: ControlPlane) -> None:
    call = await toy_class("BriefToy").run.spawn.aio()
    with pytest.raises(modal.exception.FunctionTimeoutError):
        await call.get.aio(timeout=60)


async def test_a_dropped_result_is_told_from_a_pending_one(toy: ControlPlane, worker: Any) -> None:
    call = await worker.spawn.aio("echo")
    await call.get.aio(timeout=60)
    toy.expire(toy.calls("Toy.*")[-1])
    with pytest.raises(modal.exception.OutputExpiredError):
        await call.get.aio(timeout=0)
    with pytest.raises(modal.exception.NotFoundError):
        await modal.FunctionCall.from_id("fc-0000000000000000").get.aio(timeout=0)


async def test_a_failed_restore_boots_without_a_snapshot(toy: ControlPlane, worker: Any) -> None:
    toy.scale_to_zero("Toy.*")
    toy.fail_restores("Toy.*")
    answer = await worker.remote.aio("echo")
    assert answer["order"] == ["load", "attach"]
    assert not answer["restored"]


async def test_a_failed_gpu_restore_exits_with_its_code_and_boots_again(
    toy: ControlPlane,
) -> None:
    (container,) = toy.freeze("GpuToy.*", 1)
    toy.fail_restores("GpuToy.*")
    assert not await toy_class("GpuToy").run.remote.aio()
    assert container.exit_code == 222


async def test_a_volume_shows_what_was_committed_and_reloaded(
    toy: ControlPlane, worker: Any, started: modal.Queue
) -> None:
    toy.scale_to_zero("Toy.*")
    busy = await worker.spawn.aio("sleep", 30)
    await next_start(started)
    await worker.remote.aio("write", "a")  # in a second container
    await busy.cancel.aio()
    with pytest.raises(modal.exception.RemoteError):
        await busy.get.aio(timeout=60)
    two = toy.pool("Toy.*").live
    assert len(two) == 2
    writer, other = [view for c in two for view in c.views.values()][::-1]
    assert [path.name for path in writer.folder.iterdir()] == ["a"]
    assert list(other.folder.iterdir()) == []


async def test_a_reload_is_refused_while_a_file_is_open(toy: ControlPlane, worker: Any) -> None:
    toy.scale_to_zero("Toy.*")
    await worker.remote.aio("write", "b")
    await worker.remote.aio("commit")
    assert await worker.remote.aio("reload_with_open_file", "b") == "refused"
    assert "b" in await worker.remote.aio("read", True)


async def test_a_web_function_asks_for_the_proxy_pair(toy: ControlPlane) -> None:
    url = toy.function("web").web_url
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        assert (await client.get("/stream")).status_code == 401
        wrong = {**AUTH, "Modal-Secret": "ws-other"}
        assert (await client.get("/stream", headers=wrong)).status_code == 401
        assert (await client.get("/stream", headers=AUTH)).content == b"a" * 10 + b"b" * 10


async def test_a_large_body_arrives_whole(toy: ControlPlane) -> None:
    body = bytes(range(256)) * 10_000
    url = toy.function("web").web_url
    async with httpx.AsyncClient(base_url=url, timeout=60, headers=AUTH) as client:
        answer = await client.post("/echo", content=body, headers={"content-type": "x/y"})
    assert answer.content == body
    assert answer.headers["content-type"] == "x/y"


async def test_a_slow_answer_is_redirected_to_its_result(toy: ControlPlane) -> None:
    toy.web.redirect_after = 0.3
    url = toy.function("web").web_url
    try:
        async with httpx.AsyncClient(base_url=url, timeout=60, headers=AUTH) as client:
            first = await client.get("/slow", params={"seconds": 2})
            assert first.status_code == 303
            answer = first
            while answer.status_code == 303:
                answer = await client.get(answer.headers["location"])
        assert answer.json() == "done"
    finally:
        toy.web.redirect_after = 150.0


async def test_many_calls_share_the_allowed_containers(toy: ControlPlane, worker: Any) -> None:
    answers = await asyncio.gather(*(worker.remote.aio("echo", n) for n in range(30)))
    assert [answer["got"] for answer in answers] == list(range(30))
    assert len({answer["pid"] for answer in answers}) <= 3


async def test_a_restore_brings_a_new_task_id_and_changed_secrets(
    toy: ControlPlane, worker: Any
) -> None:
    toy.scale_to_zero("Toy.*")
    toy.secret("toy-secret", {"TOY_SECRET": "first"})
    (frozen,) = toy.freeze("Toy.*", 1)
    first_task = frozen.task_id
    toy.secret("toy-secret", {"TOY_SECRET": "second"})
    before, after = await worker.remote.aio("identity")
    assert before == {"MODAL_TASK_ID": first_task, "TOY_SECRET": "first"}
    assert after == {"MODAL_TASK_ID": frozen.task_id, "TOY_SECRET": "second"}
    assert frozen.task_id != first_task


async def test_a_preempted_container_gets_no_result_in_and_the_input_runs_again(
    toy: ControlPlane, worker: Any, started: modal.Queue
) -> None:
    call = await worker.spawn.aio("sleep", 3)
    pid = await next_start(started)
    toy.preempt(next(c for c in toy.pool("Toy.*").containers if c.pid == pid))
    assert await call.get.aio(timeout=60) == "slept"
    assert await next_start(started) != pid
    assert toy.calls("Toy.*")[-1].input.retries == 0


async def test_a_planned_fault_reaches_only_its_caller_and_ends(toy: ControlPlane) -> None:
    values = modal.Dict.from_name("toy-values", create_if_missing=True)
    await values.put.aio("a", 1)
    fault = toy.faults.plan("DictGet", caller="client", fail=Status.ABORTED, times=1)
    with pytest.raises(modal.exception.ConflictError):
        await values.get.aio("a")
    assert await values.get.aio("a") == 1
    assert fault.applied == 1
    toy.faults.clear()


async def test_a_lost_response_leaves_the_work_done(toy: ControlPlane) -> None:
    values = modal.Dict.from_name("toy-values", create_if_missing=True)
    toy.faults.plan("DictUpdate", fail=Status.ABORTED, times=1, after=True)
    with pytest.raises(modal.exception.ConflictError):
        await values.put.aio("lost", 1)
    toy.faults.clear()
    assert await values.get.aio("lost") == 1


async def test_entries_partitions_and_results_expire(toy: ControlPlane, worker: Any) -> None:
    values = modal.Dict.from_name("toy-values", create_if_missing=True)
    feed = modal.Queue.from_name("toy-feed", create_if_missing=True)
    await values.put.aio("idle", 1)
    await values.put.aio("used", 1)
    await feed.put.aio("item", partition="p", partition_ttl=86400)
    call = await worker.spawn.aio("echo")
    await call.get.aio(timeout=60)
    toy.advance(days=6)
    assert await values.get.aio("used") == 1
    assert await feed.len.aio(partition="p") == 0
    toy.advance(days=1.5)
    assert await values.get.aio("idle") is None
    assert await values.get.aio("used") == 1
    with pytest.raises(modal.exception.OutputExpiredError):
        await call.get.aio(timeout=0)


async def test_a_schedule_starts_a_container(toy: ControlPlane) -> None:
    values = modal.Dict.from_name("toy-values", create_if_missing=True)
    before = await values.get.aio("count", 0)
    await asyncio.to_thread(toy.run_scheduled, "count")
    assert await values.get.aio("count") == before + 1
    with pytest.raises(ValueError, match="schedule"):
        toy.run_scheduled("web")


async def test_progress_that_finds_no_room_holds_up_nothing(plane: ControlPlane) -> None:
    full = modal.Queue.from_name("full", create_if_missing=True)
    for _ in range(50):
        await full.put_many.aio(list(range(100)), partition="job")
    async with asyncio.timeout(60):
        with pytest.raises(queue.Full):
            await QueueFeed(full, Patience(1)).append("job", "more", keep=60)
