"""``comfysnap comfyui nodes``."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from comfysnap_schema.cli import build_app
from tests.server.nodepacks.sources import INIT, Host, git_nodes, has

pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")

Install = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def command(
    tmp_path: Path, python: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Runs ``comfysnap comfyui nodes`` with COMFYUI_PATH set."""
    comfyui = tmp_path / "comfyui"
    comfyui.mkdir()
    (comfyui / "nodes.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    monkeypatch.setenv("COMFYUI_PYTHON", str(python))

    def run(snapshot: dict[str, Any], *options: str) -> Any:
        (tmp_path / "snapshot.json").write_text(json.dumps(snapshot))
        words = ["comfyui", "nodes", str(tmp_path / "snapshot.json"), f"--registry={host.url}"]
        return CliRunner().invoke(build_app(), [*words, *options])

    return run


def test_the_command_installs_a_snapshot_into_the_local_comfyui(
    command: Callable[..., Any], host: Host, tmp_path: Path, python: Path
) -> None:
    url, commit = host.repository("one", INIT | {"requirements.txt": "alpha<2"})
    done = command(git_nodes((url, commit[:7])))
    assert done.exit_code == 0, done.output
    assert f"one at {commit}" in done.stdout
    assert "--write-back" in done.stdout
    assert (tmp_path / "comfyui" / "custom_nodes" / "one" / "__init__.py").is_file()
    assert has(python, "alpha==1.0")
    again = command(git_nodes((url, commit[:7])), "--write-back")
    assert again.exit_code == 0, again.output
    written = json.loads((tmp_path / "snapshot.json").read_text())
    assert written == git_nodes((url, commit))


@pytest.mark.parametrize("mark", ["nodes.py", "custom_nodes"])
def test_the_command_installs_into_the_folder_of_the_path_option(
    command: Callable[..., Any], host: Host, tmp_path: Path, python: Path, mark: str
) -> None:
    other = tmp_path / "other"
    (other / mark).mkdir(parents=True)
    (other / "venv").symlink_to(python.parents[1])
    done = command(git_nodes(host.repository("one", INIT)), f"--path={other}")
    assert done.exit_code == 0, done.output
    assert (other / "custom_nodes" / "one").is_dir()
    assert not (tmp_path / "comfyui" / "custom_nodes").exists()


def test_the_command_exits_with_1_for_a_failed_pack_and_2_for_bad_input(
    command: Callable[..., Any], host: Host, tmp_path: Path
) -> None:
    url, _ = host.repository("one", INIT)
    failed = command(git_nodes((url, "f" * 40)))
    assert (failed.exit_code, "required node packs failed: one" in failed.stderr) == (1, True)
    wrong = command({"cnr_custom_nodes": {"pack": "latest"}})
    assert (wrong.exit_code, "cnr_custom_nodes.pack" in wrong.stderr) == (2, True)
    nowhere = command({}, f"--path={tmp_path}")
    assert (nowhere.exit_code, "is not a ComfyUI checkout" in nowhere.stderr) == (2, True)
    token = command({}, "--token=github.com")
    assert (token.exit_code, "HOST=VARIABLE" in token.stderr) == (2, True)
    broken = command({}, "--python=/bin/false")
    assert (broken.exit_code, "cannot use /bin/false" in broken.stderr) == (1, True)
