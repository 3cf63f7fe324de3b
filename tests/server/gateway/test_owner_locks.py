"""What is slow of one owner waits for the same owner, not before others."""

import asyncio
import json
import threading
from collections.abc import Mapping
from typing import Any, Final

import httpx
import pytest
from starlette.requests import Request

from comfysnap_schema.wire import JobPage
from comfysnap_schema.workflow import Workflow
from comfysnap_server.gateway import GatewaySettings, KeyRecord, Keys, create_app, hash_key
from comfysnap_server.gateway.bodies import BodyReader
from comfysnap_server.gateway.capacity import Places
from comfysnap_server.gateway.inputs import InputValidator
from comfysnap_server.owner_locks import OwnerLocks
from tests.server.gateway.fakes import FakeBackend

LARGE = json.dumps({"prompt": "x" * 100_000}).encode()


async def test_locks_of_an_owner_are_held_in_order_and_others_do_not_wait() -> None:
    locks, order = OwnerLocks(), list[str]()
    release, taken = asyncio.Event(), asyncio.Event()

    async def use(owner: str, name: str, until: asyncio.Event | None = None) -> None:
        async with locks.hold(owner):
            order.append(name)
            if until is not None:
                taken.set()
                await until.wait()

    first = asyncio.create_task(use("anna", "first", release))
    await taken.wait()
    rest = [asyncio.create_task(use("anna", name)) for name in ("second", "given up", "third")]
    await use("ben", "ben's")
    assert (order, len(locks)) == (["first", "ben's"], 1)
    rest[1].cancel()
    release.set()
    await asyncio.gather(first, rest[0], rest[2])
    assert (order, len(locks)) == (["first", "ben's", "second", "third"], 0)
    assert rest[1].cancelled()


def request_of(body: bytes) -> Request:
    async def receive() -> Mapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)  # type: ignore[arg-type]


async def test_large_bodies_of_an_owner_are_parsed_one_by_one_beside_the_loop() -> None:
    reader = BodyReader(Places("bodies", 10, 10), patience=10, min_rate=1)
    release, loop = threading.Event(), asyncio.get_running_loop()
    begun: asyncio.Queue[str] = asyncio.Queue()

    def read(name: str, owner: str, body: bytes = LARGE) -> asyncio.Task[str]:
        def parse(_: bytes) -> str:
            loop.call_soon_threadsafe(begun.put_nowait, name)
            if body is LARGE:
                release.wait(200)
            return name

        arrived = reader.read_json(request_of(body), owner, 10**6, forms=False, parse=parse)
        return asyncio.create_task(arrived)

    tasks = [read("first", "anna"), read("second", "anna")]
    assert await begun.get() == "first"
    tasks += [read("ben's", "ben"), read("small", "anna", b"{}")]
    assert {await begun.get(), await begun.get()} == {"ben's", "small"}
    assert begun.empty()
    release.set()
    assert await asyncio.gather(*tasks) == ["first", "second", "ben's", "small"]


class SlowLists(FakeBackend):
    """Each list waits for ``release``."""

    def __init__(self) -> None:
        super().__init__()
        self.listing: asyncio.Queue[str | None] = asyncio.Queue()
        self.release = asyncio.Event()

    async def list_jobs(self, owner: str | None, **filters: Any) -> JobPage:
        self.listing.put_nowait(owner)
        await self.release.wait()
        return await super().list_jobs(owner, **filters)


async def test_the_lists_of_an_owner_wait_for_each_other(workflow: Workflow) -> None:
    backend = SlowLists()
    keys = [KeyRecord(name=owner, owner=owner, hash=hash_key(owner)) for owner in ("anna", "ben")]
    app = create_app(backend, {"draw": workflow}, GatewaySettings(auth="keys"), keys=Keys(keys))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:

        def ask(owner: str) -> asyncio.Task[httpx.Response]:
            headers = {"Authorization": f"Bearer {owner}"}
            return asyncio.create_task(http.get("/jobs", headers=headers))

        answers = [ask("anna"), ask("anna"), ask("anna")]
        assert await backend.listing.get() == "anna"
        answers.append(ask("ben"))
        assert await backend.listing.get() == "ben"
        assert backend.listing.empty()
        backend.release.set()
        assert [answer.status_code for answer in await asyncio.gather(*answers)] == [200] * 4


HUGE: Final[list[Any]] = ["x" * 1_000_000, [[]] * 100_000, {"key": ["long"] * 100_000}]


@pytest.mark.parametrize("value", HUGE, ids=type)
def test_a_message_about_a_large_value_shows_its_beginning(workflow: Workflow, value: Any) -> None:
    (problem,) = InputValidator(workflow.contract.input_schema).problems({"prompt": value})
    assert problem.message.endswith("...")
    assert len(problem.message) < 200
