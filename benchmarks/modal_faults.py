"""Jobs on Modal while much fails, on the tests' control plane.

While 200 jobs run in two pools, of two containers each, every tenth RPC of a container fails, loses
its answer or comes 1 s late; three containers are preempted, one restore fails, the project is
deployed again, the key is rotated, and the sweep runs. Target: every job ends once and truthfully,
and its engine never runs after that; files are whole, a repeated submit makes no second job, and
the sweep deletes what is due and nothing else.

    uv run python benchmarks/modal_faults.py [--quick] [--jobs 200] [--seed 1]
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from grpclib import Status

from comfysnap_server.backends.modal.shared_files import output_folder
from comfysnap_server.engine.protocol import EngineJob, EngineResult, Report
from comfysnap_server.engine.simulated.engine import SimulatedEngine
from comfysnap_server.gateway import hash_key, new_key

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.control_plane import Container, ControlPlane  # noqa: E402

PROJECT: Final = """
name = "faulty"
workflows = {workflows!r}
[deploy]
engine = "simulated"
workflows = ["sdxl", "hello"]
max_containers = 2
auth = "keys"
timeout = 60
[deploy.pools.small]
workflows = ["hello"]
max_containers = 2
[deploy.engine_options]
log = {log!r}
[deploy.gateway]
max_containers = 2
"""
STARTUP: Final = """
from comfysnap_server.deploy import keys
from comfysnap_server.engine import registry
keys.REFRESH_S = 0.5
registry.ENGINES["simulated"] = "modal_faults:LoggingEngine"
"""
"""Runs when a container starts: a deployment accepts only built-in engines."""
FINAL: Final = {"succeeded", "failed", "cancelled", "timed_out", "expired"}
CONTAINERS: Final = "[!c]*"
"""All callers of RPCs but the client."""
NOT_WORKERS: Final = {"gateway", "sweep"}
CONCURRENCY: Final = 12
PATIENCE_S: Final = 120.0
DUE: Final = [f"job_01aaa{n:021d}" for n in range(5)]
"""Ids of 2015; their outputs lie in the folder of their time, or in none."""


class LoggingEngine(SimulatedEngine):
    """Appends a line to a file when a job begins in it, and when it is done.

    Args:
        log: The file.
    """

    def __init__(self, log: str) -> None:
        super().__init__(step_seconds=0.02)
        self._log = log

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Log and run."""
        self._write("begin", job.job_id)
        result = super().run(job, report)
        self._write("done", job.job_id)
        return result

    def _write(self, what: str, job_id: str) -> None:
        with Path(self._log).open("a") as log:
            log.write(f"{what} {job_id} {time.time()}\n")


