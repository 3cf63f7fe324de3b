"""``serve``, ``deploy`` and ``doctor`` read ``[serve]`` alike."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.contract.processes import COMMAND, environment
from tests.paths import ROOT

TYPOS = """
max_wate = 3
max_timeout = "long"
max_body_bytes = 0
[serve.local]
max_queue = 1
[serve.keys]
me = "secret"
"""
FIELDS = [
    "serve.max_wate",
    "serve.max_timeout",
    "serve.max_body_bytes",
    "serve.local.max_queue",
    "serve.keys.me",
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=environment("none"), capture_output=True, text=True, timeout=60
    )


def test_every_command_finds_the_same_in_serve_in_the_same_words_and_order(tmp_path: Path) -> None:
    file = tmp_path / "comfysnap.toml"
    file.write_text(f'workflows = "{ROOT / "workflows"}"\n[serve]{TYPOS}[deploy]\ngpu = "X"\n')
    project = f"--project={tmp_path}"
    served = run("serve", project, "--engine=simulated", f"--data={tmp_path / 'data'}")
    deployed = run("deploy", project, "--dry-run")
    doctored = run("doctor", project, "--json")
    assert (served.returncode, deployed.returncode, doctored.returncode) == (2, 2, 1)
    *issues, gpu = json.loads(doctored.stdout)
    assert gpu["where"] == f"{file}: deploy.gpu[0]"
    words = [f"error: {issue['where']}: {issue['message']}" for issue in issues]
    assert served.stderr.splitlines() == words
    lines = [line.rpartition(" (")[0] for line in deployed.stderr.splitlines()]
    assert lines[:-1] == words
    assert sorted(issue["where"] for issue in issues) == sorted(f"{file}: {at}" for at in FIELDS)


def test_a_new_project_with_a_typo_is_reported_before_its_missing_workflows(tmp_path: Path) -> None:
    (tmp_path / "comfysnap.toml").write_text("[serve]\nmax_wate = 3\n")
    served = run("serve", f"--project={tmp_path}", "--engine=simulated")
    deployed = run("deploy", f"--project={tmp_path}", "--dry-run").stderr.splitlines()
    assert [line.rpartition(" (")[0] for line in deployed][:1] == served.stderr.splitlines()
    assert len(deployed) == 2
    assert "no workflows yet" in deployed[1]


@pytest.mark.parametrize("command", ["serve", "deploy", "doctor", "check"])
def test_every_command_reports_every_error_of_the_file(tmp_path: Path, command: str) -> None:
    (tmp_path / "comfysnap.toml").write_text('nmae = "x"\ndefault = "Not-A-Name"\n')
    done = run(command, f"--project={tmp_path}", *(["--json"] if command == "doctor" else []))
    assert done.returncode == (1 if command == "doctor" else 2)
    for word in ("did you mean name?", "snake_case"):
        assert word in done.stdout + done.stderr
