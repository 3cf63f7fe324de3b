"""``comfysnap.toml``."""

from pathlib import Path

import pytest

from comfysnap_schema.wire.errors import ProjectError
from comfysnap_schema.workflow.project import find_project, open_project, read_project


def test_the_committed_project_is_read_with_absolute_folders(root: Path) -> None:
    project = read_project(root / "comfysnap.toml")
    assert project.workflows == root / "workflows"
    assert project.default == "flux"
    assert project.generate.out == root / "packages/schema/src/comfysnap_schema/workflows"


@pytest.mark.parametrize(
    ("text", "code", "field"),
    [
        ("nmae = 1", "unknown_key", "nmae"),
        ("[generate]\nouts = 1", "unknown_key", "generate.outs"),
        ('name = "Not A Name"', "invalid_value", "name"),
        ('default = "../flux"', "invalid_value", "default"),
        ("default = 3", "invalid_value", "default"),
        ("name = ", "invalid_toml", None),
    ],
)
def test_an_invalid_file_is_reported_with_its_key(
    tmp_path: Path, text: str, code: str, field: str | None
) -> None:
    path = tmp_path / "comfysnap.toml"
    path.write_text(text)
    with pytest.raises(ProjectError) as caught:
        read_project(path)
    assert (caught.value.code, caught.value.field, caught.value.file) == (code, field, str(path))


@pytest.mark.parametrize(
    ("text", "rule"), [('name = "Not A Name"', "0-9 and -"), ('default = "MyFlux"', "snake_case")]
)
def test_an_invalid_name_is_shown_with_the_rule(tmp_path: Path, text: str, rule: str) -> None:
    (tmp_path / "comfysnap.toml").write_text(text)
    with pytest.raises(ProjectError) as caught:
        open_project(tmp_path)
    assert rule in caught.value.message


@pytest.mark.parametrize(("text", "known"), [("nmae = 1", "name"), ("[generate]\nouts = 1", "out")])
def test_an_unknown_key_is_reported_with_the_valid_ones(
    tmp_path: Path, text: str, known: str
) -> None:
    (tmp_path / "comfysnap.toml").write_text(text)
    with pytest.raises(ProjectError) as caught:
        open_project(tmp_path)
    assert known in caught.value.message.replace(",", "").split()


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        open_project(tmp_path)
    assert caught.value.code == "unreadable"


def test_the_nearest_project_above_the_working_directory_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "comfysnap.toml").write_text('name = "above"\n')
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert open_project(None).name == "above"
    assert open_project(tmp_path / "comfysnap.toml").name == "above"


def test_without_a_project_the_defaults_start_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_project(tmp_path) is None
    assert open_project(None).workflows == tmp_path / "workflows"
