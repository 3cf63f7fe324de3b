"""What works without the modules that Windows lacks, pretended by hiding them."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comfysnap_schema.cli import build_app
from tests.contract.processes import environment

HIDE = """\
import sys, warnings
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
warnings.simplefilter("ignore")  # filelock's, which has another lock on Windows
"""
IMPORT_ALL = """
import importlib, pkgutil
import comfysnap_schema, comfysnap_client, comfysnap_client.testing
for package in (comfysnap_schema, comfysnap_client):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
"""
RUN = "from comfysnap_schema.cli import main; main()\n"


def without_posix(
    code: str, *arguments: str, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDE + code, *arguments], cwd=folder,
        env={**environment("none"), **variables}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def test_every_module_of_schema_and_client_can_be_imported(tmp_path: Path) -> None:
    done = without_posix(IMPORT_ALL, folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_project_can_be_made_checked_and_deployed(tmp_path: Path) -> None:
    for command in ("init", "check", "generate --check", "doctor", "deploy --dry-run"):
        done = without_posix(RUN, *command.split(), folder=tmp_path)
        assert done.returncode == 0, done.stderr
    deployed = without_posix(
        RUN, "deploy", folder=tmp_path,
        MODAL_CONFIG_PATH=str(tmp_path / "none.toml"), MODAL_TOKEN_ID="", MODAL_TOKEN_SECRET="",
    )  # fmt: skip
    assert deployed.returncode == 3, deployed.stderr  # no account


def test_a_server_says_in_one_line_that_it_does_not_run_there(tmp_path: Path) -> None:
    assert without_posix(RUN, "init", folder=tmp_path).returncode == 0
    done = without_posix(RUN, "serve", "--port=0", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "WSL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_the_commands_that_fork_refuse_windows(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = build_app()
    monkeypatch.setattr(sys, "platform", "win32")
    result = CliRunner().invoke(app, [command])
    assert result.exit_code == 2
    assert "WSL" in result.output
    assert result.output.count("\n") == 1
