"""Packs from git repositories: commits, updates."""

import hashlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfysnap_server.nodepacks.git import full_commit
from comfysnap_server.nodepacks.manifest import GitPack
from comfysnap_server.nodepacks.sources import Sources
from tests.server.nodepacks.sources import INIT, Host, git, git_nodes

pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")

Install = Callable[..., tuple[int, dict[str, Any], str]]


def test_a_required_pack_with_an_unknown_commit_fails_the_installation(
    install: Install, host: Host, tmp_path: Path
) -> None:
    url, _ = host.repository("one", INIT)
    good = host.repository("two", INIT)
    code, report, log = install(git_nodes((url, "f" * 40), good))
    assert code == 1
    assert set(report["failed"]) == {"one"}
    assert report["failed"]["one"].startswith("commit_not_found")
    assert "one" in log.splitlines()[-1]
    assert not (tmp_path / "comfyui" / "custom_nodes" / "one").exists()


def test_a_short_commit_is_completed_and_the_report_has_it_in_full(
    install: Install, host: Host, tmp_path: Path
) -> None:
    url, old = host.repository("one", INIT)
    host.more("one", "newer.py", "")
    code, report, log = install(git_nodes((url, old[:8])))
    assert code == 0, log
    assert report["commits"] == {"one": old}
    assert f"one at {old}" in log
    assert not (tmp_path / "comfyui" / "custom_nodes" / "one" / "newer.py").exists()


@pytest.mark.parametrize("where", ["branch", "tag"])
def test_a_short_commit_is_found_on_any_branch_or_tag(
    install: Install, host: Host, where: str
) -> None:
    url, first = host.repository("one", INIT)
    side = host.more("one", "side.py", "")
    folder = host.root / "one.git"
    git(folder, where, "side", side)
    git(folder, "reset", "-q", "--hard", first)
    code, report, log = install(git_nodes((url, side[:10])))
    assert code == 0, log
    assert report["commits"] == {"one": side}


def test_looking_up_a_short_commit_fetches_no_file(host: Host, tmp_path: Path) -> None:
    url, commit = host.repository("one", INIT | {"big.bin": os.urandom(500_000).hex()})
    git(host.root / "one.git", "config", "uploadpack.allowFilter", "true")
    pack = GitPack(folder="one", url=url, commit=commit[:7])
    assert full_commit(pack, Sources()) == commit
    assert 0 < host.sent < 100_000


def test_an_unknown_short_commit_is_reported_with_its_repository(
    install: Install, host: Host
) -> None:
    url, commit = host.repository("one", INIT)
    other = "0000000" if not commit.startswith("0000000") else "1111111"
    code, report, _ = install(git_nodes((url, other)))
    assert code == 1
    assert report["failed"]["one"] == (
        f"commit_not_found: no commit on a branch or tag of {url} starts with {other}"
    )


def test_an_ambiguous_short_commit_is_rejected_with_its_candidates(
    install: Install, host: Host
) -> None:
    url, _ = host.repository("one", INIT)
    folder = host.root / "one.git"
    tree = git(folder, "rev-parse", "HEAD^{tree}")
    first, second = colliding_commits(tree, digits=7)
    for name, content in (("a", first), ("b", second)):
        written = subprocess.run(
            ["git", "-C", str(folder), "hash-object", "-t", "commit", "-w", "--stdin"],
            input=content,
            capture_output=True,
            check=True,
        ).stdout.decode()
        git(folder, "branch", name, written.strip())
    found = sorted(git(folder, "rev-parse", name) for name in ("a", "b"))
    code, report, _ = install(git_nodes((url, found[0][:7])))
    assert code == 1
    expected = f"ambiguous_commit: {found[0][:7]} is ambiguous in {url}: {', '.join(found)}"
    assert report["failed"]["one"] == expected


def colliding_commits(tree: str, *, digits: int) -> tuple[bytes, bytes]:
    """Two commits whose hashes start with the same digits."""
    seen: dict[str, bytes] = {}
    for number in itertools.count():
        content = (
            f"tree {tree}\nauthor t <t> {number} +0000\ncommitter t <t> 0 +0000\n\nx\n".encode()
        )
        head = f"commit {len(content)}\0".encode()
        start = hashlib.sha1(head + content, usedforsecurity=False).hexdigest()[:digits]
        if start in seen:
            return seen[start], content
        seen[start] = content
    raise AssertionError


def test_an_installed_pack_is_updated_and_keeps_untracked_files(
    install: Install, host: Host, tmp_path: Path
) -> None:
    url, old = host.repository("one", INIT)
    new = host.more("one", "newer.py", "")
    assert install(git_nodes((url, old)))[0] == 0
    folder = tmp_path / "comfyui" / "custom_nodes" / "one"
    (folder / "models").mkdir()
    (folder / "models" / "mine.bin").write_text("mine")
    code, report, log = install(git_nodes((url, new[:7])))
    assert code == 0, log
    assert report["commits"] == {"one": new}
    assert (folder / "newer.py").exists()
    assert (folder / "models" / "mine.bin").read_text() == "mine"
    assert install(git_nodes((url, old)))[0] == 0
    assert not (folder / "newer.py").exists()


def test_a_pack_with_local_changes_is_not_updated(
    install: Install, host: Host, tmp_path: Path
) -> None:
    url, old = host.repository("one", INIT)
    new = host.more("one", "newer.py", "")
    assert install(git_nodes((url, old)))[0] == 0
    file = tmp_path / "comfyui" / "custom_nodes" / "one" / "__init__.py"
    file.write_text("mine")
    code, report, _ = install(git_nodes((url, new)))
    assert code == 1
    assert report["failed"]["one"].startswith("local_changes")
    assert file.read_text() == "mine"


def test_an_unreachable_host_is_tried_three_times_then_reported(
    install: Install, git_log: Callable[[], str]
) -> None:
    code, report, _ = install(git_nodes(("http://127.0.0.1:9/a/one", "f" * 40)))
    assert code == 1
    assert report["failed"]["one"].startswith("git_failed")
    assert git_log().count(" fetch ") == 3
