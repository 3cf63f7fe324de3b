"""Jobs and problems as text."""

from typing import Any

import pytest

from comfysnap_client.cli.show import describe, job_lines, problem_lines, share_done
from comfysnap_client.errors import APIError
from comfysnap_schema.wire.errors import FieldProblem, Problem
from comfysnap_schema.wire.jobs import JobRecord, Progress

NOW = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("progress", "status", "text"),
    [
        (Progress(queue_position=3), "queued", "queued, 3 ahead"),
        (Progress(), "queued", "queued"),
        (Progress(), "running", "running"),
        (Progress(node_class="KSampler", step=2, steps=4), "running", "KSampler 2/4"),
        (Progress(node_class="KSampler", node_title="Draw"), "running", "Draw"),
        (Progress(phase="downloading_models", queue_position=2), "queued", "downloading models"),
        (
            Progress(phase="downloading_models", bytes_done=1_500_000),
            "queued",
            "downloading models, 1.5 MB",
        ),
        (
            Progress(phase="downloading_models", bytes_done=1_500_000, bytes_total=2_000_000_000),
            "running",
            "downloading models, 1.5 of 2000.0 MB",
        ),
    ],
)
def test_progress_is_described_in_a_few_words(progress: Progress, status: str, text: str) -> None:
    assert describe(progress, status) == text


def test_the_bar_shows_the_bytes_of_a_phase_and_then_the_share_of_the_job() -> None:
    loading = Progress(phase="downloading_models", bytes_done=5, bytes_total=20)
    assert share_done(loading) == 0.25
    assert share_done(Progress(phase="downloading_models", bytes_done=5)) == 0
    assert share_done(Progress(fraction=0.5)) == 0.5


def test_a_job_is_described_in_a_few_lines() -> None:
    base: dict[str, Any] = {"id": "job_1", "workflow": "draw", "version": 1, "created_at": NOW}
    running = JobRecord.model_validate(
        {**base, "status": "running", "cancel_requested_at": NOW, "progress": {"fraction": 0.5}}
    )
    assert job_lines(running) == ["job_1  draw  running, cancelling", "  50%  running"]
    loading = JobRecord.model_validate(
        {**base, "status": "queued", "progress": {"phase": "downloading_models"}}
    )
    assert job_lines(loading)[1:] == ["  downloading models"]
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
