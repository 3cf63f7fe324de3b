"""A gateway with a local backend, in a process of its own, for the client's benchmarks."""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from comfysnap_schema.wire.files import Kind
from comfysnap_server.engine.protocol import EngineJob, EngineResult, ProducedFile, Report

ROOT: Final = Path(__file__).resolve().parent.parent
ENGINE: Final = "local_server:CountingEngine"
RUNS: Final = "runs.log"
"""Written by the engine: one line per run, the job's id."""


class CountingEngine:
    """Logs each run and makes files of ``size`` bytes, so that only what surrounds it is measured.

    Args:
        log: File that each run appends its job's id to.
        size: Bytes of each output file.
        max_seconds: A job takes from 0 to this many seconds; the job's id decides.
    """

    name = "counting"

    def __init__(self, log: str, size: int = 16, max_seconds: float = 0.0) -> None:
        self._log = log
        self._size = size
        self._max_seconds = max_seconds

    def load(self) -> None:
        """Do nothing."""

    def attach(self) -> None:
        """Do nothing."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Log the run and make the files."""
        time.sleep(random.Random(job.job_id).uniform(0, self._max_seconds))
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
        """Do nothing: runs are short."""


def serve(data: Path, engine: str, options: dict[str, Any]) -> None:
    """Print the address and serve until this process is terminated."""
    from comfysnap_schema.workflow.apply import load_workflows
    from comfysnap_server.backends.local import LocalBackend
    from comfysnap_server.backends.local.limits import LocalLimits
    from comfysnap_server.gateway.app import create_app
    from comfysnap_server.gateway.serving import GatewayServer
    from comfysnap_server.gateway.settings import GatewaySettings

    backend = LocalBackend(
        data,
        engine=engine,
        engine_options={**options, "log": str(data / RUNS)} if engine == ENGINE else options,
        python_path=[ROOT / "benchmarks"],
        limits=LocalLimits(max_queued=10_000),
    )
    workflows = load_workflows(ROOT / "workflows")
    app = create_app(backend, workflows, GatewaySettings(), default="flux")
    GatewayServer(app, host="127.0.0.1", port=0, announce=lambda url: print(url, flush=True)).run()


@contextmanager
def local_server(engine: str = ENGINE, **options: Any) -> Generator[tuple[str, Path]]:
    """Start a server; yields its address and its data folder.

    Args:
        engine: As for ``LocalBackend``.
        options: Options of the engine.
    """
    with tempfile.TemporaryDirectory() as data:
        process = subprocess.Popen(
            [sys.executable, __file__, data, engine, json.dumps(options)],
            stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), Path(data)
        finally:
            process.terminate()
            process.wait(30)


def runs(data: Path) -> list[str]:
    """The job id of each run of the engine."""
    log = data / RUNS
    return log.read_text().split() if log.exists() else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("engine")
    parser.add_argument("options", type=json.loads)
    given = parser.parse_args()
    serve(given.data, given.engine, given.options)
