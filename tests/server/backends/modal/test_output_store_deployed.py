"""A deployment that keeps its output files in a bucket."""

from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from comfysnap_client import Client
from comfysnap_schema.wire import Kind, OutputFile
from comfysnap_schema.workflows import HelloInput
from comfysnap_server.backends.modal.backend import ModalBackend
from comfysnap_server.jobs import OutputStore, OutputStoreSettings
from tests.control_plane import ControlPlane
from tests.paths import WORKFLOWS
from tests.s3_server import BUCKET, Bucket, s3_server
from tests.server.backends.modal.memory import Cloud

pytestmark = pytest.mark.modal

DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
SMALL = HelloInput(width=32, height=16)
SETTINGS = """
name = "bucket"
workflows = {workflows!r}
default = "hello"
[serve.outputs]
store = "s3://{bucket}/out"
endpoint = "{endpoint}"
region = "auto"
secret = "aws"
[deploy]
engine = "simulated"
workflows = ["hello"]
auth = "none"
retention_hours = 24
"""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with s3_server(tmp_path_factory.mktemp("s3")) as bucket:
        yield bucket


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, bucket: Bucket) -> Iterator[ControlPlane]:
    file = tmp_path_factory.mktemp("bucket") / "comfysnap.toml"
    file.write_text(SETTINGS.format(workflows=str(WORKFLOWS), bucket=BUCKET, endpoint=bucket.url))
    with ControlPlane() as plane:
        variables = {
            "COMFYSNAP_PROJECT": str(file),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
        }
        secret = {"AWS_ACCESS_KEY_ID": "first", "AWS_SECRET_ACCESS_KEY": "first secret"}
        plane.secret("aws", secret)
        plane.add_container_environment(variables)
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        yield plane


@pytest.fixture
async def client(plane: ControlPlane) -> AsyncIterator[Client]:
    async with Client(plane.function("gateway").web_url, timeout=60) as client:
        yield client


def job_id_at(moment: datetime) -> str:
    """An id as the gateway made it then."""
    number = int(moment.timestamp() * 1000) << 80
    return "job_" + "".join(DIGITS[number >> shift & 31] for shift in range(125, -1, -5))


async def test_the_worker_stores_files_and_the_gateway_signs_links(
    plane: ControlPlane, bucket: Bucket, client: Client
) -> None:
    job = await client.infer_async(SMALL)
    out = await job.result()
    (image,) = out.images
    assert image.url.startswith(bucket.url)
    assert (await image.image()).size == (32, 16)
    assert f"out/{job.id}/{image.name}" in bucket.files
    assert not [*(plane.mounts / "files").rglob(image.name)]
    async with httpx.AsyncClient(base_url=plane.function("gateway").web_url) as http:
        own = await http.get(f"/outputs/{job.id}/{image.name}")
    assert own.status_code == 302
    assert own.headers["location"].startswith(bucket.url)


async def test_the_sweep_deletes_files_past_their_retention_and_no_others(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "first")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "first secret")
    url = f"s3://{BUCKET}/swept"
    settings = OutputStoreSettings(store=url, endpoint=bucket.url, region="auto")
    cloud = Cloud(tmp_path / "volume")
    store = OutputStore(url, settings)
    backend = ModalBackend(
        cloud.platform, tmp_path / "local", retention=timedelta(hours=1), outputs=store
    )
    (tmp_path / "a.png").write_bytes(b"x")
    file = OutputFile(
        name="a.png", kind=Kind.IMAGE, content_type="image/png", size=1, sha256="0" * 64, url="/"
    )
    old, new = job_id_at(cloud.platform.now()), job_id_at(cloud.platform.now() + timedelta(days=29))
    await store.put(old, tmp_path, [file])
    await store.put(new, tmp_path, [file])
    cloud.pass_time(30 * 24 * 3600)
    assert await backend.sweep() == 1
    assert {name for name in bucket.files if name.startswith("swept/")} == {f"swept/{new}/a.png"}
