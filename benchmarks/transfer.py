"""Upload and download of 1 GB, compared with bare httpx on the same routes.

A gateway and local backend; each transfer in a new process. Targets: the client's memory grows by
less than 64 MB, the time is at most 1.3 times that of bare httpx (which gets the hash of an upload
and does not check that of a download), and a download that breaks ten times has the right hash.

    uv run python benchmarks/transfer.py [--quick]
"""

import argparse
import asyncio
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import httpx
from fault_proxy import Faults, fault_proxy
from local_server import local_server
from process_memory import peak_mb

from comfysnap_client import Client, RetryPolicy
from comfysnap_schema.wire.files import OutputFile
from comfysnap_schema.workflows.hello import HelloInput, HelloOutput
from comfysnap_schema.workflows.img2img import Img2imgInput

MB: Final = 1024 * 1024
MEMORY_MB: Final = 64
RATIO: Final = 1.3
CUTS: Final = 10


async def ours_up(url: str, path: Path) -> None:
    """Submit a job with the file, without waiting for the job."""
    async with Client(url) as client:
        await client.infer_async(Img2imgInput(prompt="x", image=path))


async def ours_down(url: str, path: Path, job_id: str) -> None:
    """Save the one file of a job."""
    async with Client(url, retry=RetryPolicy(initial=0.05)) as client:
        output = await client.job(job_id, HelloOutput).result()
        await output.images[0].save(path)


def file_size(path: Path) -> int:
    """Bytes."""
    return path.stat().st_size


async def bare_up(url: str, path: Path, sha256: str) -> None:
    """PUT the file."""
    size = file_size(path)

    async def chunks() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(MB):
                yield chunk

    async with httpx.AsyncClient(timeout=60) as http:
        headers = {"Content-Length": str(size)}
        response = await http.put(f"{url}/files/{sha256}", content=chunks(), headers=headers)
        response.raise_for_status()


async def bare_down(url: str, path: Path, place: str) -> None:
    """GET the file."""
    async with httpx.AsyncClient(timeout=60) as http, http.stream("GET", url + place) as response:
        response.raise_for_status()
        with path.open("wb") as file:
            async for chunk in response.aiter_bytes():
                file.write(chunk)


WORK: Final = {
    "ours_up": ours_up,
    "ours_down": ours_down,
    "bare_up": bare_up,
    "bare_down": bare_down,
}


def child(work: str, *words: str) -> tuple[float, float]:
    """Seconds and memory growth in MB of one transfer in its own process."""
    ran = subprocess.run(
        [sys.executable, __file__, "--work", work, *words],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    seconds, memory = json.loads(ran.stdout)
    return seconds, memory


def blocks(seed: int, size: int) -> Iterator[bytes]:
    """Bytes that differ with ``seed``."""
    block = hashlib.sha256(str(seed).encode()).digest() * 32768
    for start in range(0, size, len(block)):
        yield block[: size - start]


def made_file(path: Path, seed: int, size: int) -> str:
    """Write a file; returns its hash."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in blocks(seed, size):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


async def output_of(url: str) -> tuple[str, OutputFile]:
    """Run a job whose output is the large file."""
    async with Client(url) as client:
        job = await client.infer_async(HelloInput())
        return job.id, (await job.result()).images[0]


async def broken_ten_times(url: str, path: Path, job_id: str, file: OutputFile) -> bool:
    """Whether a download that breaks ten times has the right bytes."""
    faults = Faults(cut_after=file.size // (CUTS + 2), cuts=CUTS)
    async with fault_proxy(url, faults) as proxy:
        await ours_down(proxy, path, job_id)
    with path.open("rb") as saved:
        digest = hashlib.file_digest(saved, "sha256").hexdigest()
    return faults.cuts == 0 and digest == file.sha256


def run(size: int, rounds: int) -> bool:
    """Print the table; returns whether every target is met."""
    best: dict[str, float] = {}
    memory: dict[str, float] = {}

    def measure(name: str, *words: str) -> None:
        seconds, megabytes = child(name, *words)
        best[name] = min(best.get(name, seconds), seconds)
        memory[name] = max(memory.get(name, 0.0), megabytes)

    with local_server(size=size) as (url, _), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.png"
        job_id, file = asyncio.run(output_of(url))
        for turn in range(rounds):
            sha256 = made_file(path, 2 * turn, size)
            measure("bare_up", url, str(path), sha256)
            made_file(path, 2 * turn + 1, size)
            measure("ours_up", url, str(path))
            path.unlink()
            measure("bare_down", url, str(path), file.url)
            path.unlink()
            measure("ours_down", url, str(path), job_id)
            path.unlink()
        whole = asyncio.run(broken_ten_times(url, path, job_id, file))

    met = whole
    print(f"{size / MB:.0f} MB      {'seconds':>9} {'of bare':>8} {'memory over start':>18}")
    for way in ("up", "down"):
        ratio = best[f"ours_{way}"] / best[f"bare_{way}"]
        over = memory[f"ours_{way}"]
        print(f"bare {way:5} {best[f'bare_{way}']:11.2f} {'':8} {memory[f'bare_{way}']:15.1f} MB")
        print(f"ours {way:5} {best[f'ours_{way}']:11.2f} {ratio:8.2f} {over:15.1f} MB")
        met = met and ratio <= RATIO and over < MEMORY_MB
    print(f"broken {CUTS} times, right hash: {'yes' if whole else 'NO'}")
    return met


def main() -> int:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="128 MB, one round")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, url, path, *rest = options.work
        start = peak_mb()
        started = time.perf_counter()
        asyncio.run(WORK[name](url, Path(path), *rest))
        print(json.dumps([time.perf_counter() - started, peak_mb() - start]))
        return 0
    size, rounds = (128 * MB, 1) if options.quick else (1024 * MB, 2)
    return 0 if run(size, rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
