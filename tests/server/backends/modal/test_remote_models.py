"""Models by URL on Modal: one container on CPU downloads, GPU containers copy."""

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfysnap_client.client import Client
from comfysnap_client.dynamic import untyped
from comfysnap_client.errors import JobCancelled, JobFailed
from comfysnap_schema.wire import ErrorCode, JobStatus, ModelUrl, Phase
from comfysnap_server.backends.modal.records import End, FeedEntry, job_key
from comfysnap_server.backends.modal.remote_models import Wanted, WorkerModels, fetch_into
from comfysnap_server.backends.modal.runner import JobRunner
from comfysnap_server.engine.protocol import EngineJob, EngineResult, Report
from comfysnap_server.jobs import RemoteModel
from comfysnap_server.models import RemoteModelSettings
from comfysnap_server.models.cache import ModelCache
from comfysnap_server.models.download import RetryPolicy
from comfysnap_server.models.remote import RemoteModels
from tests.control_plane import ControlPlane
from tests.server.backends.modal.memory import Cloud, MemoryFeed, MemoryFolder, request
from tests.server.backends.modal.test_runner import FakeEngine
from tests.server.models.model_server import (
    ModelServer,
    Served,
    safetensors,
    serve_models,
    when_received,
)

pytestmark = pytest.mark.modal

FILE = safetensors(bytes(range(256)) * 100)
SHA256 = hashlib.sha256(FILE).hexdigest()
PATH = "/a.safetensors"
SETTINGS = RemoteModelSettings(hosts=("127.0.0.1",), private_networks=("127.0.0.1/32",))
QUICK = RetryPolicy(attempts=3, wait_initial=0, wait_max=0)
JOB = request().job_id


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serve_models() as server:
        server.files[PATH] = Served(FILE)
        yield server
        server.release.set()


class VolumeFolder(MemoryFolder):
    """Counts reloads, and refuses them like Modal when a file is open."""

    reloads = 0

    async def reload(self) -> None:
        self.reloads += 1


class TellingFeed(MemoryFeed):
    """Tells when the bytes of a download are in it."""

    def __init__(self) -> None:
        super().__init__()
        self.shows_bytes = asyncio.Event()

    async def append(self, job_id: str, entry: str, *, keep: int = 60) -> None:
        await super().append(job_id, entry, keep=keep)
        progress = FeedEntry.model_validate_json(entry).progress
        if progress is not None and progress.bytes_total:
            self.shows_bytes.set()


class LocalFetcher:
    """The function on CPU, in this process."""

    def __init__(self, cloud: Cloud, folder: VolumeFolder) -> None:
        self._cloud, self._folder = cloud, folder
        self._models = RemoteModels(ModelCache(folder.root, SETTINGS.cache_bytes), SETTINGS, QUICK)
        self.asked: list[str] = []
        self.failing = False

    async def fetch(self, wanted: str) -> str:
        self.asked.append(wanted)
        if self.failing:
            raise ConnectionError("the container is gone")
        read = Wanted.model_validate_json(wanted)
        found = await fetch_into(read, self._models, self._folder, self._cloud.feed)
        return found.model_dump_json()


