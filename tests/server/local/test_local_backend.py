"""The local backend with real worker processes."""

from datetime import UTC, datetime
from pathlib import Path

from comfysnap_schema.graph import Graph
from comfysnap_schema.jobs import JobStatus
from comfysnap_schema.spec import OutputSpec
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.backends.protocol import JobRequest

GRAPH: Graph = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}


async def test_a_job_runs_and_its_file_can_be_read(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "data", engine_options={"step_seconds": 0})
    await backend.start()
    try:
        request = JobRequest(
            job_id=f"job_{1:026}", owner="anna", workflow="hello", inputs={}, graph=GRAPH,
            graph_hash="x", outputs={"image": OutputSpec(node="9")}, timeout=60,
            created_at=datetime.now(UTC),
        )  # fmt: skip
        submitted = await backend.submit(request)
        job = await backend.wait("anna", submitted.job.id, after=None, timeout=30)
        assert job.status is JobStatus.SUCCEEDED
        file = await backend.open_output("anna", job.id, "ComfyUI_00001_.png")
        assert file.path.read_bytes().startswith(b"\x89PNG")
    finally:
        await backend.stop()
