"""Exit codes, error messages and saved results of commands."""

import asyncio
import os
from pathlib import Path

import pytest

from comfysnap_client import Client, ConnectionFailed, DeadlineExceeded
from comfysnap_client.cli import run
from comfysnap_client.cli.inputs import InvalidArguments
from comfysnap_client.errors import (
    DownloadFailed,
    Unauthorized,
    UnexpectedResponse,
    job_error,
    job_id_of,
    with_job,
)
from comfysnap_client.testing import MockServer
from comfysnap_schema.wire.errors import FieldProblem, Problem
from comfysnap_schema.wire.jobs import JobRecord
from tests.client.fakes import DrawInput, DrawOutput, names

NOW = "2026-01-01T00:00:00Z"

FAILED = JobRecord.model_validate(
    {"id": "job_1", "workflow": "draw", "version": 1, "created_at": NOW, "status": "failed",
     "error": {"title": "no", "code": "node_failed", "request_id": "r"}}
)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (job_error(FAILED), 1),
        (DeadlineExceeded("late"), 4),
        (ConnectionFailed("gone"), 3),
        (DownloadFailed("short", job_id="job_1"), 3),
        (UnexpectedResponse("a router"), 3),
        (Unauthorized(Problem(title="no", code="unauthorized"), status=401), 3),
        (with_job(OSError(28, "No space left", "fox.png"), "job_1"), 2),
        (InvalidArguments([FieldProblem(field="steps", message="few")]), 2),
        (ValueError("no such label"), 2),
        (PermissionError("the folder cannot be written"), 2),
        (PermissionError(13, "Permission denied", "out"), 2),
        (asyncio.CancelledError(), 130),
        (with_job(asyncio.CancelledError(), "job_1"), 130),
    ],
)
def test_each_error_has_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(_client: Client) -> None:
        raise error

    assert run.run("http://127.0.0.1:1", 1, work) == code
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("cancels", "line"), [(True, "cancelled job_1"), (False, "comfysnap result job_1")]
)
def test_an_interrupted_command_reports_its_job(
    capsys: pytest.CaptureFixture[str], cancels: bool, line: str
) -> None:
    async def work(_client: Client) -> None:
        raise with_job(asyncio.CancelledError(), "job_1")

    assert run.run("http://127.0.0.1:1", 1, work, cancels=cancels) == 130
    assert line in capsys.readouterr().err


def test_a_timeout_prints_the_last_failure(capsys: pytest.CaptureFixture[str]) -> None:
    async def work(_client: Client) -> None:
        raise DeadlineExceeded("late", job_id="job_1") from ConnectionFailed("cannot connect")

    assert run.run("http://127.0.0.1:1", 1, work) == 4
    assert "cannot connect" in capsys.readouterr().err


def test_a_successful_command_prints_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    async def work(client: Client) -> None:
        assert client.base_url == "http://127.0.0.1:1"

    assert run.run("http://127.0.0.1:1", 1, work) == 0
    assert capsys.readouterr() == ("", "")


async def test_the_result_of_a_job_is_saved_and_its_paths_printed(
    comfysnap_server: MockServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = DrawOutput(images=(comfysnap_server.image(),), text="a fox")
    comfysnap_server.on(DrawInput).succeeds(done)
    options = run.OutputOptions(out=tmp_path, json=False)
    async with comfysnap_server.client() as client:
        job = await client.infer_async(DrawInput(prompt="a fox"))
        await run.result(client, job.id, options, 10)
    (saved,) = (tmp_path / name for name in names(tmp_path))
    assert capsys.readouterr().out == f"{saved}\ntext: a fox\n"


async def test_an_unwritable_folder_is_reported_with_the_job(
    comfysnap_server: MockServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def access(_path: Path, _mode: int) -> bool:
        return False  # root, who runs some tests, may write anywhere

    monkeypatch.setattr(os, "access", access)
    done = DrawOutput(images=(comfysnap_server.image(),), text="a fox")
    comfysnap_server.on(DrawInput).succeeds(done)
    options = run.OutputOptions(out=tmp_path, json=False)
    async with comfysnap_server.client() as client:
        job = await client.infer_async(DrawInput(prompt="a fox"))
        with pytest.raises(PermissionError) as caught:
            await run.result(client, job.id, options, 10)
    assert caught.value.filename == str(tmp_path)
    assert job_id_of(caught.value) == job.id