class SeeingEngine(FakeEngine):
    """Keeps the graphs that it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs: list[Any] = []

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        self.graphs.append(job.graph)
        return super().run(job, report)


class Rig:
    """A GPU container with its platform in memory."""

    def __init__(self, tmp_path: Path) -> None:
        self.feed = TellingFeed()
        self.cloud = Cloud(tmp_path / "files", feed=self.feed)
        self.volume = VolumeFolder(tmp_path / "cache")
        self.local = tmp_path / "local"
        self.fetcher = LocalFetcher(self.cloud, self.volume)
        self.engine = SeeingEngine()
        self.start()

    def start(self, *, enabled: bool = True) -> None:
        models = WorkerModels(self.fetcher, self.volume, self.local, SETTINGS)
        platform = self.cloud.platform
        object.__setattr__(platform, "remote_models", models if enabled else None)
        self.worker = JobRunner(self.engine, platform)
        self.worker.load()
        self.worker.attach(restored=True)

    async def run(self, url: str, number: int = 1, **changes: Any) -> End:
        model = RemoteModel(url=url, folder="checkpoints", field="checkpoint")
        graph: dict[str, Any] = {
            "3": {"class_type": "SaveImage", "inputs": {}},
            "4": {"class_type": "Loader", "inputs": {"ckpt_name": model.placeholder}},
        }
        job = request(number, graph=graph, models={model.placeholder: model}, **changes)
        await self.worker.run(job.job_id, job.model_dump_json(), f"fc-{number}")
        return End.model_validate_json(self.cloud.records.entries[job_key(job.job_id, "final")])

    def phases(self) -> list[FeedEntry]:
        entries = [FeedEntry.model_validate_json(text) for _, text in self.cloud.feed.entries]
        return [entry for entry in entries if entry.progress and entry.progress.phase]

    def copies(self) -> list[str]:
        return [path.name for path in self.local.glob("models/checkpoints/remote/*")]


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_comfyui_gets_a_copy_of_what_lies_on_the_volume(
    rig: Rig, server: ModelServer
) -> None:
    end = await rig.run(server.url + PATH)
    assert (end.status, end.error) == (JobStatus.SUCCEEDED, None)
    name = f"{SHA256}.safetensors"
    assert rig.engine.graphs[0]["4"]["inputs"]["ckpt_name"] == f"remote/{name}"
    assert rig.copies() == [name]
    assert (rig.local / "models" / "checkpoints" / "remote" / name).read_bytes() == FILE
    assert rig.volume.commits == 1
    assert end.progress.phase is None
    assert list((rig.local / "leases").iterdir()) == []


async def test_a_second_job_neither_downloads_nor_copies_nor_reloads(
    rig: Rig, server: ModelServer
) -> None:
    await rig.run(server.url + PATH)
    copied = next((rig.local / "models").rglob("*.safetensors")).stat().st_mtime_ns
    assert (await rig.run(server.url + PATH, 2)).status is JobStatus.SUCCEEDED
    assert len(server.asked) == 1
    assert rig.volume.reloads == 0
    assert next((rig.local / "models").rglob("*.safetensors")).stat().st_mtime_ns == copied


async def test_the_download_is_a_phase_with_numbers_that_later_progress_exceeds(
    rig: Rig, server: ModelServer
) -> None:
    server.files[PATH].hold_after = 1000
    running = asyncio.create_task(rig.run(server.url + PATH))
    async with asyncio.timeout(60):
        await rig.feed.shows_bytes.wait()
    server.release.set()
    await running
    shown = [entry.progress for entry in rig.phases() if entry.progress]
    assert {progress.phase for progress in shown} == {Phase.DOWNLOADING_MODELS}
    assert len(FILE) in {progress.bytes_total for progress in shown}
    assert max(entry.number for entry in rig.phases()) < 1000


async def test_a_cancelled_call_stops_its_download(
    rig: Rig, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files[PATH].hold_after = 1000
    received = when_received(monkeypatch, 1000)
    running = asyncio.create_task(rig.run(server.url + PATH))
    assert await asyncio.to_thread(received.wait, 60)
    rig.cloud.records.entries[job_key(JOB, "cancel")] = json.dumps({"at": "2026-01-01T00:00:00Z"})
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    end = End.model_validate_json(rig.cloud.records.entries[job_key(JOB, "final")])
    assert end.status is JobStatus.CANCELLED
    assert rig.engine.jobs == []
    server.files[PATH].hold_after = None
    assert (await rig.run(server.url + PATH, 2)).status is JobStatus.SUCCEEDED
    assert server.asked[-1].headers["Range"] == "bytes=1000-"


async def test_the_timeout_of_the_job_ends_its_download(rig: Rig, server: ModelServer) -> None:
    server.files[PATH].hold_after = 1000
    assert (await rig.run(server.url + PATH, timeout=0.3)).status is JobStatus.TIMED_OUT
    assert rig.engine.jobs == []


async def test_a_model_that_cannot_be_had_fails_the_job(rig: Rig, server: ModelServer) -> None:
    server.files[PATH] = Served(b"<html>")
    end = await rig.run(server.url + PATH)
    assert end.error is not None
    assert end.error.code == ErrorCode.MODEL_REFUSED
    assert end.error.fields[0].field == "checkpoint"


async def test_a_function_that_fails_fails_the_job_alone(rig: Rig, server: ModelServer) -> None:
    rig.fetcher.failing = True
    end = await rig.run(server.url + PATH)
    assert end.error is not None
    assert end.error.code == ErrorCode.MODEL_UNAVAILABLE
    rig.fetcher.failing = False
    assert (await rig.run(server.url + PATH, 2)).status is JobStatus.SUCCEEDED


async def test_a_file_that_is_not_to_be_seen_on_the_volume_is_said(
    rig: Rig, server: ModelServer, tmp_path: Path
) -> None:
    rig.volume.root = tmp_path / "elsewhere"
    end = await rig.run(server.url + PATH)
    assert rig.volume.reloads == 1
    assert end.error is not None
    assert end.error.code == ErrorCode.MODEL_UNAVAILABLE
    assert str(tmp_path) not in end.error.model_dump_json()


async def test_a_job_from_before_urls_were_turned_off_is_refused(
    rig: Rig, server: ModelServer
) -> None:
    rig.start(enabled=False)
    end = await rig.run(server.url + PATH)
    assert end.error is not None
    assert end.error.code == ErrorCode.MODEL_REFUSED
    assert server.asked == []


MAP = """
name = "draw"
[inputs.checkpoint]
path = "4.inputs.ckpt_name"
type = "model"
[outputs.images]
node = "9"
many = true
"""
GRAPH: dict[str, Any] = {
    "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 32, "height": 32}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
    "5": {
        "class_type": "KSampler",
        "inputs": {"model": ["4", 0], "seed": 7, "steps": 2, "latent_image": ["3", 0]},
    },
    "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["6", 0]}},
}


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane with a workflow that takes models by URL from the loopback."""
    workflow = tmp_path / "workflows" / "draw"
    workflow.mkdir(parents=True)
    (workflow / "workflow.toml").write_text(MAP)
    (workflow / "graph.json").write_text(json.dumps(GRAPH))
    (tmp_path / "comfysnap.toml").write_text("""
name = "urls"
[serve.remote_models]
hosts = ["127.0.0.1"]
private_networks = ["127.0.0.1/32"]
tokens = { "127.0.0.1" = "SITE_TOKEN" }
[deploy]
engine = "simulated"
auth = "none"
model_secrets = ["model-tokens"]
max_containers = 1
[deploy.gateway]
snapshot = false
""")
    variables = {"COMFYSNAP_PROJECT": str(tmp_path / "comfysnap.toml")}
    with ControlPlane() as plane:
        variables["COMFYSNAP_FILES_DIR"] = str(plane.mounts / "files")
        variables["COMFYSNAP_MODEL_CACHE_DIR"] = str(plane.mounts / "model-cache")
        plane.add_container_environment(variables)
        plane.secret("model-tokens", {"SITE_TOKEN": "sesame"})
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        yield plane


