"""A server that keeps its output files in a bucket."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import cast

import httpx
import pytest

from comfysnap_client import Client, JobFailed
from comfysnap_schema.workflows import HelloInput, HelloOutput
from tests.contract.processes import COMMAND, environment, left_behind, new_mark, serving
from tests.paths import ROOT
from tests.s3_server import BUCKET, Bucket, s3_server

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
SMALL = HelloInput(width=64, height=64)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Bucket]:
    (tmp_path / "s3").mkdir()
    monkeypatch.setitem(os.environ, "AWS_ACCESS_KEY_ID", "first")
    monkeypatch.setitem(os.environ, "AWS_SECRET_ACCESS_KEY", "first secret")
    with s3_server(tmp_path / "s3") as bucket:
        yield bucket


def project(folder: Path, bucket: Bucket, settings: str) -> Path:
    """A project with the workflow hello that keeps its outputs in the bucket."""
    folder.mkdir()
    shutil.copytree(ROOT / "workflows" / "hello", folder / "workflows" / "hello")
    file = folder / "comfysnap.toml"
    file.write_text(
        f'name = "pictures"\n[serve.outputs]\nstore = "s3://{BUCKET}/out"\nregion = "auto"\n'
        f'endpoint = "{bucket.url}"\n{settings}\n'
    )
    return file


async def test_the_client_reads_outputs_from_the_bucket_and_the_disk_keeps_none(
    bucket: Bucket, tmp_path: Path
) -> None:
    mark, data = new_mark(), tmp_path / "data"
    file = project(tmp_path / "project", bucket, "")
    with serving(mark, data, f"--project={file}") as (_, url):
        async with Client(url) as client, httpx.AsyncClient() as http:
            out = await client.infer_sync(SMALL, idempotency_key="k")
            image = out.images[0]
            assert image.url.startswith(bucket.url)
            content = await image.read()
            assert content.startswith(b"\x89PNG")
            again = await client.infer_sync(SMALL, idempotency_key="k")
            assert await again.images[0].read() == content
            (job,) = (await http.get(f"{url}/jobs")).json()["jobs"]
            assert job["outputs"]["images"][0]["url"].startswith(bucket.url)
            own = await http.get(f"{url}/outputs/{job['id']}/{image.name}")
            assert own.status_code == 302
            assert (await http.get(own.headers["location"])).content == content
            told = [event async for event in client.job(job["id"], HelloOutput).events()]
            (output,) = (event.output for event in told if event.output)
            (made,) = cast("list[dict[str, str]]", output.value)
            assert made["url"].startswith(bucket.url)
            assert bucket.files == {f"out/{job['id']}/{image.name}"}
            assert not any((data / "jobs").iterdir())
    assert left_behind(mark) == []


async def test_files_past_their_retention_leave_the_bucket(bucket: Bucket, tmp_path: Path) -> None:
    mark, data = new_mark(), tmp_path / "data"
    file = project(tmp_path / "project", bucket, "")
    with serving(mark, data, f"--project={file}") as (_, url):
        async with Client(url) as client:
            await client.infer_sync(SMALL)
    assert len(bucket.files) == 1
    with file.open("a") as settings:
        settings.write("[serve.local]\nkeep_outputs = 0.001\nsweep_interval = 0.1\n")
    with serving(mark, data, f"--project={file}") as (_, url):
        async with httpx.AsyncClient(base_url=url) as http:
            (job,) = (await http.get("/jobs")).json()["jobs"]
            path = f"/outputs/{job['id']}/{job['outputs']['images'][0]['name']}"
            async with asyncio.timeout(60):
                while (answer := await http.get(path)).status_code != 410:
                    pass
    assert answer.json()["code"] == "output_expired"
    assert bucket.files == set()


def test_files_in_the_bucket_count_to_what_their_owner_keeps(
    bucket: Bucket, tmp_path: Path
) -> None:
    file = project(tmp_path / "project", bucket, "")
    with serving(new_mark(), tmp_path / "data", f"--project={file}") as (_, url):
        large = {"width": 2048, "height": 2048}
        job = httpx.post(f"{url}/infer_sync/hello", json=large, timeout=60).json()
        size = job["outputs"]["images"][0]["size"]
        stored = httpx.get(f"{url}/limits").json()["budgets"]["max_stored_bytes"]["used"]
    assert size > 10_000  # of the job itself there is less
    assert size < stored < size + 10_000


def test_a_purge_deletes_files_in_the_bucket_and_keeps_jobs_whose_files_it_cannot(
    bucket: Bucket, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    file = project(tmp_path / "project", bucket, "")
    with serving(new_mark(), data, f"--project={file}") as (_, url):
        httpx.post(f"{url}/infer_sync/hello", json={}, timeout=60).raise_for_status()
    purge(bucket, f"--data={data}", f"--project={file}")


def test_a_purge_of_a_running_server_deletes_files_in_the_bucket_too(
    bucket: Bucket, tmp_path: Path
) -> None:
    file = project(tmp_path / "project", bucket, "")
    with serving(new_mark(), tmp_path / "data", f"--project={file}") as (_, url):
        httpx.post(f"{url}/infer_sync/hello", json={}, timeout=60).raise_for_status()
        purge(bucket, f"--url={url}")
        assert httpx.get(f"{url}/jobs").json()["jobs"] == []


def purge(bucket: Bucket, *options: str) -> None:
    """While the bucket is down, and then again."""
    command = [*COMMAND, "purge", "--yes", *options]
    for down in (True, False):
        bucket.down = down
        done = subprocess.run(
            command, env=environment("none"), capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        if down:
            assert (done.returncode, len(bucket.files)) == (1, 1)
            assert done.stderr.startswith("error: the object store failed: ")
        else:
            assert (done.returncode, bucket.files) == (0, set())
            assert "1 job" in done.stdout


async def test_a_job_whose_store_is_down_waits_and_the_server_says_so(
    bucket: Bucket, tmp_path: Path
) -> None:
    mark = new_mark()
    file = project(tmp_path / "project", bucket, "")
    with serving(mark, tmp_path / "data", f"--project={file}") as (_, url):
        async with Client(url) as client, httpx.AsyncClient(base_url=url) as http:
            bucket.down = True
            job = await client.infer_async(SMALL)
            assert bucket.refused.wait(60)
            assert not (await job.status()).is_final
            async with asyncio.timeout(60):
                while (await http.get("/ready")).status_code != 503:
                    pass
            bucket.down = False
            out = await job.result()
            assert (await out.images[0].read()).startswith(b"\x89PNG")
            assert (await http.get("/ready")).status_code == 200


async def test_a_job_whose_store_is_down_fails_where_that_is_set(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.down = True
    file = project(tmp_path / "project", bucket, 'when_down = "fail"')
    with serving(new_mark(), tmp_path / "data", f"--project={file}") as (_, url):
        async with Client(url) as client:
            with pytest.raises(JobFailed) as caught:
                await client.infer_sync(SMALL)
    assert caught.value.code == "output_not_stored"
