"""While Modal does not answer, jobs go on, and nobody takes its errors for the end of a job."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import modal
import pytest
from grpclib import Status

from comfysnap_client.client import Client
from comfysnap_schema.workflows.hello import HelloInput
from comfysnap_server.backends.modal.cloud import DictRecords, FunctionCalls, Patience
from comfysnap_server.backends.modal.platform import CallState
from tests.control_plane import ControlPlane

pytestmark = pytest.mark.modal

WORKER = "Worker.*"
GATEWAY = "gateway"


@pytest.fixture
async def client(deployed: ControlPlane) -> AsyncIterator[Client]:
    key, secret = deployed.web.key
    url = deployed.function(GATEWAY).web_url
    async with Client(url, modal_key=key, modal_secret=secret, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def _no_faults_left(plane: ControlPlane) -> Iterator[None]:
    yield
    plane.faults.clear()


async def test_a_worker_that_cannot_claim_its_job_at_once_claims_it_later(
    deployed: ControlPlane, client: Client
) -> None:
    await client.infer_sync(HelloInput(width=16, height=16))
    claims = deployed.faults.plan("DictUpdate", caller="Worker*", fail=Status.UNAVAILABLE, times=5)
    job = await client.infer_async(HelloInput(width=16, height=16))
    assert (await job.result()).images
    assert claims.applied
    assert (await job.status()).attempt == 1


@pytest.mark.parametrize("rpc", ["Dict*", "Queue*", "FunctionGetOutputs", "FunctionMap"])
async def test_a_gateway_asks_again(deployed: ControlPlane, client: Client, rpc: str) -> None:
    await client.infer_sync(HelloInput(width=16, height=16))
    deployed.faults.plan(rpc, caller=GATEWAY, fail=Status.UNAVAILABLE, seconds=2)
    job = await client.infer_async(HelloInput(width=16, height=16))
    assert (await job.status()).id == job.id
    assert (await job.result()).images


async def test_the_sweep_outlasts_an_outage(deployed: ControlPlane, client: Client) -> None:
    deployed.hold(WORKER)
    try:
        job = await client.infer_async(HelloInput(width=16, height=16))
        deployed.faults.plan("DictGet*", caller="sweep", fail=Status.UNAVAILABLE, seconds=5)
        deployed.faults.plan("DictContents", caller="sweep", fail=Status.UNAVAILABLE, times=5)
        call = deployed.run_scheduled("sweep")
        assert call.output is not None
        assert not call.output.result.exception
    finally:
        deployed.hold(WORKER, held=False)
    assert (await job.result()).images


@pytest.mark.parametrize("what", ["time_out", "lose_connection", "fail"])
async def test_what_a_call_raises_is_not_taken_for_an_error_of_here(
    toy: ControlPlane, what: str
) -> None:
    worker = cast("Any", modal.Cls.from_name("toy", "Toy"))()
    calls = FunctionCalls({"default": worker.run}, Patience(1))
    call = await worker.run.spawn.aio(what, "x")
    end = await calls.end(call.object_id, wait=30)
    assert end is not None
    assert end.state is CallState.RAISED
    assert "Error" in end.reason


async def test_a_write_whose_answer_was_lost_was_still_the_first(plane: ControlPlane) -> None:
    entries = modal.Dict.from_name("outages", create_if_missing=True)
    await entries.hydrate.aio()
    records = DictRecords(entries, Patience(10))
    plane.faults.plan("DictUpdate", caller="client", fail=Status.UNAVAILABLE, times=5, after=True)
    assert await records.add("key", "mine")
    assert not await records.add("key", "another")
