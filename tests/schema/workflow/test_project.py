"""``comfysnap.toml``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, with_config

from comfysnap_schema.wire.errors import ProjectError
from comfysnap_schema.workflow.project import (
    SettingsError,
    find_project,
    locate_project,
    open_project,
    read_project,
    read_table,
    setting_error,
)


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


class Inner(BaseModel, extra="forbid"):
    size: int = 0


@with_config(ConfigDict(extra="forbid"))
@dataclass
class Local:
    limit: int = 0


def _even(value: int) -> int:
    if value % 2:
        raise setting_error("odd_value", f"must be even, got {value}")
    return value


class Table(BaseModel, extra="forbid"):
    required: int
    inner: list[Inner] = []
    either: Annotated[int, AfterValidator(_even)] | list[int] = 0
    local: Local = Local()
    named: Annotated[dict[str, Local], AfterValidator(dict)] = {}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({}, [("invalid_value", "t.required", "required")]),
        ({"required": 1, "requierd": 1}, [("unknown_key", "t.requierd", "mean required?")]),
        ({"required": 1, "inner": [{"sise": 1}]}, [("unknown_key", "t.inner[0].sise", "size")]),
        ({"required": 1, "inner": [3]}, [("invalid_value", "t.inner[0]", "table: [t.inner[0]]")]),
        ({"required": 1, "local": {"limt": 1}}, [("unknown_key", "t.local.limt", "limit")]),
        ({"required": 1, "local": {"nope": 1}}, [("unknown_key", "t.local.nope", "keys: limit")]),
        ({"required": 1, "local": 3}, [("invalid_value", "t.local", "must be a table")]),
        ({"required": 1, "named": {"a": {"limt": 1}}},
         [("unknown_key", "t.named.a.limt", "mean limit?")]),
        ({"required": 1, "either": 3}, [("odd_value", "t.either", "must be even, got 3")]),
        ({"required": "x", "inner": 3},
         [("invalid_value", "t.required", "integer"), ("invalid_value", "t.inner", "list")]),
    ],
)  # fmt: skip
def test_every_error_of_a_table_has_its_key_and_says_what_is_valid(
    tmp_path: Path, table: dict[str, Any], expected: list[tuple[str, str, str]]
) -> None:
    file = tmp_path / "comfysnap.toml"
    with pytest.raises(SettingsError) as caught:
        read_table(Table, table, file=file, name="t")
    found = caught.value.errors
    assert [(error.code, error.field) for error in found] == [each[:2] for each in expected]
    for error, (_, _, words) in zip(found, expected, strict=True):
        assert words in error.message
    assert len(str(caught.value).splitlines()) == len(expected)


def test_paths_are_resolved_once_and_the_written_folder_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "comfysnap.toml"
    file.write_text('workflows = "../shared"')
    project = open_project(tmp_path)
    assert project.file == file.resolve()
    assert project.written_workflows == Path("../shared")
    assert project.workflows == file.resolve().parent / "../shared"
    assert project.path(Path("nodes.json")) == tmp_path.resolve() / "nodes.json"
    assert "available: one" in project.unknown_workflow("two", {"one": 1}, "default").message


def test_a_missing_project_is_an_error_where_one_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectError) as caught:
        locate_project(None)
    assert caught.value.code == "no_project"


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