class Deployment:
    """The project on a plane, and what can be done to it."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane = plane
        self.log = folder / "runs.log"
        self.key = self.first_key = new_key()
        self._project = folder / "comfysnap.toml"
        self._project.write_text(
            PROJECT.format(workflows=str(ROOT / "workflows"), log=str(self.log))
        )
        (folder / "sitecustomize.py").write_text(STARTUP)
        self._variables = {
            "COMFYSNAP_PROJECT": str(self._project),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
        }
        path = f"{folder}:{ROOT / 'benchmarks'}:{ROOT}"
        plane.add_container_environment({**self._variables, "PYTHONPATH": path})
        keys = json.dumps({"anna": hash_key(self.key)})
        plane.secret("faulty-keys", {"COMFYSNAP_KEYS": keys})
        self.deploy()

    @property
    def url(self) -> str:
        """Address of the gateway."""
        return self.plane.function("gateway").web_url.rstrip("/")

    def workers(self) -> list[str]:
        """Names of the functions that run jobs."""
        functions = self.plane.state.functions.values()
        return [f.name for f in functions if f.version and f.name not in NOT_WORKERS]

    def deploy(self) -> None:
        """Deploy, or deploy again."""
        self.plane.deploy("-m", "comfysnap_server.deploy.app", environment=self._variables)

    def rotate_key(self) -> None:
        """Give the owner a new key, and revoke the one before."""
        added = self._keys("add", "anna-2", "--owner=anna", "--json")
        self.key = json.loads(added)["key"]
        self._keys("revoke", "anna")

    def _keys(self, *words: str) -> str:
        command = Path(sys.executable).with_name("comfysnap")
        return subprocess.run(
            [str(command), "keys", *words, "--deployed", f"--project={self._project}"],
            env={**os.environ, **self.plane.client_environment},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    def busy(self) -> list[Container]:
        """Containers that run a job."""
        pools = [self.plane.pool(name) for name in self.workers()]
        return [c for pool in pools for c in list(pool.containers) if c.running and c.alive]

    @property
    def volume(self) -> Path:
        """The committed files."""
        return self.plane.volumes.committed(self.plane.state.named["vo", "faulty-files"])


@dataclass
class Seen:
    """What the caller saw."""

    jobs: dict[str, str] = field(default_factory=dict[str, str])
    """Job id by idempotency key."""
    ends: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    cancelled: set[str] = field(default_factory=set[str])
    problems: list[str] = field(default_factory=list[str])
    answers: Counter[int] = field(default_factory=Counter[int])


class Caller:
    """Submits jobs, cancels some, and follows each to its end."""

    def __init__(self, deployment: Deployment, seed: int, count: int) -> None:
        self._deployment = deployment
        self._rand = random.Random(seed)
        self._bodies = [self._draw() for _ in range(count)]
        self.seen = Seen()
        self.http = httpx.AsyncClient(timeout=60, follow_redirects=True)

    def _draw(self) -> tuple[str, dict[str, Any], float | None]:
        cancel_after = self._rand.uniform(0, 2) if self._rand.random() < 0.1 else None
        if self._rand.random() < 0.5:
            return "hello", {"color": self._rand.randrange(1 << 24), "width": 64}, cancel_after
        steps = self._rand.randrange(1, 40)
        return "sdxl", {"prompt": "a fox", "steps": steps}, cancel_after

    async def run(self) -> None:
        """Bring all jobs to their ends."""
        slots = asyncio.Semaphore(CONCURRENCY)

        async def one(number: int) -> None:
            async with slots:
                await self._job(number)

        await asyncio.gather(*(one(number) for number in range(len(self._bodies))))

    async def _submit(self, number: int) -> Any:
        workflow, body, _ = self._bodies[number]
        headers = {"Idempotency-Key": f"key-{number}"}
        return await self.ask("POST", f"/infer_async/{workflow}", json=body, headers=headers)

    async def _job(self, number: int) -> None:
        job = await self._submit(number)
        job_id, cancel_after = job["id"], self._bodies[number][2]
        self.seen.jobs[f"key-{number}"] = job_id
        if cancel_after is not None:
            await asyncio.sleep(cancel_after)
            self.seen.cancelled.add(job_id)
            await self.ask("POST", f"/cancel/{job_id}")
        while job["status"] not in FINAL:
            job = await self.ask("GET", f"/check_status/{job_id}?wait=10")
        self.seen.ends[job_id] = job

    async def check(self) -> None:
        """Look at every job and file once more, now that nothing fails."""
        problems = self.seen.problems
        for number, (key, job_id) in enumerate(sorted(self.seen.jobs.items())):
            now = await self.ask("GET", f"/check_status/{job_id}")
            end = self.seen.ends[job_id]
            if now != end:
                problems.append(f"{job_id} was {end['status']} and is {now['status']} now")
            if number % 10 == 0 and (await self._submit(int(key[4:])))["id"] != job_id:
                problems.append(f"{key} made a second job beside {job_id}")
            await self._check_end(end)
        listed: dict[str, str] = {}
        cursor: str | None = ""
        while cursor is not None:
            page = await self.ask("GET", f"/jobs?limit=50{'&cursor=' + cursor if cursor else ''}")
            listed |= {job["id"]: job["status"] for job in page["jobs"]}
            cursor = page["cursor"]
        if listed != {job_id: end["status"] for job_id, end in self.seen.ends.items()}:
            problems.append(f"{len(listed)} jobs are listed, or with other ends")
        headers = {"Authorization": f"Bearer {self._deployment.first_key}"}
        old = await self.http.get(f"{self._deployment.url}/workflows", headers=headers)
        if old.status_code != 401:
            problems.append(f"the revoked key is answered {old.status_code}")

    async def _check_end(self, job: dict[str, Any]) -> None:
        job_id, status = job["id"], job["status"]
        wanted = status == "succeeded" or (status == "cancelled" and job_id in self.seen.cancelled)
        if not wanted:
            self.seen.problems.append(f"{job_id}: {status}: {job['error']}")
        outputs: dict[str, list[dict[str, Any]]] = job["outputs"] or {}
        for files in outputs.values():
            for file in files:
                content = (await self._get(file["url"])).content
                if hashlib.sha256(content).hexdigest() != file["sha256"]:
                    self.seen.problems.append(f"{job_id}: {file['name']} is not whole")

    async def _get(self, path: str) -> httpx.Response:
        return await self._send("GET", path)

    async def ask(self, method: str, path: str, **options: Any) -> Any:
        """The body of a successful answer; others are tried again as a client would."""
        return (await self._send(method, path, **options)).json()

    async def _send(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            sent = {**(headers or {}), "Authorization": f"Bearer {self._deployment.key}"}
            said = "no connection"
            try:
                response = await self.http.request(
                    method, self._deployment.url + path, headers=sent, **options
                )
            except httpx.TransportError as error:
                said = repr(error)
            else:
                self.seen.answers[response.status_code] += 1
                if response.is_success:
                    return response
                said = f"{response.status_code} {response.text[:300]}"
                if response.status_code not in (401, 429, 502, 503):
                    self.seen.problems.append(f"{method} {path}: {said}")
            if time.monotonic() > deadline:
                raise SystemExit(f"{method} {path}: {said}")
            await asyncio.sleep(0.2)


class Monkey:
    """Breaks things as the jobs go on, some of them at once."""

    def __init__(self, deployment: Deployment, caller: Caller, count: int) -> None:
        self._deployment = deployment
        self._caller = caller
        self._count = count
        self.done: Counter[str] = Counter()

    async def run(self) -> None:
        """Do all, each when a share of the jobs has ended."""
        async with asyncio.TaskGroup() as group:
            for share, act in (
                (0.1, self._preempt), (0.2, self._preempt), (0.25, self._deployment.deploy),
                (0.3, self._sweep), (0.4, self._deployment.rotate_key), (0.6, self._preempt),
            ):  # fmt: skip
                group.create_task(self._act(share, act))

    async def _act(self, share: float, act: Callable[[], None]) -> None:
        while len(self._caller.seen.ends) < share * self._count:  # noqa: ASYNC110 -- another task
            await asyncio.sleep(0.05)
        await asyncio.to_thread(act)
        self.done[act.__name__.strip("_")] += 1

    def _preempt(self) -> None:
        while len(self._caller.seen.ends) < self._count:
            if busy := self._deployment.busy():
                self._deployment.plane.preempt(busy[0])
                return
            time.sleep(0.02)
        self._caller.seen.problems.append("all jobs ended before a container was preempted")

    def _sweep(self) -> None:
        sweep(self._deployment.plane)


def sweep(plane: ControlPlane) -> None:
    """Run the sweep; it must not raise."""
    call = plane.run_scheduled("sweep")
    if call.output is None or call.output.result.exception:
        raise SystemExit(f"the sweep failed: {call.output}")


def fail_some(plane: ControlPlane) -> None:
    """Make every tenth RPC of containers fail, lose its answer, or come late."""
    plane.faults.plan("*", caller=CONTAINERS, fail=Status.UNAVAILABLE, every=30)
    for rpc in ("[DQV]*", "FunctionMap"):  # an input whose answer is lost would wait on the plane
        plane.faults.plan(rpc, caller=CONTAINERS, fail=Status.UNAVAILABLE, every=30, after=True)
    plane.faults.plan("*", caller=CONTAINERS, delay=1, every=30)


def add_old_outputs(volume: Path) -> list[Path]:
    """Outputs of jobs that are long gone, in both layouts."""
    files = [volume / output_folder(job_id) / "old.png" for job_id in DUE[:3]]
    files += [volume / "outputs" / job_id / "old.png" for job_id in DUE[3:]]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"old")
    return files


def check_runs(log: Path, seen: Seen) -> list[str]:
    """What the engine did that the records do not say, or after a job had ended."""
    begun: Counter[str] = Counter()
    done: set[str] = set()
    problems: list[str] = []
    for line in log.read_text().splitlines():
        what, job_id, at = line.split()
        if job_id not in seen.ends:
            problems.append(f"{job_id} ran and was never heard of")
            continue
        ended = seen.ends[job_id]["finished_at"]
        if what == "begin":
            begun[job_id] += 1
            if float(at) > _seconds(ended):
                problems.append(f"{job_id} ran after its end")
        else:
            done.add(job_id)
    for job_id, end in seen.ends.items():
        if end["status"] == "succeeded" and job_id not in done:
            problems.append(f"{job_id} succeeded and was never done")
    extra = begun.total() - len(begun)
    if extra > 3:
        problems.append(f"{extra} runs more than jobs, of 3 preemptions")
    return problems


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


async def measure(deployment: Deployment, count: int, seed: int) -> tuple[Seen, Monkey]:
    """Run the jobs while the monkey is at work, then look at all of it."""
    plane = deployment.plane
    caller = Caller(deployment, seed, count)
    monkey = Monkey(deployment, caller, count)
    pool = plane.pool(deployment.workers()[0])
    plane.fail_restores(pool.function.name)
    fail_some(plane)
    try:
        async with asyncio.timeout(120 + 4 * count), asyncio.TaskGroup() as group:
            group.create_task(caller.run())
            group.create_task(monkey.run())
    except TimeoutError:
        waiting = set(caller.seen.jobs.values()) - set(caller.seen.ends)
        print(f"not in time: {count - len(caller.seen.ends)} jobs, of those submitted {waiting}")
        raise SystemExit(1) from None
    plane.faults.clear()
    if pool.failing_restores:
        caller.seen.problems.append("no restore failed")
    old = add_old_outputs(deployment.volume)
    await asyncio.to_thread(sweep, plane)
    caller.seen.problems += [f"the sweep left {file}" for file in old if file.exists()]
    await caller.check()
    await caller.http.aclose()
    return caller.seen, monkey


def main() -> int:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 jobs")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    count = 40 if options.quick else options.jobs
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ControlPlane() as plane:
        deployment = Deployment(plane, Path(folder))
        try:
            seen, monkey = asyncio.run(measure(deployment, count, options.seed))
        finally:
            if log := os.environ.get("MODAL_FAULTS_LOG"):
                Path(log).write_text(plane.logs())
        problems = [*seen.problems, *check_runs(deployment.log, seen)]
        asked = plane.faults.seen.total()
    ends = Counter(end["status"] for end in seen.ends.values())
    lost, doubled = count - len(seen.ends), len(seen.jobs) - len(set(seen.jobs.values()))
    print(f"{'seed':16} {options.seed}")
    print(f"{'jobs':16} {count}: {dict(ends)}")
    print(f"{'faults':16} {dict(monkey.done)}, a failed restore, a tenth of {asked} RPCs")
    print(f"{'answers':16} {dict(sorted(seen.answers.items()))}")
    print(f"{'lost, doubled':16} {lost}, {doubled}")
    print(f"{'problems':16} {len(problems)}")
    print(f"{'wall time':16} {time.monotonic() - started:.0f} s")
    print(*(f"  {problem}" for problem in problems[:20]), sep="\n")
    return 1 if lost or doubled or problems else 0


if __name__ == "__main__":
    sys.exit(main())
