"""Packages and scripts of packs, and conflicts between them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.nodepacks.sources import INIT, Host, git_nodes, has

pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")

Install = Callable[..., tuple[int, dict[str, Any], str]]


def test_two_required_packs_with_a_conflict_fail_with_their_requirements(
    install: Install, host: Host
) -> None:
    one = host.repository("one", INIT | {"requirements.txt": "Alpha<2"})
    two = host.repository("two", INIT | {"requirements.txt": "alpha>=2"})
    code, report, log = install(git_nodes(one, two))
    assert code == 1
    assert set(report["failed"]) == {"one", "two"}
    assert len(report["conflicts"]) == 1
    for said in ("one requires Alpha<2", "two requires alpha>=2"):
        assert said in report["conflicts"][0]
        assert said in log


def test_the_optional_pack_of_a_conflict_is_skipped(
    install: Install, host: Host, python: Path
) -> None:
    one = host.repository("one", INIT | {"requirements.txt": "alpha<2"})
    two = host.repository("two", INIT | {"requirements.txt": "alpha>=2"})
    snapshot = git_nodes(one)
    snapshot["git_custom_nodes"][two[0]] = {"hash": two[1], "required": False}
    code, report, _ = install(snapshot)
    assert code == 0
    assert report["installed"] == ["one"]
    assert report["left_out"]["two"].startswith("conflict")
    assert has(python, "alpha==1.0")


def test_a_conflict_of_indirect_requirements_names_the_pack(
    install: Install, host: Host, python: Path
) -> None:
    one = host.repository("one", INIT | {"requirements.txt": "beta"})
    two = host.repository("two", INIT | {"requirements.txt": "gamma"})
    snapshot = git_nodes(one)
    snapshot["git_custom_nodes"][two[0]] = {"hash": two[1], "required": False}
    code, report, _ = install(snapshot)
    assert code == 0
    assert set(report["left_out"]) == {"two"}
    assert "gamma" in report["left_out"]["two"]
    assert has(python, "beta==1.0")


@pytest.mark.parametrize("requirement", ["torch==2.9.0", "pydantic<2"])
def test_a_pack_cannot_change_pinned_packages(
    install: Install, host: Host, python: Path, requirement: str
) -> None:
    pack = host.repository("one", INIT | {"requirements.txt": requirement})
    code, report, _ = install(git_nodes(pack, required=False))
    assert code == 0
    assert set(report["left_out"]) == {"one"}
    assert has(python, "torch==2.8.0")


def test_a_pack_whose_script_fails_is_not_installed(
    install: Install, host: Host, tmp_path: Path
) -> None:
    pack = host.repository("one", INIT | {"install.py": "raise SystemExit('no compiler')"})
    code, report, _ = install(git_nodes(pack))
    assert code == 1
    assert "no compiler" in report["failed"]["one"]
    assert not (tmp_path / "comfyui" / "custom_nodes" / "one").exists()


def test_a_script_that_replaces_torch_is_undone_and_reported(
    install: Install, host: Host, python: Path
) -> None:
    script = (
        "import subprocess, sys\n"
        "subprocess.run(['uv', 'pip', 'install', '--python', sys.executable, 'torch==2.9.0'],"
        " check=True)\n"
    )
    bad = host.repository("one", INIT | {"install.py": script})
    good = host.repository("two", INIT)
    snapshot = git_nodes(good)
    snapshot["git_custom_nodes"][bad[0]] = {"hash": bad[1], "required": False}
    code, report, _ = install(snapshot)
    assert code == 0
    assert "torch==2.9.0" in report["left_out"]["one"]
    assert has(python, "torch==2.8.0")


def test_packages_of_the_snapshot_are_installed_and_failures_reported(
    install: Install, python: Path
) -> None:
    code, report, _ = install(
        {"pips": {"alpha==1.0": "", "pywin32==306": "", "torch==2.9.0": "", "!": ""}}
    )
    assert code == 0
    assert set(report["pips_left_out"]) == {"pywin32==306", "torch==2.9.0", "!"}
    assert has(python, "alpha==1.0")
    assert has(python, "torch==2.8.0")
