"""The TypeScript client, on Node.js, against ``comfysnap serve``."""

import hashlib
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.contract.processes import new_mark, serving
from tests.typescript.conftest import RunNode


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A server whose samplers take 0.1 s a step."""
    data = tmp_path_factory.mktemp("data")
    with serving(new_mark(), data, "--engine-option=step_seconds=0.1") as (_, url):
        yield url


def test_a_workflow_runs_with_progress_and_its_files_are_downloaded(
    run_node: RunNode, url: str
) -> None:
    result = run_node("serve", "infer", url)
    record = result["record"]
    assert record["status"] == "succeeded"
    sent = httpx.get(f"{url}/check_status/{record['id']}").json()["inputs"]["seed"]
    assert sent == 2**60 + 1
    assert record["labels"] == {"made": "by a test"}
    assert result["sizes"] == [file["size"] for file in record["outputs"]["images"]]
    assert result["types"] == ["image/png"] * 2
    assert result["fractions"] == sorted(result["fractions"])
    assert result["fractions"][-1] == 1


def test_a_workflow_runs_by_its_name(run_node: RunNode, url: str) -> None:
    result = run_node("serve", "untyped", url)
    assert [file["kind"] for file in result["outputs"]["images"]] == ["image"]
    assert result["workflows"] == ["flux", "hello", "img2img", "sdxl", "video"]


def test_a_job_has_events_outputs_a_result_and_links(run_node: RunNode, url: str) -> None:
    result = run_node("serve", "job", url)
    assert result["events"][-1] == "done"
    assert "output" in result["events"]
    assert result["outputs"] == [{"name": "images", "value": result["result"]["images"]}]
    assert result["status"]["outputs"] == result["result"]
    assert result["bytes"] == result["result"]["images"][0]["size"]


def test_small_files_are_inline_and_large_ones_uploaded_once(
    run_node: RunNode, url: str, tmp_path: Path
) -> None:
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    Image.new("RGB", (8, 8)).save(small)
    Image.effect_noise((800, 800), 90).save(large)
    assert large.stat().st_size > 256 * 1024
    result = run_node("serve", "upload", url, small, large)
    assert result["inline"] == "image"
    sha256 = hashlib.sha256(large.read_bytes()).hexdigest()
    for record in result["records"]:
        assert record["status"] == "succeeded"
        assert record["inputs"]["image"]["sha256"] == sha256


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        ("abort", {"isReason": True, "isCancelled": True, "status": "cancelled"}),
        ("cancel", {"isCancelled": True, "final": "cancelled"}),
        ("timeout", {"error": "DeadlineExceeded", "status": "cancelled"}),
        ("others", {"error": "AbortError: This operation was aborted", "images": 1}),
    ],
)
def test_a_call_that_ends_early_cancels_the_job_that_nobody_else_waits_for(
    run_node: RunNode, url: str, scenario: str, expected: dict[str, Any]
) -> None:
    assert run_node("serve", scenario, url) == expected


def test_errors_have_their_class_and_fields(run_node: RunNode, url: str) -> None:
    result = run_node("serve", "errors", url)
    assert result["local"] == [0, [{"field": "steps", "message": "must be at most 50"}]]
    attempts, fields = result["remote"]
    assert attempts == 1
    assert {field["field"] for field in fields} == {"steps", "stepz"}
    assert result["outdated"] is True
    assert result["unknown"] == "unknown_job"


def test_the_example_draws_and_saves_a_picture(
    node: str, build: Path, url: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [node, str(build / "dist" / "draw.js")], env={"COMFYSNAP_URL": url}, cwd=tmp_path,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    (picture,) = tmp_path.glob("*.png")
    assert done.stdout == f"saved {picture.name}\n"
    with Image.open(picture) as image:
        assert image.size == (1024, 1024)
