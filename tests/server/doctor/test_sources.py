"""``comfysnap doctor`` names the sources of missing models that exports know."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comfysnap_schema.cli import build_app
from comfysnap_schema.comfy import ModelSource
from comfysnap_schema.propose.sources import model_tables, tables_text
from comfysnap_server.models import ModelEntry

SOURCES = tables_text(
    model_tables(
        [
            ModelSource(
                folder="checkpoints",
                name="a.safetensors",
                url="https://huggingface.co/owner/name/resolve/main/split/a.safetensors",
            ),
            ModelSource(folder="loras", name="unused.pt", url="https://example.com/unused.pt"),
        ]
    )
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two workflows that need one model, whose source both exports name."""
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    }
    for name in ("art", "more"):
        folder = tmp_path / "workflows" / name
        folder.mkdir(parents=True)
        (folder / "graph.json").write_text(json.dumps(graph))
        (folder / "workflow.toml").write_text(f'name = "{name}"\n[outputs.images]\nnode = "3"\n')
        (folder / "models.toml").write_text(SOURCES)
    (tmp_path / "comfysnap.toml").write_text("[deploy]\n")
    return tmp_path


def doctor(project: Path, *options: str) -> str:
    return CliRunner().invoke(build_app(), ["doctor", "--project", str(project), *options]).output


def test_the_lines_for_a_missing_model_are_printed_once_and_only_while_it_is_missing(
    project: Path,
) -> None:
    output = doctor(project)
    assert output.count("[[deploy.models]]") == 1
    text = output[output.index("[[deploy.models]]") :]
    assert tomllib.loads(text)["deploy"]["models"] == [
        {"folder": "checkpoints", "repo": "owner/name", "file": "split/a.safetensors"}
    ]
    file = project / "comfysnap.toml"
    file.write_text(f"{file.read_text()}\n{text}")
    assert "deploy.models]]" not in doctor(project)
    assert json.loads(doctor(project, "--json")) is not None


def test_a_simulated_or_broken_project_prints_no_sources(project: Path) -> None:
    file = project / "comfysnap.toml"
    file.write_text('[deploy]\nengine = "simulated"\n')
    assert "deploy.models]]" not in doctor(project)
    file.write_text("[deploy]\n")
    (project / "workflows" / "art" / "workflow.toml").write_text("name = 3\n")
    assert "deploy.models]]" not in doctor(project)


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/owner/name/resolve/v1/a%20b.safetensors?download=true",
        "https://civitai.com/api/download/models/12?token=x",
        "https://example.com/get?id=3",
    ],
)
def test_every_entry_that_is_written_is_a_valid_one(url: str) -> None:
    source = ModelSource(folder="loras/x", name="a.safetensors", url=url, sha256="ab" * 32)
    (table,) = model_tables([source])
    entry = ModelEntry.model_validate(table)
    assert str(entry.path) == "loras/x/a.safetensors"
