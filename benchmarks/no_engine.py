"""An engine that takes no time, so that what is measured is everything around it."""

import hashlib

from comfysnap_schema.wire.files import Kind
from comfysnap_server.engine.protocol import EngineJob, EngineResult, ProducedFile, Report


class NoEngine:
    """Hands back one file of a few bytes for each file output."""

    name = "none"

    def load(self) -> None:
        """Nothing to load."""

    def attach(self) -> None:
        """Nothing to attach."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Write what a caller can check."""
        path = job.output_dir / "picture.png"
        path.write_bytes(hashlib.sha256(job.job_id.encode()).digest())
        return EngineResult(outputs={name: [ProducedFile(path=path, kind=Kind.IMAGE)]
                                     for name in job.outputs})  # fmt: skip

    def interrupt(self, job_id: str) -> None:
        """It is over before anyone could ask."""
