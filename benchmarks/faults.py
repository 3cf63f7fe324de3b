"""Jobs over a network that loses 10 % of requests before and 10 % after they are delivered.

A proxy on loopback in front of a gateway and local backend; it also answers 5 % of requests with
502, 503 or 429, and delays 3 % by seconds. Target: every job has a result, and the engine ran
exactly once for each. With ``--backend modal`` the gateway and the GPU class run as containers of
the tests' control plane.

    uv run python benchmarks/faults.py [--quick] [--jobs 2000]
    uv run python benchmarks/faults.py --backend modal [--jobs 200]
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from fault_proxy import Faults, fault_proxy
from local_server import local_server, runs
from modal_server import modal_server

from comfysnap_client import Client
from comfysnap_schema.workflows.hello import HelloInput

CONCURRENCY: Final = 50


@dataclass
class Outcome:
    """Counts of one run."""

    jobs: int
    results: int
    executed: int
    doubled: int
    seconds: float


def prompt(number: int) -> HelloInput:
    """An input that distinguishes the jobs."""
    return HelloInput.model_validate({"width": 64 + number % 64, "height": 64})


async def completed(proxy: str, count: int) -> int:
    """Submit jobs through the proxy; the number that succeeded."""
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


async def measured(server: tuple[str, Path], count: int) -> Outcome:
    """Run jobs through the proxy, and count what the engine did meanwhile."""
    url, data = server
    faults = Faults(drop_before=0.1, drop_after=0.1, refuse=0.05, delay=0.03)
    started = time.monotonic()
    async with fault_proxy(url, faults) as proxy:
        results = await completed(proxy, count)
    seconds = time.monotonic() - started
    await settled(url)
    ran = Counter(runs(data))
    # a second run of one job, and a second job of one submit, both count
    doubled = ran.total() - len(ran) + max(0, len(ran) - count)
    return Outcome(count, results, ran.total(), doubled, seconds)


async def settled(url: str) -> None:
    """Wait until every job of the server has ended."""
    async with httpx.AsyncClient(base_url=url) as http:
        for status in ("queued", "running"):
            while (await http.get("/jobs", params={"status": status})).json()["jobs"]:  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.1)


async def run(backend: str, jobs: int) -> bool:
    """Print the result; returns whether no job was lost or run twice."""
    with modal_server() if backend == "modal" else local_server() as server:
        outcome = await measured(server, jobs)
    print(f"{'jobs':10} {outcome.jobs}, {backend} backend, {outcome.seconds:.1f} s")
    print(f"{'results':10} {outcome.results}")
    print(f"{'executed':10} {outcome.executed}")
    print(f"{'doubled':10} {outcome.doubled}")
    return outcome.results == outcome.executed == jobs and outcome.doubled == 0


def main() -> int:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most 200 jobs")
    parser.add_argument("--backend", choices=("local", "modal"), default="local")
    parser.add_argument("--jobs", type=int, help="default: 2000 on the local backend, 200 on Modal")
    options = parser.parse_args()
    jobs = options.jobs or (2000 if options.backend == "local" else 200)
    met = asyncio.run(run(options.backend, min(jobs, 200) if options.quick else jobs))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
