"""RPCs to Modal of one warm job of 20 steps in 10 seconds, by type, on the tests' control plane.

At 30 ms each, RPCs are most of what the gateway adds to a job. Counted are those that this project
makes; those of Modal's own runtime (heartbeats, taking a request in and sending its response) are
left out. Targets: ``/infer_sync`` at most 30 in the gateway and 15 in the worker, a long poll of
25 s at most 6, one status at most 3, a page of 50 finished jobs at most 5, also in a gateway that
just started, and while other owners have 10,000 jobs.

    uv run python benchmarks/modal_calls.py [--quick]
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
from modal._serialization import serialize

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from comfysnap_server.backends.modal.records import Listed, index_key  # noqa: E402
from tests.control_plane import ControlPlane  # noqa: E402

PROJECT: Final = """
name = "calls"
workflows = {workflows!r}
default = "sdxl"
[deploy]
engine = "simulated"
workflows = ["hello", "sdxl"]
max_containers = 1
scaledown_window = 600
auth = "none"
[deploy.engine_options]
step_seconds = {step_seconds}
[deploy.gateway]
max_containers = 1
scaledown_window = 600
"""
RUNTIME: Final = {
    "ContainerHeartbeat", "FunctionCallGetDataIn", "FunctionCallPutDataOut", "FunctionGetInputs",
    "FunctionGetDynamicConcurrency", "FunctionPutOutputs",
}  # fmt: skip
STEPS: Final = 20
JOBS: Final = 50
OTHERS: Final = 10_000


class Bench:
    """A warm deployment, and what it asks of Modal."""

    def __init__(self, plane: ControlPlane, http: httpx.Client) -> None:
        self._plane = plane
        self.http = http
        self._before = Counter(plane.faults.seen)
        self.missed = False

    def begin(self) -> None:
        """Count from here."""
        self._before = Counter(self._plane.faults.seen)

    def end(self, name: str, gateway: int | None = None, worker: int | None = None) -> None:
        """Print the RPCs since ``begin``, and whether they are within the targets."""
        made = self._plane.faults.seen - self._before
        for part, target in (("gateway", gateway), ("Worker.*", worker)):
            calls = {
                rpc: count
                for (caller, rpc), count in sorted(made.items())
                if caller == part and rpc not in RUNTIME
            }
            total = sum(calls.values())
            if target is None and not total:
                continue
            self.missed |= target is not None and total > target
            limit = "" if target is None else f"at most {target}"
            by_type = ", ".join(f"{count} {rpc}" for rpc, count in calls.items())
            print(f"{name:26} {part:9} {total:4}  {limit:11}  {by_type}")

    def submit(self, **inputs: Any) -> str:
        """A new job's id."""
        return self.http.post("/infer_async", json=inputs).json()["id"]

    def finished(self, job: str) -> None:
        """Wait for the end, with long polls."""
        while self.http.get(f"/check_status/{job}?wait=25").json()["status"] != "succeeded":
            pass


def measure(bench: Bench, running: float) -> None:
    """Count each kind of request."""
    http, job = bench.http, {"prompt": "a fox", "steps": STEPS}
    assert http.post("/infer_sync/hello", json={}).json()["status"] == "succeeded"
    bench.begin()
    assert http.post("/infer_sync", json=job).json()["status"] == "succeeded"
    bench.end("infer_sync", 30, 15)
    bench.begin()
    bench.finished(bench.submit(**job))
    bench.end("infer_async and result", 30, 15)
    busy = bench.submit(**job)
    while (http.get(f"/check_status/{busy}").json()["progress"]["step"] or 0) < running:
        pass
    bench.begin()
    http.get(f"/check_status/{busy}")
    bench.end("status, running", 3)
    bench.finished(busy)
    bench.begin()
    http.get(f"/check_status/{busy}")
    bench.end("status, finished", 3)


def measure_queued(bench: Bench, plane: ControlPlane, hold: float) -> None:
    """Count a long poll on a job that does not start, and pages."""
    http = bench.http
    plane.hold("Worker.*")
    queued = bench.submit(prompt="a fox", steps=1)
    for name, query in (("for the end", ""), ("for news", "&after=1")):
        bench.begin()
        http.get(f"/check_status/{queued}?wait={hold:g}{query}")
        bench.end(f"long poll {name}", 6)
    plane.hold("Worker.*", held=False)
    bench.finished(queued)
    for number in range(JOBS):
        assert http.post("/infer_sync/hello", json={"color": number}).status_code == 200
    bench.begin()
    assert len(http.get("/jobs", params={"limit": JOBS}).json()["jobs"]) == JOBS
    bench.end("page of 50 jobs", 5)
    for name, others in (("page, fresh gateway", 0), ("page, and 10,000 of others", OTHERS)):
        add_jobs(plane, others)
        while any(container.running for container in plane.pool("gateway").containers):
            time.sleep(0.05)  # or the request would be repeated elsewhere
        plane.scale_to_zero("gateway")
        assert http.get("/workflows").status_code == 200  # started, and asked of no job
        bench.begin()
        assert len(http.get("/jobs", params={"limit": JOBS}).json()["jobs"]) == JOBS
        bench.end(name, 5)


def add_jobs(plane: ControlPlane, count: int) -> None:
    """Write unfinished jobs of other owners into the index."""
    index = plane.stores.dicts[plane.state.named["di", "calls-index"]]
    listed = Listed(created_at=datetime.now(UTC), workflow="hello").model_dump_json()
    for number in range(count):
        key = index_key(f"owner-{number % 100}", f"job_{number:026d}")
        index[serialize(key)] = serialize(listed)


def main() -> int:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 s a job, and polls of 5 s")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder, ControlPlane() as plane:
        project = Path(folder, "comfysnap.toml")
        step_seconds = (2 if quick else 10) / STEPS
        text = PROJECT.format(workflows=str(ROOT / "workflows"), step_seconds=step_seconds)
        project.write_text(text)
        variables = {
            "COMFYSNAP_PROJECT": str(project),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
        }
        plane.add_container_environment(variables)
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        url = plane.function("gateway").web_url
        with httpx.Client(base_url=url, timeout=120, follow_redirects=True) as http:
            bench = Bench(plane, http)
            measure(bench, running=STEPS / 4)
            measure_queued(bench, plane, 5 if quick else 25)
    return 1 if bench.missed else 0


if __name__ == "__main__":
    sys.exit(main())
