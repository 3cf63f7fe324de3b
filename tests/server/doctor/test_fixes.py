"""``comfysnap doctor`` prints what to paste, with the sources of models that exports know."""

import json
import tomllib
from pathlib import Path, PurePosixPath

import pytest
from typer.testing import CliRunner

from comfysnap_schema.cli import build_app
from comfysnap_schema.comfy import ModelSource, UsedPack
from comfysnap_schema.propose.sources import model_tables, snapshot, tables_text
from comfysnap_schema.workflow import read_project
from comfysnap_server.deploy import make_deployment
from comfysnap_server.doctor import ProjectIssue, collect_fixes
from comfysnap_server.models import ModelEntry
from comfysnap_server.nodepacks.manifest import GitPack, RegistryPack, parse_manifest

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
    assert "owner/name" not in doctor(project)


def test_a_model_without_a_known_source_gets_a_table_to_complete(project: Path) -> None:
    for name in ("art", "more"):
        (project / "workflows" / name / "models.toml").unlink()
    output = doctor(project)
    assert output.count("[[deploy.models]]") == 1
    text = output[output.index("[[deploy.models]]") :]
    (table,) = tomllib.loads(text)["deploy"]["models"]
    assert ModelEntry.model_validate(table).path == PurePosixPath("checkpoints/a.safetensors")
    file = project / "comfysnap.toml"
    file.write_text(f"{file.read_text()}\n{text}")
    assert "model_not_listed" not in doctor(project)


def test_keys_of_one_table_come_below_one_heading_and_commands_apart(project: Path) -> None:
    issues = [
        ProjectIssue.error("a", "x", "m", '[deploy]\nsnapshot = "cpu"'),
        ProjectIssue.error("b", "y", "m", '[deploy]\nauth = "proxy"'),
        ProjectIssue.error("b", "z", "m", '[deploy]\nauth = "proxy"'),
        ProjectIssue.error("c", "z", "m", "comfysnap models sync"),
        ProjectIssue.error("d", "z", "m"),
    ]
    (project / "comfysnap.toml").write_text('[deploy]\nengine = "simulated"\n')
    found = collect_fixes(issues, make_deployment(read_project(project / "comfysnap.toml")))
    assert tomllib.loads(found.toml) == {"deploy": {"snapshot": "cpu", "auth": "proxy"}}
    assert found.commands == ("comfysnap models sync",)


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


def test_the_node_packs_that_are_written_can_be_installed() -> None:
    packs = [
        UsedPack(id="comfyui-kjnodes", repo="", version="1.10.2"),
        UsedPack(id="", repo="someone/nodes", version="ab12cd34" * 5),
    ]
    manifest = parse_manifest(snapshot(packs)[0])
    assert manifest.packs == (
        GitPack(folder="nodes", url="https://github.com/someone/nodes", commit="ab12cd34" * 5),
        RegistryPack(folder="comfyui-kjnodes", version="1.10.2"),
    )
