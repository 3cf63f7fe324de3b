"""A job from client to result over loopback, against a bare POST and GET to a bare FastAPI app.

The engine only writes a small file, so the time is comfysnap's: submit, store, pass to the worker
process, notify the waiting client. It includes five flushes to the disk, one after the other: the
accepted job, the image, its folder, the folder of all jobs, the final state. The table has the time
of one, too: while other programs keep the disk busy, most of the time is theirs, and the ratio says
nothing. Targets: a median below 2.5 times the bare pair, at most 3 requests for a job of 10 s, and
less than 20 ms from the end of a job to its result at the 95th percentile.

    uv run python benchmarks/round_trip.py [--quick]
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, BinaryIO

import httpx
import uvicorn
from fastapi import FastAPI
from local_server import local_server
from pydantic import BaseModel

from comfysnap_client import Client
from comfysnap_schema.workflows.flux import FluxInput


class BareInput(BaseModel):
    """A minimal input."""

    prompt: str


def bare_app() -> FastAPI:
    """A FastAPI app with one POST and one GET route."""
    app = FastAPI()

    async def submit(inputs: BareInput) -> dict[str, str]:
        return {"id": "job_1", "status": "queued", "prompt": inputs.prompt}

    async def status(job_id: str) -> dict[str, str]:
        return {"id": job_id, "status": "succeeded"}

    app.add_api_route("/jobs", submit, methods=["POST"], status_code=202)
    app.add_api_route("/jobs/{job_id}", status, methods=["GET"])
    return app


def serve_bare() -> None:
    """Print the address and serve the bare app until this process is terminated."""
    config = uvicorn.Config(bare_app(), port=0, access_log=False, log_level="warning")
    socket = config.bind_socket()
    print(f"http://127.0.0.1:{socket.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run([socket])


@contextmanager
def bare_server() -> Generator[str]:
    """The address of the bare app in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve-bare"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(30)


async def bare_pair(http: httpx.AsyncClient, url: str) -> float:
    """Seconds of one POST and one GET."""
    started = time.perf_counter()
    await http.post(f"{url}/jobs", json={"prompt": "a fox"})
    await http.get(f"{url}/jobs/job_1")
    return time.perf_counter() - started


def flush(file: BinaryIO) -> float:
    """Seconds of one flush of 4 KiB."""
    file.seek(0)
    file.write(bytes(4096))
    file.flush()
    started = time.perf_counter()
    os.fsync(file.fileno())
    return time.perf_counter() - started


async def job(client: Client) -> tuple[float, float]:
    """Seconds from submit to result, and from the end of the job to its result."""
    started = time.perf_counter()
    handle = await client.infer_async(FluxInput(prompt="a fox"))
    record = await handle.wait()
    seconds = time.perf_counter() - started
    assert record.status == "succeeded", record
    assert record.finished_at is not None
    return seconds, (datetime.now(UTC) - record.finished_at).total_seconds()


async def measure(bare: str, instant: str, slow: str, file: BinaryIO, count: int) -> dict[str, Any]:
    """Alternate bare pairs, jobs and flushes, so that all run under the same load."""
    pairs: list[float] = []
    flushes: list[float] = []
    jobs: list[tuple[float, float]] = []
    requests: list[httpx.Request] = []

    async def count_request(request: httpx.Request) -> None:
        requests.append(request)

    hooks = {"request": [count_request]}
    async with (
        httpx.AsyncClient() as http,
        Client(instant) as client,
        Client(instant, event_hooks=hooks) as quick,
        Client(slow, event_hooks=hooks) as counted,
    ):
        for _ in range(20):
            await bare_pair(http, bare)
            await job(client)
        for _ in range(count):
            pairs.append(await bare_pair(http, bare))
            jobs.append(await job(client))
            flushes.append(flush(file))
        await job(quick)
        instant_requests = len(requests)
        await counted.infer_sync(FluxInput(prompt="a fox", steps=10, width=256, height=256))
    known = sorted(seconds for _, seconds in jobs)
    return {
        "flush": statistics.median(flushes),
        "pair": statistics.median(pairs),
        "job": statistics.median(seconds for seconds, _ in jobs),
        "known": known[int(len(known) * 0.95)],
        "instant_requests": instant_requests,
        "requests": len(requests) - instant_requests,
    }


def report(found: dict[str, Any]) -> bool:
    """Print the table; returns whether every target is met."""
    ratio = found["job"] / found["pair"]
    rows = (
        ("bare POST and GET, median", f"{found['pair'] * 1000:.2f} ms", "", True),
        ("job, submit to result, median", f"{found['job'] * 1000:.2f} ms", "", True),
        ("flush of 4 KiB, median", f"{found['flush'] * 1000:.2f} ms", "", True),
        ("ratio", f"{ratio:.2f}", "< 2.5", ratio < 2.5),
        ("requests of such a job", str(found["instant_requests"]), "", True),
        ("requests of a 10 s job", str(found["requests"]), "<= 3", found["requests"] <= 3),
        ("end to result, p95", f"{found['known'] * 1000:.1f} ms", "< 20 ms",
         found["known"] < 0.02),
    )  # fmt: skip
    for name, value, target, met in rows:
        print(f"{name:32} {value:>10}  {target:8} {'' if met else 'MISSED'}".rstrip())
    return all(met for *_, met in rows)


def main() -> int:
    """Measure and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--serve-bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_bare:
        serve_bare()
        return 0
    with (
        bare_server() as bare,
        local_server() as (instant, _),
        local_server("simulated", step_seconds=1.0) as (slow, _),
        tempfile.TemporaryFile() as file,
    ):
        count = 100 if options.quick else 500
        found = asyncio.run(measure(bare, instant, slow, file, count))
    return 0 if report(found) else 1


if __name__ == "__main__":
    sys.exit(main())
