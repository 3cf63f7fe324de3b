"""A real gateway with a local backend, in a process of its own, for the client's benchmarks."""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from comfysnap_schema.wire.files import Kind
from comfysnap_server.engine.protocol import EngineJob, EngineResult, ProducedFile, Report

ROOT: Final = Path(__file__).resolve().parent.parent
RUNS: Final = "runs.log"
"""One line for each run of the engine: the job's id."""


class CountingEngine:
    """Takes no time, writes down each run, and makes files of ``size`` bytes."""

    name = "counting"

    def __init__(self, log: str, size: int = 16) -> None:
        self._log = log
        self._size = size

    def load(self) -> None:
        """Nothing to load."""

    def attach(self) -> None:
        """Nothing to attach."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Write the run down and make the files."""
        with Path(self._log).open("a") as log:
            log.write(job.job_id + "\n")
        block = hashlib.sha256(job.job_id.encode()).digest() * 32768
        outputs: dict[str, list[ProducedFile]] = {}
        for name in job.outputs:
            path = job.output_dir / f"{name}.png"
            with path.open("wb") as file:
                for start in range(0, self._size, len(block)):
                    file.write(block[: self._size - start])
            outputs[name] = [ProducedFile(path=path, kind=Kind.IMAGE)]
        return EngineResult(outputs={name: [*files] for name, files in outputs.items()})

    def interrupt(self, job_id: str) -> None:
        """A run is over before it can be interrupted."""


def serve(data: Path, size: int) -> None:
    """Serve in this process, telling the address first."""
    from comfysnap_schema.workflow.apply import load_workflows
    from comfysnap_server.backends.local import LocalBackend
    from comfysnap_server.backends.local.limits import LocalLimits
    from comfysnap_server.gateway.app import create_app
    from comfysnap_server.gateway.serving import GatewayServer
    from comfysnap_server.gateway.settings import GatewaySettings

    backend = LocalBackend(
        data,
        engine="local_server:CountingEngine",
        engine_options={"log": str(data / RUNS), "size": size},
        python_path=[ROOT / "benchmarks"],
        limits=LocalLimits(max_queued=10_000),
    )
    app = create_app(backend, load_workflows(ROOT / "workflows"), GatewaySettings())
    GatewayServer(app, host="127.0.0.1", port=0, announce=lambda url: print(url, flush=True)).run()


@contextmanager
def local_server(size: int = 16) -> Generator[tuple[str, Path]]:
    """The address of a server, and its data folder."""
    with tempfile.TemporaryDirectory() as data:
        process = subprocess.Popen(
            [sys.executable, __file__, data, str(size)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), Path(data)
        finally:
            process.terminate()
            process.wait(30)


def runs(data: Path) -> list[str]:
    """The id of the job of each run of the engine."""
    log = data / RUNS
    return log.read_text().split() if log.exists() else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("size", type=int)
    given = parser.parse_args()
    serve(given.data, given.size)
