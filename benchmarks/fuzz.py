"""Requests drawn from ``/openapi.json``, valid, at the bounds, and far beyond.

Target: of 20,000 requests, half of them to a server with keys (right, wrong and missing ones), none
gets a server error, or a status, content type or body that is not documented. The server runs in
this process, with a real local backend. With ``--backend modal`` it is a deployment on the tests'
control plane, without keys, and gets 2,000 requests.

    uv run python benchmarks/fuzz.py [--quick] [--cases 20000] [--seed 1]
    uv run python benchmarks/fuzz.py --backend modal [--quick] [--cases 2000] [--seed 1]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx

from comfysnap_schema.workflow import load_workflows
from comfysnap_server.backends.local import LocalBackend, LocalLimits
from comfysnap_server.gateway import GatewaySettings, create_app, hash_key, new_key

if TYPE_CHECKING:
    from tests.openapi_fuzz import Report

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SHORT_S: Final = 0.02
"""How long a request is held, so that thousands can be sent."""


def run(cases: int, seed: int, *, keys: bool) -> "Report":
    """Send ``cases`` requests to a server of its own."""
    from tests.openapi_fuzz import Fuzzer, fuzz
    from tests.servers import running

    key = new_key()
    settings = GatewaySettings(
        auth="keys" if keys else "none",
        keys={"anna": hash_key(key)},
        max_sync_wait=SHORT_S,
        max_wait=SHORT_S,
    )
    valid = f"Bearer {key}"
    bearers = (*[valid] * 12, "Bearer wrong", "Basic x", None) if keys else (None,)
    with tempfile.TemporaryDirectory() as data:
        backend = LocalBackend(Path(data), limits=LocalLimits(max_queued=100_000))
        workflows = load_workflows(ROOT / "workflows")
        app = create_app(backend, workflows, settings, default="hello")
        with running(app) as server, httpx.Client(base_url=server.url, timeout=60) as http:
            document = http.get("/openapi.json", headers={"Authorization": valid}).json()
            return fuzz(http, Fuzzer(document, seed, bearers), cases)


def main() -> int:
    """Run; the exit code is 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,000 requests, to Modal 250")
    parser.add_argument("--backend", choices=("local", "modal"), default="local")
    parser.add_argument("--cases", type=int, help="default: 20,000, to Modal 2,000")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.backend == "modal":
        from tests.server.backends.modal.fuzzing import fuzz_deployment

        cases = given.cases or (250 if given.quick else 2000)
        return 1 if shown("modal", cases, lambda: fuzz_deployment(cases, given.seed)) else 0
    cases = given.cases or (1000 if given.quick else 20_000)
    faults = sum(
        shown(f"keys={keys}", cases // 2, lambda k=keys: run(cases // 2, given.seed, keys=k))
        for keys in (False, True)
    )
    return 1 if faults else 0


def shown(name: str, cases: int, work: "Callable[[], Report]") -> int:
    """Run, print what was found, and return the number of faults."""
    started = time.perf_counter()
    report = work()
    seconds = time.perf_counter() - started
    statuses: dict[str, int] = {}
    for line, count in report.answers.items():
        status = line.rpartition(" ")[2]
        statuses[status] = statuses.get(status, 0) + count
    print(f"{name}: {cases} requests in {seconds:.0f} s", dict(sorted(statuses.items())))
    print(f"  {len(report.job_ids)} answers with a job, {len(report.faults)} faults")
    print(*(f"  {fault}" for fault in report.faults[:20]), sep="\n")
    return len(report.faults)


if __name__ == "__main__":
    sys.exit(main())
