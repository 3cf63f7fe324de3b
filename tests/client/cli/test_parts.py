"""Parsing of arguments, and output."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from comfysnap_client import Client, ConnectionFailed, DeadlineExceeded
from comfysnap_client.cli import run
from comfysnap_client.cli.inputs import InvalidArguments, parse_inputs
from comfysnap_client.cli.show import (
    describe,
    job_lines,
    problem_lines,
)
from comfysnap_client.errors import (
    APIError,
    DownloadFailed,
    Unauthorized,
    UnexpectedResponse,
    job_error,
    job_id_of,
    with_job,
)
from comfysnap_client.testing import MockServer
from comfysnap_schema.wire.errors import FieldProblem, Problem
from comfysnap_schema.wire.files import FileByUrl
from comfysnap_schema.wire.jobs import JobRecord, Progress
from tests.client.fakes import CONTRACT, DrawInput, DrawOutput, names

SCHEMA: dict[str, Any] = CONTRACT["input_schema"]
NOW = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("prompt=a=b", "a=b"),
        ("prompt=", ""),
        ("steps=-3", -3),
        ("scale=1.5", 1.5),
        ("tiled=on", True),
        ("tiled=0", False),
        ("sampler=heun", "heun"),
        ("seed=18446744073709551615", 18446744073709551615),
        ("negative=42", "42"),
        ("negative=null", "null"),
        ("strength=0.5", 0.5),
        ("strength=null", None),
        ("image=https://example.com/x.png", FileByUrl(url="https://example.com/x.png")),
        ('extra={"a": [1]}', {"a": [1]}),
        ("extra=plain", "plain"),
    ],
)
def test_values_are_parsed_by_their_type(word: str, value: object) -> None:
    inputs = parse_inputs(["prompt=x", word] if not word.startswith("prompt") else [word], SCHEMA)
    assert inputs[word.split("=")[0]] == value


@pytest.mark.parametrize(
    ("word", "field"),
    [
        ("steps=1.5", "steps"),
        ("scale=nan", "scale"),
        ("scale=much", "scale"),
        ("tiled=maybe", "tiled"),
        ("sampler=eular", "sampler"),
        ("sampler=zzz", "sampler"),
        ("strength=much", "strength"),
        ("seed=x", "seed"),
        ("image=@nowhere.png", "image"),
        ("image=", "image"),
        ("zzzzzz=1", "zzzzzz"),
        ("prompt=twice", "prompt"),
        ("bare", "bare"),
        ("=value", "=value"),
    ],
)
def test_each_invalid_argument_is_reported_for_its_field(word: str, field: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        parse_inputs(["prompt=x", word], SCHEMA)
    assert [found.field for found in caught.value.fields] == [field]


def test_a_workflow_without_inputs_accepts_none() -> None:
    assert parse_inputs([], {}) == {}
    with pytest.raises(InvalidArguments):
        parse_inputs(["a=1"], {})


def test_a_file_argument_becomes_a_path(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.touch()
    assert parse_inputs(["prompt=x", f"image=@{path}"], SCHEMA)["image"] == path


@pytest.mark.parametrize(
    ("progress", "status", "text"),
    [
        (Progress(queue_position=3), "queued", "queued, 3 ahead"),
        (Progress(), "queued", "queued"),
        (Progress(), "running", "running"),
        (Progress(node_class="KSampler", step=2, steps=4), "running", "KSampler 2/4"),
        (Progress(node_class="KSampler", node_title="Draw"), "running", "Draw"),
    ],
)
def test_progress_is_described_in_a_few_words(progress: Progress, status: str, text: str) -> None:
    assert describe(progress, status) == text


def test_a_job_is_described_in_a_few_lines() -> None:
    base: dict[str, Any] = {"id": "job_1", "workflow": "draw", "version": 1, "created_at": NOW}
    running = JobRecord.model_validate(
        {**base, "status": "running", "cancel_requested_at": NOW, "progress": {"fraction": 0.5}}
    )
    assert job_lines(running) == ["job_1  draw  running, cancelling", "  50%  running"]
    error = {"title": "no", "code": "node_failed", "fields": [{"node": "3", "message": "bad"}]}
    failed = JobRecord.model_validate(
        {**base, "status": "failed", "timings": {"run": 1.25}, "error": error}
    )
    assert job_lines(failed)[1:] == ["  ran 1.2 s", "  node_failed: no", "    3: bad"]


def test_a_field_mentioned_in_the_detail_is_not_repeated() -> None:
    fields = (FieldProblem(field="steps", message="few"), FieldProblem(field="seed", message="x"))
    problem = Problem(title="no", detail="steps: few", code="invalid_input", fields=fields)
    assert problem_lines(problem) == ["invalid_input: steps: few", "  seed: x"]
    assert APIError(problem).message == "steps: few: seed: x"


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
