"""A snapshot with every kind of pack."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import packaging
import pytest

import comfysnap_server.nodepacks
from comfysnap_server.deploy.image import INSTALLER_SOURCES
from comfysnap_server.nodepacks.__main__ import main
from comfysnap_server.nodepacks.install import PackInstallError, install_packs
from comfysnap_server.nodepacks.manifest import NodeManifest
from comfysnap_server.nodepacks.sources import Sources
from tests.server.nodepacks.sources import INIT, Host, git_nodes, has

pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")

Install = Callable[..., tuple[int, dict[str, Any], str]]


def test_every_kind_of_pack_is_installed_with_its_packages_and_script(
    install: Install, host: Host, tmp_path: Path, python: Path
) -> None:
    library = host.repository("library", {"shared.py": "VALUE = 1\n"})
    script = "import os, pathlib\npathlib.Path('ran').write_text(os.environ['COMFYUI_PATH'])\n"
    pinned = host.repository(
        "one",
        INIT | {"requirements.txt": "alpha<2  # a comment\n", "install.py": script},
        submodules={"library": library},
    )
    host.more("one", "newer.py", "")
    off = host.repository("off", INIT)
    host.version("pack-two", "1.2.3", INIT | {"requirements.txt": "beta"})
    (tmp_path / "project" / "custom_nodes").mkdir(parents=True)
    (tmp_path / "project" / "custom_nodes" / "single.py").write_text("NODE_CLASS_MAPPINGS = {}")
    code, report, log = install(
        {
            "git_custom_nodes": {
                pinned[0]: {"hash": pinned[1], "disabled": False},
                off[0]: {"hash": off[1], "disabled": True},
            },
            "cnr_custom_nodes": {"pack-two": "1.2.3"},
            "file_custom_nodes": [{"filename": "single.py", "disabled": False}],
        }
    )
    nodes = tmp_path / "comfyui" / "custom_nodes"
    assert code == 0, log
    assert report["installed"] == ["one", "pack-two", "single.py"]
    assert report["disabled"] == ["off"]
    assert report["commits"] == {"one": pinned[1]}
    assert {path.name for path in nodes.iterdir()} == {"one", "pack-two", "single.py"}
    assert (nodes / "one" / "library" / "shared.py").is_file()
    assert not (nodes / "one" / "newer.py").exists()
    assert (nodes / "one" / "ran").read_text() == str((tmp_path / "comfyui").resolve())
    assert "__init__.py" in (nodes / "pack-two" / ".tracking").read_text().splitlines()
    assert has(python, "alpha==1.0")
    assert has(python, "beta==1.0")


def test_an_optional_pack_that_fails_is_skipped_and_reported(install: Install, host: Host) -> None:
    url, _ = host.repository("one", INIT)
    good = host.repository("two", INIT)
    snapshot = git_nodes(good)
    snapshot["git_custom_nodes"][url] = {"hash": "f" * 40, "required": False}
    code, report, log = install(snapshot)
    assert code == 0
    assert report["installed"] == ["two"]
    assert report["left_out"]["one"].startswith("commit_not_found")
    assert "one" in log


def test_a_folder_from_another_source_is_not_changed(
    install: Install, host: Host, tmp_path: Path
) -> None:
    url, commit = host.repository("one", INIT)
    host.version("two", "1.0.0", INIT)
    own = tmp_path / "project" / "custom_nodes"
    own.mkdir(parents=True)
    (own / "three.py").write_text("new")
    nodes = tmp_path / "comfyui" / "custom_nodes"
    for name in ("one", "two"):
        (nodes / name).mkdir(parents=True)
        (nodes / name / "mine.py").write_text("mine")
    (nodes / "three.py").write_text("mine")
    code, report, _ = install(
        git_nodes((url, commit))
        | {"cnr_custom_nodes": {"two": "1.0.0"}, "file_custom_nodes": [{"filename": "three.py"}]}
    )
    assert code == 1
    reasons = {name: reason.partition(":")[0] for name, reason in report["failed"].items()}
    assert reasons == dict.fromkeys(("one", "two", "three.py"), "already_exists")
    kept = [nodes / "one" / "mine.py", nodes / "two" / "mine.py", nodes / "three.py"]
    assert [path.read_text() for path in kept] == ["mine"] * 3


@pytest.mark.parametrize("program", ["git", "uv"])
def test_a_missing_program_is_reported(
    tmp_path: Path, python: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / ({"git": "uv", "uv": "git"}[program])).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(PackInstallError) as raised:
        install_packs(NodeManifest(), tmp_path, Sources(), str(python))
    assert set(raised.value.report.failed) == {program}


def test_an_invalid_snapshot_fails_before_any_fetch(tmp_path: Path) -> None:
    (tmp_path / "snapshot.json").write_text("{")
    assert main(["install", str(tmp_path / "snapshot.json"), str(tmp_path)]) == 1


def test_the_installer_needs_only_its_own_modules_and_packaging(tmp_path: Path) -> None:
    """As in the image build, before any other of our packages is installed."""
    server = Path(comfysnap_server.nodepacks.__file__).parents[1]
    for source in INSTALLER_SOURCES:
        target = tmp_path / "comfysnap_server" / source
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(server / source, target)
    (tmp_path / "packaging").symlink_to(Path(packaging.__file__).parent)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
        "from comfysnap_server.nodepacks.__main__ import main; main(['install', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert "snapshot" in done.stdout
