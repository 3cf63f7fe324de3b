import hashlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import packaging
import pytest
from typer.testing import CliRunner

import comfysnap_server.nodepacks.install as nodes_install
from comfysnap_schema.cli import build_app
from comfysnap_server.deploy.image import INSTALLER_SOURCES
from comfysnap_server.nodepacks.fetch import Sources, full_commit
from comfysnap_server.nodepacks.manifest import GitPack, NodeManifest
from tests.server.nodepacks.sources import BROKEN, Host, git, make_wheel, serve

pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")

Install = Callable[..., tuple[int, dict[str, Any], str]]

INIT = {"__init__.py": "NODE_CLASS_MAPPINGS = {}\n"}
PACKAGES = [
    ("torch", "2.8.0"),
    ("torch", "2.9.0"),
    ("alpha", "1.0"),
    ("alpha", "2.0"),
    ("beta", "1.0", "alpha<2"),
    ("gamma", "1.0", "alpha>=2"),
    ("pydantic", "2.12.0"),
    ("pydantic", "1.10.0"),
]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with serve(tmp_path / "repositories") as host:
        yield host


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for name, version, *requires in PACKAGES:
        make_wheel(folder, name, version, *requires)
    return folder


@pytest.fixture
def python(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter with the image's torch, which only installs from our wheels."""
    settings = tmp_path / "uv.toml"
    settings.write_text(f'no-index = true\nfind-links = ["{wheels}"]\n')
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_CONFIG_FILE", str(settings))
    environment = tmp_path / "venv"
    subprocess.run(["uv", "venv", "-q", "--python", sys.executable, environment], check=True)
    executable = environment / "bin" / "python"
    install = ["uv", "pip", "install", "-q", "--python", executable, "torch==2.8.0"]
    subprocess.run(install, check=True)
    return executable


@pytest.fixture
def install(
    tmp_path: Path, python: Path, host: Host, capsys: pytest.CaptureFixture[str]
) -> Install:
    """Installs a snapshot; returns the exit code, the report and the log."""

    def install(snapshot: dict[str, Any], *options: str) -> tuple[int, dict[str, Any], str]:
        project, comfyui = tmp_path / "project", tmp_path / "comfyui"
        project.mkdir(exist_ok=True)
        comfyui.mkdir(exist_ok=True)
        (project / "snapshot.json").write_text(json.dumps(snapshot))
        code = nodes_install.main(
            [
                str(project / "snapshot.json"),
                str(comfyui),
                f"--python={python}",
                f"--registry={host.url}",
                "--pause=0",
                *options,
            ]
        )
        report = json.loads((comfyui / nodes_install.REPORT_FILE).read_text())
        return code, report, "".join(capsys.readouterr())

    return install


def has(python: Path, requirement: str) -> bool:
    name, _, version = requirement.partition("==")
    code = f"import {name}; assert {name}.version == {version!r}"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def git_nodes(*repositories: tuple[str, str], **options: Any) -> dict[str, Any]:
    return {"git_custom_nodes": {url: {"hash": commit, **options} for url, commit in repositories}}


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


def test_a_registry_pack_is_updated_and_keeps_other_files(
    install: Install, host: Host, tmp_path: Path
) -> None:
    host.version("pack", "1.0.0", INIT | {"old.py": "", "both.py": "1"})
    host.version("pack", "2.0.0", INIT | {"new.py": "", "both.py": "2"})
    assert install({"cnr_custom_nodes": {"pack": "1.0.0"}})[0] == 0
    folder = tmp_path / "comfyui" / "custom_nodes" / "pack"
    (folder / "mine.bin").write_text("mine")
    assert install({"cnr_custom_nodes": {"pack": "2.0.0"}})[0] == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"__init__.py", ".tracking", "new.py", "both.py", "mine.bin"}
    assert (folder / "both.py").read_text() == "2"
    assert {path.name for path in (tmp_path / "comfyui").iterdir()} == {
        "custom_nodes", nodes_install.REPORT_FILE,
    }  # fmt: skip


@pytest.mark.parametrize("program", ["git", "uv"])
def test_a_missing_program_is_reported(
    tmp_path: Path, python: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / ({"git": "uv", "uv": "git"}[program])).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(nodes_install.PackInstallError) as raised:
        nodes_install.install_packs(NodeManifest(), tmp_path, Sources(), str(python))
    assert set(raised.value.report.failed) == {program}


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


def test_the_command_installs_into_the_folder_of_the_path_option(
    command: Callable[..., Any], host: Host, tmp_path: Path, python: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "nodes.py").touch()
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


