"""Long-poll against polling at fixed 0.1 s, 0.5 s and 1 s: 200 jobs of 0 to 8 s.

A real gateway; behind it a backend in memory whose jobs only take time, so that many run at once.
Targets: at least 10 times fewer requests than 0.1 s polling, and a shorter wait than it from
finished to known at the 95th percentile.

    uv run python benchmarks/long_poll.py [--quick]
"""

import argparse
import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx

from comfysnap_client import Client, PollPolicy
from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.jobs import JobEvent, JobPage, JobRecord, JobStatus
from comfysnap_schema.workflow.apply import load_workflows
from comfysnap_schema.workflows.hello import HelloInput
from comfysnap_server.backends.protocol import BackendError, JobRequest, StoredFile, SubmitResult
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.serving import GatewayServer
from comfysnap_server.gateway.settings import GatewaySettings

ROOT: Final = Path(__file__).resolve().parent.parent
AT_ONCE: Final = 10
WAYS: Final = {
    "long-poll": PollPolicy(),
    **{
        f"every {every} s": PollPolicy(hold=0, initial=every, factor=1, maximum=every, jitter=0)
        for every in (0.1, 0.5, 1.0)
    },
}


class TimedBackend:
    """A backend whose jobs take as long as they are told, all at once."""

    name = "timed"

    def __init__(self, seconds: list[float]) -> None:
        self._seconds = iter(seconds)
        self._jobs: dict[str, JobRecord] = {}
        self._done: dict[str, asyncio.Event] = {}

    async def start(self) -> None:
        """Nothing to take up."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def ready(self) -> bool:
        """Always."""
        return True

    async def submit(self, request: JobRequest) -> SubmitResult:
        """Start a job at once."""
        job = JobRecord(
            id=request.job_id, workflow=request.workflow, status=JobStatus.RUNNING, version=1,
            created_at=request.created_at,
        )  # fmt: skip
        self._jobs[job.id] = job
        self._done[job.id] = asyncio.Event()
        asyncio.get_running_loop().call_later(next(self._seconds), self._finish, job.id)
        return SubmitResult(job)

    def _finish(self, job_id: str) -> None:
        self._jobs[job_id] = self._jobs[job_id].model_copy(
            update={
                "status": JobStatus.SUCCEEDED, "version": 2, "outputs": {"images": []},
                "finished_at": datetime.now(UTC),
            }
        )  # fmt: skip
        self._done[job_id].set()

    async def replay(self, owner: str, idempotency_key: str, fingerprint: str) -> JobRecord | None:
        """Nothing is lost here, so nothing is sent twice."""
        return None

    async def get(self, owner: str, job_id: str) -> JobRecord:
        """The job."""
        return self._jobs[job_id]

    async def wait(
        self, owner: str, job_id: str, *, after: int | None, timeout: float
    ) -> JobRecord:
        """The job once it is final."""
        try:
            async with asyncio.timeout(timeout):
                await self._done[job_id].wait()
        except TimeoutError:
            pass
        return self._jobs[job_id]

    async def list_jobs(
        self,
        owner: str,
        *,
        status: JobStatus | None = None,
        workflow: str | None = None,
        labels: Mapping[str, str] | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """Not asked for here."""
        return JobPage(jobs=[])

    async def cancel(self, owner: str, job_id: str) -> JobRecord:
        """Not asked for here."""
        return self._jobs[job_id]

    async def events(
        self, owner: str, job_id: str, *, after: int | None
    ) -> AsyncIterator[JobEvent]:
        """Not asked for here."""
        yield JobEvent(type="done", job=self._jobs[job_id])

    async def open_output(self, owner: str, job_id: str, name: str) -> StoredFile:
        """There are no files."""
        raise BackendError(ErrorCode.UNKNOWN_OUTPUT, "there are no files")

    async def has_file(self, owner: str, sha256: str) -> bool:
        """There are no files."""
        return False

    async def put_file(self, owner: str, sha256: str, chunks: AsyncIterator[bytes]) -> None:
        """There are no files."""


async def way(url: str, polling: PollPolicy, count: int) -> tuple[int, float, float]:
    """Requests, and the wait from finished to known: median and 95th percentile."""
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


def serve(count: int, longest: float) -> None:
    """Serve in this process, telling the address first."""
    drawn = random.Random(1)
    seconds = [drawn.uniform(0, longest) for _ in range(count)] * len(WAYS)
    workflows = load_workflows(ROOT / "workflows")
    app = create_app(TimedBackend(seconds), workflows, GatewaySettings())
    GatewayServer(app, host="127.0.0.1", port=0, announce=lambda url: print(url, flush=True)).run()


async def run(url: str, count: int, longest: float) -> bool:
    """Print the table; whether both targets are met."""
    print(f"{count} jobs of 0 to {longest:.0f} s, {AT_ONCE} at once")
    print(f"{'':12} {'requests':>9} {'known after, median':>20} {'p95':>9}")
    found: dict[str, tuple[int, float, float]] = {}
    for name, polling in WAYS.items():
        found[name] = await way(url, polling, count)
        requests, median, late = found[name]
        print(f"{name:12} {requests:9} {median * 1000:17.1f} ms {late * 1000:6.1f} ms")
    ours, fixed = found["long-poll"], found["every 0.1 s"]
    print(f"requests, 0.1 s polling over long-poll: {fixed[0] / ours[0]:.1f} (>= 10)")
    return fixed[0] >= 10 * ours[0] and ours[2] < fixed[2]


def main() -> int:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 jobs")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    count, longest = 40 if options.quick else 200, 8.0
    if options.serve:
        serve(count, longest)
        return 0
    words = [sys.executable, __file__, "--serve", *(["--quick"] if options.quick else [])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            met = asyncio.run(run(process.stdout.readline().strip(), count, longest))
        finally:
            process.terminate()
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
