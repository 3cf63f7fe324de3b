"""The gateway under load, against a bare FastAPI app in the same run.

The bare app reads one row for each status, and commits one with ``synchronous=FULL`` for each
submit: in a thread, where FastAPI runs a handler that blocks, or in its loop, which then serves
nobody until the disk has answered. wrk loads one server at a time, each side pinned to a processor
of its own. Targets: at least 0.8 of the bare statuses and 0.7 of the bare submits, with 1, 32 and
128 clients (of those in its loop with 32 and 128, where clients wait for each other); with
100,000 jobs stored and four clients that list by filter, a status at the 99th percentile within 3
times that with 100 jobs; no more memory after 50,000 requests; 2,000 event streams in 200 MB.

    uv run python benchmarks/gateway_load.py [--quick]
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import uvicorn
from fastapi import FastAPI
from local_server import ENGINE, ROOT, RUNS
from pydantic import BaseModel

from comfysnap_schema.wire import JobRecord, JobStatus
from comfysnap_schema.workflow.apply import load_workflows
from comfysnap_server.backends.local import DATABASE, LocalBackend, LocalLimits, store
from comfysnap_server.backends.local.migrations import open_database
from comfysnap_server.engine.protocol import EngineInterrupted, EngineJob, EngineResult, Report
from comfysnap_server.gateway import GatewayServer, GatewaySettings, create_app
from comfysnap_server.jobs import JobRequest

HOLDING: Final = "gateway_load:HoldingEngine"
PARTS: Final = ("rates", "history", "memory", "streams")
CLIENTS: Final = (1, 32, 128)
POLLS: Final = 0.8
SUBMITS: Final = 0.7
SLOWDOWN: Final = 3.0
STREAMS: Final = 2000
STREAMS_MB: Final = 200
GROWTH_MB: Final = 4.0
"""What an allocator may take more in the same time without a leak."""
SUBMITS_AT: Final = "/infer_async/hello"
IN_LOOP_AT: Final = "/in_loop"
BODY: Final = '{"width": 64, "height": 48}'
LISTS: Final = (
    "label=team:red",
    "status=succeeded",
    "workflow=hello",
    "status=succeeded&workflow=hello",
)


class HoldingEngine:
    """Each job runs until it is interrupted, so that only the gateway has work."""

    name = "holding"

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def load(self) -> None:
        """Do nothing."""

    def attach(self) -> None:
        """Do nothing."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Wait for the interrupt."""
        self._stopped.wait()
        self._stopped.clear()
        raise EngineInterrupted(job.job_id)

    def interrupt(self, job_id: str) -> None:
        """Let it end."""
        self._stopped.set()


class BareInput(BaseModel):
    """As that of the workflow."""

    width: int
    height: int


