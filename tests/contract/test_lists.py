"""What docs/guides/lists.md shows, from the map to the files on disk."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from pydantic import JsonValue

from comfysnap_schema.codegen.emit import generate
from comfysnap_schema.workflow import Workflow, check_workflow
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.settings import GatewaySettings
from tests.contract.processes import COMMAND
from tests.paths import ROOT
from tests.servers import running

DOCUMENT = (ROOT / "docs" / "guides" / "lists.md").read_text(encoding="utf-8")
EDIT = ROOT / "examples" / "edit"


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A server of the example, whose sampler takes no time."""
    backend = LocalBackend(tmp_path_factory.mktemp("data"), engine_options={"step_seconds": 0})
    workflow = Workflow.load(EDIT)
    with running(create_app(backend, {"edit": workflow}, GatewaySettings())) as server:
        yield server.url


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the example, and two pictures: a small one, and one to be uploaded."""
    (tmp_path / "comfysnap.toml").write_text(
        'name = "shop"\n[generate]\nout = "comfysnap_models"\n'
    )
    shutil.copytree(EDIT, tmp_path / "workflows" / "edit")
    Image.new("RGB", (8, 8)).save(tmp_path / "cup.png")
    Image.effect_noise((1200, 1200), 90).save(tmp_path / "book.png")
    return tmp_path


def run(*command: str, folder: Path, url: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "COMFYSNAP_URL": url, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_map_in_the_document_is_that_of_the_example() -> None:
    text = (EDIT / "workflow.toml").read_text()
    for table in block("toml").split("\n\n"):
        assert table.strip() in text


def test_the_example_is_valid_with_any_number_of_pictures() -> None:
    workflow = Workflow.load(EDIT)
    assert check_workflow(workflow).issues == ()
    for count in (1, 2, 3):
        images: list[JsonValue] = [f"{n}.png" for n in range(count)]
        graph = workflow.apply({"images": images, "prompt": "x", "loras": [{"name": "a"}]})
        assert workflow.validate(graph) == []
        assert f"image{count}" in graph["20"]["inputs"]
        assert f"image{count + 1}" not in graph["20"]["inputs"]


def test_the_typing_cases_have_the_generated_model() -> None:
    source = generate({"edit": Workflow.load(EDIT)})["edit.py"]
    assert (ROOT / "tests" / "typing_cases" / "edit.py").read_text() == source


def test_the_program_in_the_document_runs(project: Path, url: str) -> None:
    made = run(*COMMAND, "generate", folder=project)
    assert made.returncode == 0, made.stderr
    done = run(sys.executable, "-c", block("python"), folder=project, url=url)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "table.png\n")
    assert (project / "table.png").is_file()
    job = httpx.get(f"{url}/jobs").json()["jobs"][0]
    assert len(job["inputs"]["images"]) == 2
    assert job["inputs"]["loras"] == [{"name": "style/ink.safetensors", "strength": 0.8}]


def test_the_command_in_the_document_runs(project: Path, url: str) -> None:
    program, *arguments = shlex.split(block("sh"))
    assert program == "comfysnap"
    done = run(*COMMAND, *arguments, folder=project, url=url)
    assert done.returncode == 0, done.stderr
    job = httpx.get(f"{url}/jobs").json()["jobs"][0]
    assert len(job["inputs"]["images"]) == 2
    assert job["inputs"]["loras"] == [{"name": "style/ink.safetensors", "strength": 0.8}]
    wrong = run(*COMMAND, "infer", "edit", "prompt=x", "images=[]", folder=project, url=url)
    assert wrong.returncode == 2
    assert "images: needs at least 1 item, not 0" in wrong.stderr
