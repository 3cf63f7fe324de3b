"""Tests without a network or a GPU: the mock server answers."""

import asyncio
from pathlib import Path

import pytest
from postcards import Busy, draw, draw_all

from comfysnap_client import Client, ErrorCode, Progress, RateLimited, RetryPolicy
from comfysnap_client.blocking import Client as BlockingClient
from comfysnap_client.testing import MockServer
from comfysnap_schema.workflows.flux import FluxInput, FluxOutput


async def test_a_postcard_is_saved(comfysnap_server: MockServer, tmp_path: Path) -> None:
    picture = comfysnap_server.image(width=768, height=512)
    comfysnap_server.on(FluxInput).succeeds(
        FluxOutput(images=[picture]), progress=[Progress(fraction=0.5, node_class="KSampler")]
    )
    bar: list[float] = []
    async with Client.from_env() as client:
        saved = await draw(client, "Lisbon", tmp_path, bar=bar)

    assert saved.read_bytes().startswith(b"\x89PNG")
    assert 0.5 in bar
    assert comfysnap_server.inputs_of(FluxInput)[0].prompt == "a postcard of Lisbon"


async def test_out_of_memory_is_busy(comfysnap_server: MockServer, tmp_path: Path) -> None:
    comfysnap_server.on(FluxInput).fails(ErrorCode.OUT_OF_MEMORY)
    async with comfysnap_server.client() as client:
        with pytest.raises(Busy):
            await draw(client, "Lisbon", tmp_path)


async def test_a_lost_response_creates_no_second_job(
    comfysnap_server: MockServer, tmp_path: Path
) -> None:
    comfysnap_server.on(FluxInput).drops_connections(2, delivered=True).answers(429).succeeds(
        FluxOutput(images=[comfysnap_server.image()])
    )
    async with comfysnap_server.client() as client:
        await draw(client, "Lisbon", tmp_path)

    assert len(comfysnap_server.calls) == 1


async def test_giving_up_raises_rate_limited(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(FluxInput).answers(429, ErrorCode.QUOTA_EXCEEDED, times=2)
    async with Client(comfysnap_server.url, retry=RetryPolicy(attempts=2)) as client:
        with pytest.raises(RateLimited) as caught:
            await client.infer_sync(FluxInput(prompt="x"))

    assert (caught.value.attempts, caught.value.code) == (2, ErrorCode.QUOTA_EXCEEDED)


async def test_a_cancelled_caller_cancels_the_job(
    comfysnap_server: MockServer, tmp_path: Path
) -> None:
    comfysnap_server.on(FluxInput).hangs()
    async with comfysnap_server.client() as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await draw(client, "Lisbon", tmp_path)

    assert any(request.startswith("POST /cancel/") for request in comfysnap_server.requests)


async def test_one_of_many_may_fail(comfysnap_server: MockServer) -> None:
    done = FluxOutput(images=[comfysnap_server.image()])
    comfysnap_server.on(FluxInput).succeeds(done).fails(ErrorCode.NODE_FAILED, "no").succeeds(done)
    async with comfysnap_server.client() as client:
        states = await draw_all(client, ["Lisbon", "Porto", "Faro"])

    assert [key for key, value in states.items() if value == "drawn"] == ["Lisbon", "Faro"]


def test_a_script_needs_no_event_loop(comfysnap_server: MockServer, tmp_path: Path) -> None:
    comfysnap_server.on(FluxInput).succeeds(FluxOutput(images=[comfysnap_server.image()]))
    with BlockingClient.from_env() as client:
        output = client.infer_sync(FluxInput(prompt="a fox"))
        saved = client.save(output.images[0], tmp_path)

    assert saved == tmp_path / "image.png"
