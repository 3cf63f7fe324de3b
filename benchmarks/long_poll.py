"""Long-polling against polling at fixed intervals of 0.1 s, 0.5 s and 1 s.

A gateway and local backend, whose worker runs one job of 0 to 1 s after the other; 10 are awaited
at once. Targets: at least 10 times fewer requests than polling every 0.1 s, and a shorter time from
the end of a job to its result at the 95th percentile.

    uv run python benchmarks/long_poll.py [--quick]
"""

import argparse
import asyncio
import sys
from datetime import UTC, datetime
from typing import Final

import httpx
from local_server import local_server

from comfysnap_client import Client, PollPolicy
from comfysnap_schema.workflows.hello import HelloInput

AT_ONCE: Final = 10
WAYS: Final = {
    "long-poll": PollPolicy(),
    **{
        f"every {every} s": PollPolicy(hold=0, initial=every, factor=1, maximum=every, jitter=0)
        for every in (0.1, 0.5, 1.0)
    },
}


async def way(url: str, polling: PollPolicy, count: int) -> tuple[int, float, float]:
    """Requests, and seconds from the end of a job to its result: median and 95th percentile."""
    requests = 0

    async def counted(_request: httpx.Request) -> None:
        nonlocal requests
        requests += 1

    waits: list[float] = []

    async def one(client: Client, turn: asyncio.Semaphore) -> None:
        async with turn:
            record = await (await client.infer_async(HelloInput())).wait()
        assert record.finished_at is not None
        waits.append((datetime.now(UTC) - record.finished_at).total_seconds())

    turn = asyncio.Semaphore(AT_ONCE)
    async with Client(url, polling=polling, event_hooks={"request": [counted]}) as client:
        await asyncio.gather(*(one(client, turn) for _ in range(count)))
    waits.sort()
    return requests, waits[count // 2], waits[int(count * 0.95)]


async def run(url: str, count: int, longest: float) -> bool:
    """Print the table; returns whether both targets are met."""
    print(f"{count} jobs of 0 to {longest:.0f} s, {AT_ONCE} at once")
    print(f"{'':12} {'requests':>9} {'result after, median':>20} {'p95':>9}")
    found: dict[str, tuple[int, float, float]] = {}
    for name, polling in WAYS.items():
        found[name] = await way(url, polling, count)
        requests, median, late = found[name]
        print(f"{name:12} {requests:9} {median * 1000:17.1f} ms {late * 1000:6.1f} ms")
    ours, fixed = found["long-poll"], found["every 0.1 s"]
    print(f"requests, polling every 0.1 s / long-polling: {fixed[0] / ours[0]:.1f} (>= 10)")
    return fixed[0] >= 10 * ours[0] and ours[2] < fixed[2]


def main() -> int:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 jobs")
    count, longest = 20 if parser.parse_args().quick else 100, 1.0
    with local_server(max_seconds=longest) as (url, _):
        met = asyncio.run(run(url, count, longest))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
