"""``comfysnap comfyui install`` is resumable, uses the lock, and reports errors clearly."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comfysnap_schema.cli import build_app
from comfysnap_server import pins
from comfysnap_server.engine.comfyui import install as installing
from comfysnap_server.engine.comfyui.install import (
    InstallError,
    find_comfyui,
    install,
    run_command,
)
from tests.server.engine.comfyui.conftest import TREE


class Runner:
    """Runs git and venv; records install commands without running them."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.fail_install = False

    def __call__(self, command: Sequence[str]) -> str:
        self.commands.append(list(command))
        if "install" in command:
            if self.fail_install:
                raise InstallError("no network")
            return ""
        return run_command(command)

    def ran(self, word: str) -> int:
        return sum(word in command for command in self.commands)

    @property
    def installs(self) -> list[list[str]]:
        return [command for command in self.commands if "install" in command]


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
    assert runner.installs
    assert find_comfyui() == done


def test_an_interrupted_install_resumes_where_it_stopped(
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
    assert (runner.ran("fetch"), runner.ran("venv")) == (1, 1)
    count = runner.ran("install")
    install(tmp_path / "installed", commit=commit, repository=url, run=runner)
    assert runner.ran("install") == count


def test_another_build_of_torch_replaces_the_installed_one(
    repository: tuple[str, str], tmp_path: Path
) -> None:
    url, commit = repository
    for torch, replaced in (("cpu", False), ("cu130", True)):
        runner = Runner()
        done = install(
            tmp_path / "installed", commit=commit, repository=url, torch=torch, run=runner
        )
        command = runner.installs[-1]
        assert f"--torch-backend={torch}" in command
        assert ("--reinstall-package=torch" in command) is replaced
        assert done.torch == torch


def test_a_branch_is_fetched_again_and_recorded_as_its_commit(
    repository: tuple[str, str], tmp_path: Path
) -> None:
    url, commit = repository
    origin = Path(url.removeprefix("file://"))
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    run_command(["git", "-C", str(origin), "branch", "-M", "main"])
    first = install(tmp_path / "installed", commit="main", repository=url, run=Runner())
    run_command(["git", "-C", str(origin), *identity, "commit", "-q", "--allow-empty", "-m", "two"])
    second = install(tmp_path / "installed", commit="main", repository=url, run=Runner())
    assert first.commit == commit
    assert second.commit == run_command(["git", "-C", str(origin), "rev-parse", "main"]).strip()


@pytest.fixture
def pinned(repository: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The repository, with its commit as that of the lock."""
    monkeypatch.setattr(pins, "COMMIT", repository[1])
    return repository


def installs(repository: tuple[str, str], folder: Path, torch: str) -> list[list[str]]:
    url, commit = repository
    runner = Runner()
    install(folder, commit=commit, repository=url, torch=torch, run=runner)
    return runner.installs


def test_the_pinned_release_installs_the_lock_with_its_hashes(
    pinned: tuple[str, str], tmp_path: Path
) -> None:
    (command,) = installs(pinned, tmp_path / "installed", "cu130")
    assert command[-3:] == ["--require-hashes", "-r", str(pins.lock_file())]


def test_with_another_build_of_torch_the_lock_constrains_the_other_packages(
    pinned: tuple[str, str], tmp_path: Path
) -> None:
    (command,) = installs(pinned, tmp_path / "installed", "cpu")
    assert "--torch-backend=cpu" in command
    constraints = Path(command[command.index("--constraints") + 1]).read_text()
    names = re.findall(r"^([a-z0-9-]+)==", constraints, re.MULTILINE)
    locked = re.findall(r"^([a-z0-9-]+)==", pins.lock_file().read_text(), re.MULTILINE)
    left_out = set(locked) - set(names)
    assert left_out >= {"triton", "nvidia-cublas", "cuda-bindings"}
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in left_out)
    assert f"torch=={pins.TORCH}\n" in constraints
    assert len(re.findall(r"^[a-z0-9-]+==\S+$", constraints, re.MULTILINE)) == 3
    assert "    --hash=sha256:" in constraints


def test_another_release_gets_its_requirements_as_of_its_commit_and_then_torch(
    repository: tuple[str, str], tmp_path: Path
) -> None:
    requirements, torch = installs(repository, tmp_path / "installed", "cu128")
    checkout = tmp_path / "installed" / "ComfyUI"
    date = run_command(["git", "-C", str(checkout), "log", "-1", "--format=%cI"]).strip()
    assert requirements[requirements.index("--exclude-newer") + 1] == date
    overrides = Path(requirements[requirements.index("--overrides") + 1]).read_text()
    assert overrides.splitlines() == list(pins.WITHOUT_TORCH)
    assert "--torch-backend=cu128" in torch
    assert {*pins.torch_packages(pins.TORCH), *pins.WORKER} <= set(torch)


@pytest.mark.parametrize(
    ("driver", "platform", "locked"),
    [
        ("580.95.05", "linux", True),
        ("570.1", "linux", False),
        (None, "linux", False),
        ("?", "linux", False),
        (None, "darwin", True),
    ],
)
def test_auto_installs_the_locked_torch_if_the_driver_supports_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    driver: str | None,
    platform: str,
    locked: bool,
) -> None:
    file = tmp_path / "version"
    if driver is not None:
        file.write_text(f"{driver}\n")
    monkeypatch.setattr(installing, "DRIVER_FILE", file)
    monkeypatch.setattr(sys, "platform", platform)
    assert installing.takes_lock("auto") is locked
    assert installing.takes_lock("cu130")
    assert not installing.takes_lock("cpu")


def test_without_uv_pip_installs_the_lock_and_nothing_else(
    pinned: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    git = run_command(["/bin/sh", "-c", "command -v git"]).strip()
    (folder / "git").symlink_to(git)
    monkeypatch.setenv("PATH", str(folder))
    (command,) = installs(pinned, tmp_path / "installed", "auto")
    assert command[1:3] == ["-m", "pip"]
    assert command[-3:] == ["--require-hashes", "-r", str(pins.lock_file())]
    with pytest.raises(InstallError, match="pip install uv"):
        installs(pinned, tmp_path / "other", "cpu")


@pytest.mark.parametrize("option", ["--version", "--commit"])
def test_an_unknown_version_is_rejected_before_anything_is_fetched(
    option: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(build_app(), ["comfyui", "install", option, "0.99.0"])
    assert result.exit_code == 2
    assert "unknown ComfyUI version '0.99.0'; known versions: " + pins.VERSION in result.stderr
    assert not (tmp_path / "installed").exists()


def test_a_version_and_a_commit_together_are_rejected() -> None:
    options = ["--version", pins.VERSION, "--commit", pins.COMMIT]
    result = CliRunner().invoke(build_app(), ["comfyui", "install", *options])
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("options", "commit"),
    [
        ([], pins.COMMIT),
        (["--version", "v0.28.0"], pins.RELEASES["0.28.0"]),
        (["--commit", "0.28.0"], pins.RELEASES["0.28.0"]),
        (["--commit", "1" * 40], "1" * 40),
        (["--commit", "master"], "master"),
    ],
)
def test_the_command_fetches_the_commit_of_a_version(options: list[str], commit: str) -> None:
    nowhere = "http://127.0.0.1:9/ComfyUI"
    command = ["comfyui", "install", "--repository", nowhere, *options]
    result = CliRunner().invoke(build_app(), command)
    assert result.exit_code == 1
    assert f"fetching ComfyUI {pins.describe(commit)} into" in result.stdout


@pytest.mark.parametrize("lock", ["index.lock", "shallow.lock"])
def test_an_install_that_was_killed_in_git_resumes(
    repository: tuple[str, str], tmp_path: Path, lock: str
) -> None:
    url, commit = repository
    checkout = tmp_path / "installed" / "ComfyUI"
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    (checkout / ".git" / lock).touch()
    done = install(tmp_path / "installed", commit=commit, repository=url, run=Runner())
    assert (Path(done.path) / "execution.py").is_file()


def test_a_failed_command_is_reported_with_the_error_and_its_cause() -> None:
    lines = [
        "warning: x",
        "error: Request failed",
        "cause: http://h/torch",
        "cause: a",
        "cause: dns",
    ]
    script = "\n".join(f"echo '{line}' >&2" for line in lines) + "\nexit 2"
    with pytest.raises(InstallError) as raised:
        run_command(["/bin/sh", "-c", script])
    text = str(raised.value)
    assert text.endswith("error: Request failed / cause: http://h/torch / cause: dns")
    with pytest.raises(InstallError, match="failed: b / c / d"):
        run_command(["/bin/sh", "-c", "printf 'a\\nb\\nc\\nd\\n'; exit 1"])
    with pytest.raises(InstallError, match="no output"):
        run_command(["/bin/false"])


def test_without_a_network_the_command_explains_how_to_resume() -> None:
    nowhere = "http://127.0.0.1:9/ComfyUI"
    result = CliRunner().invoke(build_app(), ["comfyui", "install", "--repository", nowhere])
    assert result.exit_code == 1
    assert "127.0.0.1" in result.stderr
    assert "run the command again to resume" in result.stderr


def test_the_environment_variables_override_the_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(TREE))
    monkeypatch.setenv("COMFYUI_PYTHON", "/opt/python")
    found = find_comfyui(tmp_path)
    assert found is not None
    assert (found.path, found.python) == (str(TREE), "/opt/python")


def test_show_prints_the_comfyui_that_serve_uses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nothing = CliRunner().invoke(build_app(), ["comfyui", "show"])
    assert nothing.exit_code == 1
    monkeypatch.setenv("COMFYUI_PATH", str(TREE))
    shown = CliRunner().invoke(build_app(), ["comfyui", "show"])
    assert (shown.exit_code, str(TREE) in shown.stdout) == (0, True)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert CliRunner().invoke(build_app(), ["comfyui", "show"]).exit_code == 2
