"""Limits of a key, and links that open without one."""

import httpx
import pytest

from comfysnap_client import NotFound, blocking
from comfysnap_client.testing import MockServer
from comfysnap_schema.wire import BudgetName
from tests.client.fakes import DrawInput, DrawOutput

FOX = DrawInput(prompt="a fox")


async def test_limits_show_what_is_used(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).hangs()
    async with comfysnap_server.client() as client:
        await client.infer_async(FOX)
        limits = await client.limits()
    assert limits.owner == "local"
    assert limits.budgets[BudgetName.MAX_UNFINISHED_JOBS].used == 1
    assert limits.max_file_bytes > limits.max_body_bytes > 0


async def test_a_link_to_an_output_opens_without_a_key(comfysnap_server: MockServer) -> None:
    picture = comfysnap_server.image("fox one.png")
    comfysnap_server.on(DrawInput).succeeds(DrawOutput(images=(picture,), text="a fox"))
    async with comfysnap_server.client() as client:
        job = await client.infer_async(FOX)
        output = await job.result()
        url = await job.link(output.images[0], expires_in=60)
        assert await client.link(job.id, "fox one.png") == url
        assert url.startswith(f"{comfysnap_server.url}/outputs/")
        async with httpx.AsyncClient() as browser:
            assert (await browser.get(url)).content.startswith(b"\x89PNG")
            gone = await browser.get(await job.link("another.png"))
            assert gone.status_code == 404


async def test_a_link_to_the_events_is_one_of_the_server(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).succeeds(DrawOutput(images=(), text="a fox"))
    async with comfysnap_server.client() as client:
        job = await client.infer_async(FOX)
        url = await job.link()
        assert url.startswith(f"{comfysnap_server.url}/events/{job.id}?token=")


async def test_a_link_of_an_unknown_job_or_beyond_an_hour_is_an_error(
    comfysnap_server: MockServer,
) -> None:
    async with comfysnap_server.client() as client:
        with pytest.raises(NotFound):
            await client.link(f"job_{'0' * 26}")
        with pytest.raises(ValueError, match="expires_in"):
            await client.link(f"job_{'0' * 26}", expires_in=3601)
        with pytest.raises(ValueError, match="job_id"):
            await client.link("../limits")


def test_the_blocking_client_has_limits_and_links(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).succeeds(DrawOutput(images=(), text="a fox"))
    with blocking.Client.from_env() as client:
        job = client.infer_async(FOX)
        assert client.link(job.id) == job.link()
        assert client.limits().key is None
