"""Tokens of private repositories: who gets them, and who never does."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.nodepacks.sources import INIT, Host, git_nodes

pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")

Install = Callable[..., tuple[int, dict[str, Any], str]]


def test_a_private_repository_needs_its_token(install: Install, private: Host) -> None:
    pack = private.repository("secret", INIT)
    code, report, _ = install(git_nodes(pack))
    assert code == 1
    assert report["failed"]["secret"].startswith("access_denied")
    assert private.netloc in report["failed"]["secret"]


def test_a_wrong_token_is_an_access_error_that_does_not_show_it(
    install: Install,
    private: Host,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GIT_TEST_TOKEN", "open-barley")
    code, report, log = install(
        git_nodes(private.repository("secret", INIT)), f"--token={private.netloc}=GIT_TEST_TOKEN"
    )
    assert code == 1
    assert report["failed"]["secret"].startswith("access_denied")
    assert "open-barley" not in log + json.dumps(report)


def test_a_token_is_only_sent_to_its_host_and_never_written(
    install: Install,
    private: Host,
    host: Host,
    git_log: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GIT_TEST_TOKEN", "sesame")
    inner = private.repository("inner", {"a.py": ""})
    public = host.repository("public", {"b.py": ""})
    script = "import os\nprint('SEEN', os.environ.get('GIT_TEST_TOKEN'))\n"
    pack = private.repository(
        "secret", INIT | {"install.py": script}, submodules={"inner": inner, "public": public}
    )
    code, report, log = install(git_nodes(pack), f"--token={private.netloc}=GIT_TEST_TOKEN")
    assert code == 0, log
    assert report["installed"] == ["secret"]
    folder = tmp_path / "comfyui" / "custom_nodes" / "secret"
    assert (folder / "inner" / "a.py").is_file()
    assert (folder / "public" / "b.py").is_file()
    assert private.authorizations
    assert host.authorizations == []
    assert "SEEN None" in log
    assert "sesame" not in log + git_log()
    written = [path for path in (tmp_path / "comfyui").rglob("*") if path.is_file()]
    assert all(b"sesame" not in path.read_bytes() for path in written)


def test_a_host_never_gets_the_token_of_another(
    install: Install,
    private: Host,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GIT_TEST_TOKEN", "sesame")
    code, _, _ = install(
        git_nodes(private.repository("secret", INIT)), "--token=github.com=GIT_TEST_TOKEN"
    )
    assert code == 1
    assert private.authorizations == []


SPY = """
import os, pathlib
def environments():
    yield os.fsencode(repr(dict(os.environ)))
    process = os.getpid()
    while process > 1:
        yield pathlib.Path(f"/proc/{process}/environ").read_bytes()
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
        process = int(stat.rpartition(")")[2].split()[1])
print("PROCESSES", sum(b"PATH=" in text for text in environments()))
print("SECRETS", sum(b"ses" + b"ame" in text for text in environments()))
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("program", ["command", "build"])
def test_code_of_a_pack_finds_no_token_in_its_own_or_its_parents_environment(
    private: Host, python: Path, tmp_path: Path, program: str
) -> None:
    comfyui = tmp_path / "comfyui"
    comfyui.mkdir()
    (comfyui / "nodes.py").touch()
    snapshot = tmp_path / "snapshot.json"
    pack = private.repository("secret", INIT | {"install.py": SPY})
    snapshot.write_text(json.dumps(git_nodes(pack)))
    token = f"--token={private.netloc}=GIT_TEST_TOKEN"
    build = ["-m", "comfysnap_server.nodepacks", "install", str(snapshot), str(comfyui), token]
    command = ["-c", "from comfysnap_schema.cli import main; main()", "comfyui", "nodes",
               str(snapshot), f"--path={comfyui}", token]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-Werror", *(build if program == "build" else command),
         f"--python={python}"],
        env=os.environ | {"GIT_TEST_TOKEN": "sesame"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert private.authorizations
    assert "SECRETS 0" in done.stdout
    assert "PROCESSES 0" not in done.stdout


def test_the_step_that_runs_code_of_packs_needs_no_token(
    install: Install, private: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the image build, where only the first step has the secrets."""
    monkeypatch.setenv("GIT_TEST_TOKEN", "sesame")
    pack = private.repository("secret", INIT | {"install.py": "print('RAN')"})
    clash = private.repository("clash", INIT | {"requirements.txt": "torch==2.9.0"})
    gone = private.repository("gone", INIT)
    snapshot = git_nodes(pack)
    snapshot["git_custom_nodes"][clash[0]] = {"hash": clash[1], "required": False}
    snapshot["git_custom_nodes"][gone[0]] = {"hash": "f" * 40, "required": False}
    token = f"--token={private.netloc}=GIT_TEST_TOKEN"
    code, report, log = install(snapshot, token, "--step=fetch")
    assert (code, "RAN" in log) == (0, False)
    assert set(report["left_out"]) == {"gone"}
    monkeypatch.delenv("GIT_TEST_TOKEN")
    asked = len(private.authorizations)
    code, report, log = install(snapshot, "--step=install")
    assert (code, "RAN" in log, report["installed"]) == (0, True, ["secret"])
    assert set(report["left_out"]) == {"gone", "clash"}
    assert report["commits"]["secret"] == pack[1]
    assert len(private.authorizations) == asked
    nodes = tmp_path / "comfyui" / "custom_nodes"
    assert {path.name for path in nodes.iterdir()} == {"secret"}
