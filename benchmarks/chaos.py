"""Jobs while everything breaks: kills of the server, the fork server and workers, a full disk, a
locked and a damaged job store. Seeded and repeatable.

A server in another process, whose engine leaves daemons behind, and a receiver of webhooks that
fails half the time. Targets: no job is lost, none ends twice or with another state later, every
output file is whole, every webhook is delivered and verified, and no process is left.

    uv run python benchmarks/chaos.py [--quick] [--seed 1] [--workers 2]
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from local_server import ROOT, CountingEngine, runs
from webhook_receiver import SETTINGS, FailingReceiver, failing_receiver, make_sender

from comfysnap_server.engine.protocol import EngineJob, EngineResult, Report

MARK: Final = "COMFYSNAP_CHAOS"
"""In the environment of every process of a run."""
DISK_MB: Final = 64
KEEP_FREE_MB: Final = 20
CONCURRENCY: Final = 20
PATIENCE_S: Final = 120.0
ATTEMPTS: Final = 10
LOCKS_S: Final = (1.0, 6.5)
"""The server waits 5 s for a lock of its store."""
FINAL: Final = frozenset({"succeeded", "failed", "cancelled", "timed_out", "expired"})


class ChaosEngine(CountingEngine):
    """Also leaves a daemon behind with every third job: in a session of its own, an orphan."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Start the daemon, then run."""
        if int(hashlib.sha256(job.job_id.encode()).hexdigest(), 16) % 3 == 0:
            command = ["sh", "-c", "setsid sleep 300 >/dev/null 2>&1 &"]
            os.waitpid(os.posix_spawn("/bin/sh", command, os.environ), 0)
        return super().run(job, report)


def serve(data: Path, port: int, workers: int) -> None:
    """Serve until this process is killed or terminated."""
    from comfysnap_schema.workflow.apply import load_workflows
    from comfysnap_server.backends.local import LocalBackend, LocalLimits
    from comfysnap_server.gateway import GatewayServer, GatewaySettings, create_app

    logging.getLogger("comfysnap_server.backends.local.webhooks").setLevel(logging.ERROR)
    backend = LocalBackend(
        data,
        engine="chaos:ChaosEngine",
        engine_options={"log": str(data / "runs.log"), "size": 20_000, "max_seconds": 0.15},
        python_path=[ROOT / "benchmarks"],
        workers=workers,
        limits=LocalLimits(
            keep_free_bytes=KEEP_FREE_MB << 20, takeover_patience=30, interrupt_grace=0.5
        ),
        webhooks=make_sender(),
    )
    settings = GatewaySettings(max_attempts=ATTEMPTS, webhooks=SETTINGS)
    app = create_app(backend, load_workflows(ROOT / "workflows"), settings, default="hello")
    GatewayServer(
        app, host="127.0.0.1", port=port, announce=lambda url: print(url, flush=True)
    ).run()


@dataclass
class Server:
    """The server, started again whenever it was killed."""

    data: Path
    token: str
    workers: int
    url: str = ""
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, on its port from then on; it must come up."""
        self.process = self._popen()
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise SystemExit(f"the server did not start: exit code {self.process.wait()}")
        self.port = int(self.url.rpartition(":")[2])

    def refuses(self) -> bool:
        """Whether it does not start, and says why."""
        process = self._popen(stderr=subprocess.PIPE)
        try:
            _, said = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            return False
        return process.returncode != 0 and "damaged" in said

    def end(self, number: int) -> None:
        """Send a signal and wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(60)

    def _popen(self, **options: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, __file__, "--serve", str(self.data), str(self.port),
             f"--workers={self.workers}"],
            stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks"), MARK: self.token}, **options,
        )  # fmt: skip

    def processes(self) -> dict[int, str]:
        """Command line by id of every process of this run that is alive."""
        found: dict[int, str] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self.token}\0".encode() in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if command:
                        found[int(entry.name)] = command
        return found

    def pid_of(self, what: str) -> int | None:
        """The fork server or one of the workers; between them are keepers with the same command
        line."""
        alike = {pid for pid, command in self.processes().items() if ".fork_server" in command}
        alike = {pid for pid in alike if "guard.py" not in self.processes().get(pid, "guard.py")}
        parents = {pid: _parent(pid) for pid in alike}
        workers = {pid for pid, parent in parents.items() if parents.get(parent) in alike}
        top = {pid for pid, parent in parents.items() if parent not in alike}
        return min(workers if what == "worker" else top, default=None)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@dataclass
