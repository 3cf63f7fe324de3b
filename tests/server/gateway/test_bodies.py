"""How long a body may take."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.gateway.bodies import BodyReader
from comfysnap_server.gateway.capacity import Places
from comfysnap_server.gateway.problems import ProblemError

PATIENCE = 1.5


def request_of(*messages: dict[str, Any], pause: float = 0.0) -> Request:
    """Messages that arrive after a pause each; after the last one comes the next without end."""
    rest = list(messages)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause)
        return rest.pop(0) if rest else {"type": "http.request", "body": b" ", "more_body": True}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


@pytest.fixture
def places() -> Places:
    return Places("bodies", 10, 10)


@pytest.fixture
def reader(places: Places) -> BodyReader:
    return BodyReader(places, patience=PATIENCE, min_rate=1)


async def test_json_that_keeps_its_rate_has_to_be_whole_in_time_all_the_same(
    reader: BodyReader, places: Places
) -> None:
    steady = request_of(pause=PATIENCE / 20)
    with pytest.raises(ProblemError) as caught:
        await reader.read_json(steady, "anna", 10**6, forms=False, parse=bytes)
    assert caught.value.status == 408
    assert not places.full_for("anna")


async def test_an_upload_that_keeps_its_rate_may_take_longer(reader: BodyReader) -> None:
    steady = request_of(pause=PATIENCE / 20)
    begun = asyncio.get_running_loop().time()
    async with aclosing(reader.stream(steady, "anna", 100, ErrorCode.FILE_TOO_LARGE)) as chunks:
        async for _ in chunks:
            if asyncio.get_running_loop().time() > begun + PATIENCE * 1.3:
                break


async def test_a_body_without_announced_length_ends_at_the_limit(reader: BodyReader) -> None:
    with pytest.raises(ProblemError) as caught:
        await reader.read_json(request_of(), "anna", 10, forms=False, parse=bytes)
    assert caught.value.code is ErrorCode.BODY_TOO_LARGE


async def test_a_client_that_hangs_up_is_told_apart_from_the_end(reader: BodyReader) -> None:
    part = {"type": "http.request", "body": b"{", "more_body": True}
    request = request_of(part, {"type": "http.disconnect"})
    with pytest.raises(ClientDisconnect):
        await reader.read_json(request, "anna", 10, forms=False, parse=bytes)
