"""Jobs over a network that loses 10 % of requests before and 10 % after they are delivered.

A proxy on loopback before a real gateway and local backend; besides the losses it answers 5 % with
502, 503 or 429 and delays 3 % by seconds. Target: every job reaches its one result, and the engine
ran exactly once for each. Below, for comparison, the retry rules of three other clients, as read
from their sources (fal-client 1.0.3, replicate 1.0.7, comfy-sdk 0.5.0), against the same proxy.
With ``--backend modal`` the gateway and the GPU class run as containers of the loopback control
plane, and only comfysnap's own client is measured.

    uv run python benchmarks/faults.py [--quick] [--jobs 2000] [--peer-jobs 200]
    uv run python benchmarks/faults.py --backend modal [--jobs 200]
"""

import argparse
import asyncio
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from fault_proxy import Faults, fault_proxy
from local_server import local_server, runs
from modal_server import modal_server

from comfysnap_client import Client
from comfysnap_schema.workflows.hello import HelloInput

CONCURRENCY: Final = 50


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How another client submits and polls; a status of None is a broken connection."""

    name: str
    key: bool
    submit_again: Callable[[int | None], bool]
    poll_again: Callable[[int | None], bool]
    attempts: int
    interval: float


PEERS: Final = (
    Rules(
        name="fal-client 1.0.3", key=False, attempts=10, interval=0.1,
        submit_again=lambda status: status in (None, 408, 409, 429, 502, 503, 504),
        poll_again=lambda status: status in (None, 408, 409, 429, 502, 503, 504),
    ),
    Rules(
        name="replicate 1.0.7", key=False, attempts=10, interval=0.5,
        submit_again=lambda status: status == 429,
        poll_again=lambda status: status in (429, 503, 504),
    ),
    Rules(
        name="comfy-sdk 0.5.0", key=True, attempts=5, interval=0.5,
        submit_again=lambda status: status == 429,
        poll_again=lambda status: status in (429, 502, 503),
    ),
)  # fmt: skip


@dataclass
class Outcome:
    """What became of a run."""

    name: str
    jobs: int
    results: int
    executed: int
    doubled: int
    seconds: float

    def row(self) -> str:
        """A line of the table."""
        return (
            f"{self.name:24} {self.jobs:6} {self.results:8} {self.jobs - self.results:6}"
            f" {self.executed:9} {self.doubled:8} {self.seconds:7.1f} s"
        )


def faults() -> Faults:
    """What every run meets."""
    return Faults(drop_before=0.1, drop_after=0.1, refuse=0.05, delay=0.03)


def prompt(number: int) -> HelloInput:
    """An input that tells the jobs apart."""
    return HelloInput.model_validate({"width": 64 + number % 64, "height": 64})


async def ours(proxy: str, count: int) -> int:
    """Results that came, each of a job of its own."""
    results = 0
    async with Client(proxy, timeout=300) as client:
        mapped = client.map(
            (prompt(number) for number in range(count)), concurrency=CONCURRENCY, ordered=False
        )
        async with aclosing(mapped) as found:
            async for result in found:
                if result.error is None:
                    results += 1
                else:
                    print(f"  lost: {result.error!r}")
    return results


async def peer(proxy: str, rules: Rules, count: int) -> int:
    """Results that came to a client with these rules."""
    turn = asyncio.Semaphore(CONCURRENCY)

    async def one(http: httpx.AsyncClient, number: int) -> bool:
        async with turn:
            headers = {"Idempotency-Key": uuid.uuid4().hex} if rules.key else {}
            body = prompt(number).model_dump(exclude_unset=True)
            job = await asked(
                http, "POST", "/infer_async/hello", rules.submit_again, rules.attempts,
                json=body, headers=headers,
            )  # fmt: skip
            while job is not None and job["status"] in ("queued", "running"):
                await asyncio.sleep(rules.interval)
                path = f"/check_status/{job['id']}"
                job = await asked(http, "GET", path, rules.poll_again, rules.attempts)
            return job is not None and job["status"] == "succeeded"

    async with httpx.AsyncClient(base_url=proxy, timeout=30) as http:
        return sum(await asyncio.gather(*(one(http, number) for number in range(count))))


async def asked(
    http: httpx.AsyncClient, method: str, path: str, again: Callable[[int | None], bool],
    attempts: int, **options: Any,
) -> Any | None:  # fmt: skip
    """The answer, or None when these rules give up."""
    for attempt in range(attempts):
        try:
            response = await http.request(method, path, **options)
        except httpx.TransportError:
            status = None
        else:
            status = response.status_code
            if status < 400:
                return response.json()
        if not again(status):
            return None
        await asyncio.sleep(min(0.1 * 2**attempt, 2.0))
    return None


async def measured(
    name: str, server: tuple[str, Path], count: int, work: Callable[[str], Any]
) -> Outcome:
    """A run through a proxy of its own, and what the engine did meanwhile."""
    url, data = server
    before = len(runs(data))
    started = time.monotonic()
    async with fault_proxy(url, faults()) as proxy:
        results = await work(proxy)
    seconds = time.monotonic() - started
    await settled(url)
    ran = Counter(runs(data)[before:])
    # An engine's run of one job twice, and a second job for one submit, both count as double.
    doubled = ran.total() - len(ran) + max(0, len(ran) - count)
    return Outcome(name, count, results, ran.total(), doubled, seconds)


async def settled(url: str) -> None:
    """Wait until the server has no unfinished job."""
    async with httpx.AsyncClient(base_url=url) as http:
        for status in ("queued", "running"):
            while (await http.get("/jobs", params={"status": status})).json()["jobs"]:  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.1)


async def run(backend: str, jobs: int, peer_jobs: int) -> bool:
    """Print the table; whether nothing of ours was lost or doubled."""
    print(f"{'client':24} {'jobs':>6} {'results':>8} {'lost':>6} {'executed':>9} {'doubled':>8}")
    with modal_server() if backend == "modal" else local_server() as server:
        name = f"comfysnap, {backend}"
        mine = await measured(name, server, jobs, lambda proxy: ours(proxy, jobs))
        print(mine.row(), flush=True)
        for rules in PEERS if backend == "local" else ():

            def work(proxy: str, rules: Rules = rules) -> Any:
                return peer(proxy, rules, peer_jobs)

            print((await measured(rules.name, server, peer_jobs, work)).row())
    return mine.results == mine.executed == jobs and mine.doubled == 0


def main() -> int:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 jobs, 60 for each other client")
    parser.add_argument("--backend", choices=("local", "modal"), default="local")
    parser.add_argument("--jobs", type=int, help="2000 on the local backend, 200 on Modal's")
    parser.add_argument("--peer-jobs", type=int, default=200)
    options = parser.parse_args()
    jobs = options.jobs or (2000 if options.backend == "local" else 200)
    counts = (min(jobs, 200), 60) if options.quick else (jobs, options.peer_jobs)
    return 0 if asyncio.run(run(options.backend, *counts)) else 1


if __name__ == "__main__":
    sys.exit(main())
