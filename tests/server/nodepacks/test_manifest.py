import json
from pathlib import Path
from typing import Any

import pytest

from comfysnap_server.nodepacks.manifest import (
    FilePack,
    GitPack,
    PackManifestError,
    RegistryPack,
    complete_commits,
    parse_manifest,
    read_manifest,
)
from tests.paths import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_every_section_of_a_snapshot_is_read() -> None:
    snapshot = parse_manifest(
        {
            "comfyui": COMMIT,
            "git_custom_nodes": {
                "https://github.com/a/Pack-One.git": {"hash": COMMIT, "disabled": False},
                "git@github.com:a/pack_two.git": {"hash": COMMIT, "required": False},
                "https://github.com/a/off": {"hash": None, "disabled": True},
            },
            "cnr_custom_nodes": {"pack-three": "1.2.3", "pack-four": {"version": "2.0.0-rc1"}},
            "file_custom_nodes": [
                {"filename": "single.py", "disabled": False},
                {"filename": "other.py.disabled"},
            ],
            "pips": {
                "numpy==1.26.4": "",
                "flash": "https://h/flash.whl",
                "-e .": "",
                "me": "file:///me",
            },
        }
    )
    assert snapshot.comfyui == COMMIT
    assert snapshot.packs == (
        GitPack(folder="Pack-One", url="https://github.com/a/Pack-One.git", commit=COMMIT),
        GitPack(
            folder="pack_two",
            url="https://github.com/a/pack_two.git",
            commit=COMMIT,
            required=False,
        ),
        RegistryPack(folder="pack-three", version="1.2.3"),
        RegistryPack(folder="pack-four", version="2.0.0-rc1"),
        FilePack(folder="single.py"),
    )
    assert snapshot.disabled == ("off", "other.py")
    assert snapshot.pips == ("numpy==1.26.4", "flash @ https://h/flash.whl")
    assert snapshot.skipped_pips == ("-e .", "me @ file:///me")


def test_a_snapshot_without_git_or_pips_is_read() -> None:
    snapshot = parse_manifest({"comfyui": None, "git_custom_nodes": {}, "pips": None})
    assert (snapshot.comfyui, snapshot.packs, snapshot.pips) == (None, (), ())


def git(url: str = "https://h/a/b", **entry: Any) -> dict[str, Any]:
    return {"git_custom_nodes": {url: {"hash": COMMIT, **entry}}}


BAD: list[tuple[Any, str]] = [
    ([], "invalid_entry"),
    ({"git_custom_nodes": {"https://[": {"hash": COMMIT}}}, "unsupported_url"),
    ({"git_custom_nodes": {"https://h/a\n/b": {"hash": COMMIT}}}, "unsupported_url"),
    ({"custom_nodes": {}}, "unknown_key"),
    ({"comfyui": "master"}, "not_pinned"),
    ({"comfyui": 3}, "not_pinned"),
    ({"git_custom_nodes": [1]}, "invalid_entry"),
    ({"file_custom_nodes": {"a": 1}}, "invalid_entry"),
    ({"git_custom_nodes": {"https://h/a/b": "main"}}, "invalid_entry"),
    (git(hash="main"), "not_pinned"),
    (git(hash="012345"), "not_pinned"),
    (git(hash="0123456g"), "not_pinned"),
    (git(hash=COMMIT + "0"), "not_pinned"),
    (git(hash=None), "not_pinned"),
    (git(branch="main"), "unknown_key"),
    (git(required="yes"), "invalid_entry"),
    (git("https://token@h/a/b"), "credentials_in_url"),
    (git("https://user:token@h/a/b"), "credentials_in_url"),
    (git("file:///srv/b"), "unsupported_url"),
    (git("ext::sh -c id"), "unsupported_url"),
    (git("--upload-pack=id"), "unsupported_url"),
    (git("https://h/"), "invalid_entry"),
    (git("https://h/a/.."), "invalid_entry"),
    ({"git_custom_nodes": {u: {"hash": COMMIT} for u in ("https://h/a/x", "https://h/b/X.git")}},
     "duplicate_pack"),
    ({"cnr_custom_nodes": {"a": "latest"}}, "not_pinned"),
    ({"cnr_custom_nodes": {"a": None}}, "invalid_entry"),
    ({"cnr_custom_nodes": {"../a": "1.0"}}, "invalid_entry"),
    ({"file_custom_nodes": [{"filename": "../a.py"}]}, "invalid_entry"),
    ({"file_custom_nodes": [{"filename": "a.sh"}]}, "invalid_entry"),
    ({"file_custom_nodes": [{}]}, "invalid_entry"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "code"), BAD)
