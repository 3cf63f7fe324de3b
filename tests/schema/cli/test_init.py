"""``comfysnap init``: a project that is complete at once."""

import tomllib
from pathlib import Path

import pytest

from comfysnap_schema.cli.init import project_text
from comfysnap_schema.wire.errors import ProjectError
from comfysnap_schema.workflow.project import read_project
from comfysnap_server.deploy.settings import DeploySettings
from comfysnap_server.serve_settings import read_serve
from tests.paths import ROOT
from tests.schema.conftest import comfysnap

PACKAGED = ROOT / "packages/schema/src/comfysnap_schema/cli/example/hello"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_project_has_settings_a_workflow_its_types_and_a_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = comfysnap("init", "My Shop")
    assert code == 0
    project = tmp_path / "My Shop"
    assert files(project) == {
        "comfysnap.toml", ".gitignore", "pyproject.toml", "tests/test_hello.py",
        "comfysnap_models/__init__.py", "comfysnap_models/hello.py",
        "workflows/hello/graph.json", "workflows/hello/workflow.toml",
        "workflows/hello/nodes.json", "workflows/hello/contracts.json",
    }  # fmt: skip
    assert read_project(project / "comfysnap.toml").name == "my-shop"
    assert ".comfysnap/" in (project / ".gitignore").read_text().splitlines()
    settings = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["pytest"]
    assert settings["ini_options"]["asyncio_mode"] == "auto"
    assert settings["ini_options"]["pythonpath"] == ["."]
    assert "cd My Shop" in output
    assert comfysnap("check", "--project", str(project))[0] == 0
    assert comfysnap("generate", "--check", "--project", str(project))[0] == 0


def test_files_that_exist_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".gitignore", "pyproject.toml"):
        (tmp_path / name).write_text("# mine\n")
    code, output = comfysnap("init")
    assert code == 0
    for name in (".gitignore", "pyproject.toml"):
        assert (tmp_path / name).read_text() == "# mine\n"
        assert f"kept {name}" in output
    assert 'asyncio_mode = "auto"' in output
    assert "\n  cd " not in output


def test_a_project_is_not_made_twice(tmp_path: Path) -> None:
    assert comfysnap("init", str(tmp_path))[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.toml")}
    with pytest.raises(ProjectError) as caught:
        comfysnap("init", str(tmp_path))
    assert caught.value.code == "exists"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.toml")} == before


def test_every_commented_setting_of_a_new_project_is_valid(tmp_path: Path) -> None:
    """Only lines that are TOML are uncommented, not the sentence at the top."""
    lines = project_text("shop").splitlines()
    assert lines[0].startswith("# Settings")
    (tmp_path / "workflows" / "hello").mkdir(parents=True)
    file = tmp_path / "comfysnap.toml"
    file.write_text("\n".join(line.removeprefix("# ") for line in lines[1:]))
    project = read_project(file)
    assert project.default == "hello"
    assert read_serve(project).auth == "keys"
    assert DeploySettings.model_validate(project.deploy).gpus == ["L40S"]


def test_the_packaged_example_is_that_of_the_repository() -> None:
    source = ROOT / "workflows" / "hello"
    files = {path.name: path.read_bytes() for path in source.glob("*.*")}
    packaged = {path.name: path.read_bytes() for path in PACKAGED.glob("*.*")}
    assert packaged == files, f"cp workflows/hello/* {PACKAGED.relative_to(ROOT)}"
