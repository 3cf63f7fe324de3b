"""``comfysnap comfyui install``: resumable, and clear when it cannot."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comfysnap_schema.cli import build_app
from comfysnap_server.engine.comfyui.install import (
    InstallError,
    find_comfyui,
    install,
    run_command,
)
from tests.server.comfyui.conftest import TREE


class Runner:
    """Runs git and venv for real; notes what would be installed."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.fail_install = False

    def __call__(self, command: Sequence[str]) -> None:
        self.commands.append(list(command))
        if "install" in command:
            if self.fail_install:
                raise InstallError("no network")
            return
        run_command(command)

    def ran(self, word: str) -> int:
        return sum(word in command for command in self.commands)


@pytest.fixture
def repository(tmp_path: Path) -> tuple[str, str]:
    """A git repository with one commit, and that commit."""
    folder = tmp_path / "origin"
    folder.mkdir()
    for name in ("execution.py", "nodes.py", "folder_paths.py", "server.py", "comfyui_version.py"):
        (folder / name).write_bytes((TREE / name).read_bytes())
    (folder / "requirements.txt").write_text("torch\n")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"],
                    ["config", "uploadpack.allowAnySHA1InWant", "true"]):  # fmt: skip
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    done = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    )
    return f"file://{folder}", done.stdout.strip()


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COMFYSNAP_COMFYUI", str(tmp_path / "installed"))


def test_an_install_checks_out_the_commit_and_is_found_afterwards(
    repository: tuple[str, str], tmp_path: Path
) -> None:
    url, commit = repository
    runner = Runner()
    assert find_comfyui() is None
    done = install(tmp_path / "installed", commit=commit, repository=url, run=runner)
    assert (Path(done.path) / "execution.py").is_file()
    assert Path(done.python).exists()
    assert runner.ran("install") == 1
    assert find_comfyui() == done


def test_an_install_that_broke_off_goes_on_where_it_stopped(
    repository: tuple[str, str], tmp_path: Path
) -> None:
    url, commit = repository
    runner = Runner()
    runner.fail_install = True
    with pytest.raises(InstallError):
        install(tmp_path / "installed", commit=commit, repository=url, run=runner)
    assert find_comfyui() is None
    runner.fail_install = False
    install(tmp_path / "installed", commit=commit, repository=url, run=runner)
    assert (runner.ran("fetch"), runner.ran("venv"), runner.ran("install")) == (1, 1, 2)
    install(tmp_path / "installed", commit=commit, repository=url, run=runner)
    assert runner.ran("install") == 2


@pytest.mark.parametrize("lock", ["index.lock", "shallow.lock"])
def test_an_install_that_was_killed_in_git_goes_on(
    repository: tuple[str, str], tmp_path: Path, lock: str
) -> None:
    url, commit = repository
    checkout = tmp_path / "installed" / "ComfyUI"
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    (checkout / ".git" / lock).touch()
    done = install(tmp_path / "installed", commit=commit, repository=url, run=Runner())
    assert (Path(done.path) / "execution.py").is_file()


def test_without_a_network_the_command_says_so_and_how_to_go_on() -> None:
    nowhere = "http://127.0.0.1:9/ComfyUI"
    result = CliRunner().invoke(build_app(), ["comfyui", "install", "--repository", nowhere])
    assert result.exit_code == 1
    assert "127.0.0.1" in result.stderr
    assert "again" in result.stderr


def test_the_environment_wins_over_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(TREE))
    monkeypatch.setenv("COMFYUI_PYTHON", "/opt/python")
    found = find_comfyui(tmp_path)
    assert found is not None
    assert (found.path, found.python) == (str(TREE), "/opt/python")


def test_show_names_what_serve_would_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing = CliRunner().invoke(build_app(), ["comfyui", "show"])
    assert nothing.exit_code == 1
    monkeypatch.setenv("COMFYUI_PATH", str(TREE))
    shown = CliRunner().invoke(build_app(), ["comfyui", "show"])
    assert (shown.exit_code, str(TREE) in shown.stdout) == (0, True)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert CliRunner().invoke(build_app(), ["comfyui", "show"]).exit_code == 2