def bare_app(data: Path) -> FastAPI:
    """Statuses and submits on a table of jobs."""
    path = data / "bare.sqlite3"
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, record TEXT NOT NULL)")
    app = FastAPI()

    def submit(inputs: BareInput) -> dict[str, Any]:
        record = {"status": "queued", "inputs": inputs.model_dump()}
        cursor = connection.execute("INSERT INTO jobs (record) VALUES (?)", (json.dumps(record),))
        return {"id": cursor.lastrowid, **record}

    async def submit_in_loop(inputs: BareInput) -> dict[str, Any]:
        return submit(inputs)

    async def status(job_id: int) -> dict[str, Any]:
        row = connection.execute("SELECT record FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return {"id": job_id, **json.loads(row[0])}

    app.add_api_route(SUBMITS_AT, submit, methods=["POST"], status_code=202)
    app.add_api_route(IN_LOOP_AT, submit_in_loop, methods=["POST"], status_code=202)
    app.add_api_route("/check_status/{job_id}", status, methods=["GET"])
    return app


def serve(kind: str, data: Path) -> None:
    """Print the address and serve until this process is terminated."""
    if kind == "bare":
        config = uvicorn.Config(bare_app(data), port=0, access_log=False, log_level="warning")
        socket = config.bind_socket()
        print(f"http://127.0.0.1:{socket.getsockname()[1]}", flush=True)
        uvicorn.Server(config).run([socket])
        return
    counting = kind == "counting"
    backend = LocalBackend(
        data,
        engine=ENGINE if counting else HOLDING,
        engine_options={"log": str(data / RUNS)} if counting else {},
        python_path=[ROOT / "benchmarks"],
        limits=LocalLimits(max_queued=1_000_000, max_queued_bytes=1 << 40),
    )
    app = create_app(backend, load_workflows(ROOT / "workflows"), GatewaySettings())
    GatewayServer(app, host="127.0.0.1", port=0, announce=lambda url: print(url, flush=True)).run()


@dataclass(frozen=True)
class Server:
    """One that runs."""

    url: str
    pid: int

    def memory_mb(self, what: str = "VmRSS") -> float:
        """Resident memory of its process, without that of its workers."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(rf"{what}:\s+(\d+)", status)[0]) / 1024

    def submit(self) -> str:
        """A new job's id."""
        answer = httpx.post(f"{self.url}{SUBMITS_AT}", content=BODY, headers=JSON)
        return str(answer.raise_for_status().json()["id"])

    def running_job(self) -> str:
        """A job that holds the worker."""
        job = self.submit()
        after = 0
        while (record := self.newer(job, after))["status"] != "running":
            after = record["version"]
        return job

    def newer(self, job: str, after: int | None = None) -> dict[str, Any]:
        """A job once it is newer than that version, or has ended."""
        url = f"{self.url}/check_status/{job}?wait=20"
        url += "" if after is None else f"&after={after}"
        return httpx.get(url, timeout=30).raise_for_status().json()


JSON: Final = {"Content-Type": "application/json"}


@contextmanager
def server(kind: str, data: Path) -> Generator[Server]:
    """A server in a process of its own, pinned to the first processor."""
    data.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", kind, str(data)],
        stdout=subprocess.PIPE, text=True, preexec_fn=lambda: pin(0),
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield Server(process.stdout.readline().strip(), process.pid)
    finally:
        process.terminate()
        process.wait(60)


def pin(number: int) -> None:
    """Keep this process on one of the processors that it may use, where there are several."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[number % len(allowed)]})


@dataclass(frozen=True)
class Load:
    """What wrk found."""

    count: int
    rate: float
    p99: float
    """Seconds."""


def wrk(folder: Path, url: str, clients: int, seconds: float, script: str = "") -> "Wrk":
    """Start wrk on the second processor.

    Args:
        folder: For the script.
        url: What is asked for; its path may be replaced by the script.
        clients: Connections that each send the next request after the answer.
        seconds: How long.
        script: In Lua.
    """
    lua = folder / f"{abs(hash((url, script)))}.lua"
    lua.write_text(script)
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:.0f}s", "--latency", "--timeout=30s"]
    process = subprocess.Popen(
        [*command, f"-s{lua}", url],
        stdout=subprocess.PIPE, text=True, preexec_fn=lambda: pin(1),
    )  # fmt: skip
    return Wrk(process)


@dataclass(frozen=True)
class Wrk:
    """One that runs."""

    process: "subprocess.Popen[str]"

    def result(self) -> Load:
        """Wait for its end.

        Raises:
            SystemExit: Not all requests were answered as they should be.
        """
        said, _ = self.process.communicate()
        if self.process.returncode or "Non-2xx" in said or "Socket errors" in said:
            raise SystemExit(f"wrk failed:\n{said}")
        number, unit = re.findall(r"99%\s+([\d.]+)(us|ms|s)", said)[0]
        return Load(
            count=int(re.findall(r"(\d+) requests in", said)[0]),
            rate=float(re.findall(r"Requests/sec:\s+([\d.]+)", said)[0]),
            p99=float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[unit],
        )


SUBMIT: Final = f"""
wrk.method = "POST"
wrk.body = '{BODY}'
wrk.headers["Content-Type"] = "application/json"
"""


def cycle(*requests: str) -> str:
    """A script that sends one request after the other, over and over; each is Lua."""
    return f"""
local turn = 0
local requests = {{ {", ".join(f"function() return {each} end" for each in requests)} }}
function request() turn = turn % #requests + 1; return requests[turn]() end
"""


def get(path: str) -> str:
    """A request of ``cycle``."""
    return f'wrk.format("GET", "{path}")'


class Table:
    """Prints a row at a time, and knows whether a target was missed."""

    def __init__(self) -> None:
        self.met = True

    def row(self, name: str, value: str, target: str, *, met: bool) -> None:
        """One figure."""
        self.met = self.met and met
        print(f"{name:44} {value:>26}  {target:9} {'' if met else 'MISSED'}".rstrip(), flush=True)


def measure_rates(folder: Path, report: Table, seconds: float, rounds: int) -> None:
    """Statuses and submits, ours and bare by turns; new servers for each number of clients, so that
    the queue is short at first."""
    for name, target in (("statuses", POLLS), ("submits", SUBMITS)):
        for clients in CLIENTS:
            here = folder / f"{name}-{clients}"
            here.mkdir()
            with server("bare", here / "bare") as bare, server("holding", here / "ours") as ours:
                held, other = ours.running_job(), bare.submit()
                urls = [f"{ours.url}/check_status/{held}", f"{bare.url}/check_status/{other}"]
                if name == "submits":
                    urls = [ours.url + SUBMITS_AT, bare.url + SUBMITS_AT, bare.url + IN_LOOP_AT]
                rates: dict[str, list[float]] = {url: [] for url in urls}
                for turn in range(rounds * len(urls)):
                    url = urls[turn % len(urls)]
                    script = SUBMIT if name == "submits" else ""
                    rates[url].append(wrk(here, url, clients, seconds, script).result().rate)
            mine, plain, *in_loop = map(statistics.median, rates.values())
            compare(report, f"{name}, {clients} clients, of the bare app's", mine, plain, target)
            for rate in in_loop:
                wanted = target if clients > 1 else 0.0
                compare(
                    report, f"{name}, {clients} clients, of those in its loop", mine, rate, wanted
                )


def compare(report: Table, name: str, mine: float, plain: float, target: float) -> None:
    """A row of two rates."""
    report.row(
        name,
        f"{mine:.0f}/s of {plain:.0f}/s: {mine / plain:.2f}",
        f">= {target}" if target else "",
        met=mine >= target * plain,
    )


def fill(data: Path, count: int) -> list[str]:
    """Store jobs that succeeded; their ids."""
    data.mkdir()
    workflow = load_workflows(ROOT / "workflows")["hello"]
    inputs = workflow.complete({"width": 64, "height": 48})
    graph = workflow.build(inputs)
    ids = [f"job_{number:026d}" for number in range(count)]
    with closing(open_database(data / DATABASE)) as connection:
        connection.execute("BEGIN")
        for number, job_id in enumerate(ids):
            request = JobRequest(
                job_id=job_id, owner="local", workflow=("hello", "other")[number % 2],
                inputs=inputs, graph=graph, graph_hash="0" * 64, outputs=dict(workflow.outputs),
                labels={"team": ("red", "blue")[number % 2]}, timeout=60,
                created_at=datetime.now(UTC),
            )  # fmt: skip
            record: JobRecord = request.record(status=JobStatus.QUEUED, version=1)
            store.submit(connection, request, record, LocalLimits(max_queued=count))
            done = record.model_copy(
                update={"status": JobStatus.SUCCEEDED, "finished_at": datetime.now(UTC)}
            )
            store.save(connection, done)
        connection.execute("COMMIT")
    return ids


def measure_history(folder: Path, report: Table, seconds: float, many: int) -> None:
    """A status while four clients list, with few and with many jobs stored."""
    found: dict[int, float] = {}
    for count in (100, many):
        ids = fill(folder / str(count), count)
        some = ids[:: max(count // 1000, 1)]
        with server("holding", folder / str(count)) as one:
            lists = cycle(*(get(f"/jobs?limit=20&{query}") for query in LISTS))
            polls = cycle(*(get(f"/check_status/{job}") for job in some))
            listing = wrk(folder, one.url, 4, seconds + 2, lists)
            found[count] = wrk(folder, one.url, 1, seconds, polls).result().p99
            listing.result()
    few, most = found[100], found[many]
    report.row(
        f"a status, p99, {many:,} jobs stored and four lists",
        f"{most * 1000:.1f} ms, 100: {few * 1000:.1f} ms",
        f"<= {SLOWDOWN:.0f}x",
        met=most <= SLOWDOWN * few,
    )


def measure_memory(folder: Path, report: Table, count: int) -> None:
    """Memory before and after many requests of all kinds, jobs that run to their end included."""
    with server("counting", folder / "memory") as one:
        job = one.submit()
        one.newer(job)
        submit = f'wrk.format("POST", "/infer_sync/hello", JSON, \'{BODY}\')'
        script = 'local JSON = {["Content-Type"] = "application/json"}\n' + cycle(
            submit,
            *[get(f"/check_status/{job}")] * 5,
            get("/jobs?limit=20"),
            get("/jobs?status=succeeded&limit=20"),
            get("/workflows/hello"),
            get("/ready"),
        )

        def send(requests: int) -> None:
            done = 0
            while done < requests:
                done += wrk(folder, one.url, 8, 5, script).result().count

        send(12_000)  # a thousand jobs that ended stay in memory
        before = one.memory_mb()
        send(count)
        after = one.memory_mb()
    report.row(
        f"memory after {count:,} requests",
        f"{before:.1f} MB, then {after:.1f} MB",
        f"+ {GROWTH_MB:.0f} MB",
        met=after <= before + GROWTH_MB,
    )


async def stream(url: httpx.URL, job: str, seen: asyncio.Semaphore) -> bool:
    """Read a job's events; whether the last one is ``done``."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(f"GET /events/{job} HTTP/1.1\r\nHost: {url.host}\r\n\r\n".encode())
        await reader.readuntil(b"event: ")
        seen.release()
        await reader.readuntil(b"event: done")
    except asyncio.IncompleteReadError:
        return False
    finally:
        writer.close()
    return True


async def hold_streams(one: Server, job: str, count: int) -> tuple[float, int]:
    """Memory with that many streams, and how many of them were told of the end."""
    seen = asyncio.Semaphore(0)
    url = httpx.URL(one.url)
    streams: list[asyncio.Task[bool]] = []
    for number in range(count):
        streams.append(asyncio.create_task(stream(url, job, seen)))
        if number % 50 == 49:  # not more at once than the system's backlog takes
            for _ in range(50):
                await seen.acquire()
    memory = one.memory_mb("VmHWM")
    async with httpx.AsyncClient() as http:
        (await http.post(f"{one.url}/cancel/{job}")).raise_for_status()
    return memory, sum(await asyncio.gather(*streams))


def measure_streams(folder: Path, report: Table) -> None:
    """Memory of many event streams."""
    with server("holding", folder / "streams") as one:
        job = one.running_job()
        alone = one.memory_mb()
        memory, told = asyncio.run(hold_streams(one, job, STREAMS))
    report.row(
        f"memory with {told} of {STREAMS} event streams",
        f"{memory:.0f} MB, {alone:.0f} MB alone",
        f"< {STREAMS_MB} MB",
        met=memory < STREAMS_MB and told == STREAMS,
    )


def main() -> int:
    """Run; the exit code is 1 when a target is missed, 2 without wrk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 jobs, 10,000 requests")
    parser.add_argument("--serve", nargs=2, metavar=("KIND", "DATA"), help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=PARTS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], Path(options.serve[1]))
        return 0
    if shutil.which("wrk") is None:
        print("wrk is not installed (Debian: apt-get install wrk)", file=sys.stderr)
        return 2
    quick, report = options.quick, Table()
    for part in [options.only] if options.only else PARTS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            match part:
                case "rates":
                    measure_rates(folder, report, 2 if quick else 5, 1 if quick else 3)
                case "history":
                    many = 20_000 if quick else 100_000
                    measure_history(folder, report, 5 if quick else 20, many)
                case "memory":
                    measure_memory(folder, report, 10_000 if quick else 50_000)
                case _:
                    measure_streams(folder, report)
    return 0 if report.met else 1


if __name__ == "__main__":
    sys.exit(main())