class Seen:
    """What the caller saw of the jobs."""

    accepted: dict[str, str] = field(default_factory=dict[str, str])
    """Job id by idempotency key."""
    ends: dict[str, str] = field(default_factory=dict[str, str])
    no_room: int = 0
    """Jobs that were writing just when the disk became full."""
    problems: list[str] = field(default_factory=list[str])


class Caller:
    """Submits, cancels some, and follows each job to its end, whatever the server does."""

    def __init__(self, server: Server, rand: random.Random, webhook: str) -> None:
        self._server = server
        self._rand = rand
        self._webhook = webhook
        self._http = httpx.AsyncClient(timeout=40, limits=httpx.Limits(max_connections=100))
        self.seen = Seen()

    async def run(self, count: int) -> None:
        """Bring ``count`` jobs to their ends."""
        slots = asyncio.Semaphore(CONCURRENCY)
        plans = [(f"key-{number}", self._rand.random()) for number in range(count)]

        async def one(key: str, draw: float) -> None:
            async with slots:
                await self._job(key, draw)

        await asyncio.gather(*(one(*plan) for plan in plans))

    async def check(self) -> None:
        """Look at every job and file again, now that the server is left alone."""
        for job_id, end in self.seen.ends.items():
            now = (await self._ask("GET", f"/check_status/{job_id}"))["status"]
            if now != end:
                self.seen.problems.append(f"{job_id} was {end} and is {now} now")
            elif end == "succeeded":
                await self._check_files(job_id)
        await self._http.aclose()

    async def _job(self, key: str, draw: float) -> None:
        body = {"width": 16 + int(draw * 1000)}
        job = await self._ask(
            "POST", f"/infer_async/hello?webhook={self._webhook}", json=body, key=key
        )
        self.seen.accepted[key] = job["id"]
        if draw < 0.2:
            await self._ask("POST", f"/cancel/{job['id']}")
        while job["status"] not in FINAL:
            job = await self._ask("GET", f"/check_status/{job['id']}?wait=10")
        self.seen.ends[job["id"]] = job["status"]
        if "OSError" in str(job["error"]):
            self.seen.no_room += 1
        elif job["status"] not in ("succeeded", "cancelled"):
            self.seen.problems.append(f"{job['id']}: {job['status']}: {job['error']}")

    async def _check_files(self, job_id: str) -> None:
        job = await self._ask("GET", f"/check_status/{job_id}")
        for file in job["outputs"]["images"]:
            response = await self._http.get(f"{self._server.url}{file['url']}")
            content = response.content
            whole = hashlib.sha256(content).hexdigest() == file["sha256"]
            if response.status_code != 200 or not whole:
                self.seen.problems.append(f"{job_id}: {file['name']} is not whole")

    async def _ask(self, method: str, path: str, *, key: str = "", json: Any = None) -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = "no connection"
            with contextlib.suppress(httpx.TransportError):
                response = await self._http.request(
                    method, self._server.url + path, json=json, headers=headers
                )
                if response.is_success:
                    return response.json()
                answer = response.text
                if response.status_code not in (429, 503):
                    raise SystemExit(f"{method} {path}: {answer}")
            if time.monotonic() > deadline:
                raise SystemExit(f"{method} {path}: {answer}")
            await asyncio.sleep(0.1)


