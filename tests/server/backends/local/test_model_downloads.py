"""Models by URL on the local backend: downloaded before a job is queued, in nobody's way."""

import asyncio
import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.comfy.graph import Graph
from comfysnap_schema.wire import ErrorCode, JobStatus, Phase, Progress
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.backends.local import LocalBackend, LocalLimits
from comfysnap_server.jobs import JobRequest, RemoteModel
from comfysnap_server.models import RemoteModelSettings
from tests.paths import ROOT
from tests.server.backends.local.conftest import StartBackend
from tests.server.backends.suite import FOREVER, finish, request, run, sampling, until_sampling
from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import checkpoints, real_comfyui
from tests.server.models.model_server import (
    ModelServer,
    Served,
    safetensors,
    serve_models,
    when_received,
)

FILE = safetensors(bytes(range(256)) * 100)
SHA256 = hashlib.sha256(FILE).hexdigest()
PATH = "/a.safetensors"
SETTINGS = RemoteModelSettings(
    hosts=("127.0.0.1",),
    private_networks=("127.0.0.1/32",),
    tokens={"127.0.0.1": "SITE_TOKEN"},
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    monkeypatch.setenv("SITE_TOKEN", "secret-1")
    with serve_models() as server:
        server.files[PATH] = Served(FILE, token="secret-1")
        yield server
        server.release.set()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
async def backend(start_backend: StartBackend, log: Path) -> LocalBackend:
    return await start(start_backend, log)


async def start(start_backend: StartBackend, log: Path, **options: Any) -> LocalBackend:
    return await start_backend(
        engine="tests.server.backends.local.engines:SeeingEngine",
        engine_options={"log": str(log), "step_seconds": 0.01},
        python_path=[ROOT],
        **{"remote_models": SETTINGS, **options},
    )


def with_model(url: str, sha256: str | None = None, steps: int = 1, **options: Any) -> JobRequest:
    model = RemoteModel(url=url, sha256=sha256, folder="checkpoints", field="checkpoint")
    graph: Graph = {
        **sampling(steps),
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": model.placeholder}},
    }
    graph["5"]["inputs"]["model"] = ["4", 0]
    return request(graph, models={model.placeholder: model}, **options)


async def until_downloading(backend: LocalBackend, server: ModelServer, asked: JobRequest) -> None:
    """Until the file is on its way and the job says so."""
    assert await asyncio.to_thread(server.holding.wait, 60)
    async with asyncio.timeout(60):
        job = await backend.get("anna", asked.job_id)
        while job.progress.phase is None:
            job = await backend.wait("anna", asked.job_id, after=job.version, timeout=5)


def seen_by(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def jobs_of(log: Path) -> list[str]:
    return [seen["job"] for seen in seen_by(log)]


def leases(data: Path) -> list[str]:
    return [path.name for path in (data / "model_cache" / "leases").iterdir()]


def cached(data: Path) -> list[str]:
    return sorted(path.name for path in data.glob("model_cache/models/*/remote/*"))


async def test_the_graph_runs_with_the_file_under_its_hash_and_without_its_token(
    backend: LocalBackend, server: ModelServer, data: Path, log: Path
) -> None:
    job = await run(backend, with_model(server.url + PATH))
    assert (job.status, job.error) == (JobStatus.SUCCEEDED, None)
    assert cached(data) == [f"{SHA256}.safetensors"]
    (seen,) = seen_by(log)
    assert seen["graph"]["4"]["inputs"]["ckpt_name"] == f"remote/{SHA256}.safetensors"
    assert "SITE_TOKEN" not in seen["environment"]
    assert "secret-1" not in json.dumps(seen)
    assert leases(data) == []


async def test_the_download_is_a_phase_of_the_progress_with_its_bytes(
    backend: LocalBackend, server: ModelServer
) -> None:
    server.files[PATH].hold_after = 1000
    asked = with_model(server.url + PATH)
    await backend.submit(asked)
    events = backend.events("anna", asked.job_id, after=None)
    shown: list[Progress] = []
    async for event in events:
        progress = event.progress or (event.job.progress if event.job else None)
        if progress is not None and progress.phase is not None:
            shown.append(progress)
            server.release.set()
    assert {progress.phase for progress in shown} == {Phase.DOWNLOADING_MODELS}
    assert {progress.bytes_total for progress in shown} == {len(FILE)}
    assert (await backend.get("anna", asked.job_id)).progress.phase is None


async def test_other_jobs_run_meanwhile(backend: LocalBackend, server: ModelServer) -> None:
    server.files[PATH].hold_after = 1000
    slow = with_model(server.url + PATH)
    await backend.submit(slow)
    await until_downloading(backend, server, slow)
    assert (await run(backend, request())).status is JobStatus.SUCCEEDED
    assert (await backend.get("anna", slow.job_id)).status is JobStatus.QUEUED
    server.release.set()
    done = await finish(backend, await backend.get("anna", slow.job_id))
    assert done.status is JobStatus.SUCCEEDED


async def test_a_download_is_cancelled_at_once_and_the_job_never_starts(
    backend: LocalBackend, server: ModelServer, log: Path, data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    server.files[PATH].hold_after = 1000
    received = when_received(monkeypatch, 1000)
    asked = with_model(server.url + PATH)
    await backend.submit(asked)
    await until_downloading(backend, server, asked)
    assert await asyncio.to_thread(received.wait, 60)
    job = await backend.cancel("anna", asked.job_id)
    assert (job.status, job.attempt) == (JobStatus.CANCELLED, 0)
    server.release.set()
    server.files[PATH].hold_after = None
    assert (await run(backend, with_model(server.url + PATH))).status is JobStatus.SUCCEEDED
    assert server.asked[-1].headers["Range"] == "bytes=1000-"
    assert asked.job_id not in jobs_of(log)
    assert leases(data) == []


async def test_the_timeout_of_the_job_ends_its_download(
    backend: LocalBackend, server: ModelServer
) -> None:
    server.files[PATH].hold_after = 1000
    job = await run(backend, with_model(server.url + PATH, timeout=0.3))
    assert job.status is JobStatus.TIMED_OUT


async def test_a_job_that_waits_too_long_for_its_model_expires(
    backend: LocalBackend, server: ModelServer
) -> None:
    server.files[PATH].hold_after = 1000
    job = await run(backend, with_model(server.url + PATH, queue_timeout=0.3))
    assert job.status is JobStatus.EXPIRED


@pytest.mark.parametrize(
    ("served", "code", "message"),
    [
        (Served(b"<!doctype html>"), ErrorCode.MODEL_REFUSED, "web page"),
        (Served(FILE, statuses=[404]), ErrorCode.MODEL_UNAVAILABLE, "not found (404)"),
        (Served(FILE, token="other"), ErrorCode.MODEL_UNAVAILABLE, "access denied (401)"),
        (Served(b"", location="http://169.254.169.254/"), ErrorCode.MODEL_REFUSED, "not on the"),
    ],
)
async def test_a_model_that_cannot_be_had_fails_the_job_and_names_its_field(
    backend: LocalBackend, server: ModelServer, served: Served, code: ErrorCode, message: str
) -> None:
    server.files[PATH] = served
    job = await run(backend, with_model(f"{server.url}{PATH}?token=private-key"))
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error.code == code
    assert job.error.fields[0].field == "checkpoint"
    assert message in str(job.error.detail)
    assert "private-key" not in job.error.model_dump_json()


async def test_a_server_that_stops_downloads_on_after_its_restart(
    start_backend: StartBackend, server: ModelServer, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files[PATH].hold_after = 1000
    received = when_received(monkeypatch, 1000)
    first = await start(start_backend, log)
    asked = with_model(server.url + PATH)
    await first.submit(asked)
    await until_downloading(first, server, asked)
    assert await asyncio.to_thread(received.wait, 60)
    await first.stop()
    server.release.set()
    server.files[PATH].hold_after = None
    second = await start(start_backend, log)
    job = await finish(second, await second.get("anna", asked.job_id))
    assert job.status is JobStatus.SUCCEEDED
    assert server.asked[-1].headers["Range"] == "bytes=1000-"


async def test_a_model_of_a_running_job_stays_while_others_are_deleted_for_room(
    start_backend: StartBackend, server: ModelServer, log: Path, data: Path
) -> None:
    settings = SETTINGS.model_copy(update={"cache_bytes": int(1.5 * len(FILE))})
    other = safetensors(bytes(reversed(range(256))) * 100)
    server.files["/b"] = Served(other)
    backend = await start(start_backend, log, remote_models=settings)
    running = with_model(server.url + PATH, steps=FOREVER)
    job = (await backend.submit(running)).job
    await until_sampling(backend, job)
    refused = await run(backend, with_model(server.url + "/b"))
    assert refused.error is not None
    assert refused.error.code == ErrorCode.MODEL_UNAVAILABLE
    assert cached(data) == [f"{SHA256}.safetensors"]
    await backend.cancel("anna", running.job_id)
    await finish(backend, job)
    queued = await run(backend, with_model(server.url + "/b"))
    assert (queued.status, queued.error) == (JobStatus.SUCCEEDED, None)
    assert cached(data) == [f"{hashlib.sha256(other).hexdigest()}.safetensors"]


async def test_the_simulated_engine_takes_models_by_url(
    start_backend: StartBackend, server: ModelServer
) -> None:
    backend = await start_backend(remote_models=SETTINGS)
    assert (await run(backend, with_model(server.url + PATH))).status is JobStatus.SUCCEEDED


async def test_a_server_without_the_setting_refuses_what_an_earlier_one_accepted(
    start_backend: StartBackend, server: ModelServer, data: Path
) -> None:
    backend = await start_backend()
    job = await run(backend, with_model(server.url + PATH))
    assert job.error is not None
    assert job.error.code == ErrorCode.MODEL_REFUSED
    assert server.asked == []
    assert cached(data) == []


def lora(value: float) -> bytes:
    """A LoRA of rank 1 that changes SD 1.5's embedding of the time."""
    up, down = [value] * 1280, [value] * 320
    data = struct.pack("<1280e", *up) + struct.pack("<320e", *down)
    header = {
        "lora_unet_time_embed_0.lora_up.weight": {
            "dtype": "F16", "shape": [1280, 1], "data_offsets": [0, 2560],
        },
        "lora_unet_time_embed_0.lora_down.weight": {
            "dtype": "F16", "shape": [1, 320], "data_offsets": [2560, 3200],
        },
    }  # fmt: skip
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.comfyui
async def test_checkpoints_and_loras_by_url_run_on_a_real_comfyui(
    start_backend: StartBackend, server: ModelServer, tmp_path: Path, data: Path
) -> None:
    python, checkout = real_comfyui()
    before = files_below(checkout / "models")
    weights = checkpoints("real", tmp_path) / graphs.CHECKPOINT
    content = await asyncio.to_thread(weights.read_bytes)
    server.files["/moved"] = Served(content, break_after=[5_000_000])
    server.files["/base"] = Served(b"", token="secret-1", location="/moved?signed")
    server.files["/weak"] = Served(lora(0.0))
    server.files["/strong"] = Served(lora(0.5))
    backend: LocalBackend = await start_backend(
        engine="comfyui",
        python=python,
        engine_options={"path": str(checkout), "device": "cpu"},
        remote_models=SETTINGS,
        limits=LocalLimits(interrupt_grace=30, takeover_patience=30),
    )
    pictures: list[str] = []
    for name in ("/weak", "/strong", "/weak"):
        base = RemoteModel(url=server.url + "/base", folder="checkpoints", field="checkpoint")
        added = RemoteModel(url=server.url + name, folder="loras", field="loras[0].url")
        graph = graphs.diffusion(seed=5)
        graph["4"]["inputs"]["ckpt_name"] = base.placeholder
        graph["10"] = graphs.node(
            "LoraLoaderModelOnly", model=["4", 0], lora_name=added.placeholder, strength_model=1.0
        )
        graph["3"]["inputs"]["model"] = ["10", 0]
        job = await run(
            backend,
            request(
                graph,
                models={base.placeholder: base, added.placeholder: added},
                outputs={"image": OutputSpec(node="9")},
                fields={},
                timeout=300,
            ),
        )
        assert (job.status, job.error) == (JobStatus.SUCCEEDED, None)
        assert job.outputs is not None
        pictures.append(pixels(data / "jobs" / job.id))
    assert pictures[0] == pictures[2] != pictures[1]
    assert len(server.downloads("/moved")) == 2  # broken off once, and then the rest
    assert len(cached(data)) == 3
    strong = lora(0.5)
    server.files["/page"] = Served(b"<html>log in</html>")
    server.files["/shorter"] = Served(strong, told=len(strong) - 10)
    server.files["/private"] = Served(strong, token="another")
    server.files["/away"] = Served(b"", location="http://169.254.169.254/strong")
    for path, code in (
        ("/page", ErrorCode.MODEL_REFUSED),
        ("/shorter", ErrorCode.MODEL_REFUSED),
        ("/private", ErrorCode.MODEL_UNAVAILABLE),
        ("/away", ErrorCode.MODEL_REFUSED),
    ):
        wrong = RemoteModel(url=server.url + path, folder="loras", field="loras[0].url")
        refused = await run(backend, request(graph, models={wrong.placeholder: wrong}))
        assert refused.error is not None
        assert (refused.error.code, refused.error.fields[0].field) == (code, "loras[0].url")
    assert len(cached(data)) == 3
    assert files_below(checkout / "models") == before


def pixels(folder: Path) -> str:
    from PIL import Image

    with Image.open(next(folder.glob("*.png"))) as image:
        return hashlib.sha256(image.tobytes()).hexdigest()


def files_below(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))
