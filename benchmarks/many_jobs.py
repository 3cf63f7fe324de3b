"""A thousand jobs awaited at once in one process: CPU, memory, connections, leaks.

A gateway and local backend in another process, with an engine that only writes a small file.
Targets: every job has a result, and no file descriptors or tasks are leaked.

    uv run python benchmarks/many_jobs.py [--quick]
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

from local_server import local_server
from process_memory import peak_mb

from comfysnap_client import Client
from comfysnap_schema.workflows.hello import HelloInput


def open_descriptors() -> int:
    """File descriptors of this process; 0 on systems without /proc."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


async def wait_for_all(url: str, count: int) -> tuple[int, int]:
    """Number of results, and the maximum number of open descriptors."""
    most = 0
    done = 0

    async def one(client: Client) -> None:
        nonlocal done, most
        job = await client.infer_async(HelloInput())
        await job.result(timeout=300)
        done += 1
        most = max(most, open_descriptors()) if done % 50 == 0 else most

    async with Client(url, timeout=300) as client:
        await asyncio.gather(*(one(client) for _ in range(count)))
    return done, most


async def measure(url: str, count: int) -> bool:
    """Print the table; returns whether the targets are met."""
    async with Client(url) as client:
        await client.infer_sync(HelloInput())
    await asyncio.sleep(0)
    before, tasks, memory = open_descriptors(), len(asyncio.all_tasks()), peak_mb()
    cpu, started = time.process_time(), time.monotonic()
    done, most = await wait_for_all(url, count)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    await asyncio.sleep(0)
    left, tasks_left = open_descriptors() - before, len(asyncio.all_tasks()) - tasks
    print(f"{'jobs, all at once':34} {count}")
    print(f"{'results':34} {done}")
    print(f"{'wall time':34} {seconds:.1f} s")
    print(f"{'client CPU':34} {cpu:.1f} s, {cpu / count * 1000:.1f} ms a job")
    print(f"{'client memory over start':34} {peak_mb() - memory:.0f} MB")
    print(f"{'descriptors: start, most, left':34} {before}, {most}, {left}")
    print(f"{'tasks left':34} {tasks_left}")
    return done == count and left <= 0 and tasks_left == 0


def main() -> int:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 jobs")
    count = 200 if parser.parse_args().quick else 1000
    with local_server() as (url, _):
        met = asyncio.run(measure(url, count))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
