"""Submitting, waiting and getting typed outputs."""

import asyncio

from comfysnap_client import Client
from tests.client.fakes import DrawInput, DrawOutput, FakeServer


async def test_infer_sync_returns_the_typed_output(client: Client, server: FakeServer) -> None:
    server.outputs = None
    waiting = asyncio.create_task(client.infer_sync(DrawInput(prompt="a fox")))
    await server.requested("/check_status")
    await server.finish(next(iter(server.jobs)), outputs={"text": "done"})

    assert await waiting == DrawOutput(text="done")
    assert [r.url.path.split("/")[1] for r in server.requests] == ["infer_async", "check_status"]


async def test_many_tasks_share_one_poll(client: Client, server: FakeServer) -> None:
    server.outputs = None
    job = await client.infer_async(DrawInput(prompt="a fox"))
    waiting = [asyncio.create_task(job.result()) for _ in range(20)]
    await server.requested("/check_status")
    await server.finish(job.id, outputs={"text": "done"})

    assert {output.text for output in await asyncio.gather(*waiting)} == {"done"}
    assert len(server.requests_to("/check_status")) == 1