@pytest.fixture
def git_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Arguments of every git command."""
    log, folder = tmp_path / "git.log", tmp_path / "path"
    folder.mkdir()
    wrapper = folder / "git"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {shutil.which("git")} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return log.read_text


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Host]:
    """A host that requires a token."""
    with serve(tmp_path / "private", token="sesame") as host:
        yield host


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


def test_a_failed_registry_request_is_retried(install: Install, host: Host) -> None:
    host.version("pack", "1.0.0", INIT)
    address = "/nodes/pack/install?version=1.0.0"
    host.answers[address] = [(503, b""), (200, b"{}"), *host.answers[address]]
    code, report, _ = install({"cnr_custom_nodes": {"pack": "1.0.0"}})
    assert (code, report["failed"]["pack"].split(":")[0]) == (1, "version_not_found")
    code, report, _ = install({"cnr_custom_nodes": {"pack": "1.0.0"}})
    assert (code, report["installed"]) == (0, ["pack"])


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((404, b""), "version_not_found"),
        ((403, b""), "download_failed"),
        ((200, b"<html>"), "download_failed"),
        ((200, b'{"downloadUrl": "file:///etc/passwd"}'), "download_failed"),
    ],
)
def test_an_invalid_registry_response_names_the_pack(
    install: Install, host: Host, answer: tuple[int, bytes], code: str
) -> None:
    host.answers["/nodes/pack/install?version=1.0.0"] = [answer]
    exit_code, report, _ = install({"cnr_custom_nodes": {"pack": "1.0.0"}})
    assert exit_code == 1
    assert report["failed"]["pack"].startswith(code)


@pytest.mark.parametrize("name", ["../../evil.py", "/evil.py", "a\\..\\evil.py"])
def test_an_archive_cannot_write_outside_its_folder(
    install: Install, host: Host, tmp_path: Path, name: str
) -> None:
    host.version("pack", "1.0.0", {name: "import os"})
    code, report, _ = install({"cnr_custom_nodes": {"pack": "1.0.0"}})
    assert code == 1
    assert report["failed"]["pack"].startswith("bad_archive")
    assert not list(tmp_path.rglob("evil.py"))


def test_an_archive_that_is_not_a_zip_is_rejected(install: Install, host: Host) -> None:
    host.version("pack", "1.0.0", INIT)
    host.answers["/zips/pack-1.0.0.zip"] = [(200, b"not a zip")]
    code, report, _ = install({"cnr_custom_nodes": {"pack": "1.0.0"}})
    assert (code, report["failed"]["pack"].split(":")[0]) == (1, "bad_archive")


def test_a_damaged_archive_fails_only_its_pack(install: Install, host: Host) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__init__.py", "x = 1\n" * 1000)
    damaged = bytearray(stream.getvalue())
    damaged[45:60] = bytes(15)
    host.version("pack", "1.0.0", INIT)
    host.answers["/zips/pack-1.0.0.zip"] = [(200, bytes(damaged))]
    host.version("clash", "1.0.0", {"a": "", "a/b": ""})
    packs = {name: {"version": "1.0.0", "required": False} for name in ("pack", "clash")}
    code, report, _ = install({"cnr_custom_nodes": packs})
    assert code == 0
    assert {why.split(":")[0] for why in report["left_out"].values()} == {"bad_archive"}


def test_an_incomplete_archive_is_fetched_again(install: Install, host: Host) -> None:
    host.version("pack", "1.0.0", INIT)
    whole = host.answers["/zips/pack-1.0.0.zip"][0]
    host.answers["/zips/pack-1.0.0.zip"] = [(BROKEN, whole[1]), whole]
    code, report, _ = install({"cnr_custom_nodes": {"pack": "1.0.0"}})
    assert (code, report["installed"]) == (0, ["pack"])


def test_an_unreachable_host_is_tried_three_times_then_reported(
    install: Install, git_log: Callable[[], str]
) -> None:
    code, report, _ = install(git_nodes(("http://127.0.0.1:9/a/one", "f" * 40)))
    assert code == 1
    assert report["failed"]["one"].startswith("git_failed")
    assert git_log().count(" fetch ") == 3


def test_an_invalid_snapshot_fails_before_any_fetch(tmp_path: Path) -> None:
    (tmp_path / "snapshot.json").write_text("{")
    assert nodes_install.main([str(tmp_path / "snapshot.json"), str(tmp_path)]) == 1


def test_the_installer_needs_only_its_own_modules_and_packaging(tmp_path: Path) -> None:
    """As in the image build, before any other of our packages is installed."""
    server = Path(nodes_install.__file__).parents[1]
    for source in INSTALLER_SOURCES:
        target = tmp_path / "comfysnap_server" / source
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(server / source, target)
    (tmp_path / "packaging").symlink_to(Path(packaging.__file__).parent)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
        "from comfysnap_server.nodepacks.install import main; main(['--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert "snapshot" in done.stdout