class Monkey:
    """Breaks one thing after the other; each is whole again before the next."""

    def __init__(self, server: Server, rand: random.Random) -> None:
        self._server = server
        self._rand = rand
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    async def run(self, kills: int) -> None:
        """Kill ``kills`` times, with the other faults in between."""
        victims = [self._kill_server, self._kill_fork_server, self._kill_worker]
        others = [self._fill_disk, self._lock_store, self._damage_store]
        plan: list[Callable[[], Awaitable[None]]] = [victims[n % 3] for n in range(kills)]
        plan += [others[n % 3] for n in range(max(3, kills // 4))]
        self._rand.shuffle(plan)
        for act in plan:
            await asyncio.sleep(self._rand.uniform(0.05, 0.6))
            await act()
            self.counts[act.__name__.strip("_")] += 1

    async def _kill_server(self) -> None:
        await asyncio.to_thread(self._server.end, signal.SIGKILL)
        await asyncio.to_thread(self._server.start)

    async def _kill_fork_server(self) -> None:
        await self._kill("fork server")

    async def _kill_worker(self) -> None:
        await self._kill("worker")

    async def _kill(self, what: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (pid := await asyncio.to_thread(self._server.pid_of, what)) is None:  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    async def _fill_disk(self) -> None:
        filler = self._server.data / "filler"
        await asyncio.to_thread(_fill, filler)
        await asyncio.sleep(self._rand.uniform(0.2, 1.0))
        filler.unlink()

    async def _lock_store(self) -> None:
        held = sqlite3.connect(self._server.data / "jobs.sqlite3", isolation_level=None, timeout=30)
        held.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(self._rand.choice(LOCKS_S))
        held.execute("ROLLBACK")
        held.close()

    async def _damage_store(self) -> None:
        await asyncio.to_thread(self._server.end, signal.SIGTERM)
        store = self._server.data / "jobs.sqlite3"
        whole = store.read_bytes()
        store.write_bytes(whole[: len(whole) // 2])
        if not await asyncio.to_thread(self._server.refuses):
            self.problems.append("a store cut in half was served")
        for left in self._server.data.glob("jobs.sqlite3-*"):
            left.unlink()
        store.write_bytes(whole)
        await asyncio.to_thread(self._server.start)


def _fill(path: Path) -> None:
    """Take what is left of the disk, all but a little."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(DISK_MB * 16):
            file.write(bytes(65536))


@contextlib.contextmanager
def small_disk() -> Generator[Path]:
    """A folder on a disk of 64 MB where one can be mounted, else on any disk, which is not filled
    then beyond 64 MB."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "chaos", folder]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        print(f"{'disk':24} {f'{DISK_MB} MB' if mounted else 'not limited (needs root)'}")
        try:
            yield Path(folder)
        finally:
            if mounted:
                subprocess.run(["umount", "-l", folder], check=False)


async def measure(
    server: Server, receiver: FailingReceiver, count: int, kills: int, seed: int
) -> tuple[Seen, Monkey]:
    """Run the jobs while the monkey is at work; look at all of them when both are done."""
    caller = Caller(server, random.Random(seed), receiver.url)
    monkey = Monkey(server, random.Random(seed + 1))
    async with asyncio.TaskGroup() as group:
        group.create_task(monkey.run(kills))
        group.create_task(caller.run(count))
    await caller.check()
    await asyncio.to_thread(receiver.wait_for, caller.seen.ends, PATIENCE_S)
    return caller.seen, monkey


def twice(data: Path) -> Iterator[str]:
    """Jobs that ran more often than their record says."""
    store = sqlite3.connect(data / "jobs.sqlite3")
    attempts = {id_: json.loads(record)["attempt"] for id_, record in store.execute(
        "SELECT id, record FROM jobs")}  # fmt: skip
    store.close()
    for job_id, count in Counter(runs(data)).items():
        if count > attempts.get(job_id, 0):
            yield f"{job_id} ran {count} times in {attempts.get(job_id)} attempts"


def left_processes(server: Server) -> dict[int, str]:
    """What is alive a moment after the stop; the guard ends last."""
    deadline = time.monotonic() + 5
    while (left := server.processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def main() -> int:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60 jobs, 6 kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--serve", nargs=2, metavar=("DATA", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(Path(options.serve[0]), int(options.serve[1]), options.workers)
        return 0
    jobs, kills = (60, 6) if options.quick else (500, 20)
    started = time.monotonic()
    with small_disk() as folder, failing_receiver(options.seed) as receiver:
        server = Server(folder / "data", token=os.urandom(8).hex(), workers=options.workers)
        server.start()
        try:
            seen, monkey = asyncio.run(measure(server, receiver, jobs, kills, options.seed))
            server.end(signal.SIGTERM)
        except BaseException:
            server.end(signal.SIGKILL)
            raise
        left = left_processes(server)
        problems = [*seen.problems, *monkey.problems, *receiver.problems, *twice(server.data)]
    if seen.no_room > monkey.counts["fill_disk"] * options.workers:  # each had a job then
        problems.append(f"{seen.no_room} jobs met a full disk")
    lost = jobs - len(seen.ends)
    doubled = len(seen.accepted) - len(set(seen.accepted.values()))
    print(f"{'seed':24} {options.seed}")
    print(f"{'workers':24} {options.workers}")
    print(f"{'jobs':24} {jobs}, {dict(Counter(seen.ends.values()))}")
    print(f"{'faults':24} {dict(monkey.counts)}")
    print(f"{'lost, doubled':24} {lost}, {doubled}")
    print(f"{'webhooks':24} {len(receiver.accepted)} delivered, {dict(receiver.counts)}")
    print(f"{'processes left':24} {len(left)}")
    print(f"{'wall time':24} {time.monotonic() - started:.1f} s")
    for problem in [*problems, *left.values()][:20]:
        print(f"  {problem}")
    return 1 if lost or doubled or problems or left else 0


if __name__ == "__main__":
    sys.exit(main())