def test_an_entry_that_cannot_be_installed_is_rejected(data: Any, code: str) -> None:
    with pytest.raises(PackManifestError) as raised:
        parse_manifest(data)
    assert raised.value.code == code


def test_a_token_in_a_url_is_not_in_the_error() -> None:
    with pytest.raises(PackManifestError) as raised:
        parse_manifest(git("https://user:sesame@h/a/b"))
    assert "sesame" not in str(raised.value)


def test_a_single_file_pack_must_be_beside_the_snapshot(tmp_path: Path) -> None:
    file = tmp_path / "snapshot.json"
    file.write_text(json.dumps({"file_custom_nodes": [{"filename": "single.py"}]}))
    with pytest.raises(PackManifestError) as raised:
        read_manifest(file)
    assert raised.value.code == "missing_file"
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "single.py").write_text("NODE_CLASS_MAPPINGS = {}")
    assert [pack.folder for pack in read_manifest(file).packs] == ["single.py"]


def test_a_single_file_pack_of_comfyui_need_not_be_beside_the_snapshot(tmp_path: Path) -> None:
    file = tmp_path / "snapshot.json"
    file.write_text(json.dumps({"file_custom_nodes": [{"filename": "websocket_image_save.py"}]}))
    assert read_manifest(file).packs == ()


def test_a_short_commit_is_read_and_marked_as_short() -> None:
    urls = {"https://h/a/one": "0123456", "https://h/a/two": COMMIT}
    snapshot = parse_manifest({"git_custom_nodes": {url: {"hash": h} for url, h in urls.items()}})
    assert [pack.folder for pack in snapshot.short_commits] == ["one"]


def test_short_commits_are_completed_in_the_file_and_the_rest_stays(tmp_path: Path) -> None:
    nodes: dict[str, dict[str, Any]] = {
        "git@h:a/one.git": {"hash": COMMIT[:8], "disabled": False, "required": False},
        "https://h/a/two": {"hash": COMMIT},
        "https://h/a/three": {"hash": "fffffff"},
        "https://h/a/off": {"hash": None, "disabled": True},
    }
    data = {"comfyui": None, "git_custom_nodes": nodes, "pips": {"numpy==1.26.4": ""}}
    file = tmp_path / "snapshot.json"
    file.write_text(json.dumps(data))
    full: dict[str, str] = dict.fromkeys(("one", "two", "three", "off"), COMMIT)
    assert complete_commits(file, full) == ["git@h:a/one.git"]
    nodes["git@h:a/one.git"]["hash"] = COMMIT
    written = file.read_text()
    assert json.loads(written) == data
    assert list(json.loads(written)["git_custom_nodes"]) == list(nodes)
    assert complete_commits(file, full) == []
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot.json"]


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"{", "invalid_json"), (b"[" * 100_000, "invalid_json"), (None, "unreadable")],
)
def test_a_file_that_is_not_json_is_rejected(
    tmp_path: Path, content: bytes | None, code: str
) -> None:
    file = tmp_path / "snapshot.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PackManifestError) as raised:
        read_manifest(file)
    assert raised.value.code == code


def test_a_huge_file_is_rejected_without_reading_it(tmp_path: Path) -> None:
    file = tmp_path / "snapshot.json"
    with file.open("wb") as stream:
        stream.truncate(5 * 1024 * 1024)
    with pytest.raises(PackManifestError) as raised:
        read_manifest(file)
    assert raised.value.code == "unreadable"


def test_the_example_is_valid() -> None:
    snapshot = read_manifest(ROOT / "examples" / "snapshot.json")
    assert [pack.required for pack in snapshot.packs] == [False, True]
    assert snapshot.disabled == ("websocket_image_save.py",)
