"""``Client.map``."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from comfysnap_client import Client, InvalidInput
from tests.client.fakes import DrawInput, FakeServer, holding, problem


def inputs(count: int) -> Iterator[DrawInput]:
    return (DrawInput(prompt=str(number)) for number in range(count))


def echoing(server: FakeServer) -> None:
    """Make each job return its prompt."""

    async def echo(request: Request) -> Response:
        server.on("/infer_async", echo)
        body = await request.json()
        server.outputs = {"text": body["prompt"]}
        return await server.accept(request, "draw")

    server.on("/infer_async", echo)


async def collect(results: Any) -> list[Any]:
    async with aclosing(results) as source:
        return [result async for result in source]


@pytest.mark.parametrize("ordered", [True, False])
async def test_every_input_has_its_result(
    client: Client, server: FakeServer, ordered: bool
) -> None:
    echoing(server)
    results = await collect(client.map(inputs(30), concurrency=4, ordered=ordered))

    places = [result.index for result in results]
    assert places == list(range(30)) if ordered else sorted(places) == list(range(30))
    assert all(result.output.text == result.inputs.prompt for result in results)


async def test_inputs_may_come_from_an_async_iterator(client: Client) -> None:
    async def drawn() -> AsyncIterator[DrawInput]:
        for one in inputs(3):
            yield one

    assert len(await collect(client.map(drawn()))) == 3


async def test_a_failed_input_is_reported_in_its_position(
    client: Client, server: FakeServer, tmp_path: Path
) -> None:
    async def refuse(request: Request) -> Response | None:
        return problem(422, "invalid_input") if b'"1"' in await request.body() else None

    server.on("/infer_async", refuse, refuse)
    three = [*inputs(2), DrawInput(prompt="x", image=tmp_path / "none.png")]
    results = await collect(client.map(three, concurrency=1))

    assert isinstance(results[1].error, InvalidInput)
    assert isinstance(results[2].error, FileNotFoundError)
    with pytest.raises(InvalidInput):
        _ = results[1].output
    assert results[0].output.text == "done"


async def test_inputs_are_read_only_as_results_are_consumed(
    client: Client, server: FakeServer
) -> None:
    drawn = 0

    def counted() -> Iterator[DrawInput]:
        nonlocal drawn
        for one in inputs(1000):
            drawn += 1
            yield one

    async with aclosing(client.map(counted(), concurrency=3)) as results:
        for _ in range(5):
            await anext(results)
        assert drawn <= 5 + 2 * 3


async def test_a_slow_first_input_does_not_block_the_others(
    client: Client, server: FakeServer
) -> None:
    go_on = asyncio.Event()
    server.on("/infer_async", holding(go_on))
    results = client.map(inputs(20), concurrency=2)
    first = asyncio.create_task(anext(results))
    await server.requested("/infer_async", 4)
    assert not first.done()
    go_on.set()
    assert (await first).index == 0
    assert len(await collect(results)) == 19


async def test_leaving_early_cancels_running_jobs(client: Client, server: FakeServer) -> None:
    server.outputs = None
    results = client.map(inputs(10), concurrency=3)
    first = asyncio.create_task(anext(results))
    await server.requested("/check_status", 3)
    await server.finish(next(iter(server.jobs)), outputs={})
    await first
    await results.aclose()

    assert [job["status"] for job in server.jobs.values()][1:] == ["cancelled"] * (
        len(server.jobs) - 1
    )


async def test_a_failing_input_iterator_ends_the_map_and_cancels_its_jobs(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None

    async def broken() -> AsyncIterator[DrawInput]:
        yield DrawInput(prompt="x")
        await server.requested("/check_status")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await collect(client.map(broken()))
    assert [job["status"] for job in server.jobs.values()] == ["cancelled"]


async def test_no_inputs_give_no_results_and_concurrency_must_be_positive(client: Client) -> None:
    assert await collect(client.map(())) == []
    with pytest.raises(ValueError, match="concurrency"):
        await collect(client.map((), concurrency=0))


async def test_many_waits_share_the_connections(server: FakeServer) -> None:
    server.outputs = None
    async with Client(server.url, max_connections=10) as client:
        jobs = [await client.infer_async(one) for one in inputs(60)]
        waiting = [asyncio.create_task(job.result()) for job in jobs]
        await server.requested("/check_status")
        for job in jobs:
            await server.finish(job.id, outputs={"text": "done"})
        assert len(await asyncio.gather(*waiting)) == 60
        assert server.connections.peak <= 10
