"""Output files in a bucket, against a server that checks signatures."""

import hashlib
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import httpx
import pytest

from comfysnap_schema.wire import JobRecord, JobStatus, Kind, OutputFile
from comfysnap_server.engine.outputs import JobOutput
from comfysnap_server.jobs import Outcome, OutputStore, OutputStoreSettings, keep_outputs
from comfysnap_server.jobs.output_store import OutputStoreError
from tests.s3_server import BUCKET, Bucket, s3_server

LARGE = bytes(range(256)) * 65536  # 16 MiB, more than one part


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Bucket]:
    root = tmp_path / "s3"
    root.mkdir()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "first")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "first secret")
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE", raising=False)
    with s3_server(root) as bucket:
        yield bucket


def store(bucket: Bucket, **settings: object) -> OutputStore:
    url = f"s3://{BUCKET}/out"
    return OutputStore(
        url,
        OutputStoreSettings.model_validate(
            {"store": url, "endpoint": bucket.url, "region": "auto", **settings}
        ),
    )


def written(folder: Path, name: str, content: bytes) -> OutputFile:
    (folder / name).write_bytes(content)
    return OutputFile(
        name=name, kind=Kind.IMAGE, content_type="image/png", size=len(content),
        sha256=hashlib.sha256(content).hexdigest(), url=f"/outputs/job_1/{name}",
    )  # fmt: skip


def succeeded(*files: OutputFile) -> Outcome:
    outputs = {"images": JobOutput(files=files, many=True), "text": JobOutput(values=("x",))}
    return Outcome(status=JobStatus.SUCCEEDED, outputs=outputs)


def record(outcome: Outcome) -> JobRecord:
    outputs = {name: output.on_wire() for name, output in (outcome.outputs or {}).items()}
    return JobRecord(
        id="job_1", workflow="flux", status=JobStatus.SUCCEEDED, version=3, outputs=outputs,
        created_at=datetime.now(UTC),
    )  # fmt: skip


async def test_files_are_read_through_links_without_a_key_and_only_through_them(
    bucket: Bucket, tmp_path: Path
) -> None:
    ours = store(bucket)
    files = [written(tmp_path, "a.png", b"small"), written(tmp_path, "b.png", LARGE)]
    await ours.put("job_1", tmp_path, files)
    job = await ours.with_links(record(succeeded(*files)))
    assert job.outputs is not None
    assert job.outputs["text"] == "x"
    images = cast("list[dict[str, str]]", job.outputs["images"])
    async with httpx.AsyncClient() as http:
        for image, content in zip(images, (b"small", LARGE), strict=True):
            url = image["url"]
            assert (await http.get(url)).content == content
            assert (await http.get(url.partition("?")[0])).status_code == 403
            assert (await http.get(url.replace("_1/", "_2/"))).status_code == 403
            part = await http.get(url, headers={"Range": "bytes=1-3"})
            assert (part.status_code, part.content) == (206, content[1:4])


async def test_a_link_expires(bucket: Bucket, tmp_path: Path) -> None:
    ours = store(bucket)
    await ours.put("job_1", tmp_path, [written(tmp_path, "a.png", b"small")])
    url = await ours.link("job_1", "a.png")
    async with httpx.AsyncClient() as http:
        bucket.ahead = timedelta(minutes=59)
        assert (await http.get(url)).content == b"small"
        bucket.ahead = timedelta(minutes=61)
        assert "Request has expired" in (await http.get(url)).text


async def test_rotated_credentials_are_read_from_the_file(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setattr("comfysnap_server.jobs.output_store._REREAD", timedelta(0))

    def use(key: str) -> None:
        text = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {key} secret\n"
        file.write_text(text)
        bucket.keys = {key: f"{key} secret"}

    use("second")
    ours = store(bucket)
    await ours.put("job_1", tmp_path, [written(tmp_path, "a.png", b"small")])
    old = await ours.link("job_1", "a.png")
    use("third")
    new = await ours.link("job_1", "a.png")
    async with httpx.AsyncClient() as http:
        assert (await http.get(old)).status_code == 403
        assert (await http.get(new)).content == b"small"


async def test_files_of_a_job_are_deleted_and_no_others(bucket: Bucket, tmp_path: Path) -> None:
    ours = store(bucket)
    for job in ("job_1", "job_10", "job_2"):
        await ours.put(job, tmp_path, [written(tmp_path, "a.png", b"small")])
    await ours.delete(["job_1", "job_2", "job_3"])
    assert bucket.files == {"out/job_10/a.png"}


async def test_a_job_waits_for_a_store_that_is_down(bucket: Bucket, tmp_path: Path) -> None:
    ours, outcome = store(bucket), succeeded(written(tmp_path, "a.png", b"small"))
    told: list[str | None] = []
    bucket.down = True

    def tell(problem: str | None) -> None:
        told.append(problem)
        bucket.down = False

    kept = await keep_outputs(ours, "job_1", tmp_path, outcome, stopped=lambda: False, told=tell)
    assert kept is outcome
    assert bucket.files == {"out/job_1/a.png"}
    assert (told[0] or "").startswith("the object store failed: ")
    assert told[1:] == [None]


async def test_or_it_fails_at_once_where_that_is_set(bucket: Bucket, tmp_path: Path) -> None:
    ours = store(bucket, when_down="fail")
    bucket.down = True
    outcome = succeeded(written(tmp_path, "a.png", b"small"))
    kept = await keep_outputs(ours, "job_1", tmp_path, outcome, stopped=lambda: False)
    assert kept.error is not None
    assert (kept.status, kept.error.code) == (JobStatus.FAILED, "output_not_stored")


async def test_a_job_that_is_stopped_waits_no_longer(bucket: Bucket, tmp_path: Path) -> None:
    bucket.down = True
    outcome = succeeded(written(tmp_path, "a.png", b"small"))
    kept = await keep_outputs(
        store(bucket), "job_1", tmp_path, outcome, stopped=bucket.refused.is_set
    )
    assert kept.status is JobStatus.CANCELLED


async def test_values_that_look_like_files_of_others_stay(bucket: Bucket, tmp_path: Path) -> None:
    fake = written(tmp_path, "x", b"").model_dump(mode="json")
    foreign = {**fake, "url": "/outputs/job_2/x"}
    job = record(Outcome(status=JobStatus.SUCCEEDED, outputs={
        "json": JobOutput(values=(foreign, {"url": "/outputs/job_1/x"}), many=True)
    }))  # fmt: skip
    assert await store(bucket).with_links(job) == job


async def test_wrong_credentials_are_a_problem_that_names_none(bucket: Bucket) -> None:
    bucket.keys = {"first": "another secret"}
    problem = await store(bucket).problem()
    assert problem is not None
    assert problem.startswith("the object store failed: ")
    assert "secret" not in problem
    with pytest.raises(OutputStoreError):
        await store(bucket).delete(["job_1"])