async def test_a_deployment_downloads_in_the_function_on_cpu(
    plane: ControlPlane, server: ModelServer
) -> None:
    server.files[PATH] = Served(FILE, token="sesame")
    server.files["/page"] = Served(b"<html>")
    checkpoint = ModelUrl(url=server.url + PATH)
    async with Client(plane.function("gateway").web_url, timeout=60) as client:
        for _ in range(2):
            job = await client.infer_async(untyped("draw", {"checkpoint": checkpoint}))
            assert (await job.result()).values["images"]
        assert len(server.asked) == 1
        wrong = untyped("draw", {"checkpoint": f"{server.url}/page"})
        with pytest.raises(JobFailed) as failed:
            await client.infer_sync(wrong)
        assert failed.value.code == ErrorCode.MODEL_REFUSED
    volume = plane.volumes.committed(plane.state.named["vo", "urls-model-cache"])
    kept = [path.name for path in volume.rglob("*.safetensors")]
    assert kept == [f"{SHA256}.safetensors"]
    for function in plane.state.functions.values():
        if function.name.startswith("Worker") and function.staged:
            mounts = {m.mount_path: m.read_only for m in function.staged.volume_mounts}
            assert mounts[str(plane.mounts / "model-cache")]


async def test_a_cancelled_job_of_a_deployment_stops_its_download(
    plane: ControlPlane, server: ModelServer
) -> None:
    large = ModelUrl(url=f"{server.url}/large.safetensors")
    served = Served(safetensors(os.urandom(8_000_000)), hold_after=4_000_000)
    server.files["/large.safetensors"] = served
    async with Client(plane.function("gateway").web_url, timeout=60) as client:
        job = await client.infer_async(untyped("draw", {"checkpoint": large}))
        assert await asyncio.to_thread(server.holding.wait, 60)
        await job.cancel()
        with pytest.raises(JobCancelled):
            await job.result()
        for _ in range(600):  # until its container heard of it, with a heartbeat
            if not any(one.running for one in plane.pool("fetch_models").containers):
                break
            await asyncio.sleep(0.1)
        served.hold_after = None
        server.release.set()
        again = await client.infer_async(untyped("draw", {"checkpoint": large}))
        await again.result()
    first, second = (asked.headers.get("Range") for asked in server.asked)
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) < 8_000_000
