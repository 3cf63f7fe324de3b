import json
from collections.abc import Callable
from pathlib import Path

import pytest

from comfysnap_schema.errors import ProjectError
from comfysnap_server.deploy.deployment import read_deployment
from comfysnap_server.deploy.image import build_image, comfyui_commit, read_nodes
from comfysnap_server.deploy.settings import DEFAULT_COMFYUI

ONE, OTHER = "1" * 40, "2" * 40


@pytest.mark.parametrize(
    ("setting", "snapshot", "expected"),
    [(None, None, DEFAULT_COMFYUI), (ONE, None, ONE), (None, OTHER, OTHER), (ONE, ONE, ONE)],
)
def test_the_commit_comes_from_the_settings_or_the_snapshot(
    write: Callable[[str], Path],
    tmp_path: Path,
    setting: str | None,
    snapshot: str | None,
    expected: str,
) -> None:
    (tmp_path / "snapshot.json").write_text(json.dumps({"comfyui": snapshot}))
    pin = f'comfyui = "{setting}"' if setting else ""
    deployment = read_deployment(write(f'[deploy]\nnodes = "snapshot.json"\n{pin}'))
    assert comfyui_commit(deployment, read_nodes(deployment)) == expected


def test_two_commits_that_differ_are_refused(write: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "snapshot.json").write_text(json.dumps({"comfyui": OTHER}))
    text = f'[deploy]\nnodes = "snapshot.json"\ncomfyui = "{ONE}"'
    with pytest.raises(ProjectError) as raised:
        build_image(read_deployment(write(text)))
    assert (raised.value.code, raised.value.field) == ("comfyui_conflict", "deploy.comfyui")


def test_a_wrong_snapshot_is_named_with_its_entry(
    write: Callable[[str], Path], tmp_path: Path
) -> None:
    file = tmp_path / "snapshot.json"
    file.write_text(json.dumps({"cnr_custom_nodes": {"pack": "latest"}}))
    with pytest.raises(ProjectError) as raised:
        build_image(read_deployment(write('[deploy]\nnodes = "snapshot.json"')))
    assert (raised.value.code, raised.value.field) == ("not_pinned", "cnr_custom_nodes.pack")
    assert raised.value.file == str(file.resolve())
