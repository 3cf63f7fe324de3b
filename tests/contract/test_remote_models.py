"""What docs/guides/remote-models.md shows, from the map to the files on disk."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.processes import COMMAND
from tests.contract.test_lists import run
from tests.paths import ROOT
from tests.server.models.model_server import ModelServer, Served, safetensors, serve_models

DOCUMENT = (ROOT / "docs" / "guides" / "remote-models.md").read_text(encoding="utf-8")
BASE, STYLE = safetensors(b"base"), safetensors(b"style")
MAP = """
name = "portrait"
{tables}
[outputs.image]
node = "9"
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
NODES = {
    "CheckpointLoaderSimple": {
        "input": {"required": {"ckpt_name": [["base.safetensors"]]}},
        "output": ["MODEL", "CLIP", "VAE"],
        "python_module": "nodes",
    }
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def models() -> Iterator[ModelServer]:
    with serve_models() as models:
        models.files["/OWNER/NAME/resolve/main/base.safetensors"] = Served(BASE, token="sesame")
        models.files["/api/download/models/12345"] = Served(STYLE)
        yield models


@pytest.fixture
def project(tmp_path: Path, models: ModelServer) -> Path:
    """A project with the tables of the document, and the loopback for its hosts."""
    settings, tables = blocks("toml")
    assert 'hosts = ["huggingface.co", "civitai.com"]' in settings
    (tmp_path / "comfysnap.toml").write_text(
        'name = "shop"\n[generate]\nout = "comfysnap_models"\n'
        "[serve.remote_models]\n"
        'hosts = ["127.0.0.1"]\nprivate_networks = ["127.0.0.1/32"]\n'
        'tokens = { "127.0.0.1" = "SITE_TOKEN" }\n'
    )
    workflow = tmp_path / "workflows" / "portrait"
    workflow.mkdir(parents=True)
    (workflow / "workflow.toml").write_text(MAP.format(tables=tables))
    (workflow / "graph.json").write_text(json.dumps(GRAPH))
    (workflow / "nodes.json").write_text(json.dumps(NODES))
    return tmp_path


@pytest.fixture
def url(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("SITE_TOKEN", "sesame")
    command = [*COMMAND, "serve", "--engine", "simulated", "--engine-option", "step_seconds=0"]
    with subprocess.Popen(
        [*command, "--port", "0", "--until-stdin-closes"],
        cwd=project,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().split()[-1]
        process.stdin.close()
        process.stdout.read()


def local(text: str, models: ModelServer) -> str:
    for host in ("huggingface.co", "civitai.com"):
        text = text.replace(f"https://{host}", models.url)
    return text.replace("SHA256", hashlib.sha256(BASE).hexdigest())


def kept(project: Path) -> dict[str, str]:
    files = (project / ".comfysnap" / "model_cache" / "models").glob("*/remote/*.safetensors")
    return {path.parent.parent.name: path.stem for path in files}


EXPECTED = {
    "checkpoints": hashlib.sha256(BASE).hexdigest(),
    "loras": hashlib.sha256(STYLE).hexdigest(),
}


def test_the_program_in_the_document_runs(project: Path, url: str, models: ModelServer) -> None:
    made = run(*COMMAND, "generate", folder=project)
    assert made.returncode == 0, made.stderr
    (program,) = blocks("python")
    done = run(sys.executable, "-c", local(program, models), folder=project, url=url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "downloading_models" in done.stdout
    assert done.stdout.splitlines()[-1] == "portrait.png"
    assert kept(project) == EXPECTED
    assert [ask.headers.get("Authorization") for ask in models.asked] == ["Bearer sesame"] * 2


def test_the_command_in_the_document_runs(project: Path, url: str, models: ModelServer) -> None:
    (command,) = blocks("sh")
    program, *arguments = shlex.split(local(command, models))
    assert program == "comfysnap"
    done = run(*COMMAND, *arguments, folder=project, url=url)
    assert done.returncode == 0, done.stderr
    assert kept(project) == EXPECTED
    job = httpx.get(f"{url}/jobs").json()["jobs"][0]
    assert job["inputs"]["loras"][0]["strength"] == 0.8
    wrong = run(
        *COMMAND, "infer", "portrait", "checkpoint=https://x.com/a", folder=project, url=url
    )
    assert wrong.returncode != 0
    assert "model_refused" in wrong.stderr
    assert "checkpoint: the host 'x.com' is not allowed" in wrong.stderr
