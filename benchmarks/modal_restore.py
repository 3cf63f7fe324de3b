"""Time from the restore of a container to its first request for an input, and our share of it.

Runs Modal's container entrypoint on the control plane of the tests: no cloud, no GPU, and no memory
image (a checkpointed process is stopped and continued), so the time in which Modal restores memory
is not included. Included is Python's work after the restore, which is the same on Modal. Our share
is the median of our containers minus that of a function that does nothing, whose snapshot also
contains the web library that Modal loads for web functions.

    python benchmarks/modal_restore.py [--quick]
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

ROOT: Final = Path(__file__).resolve().parents[1]
if TYPE_CHECKING:
    from tests.control_plane import ControlPlane

GATEWAY_TARGET_MS: Final = 150.0
WORKER_TARGET_MS: Final = 50.0

BARE: Final = """
import aiohttp
import modal

app = modal.App("bare")

@app.cls(enable_memory_snapshot=True)
class BareWorker:
    @modal.enter(snap=True)
    def load(self):
        pass

    @modal.enter(snap=False)
    def attach(self):
        pass

    @modal.method()
    async def run(self):
        pass

async def application(scope, receive, send):
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return

@app.function(enable_memory_snapshot=True)
@modal.concurrent(max_inputs=100)
@modal.asgi_app()
def bare_gateway():
    return application
"""

PROJECT: Final = """
name = "restored"
workflows = {workflows!r}
default = "hello"
[deploy]
engine = "simulated"
auth = "none"
"""


def measure(plane: "ControlPlane", name: str, count: int) -> list[float]:
    """Milliseconds from the restore to the first request for an input, one container at a time."""
    taken: list[float] = []
    for _ in range(count):
        (container,) = plane.freeze(name, 1)
        taken.append(plane.restore(container) * 1000)
        plane.kill(container)
    return taken


def main() -> int:
    """Print the table; returns 1 if a target is missed."""
    from tests.control_plane import ControlPlane

    parser = argparse.ArgumentParser(description="Restore to first input, on the control plane.")
    parser.add_argument("--quick", action="store_true", help="3 restores each instead of 11")
    count = 3 if parser.parse_args().quick else 11
    with tempfile.TemporaryDirectory() as folder, ControlPlane() as plane:
        (Path(folder) / "bare.py").write_text(BARE)
        project = Path(folder) / "comfysnap.toml"
        project.write_text(PROJECT.format(workflows=str(ROOT / "workflows")))
        variables = {
            "COMFYSNAP_PROJECT": str(project),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
        }
        plane.add_container_environment({**variables, "PYTHONPATH": folder})
        plane.deploy("bare.py", environment={}, cwd=Path(folder))
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        names = ["BareWorker.*", "Worker.*", "bare_gateway", "gateway"]
        times = {name: measure(plane, name, count) for name in names}
    print(f"restore to first input, {count} restores each, milliseconds")
    print(f"{'':<14} {'median':>8} {'best':>8} {'worst':>8}")
    for name, taken in times.items():
        row = f"{statistics.median(taken):8.1f} {min(taken):8.1f} {max(taken):8.1f}"
        print(f"{name:<14} {row}")
    missed = False
    for name, bare, target in (
        ("Worker.*", "BareWorker.*", WORKER_TARGET_MS),
        ("gateway", "bare_gateway", GATEWAY_TARGET_MS),
    ):
        share = statistics.median(times[name]) - statistics.median(times[bare])
        verdict = "ok" if share < target else "MISSED"
        missed = missed or share >= target
        print(f"our share in {name}: {share:.1f} ms, target {target:.0f} ms: {verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
