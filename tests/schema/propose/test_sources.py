"""Models and node packs in the forms that a deployment reads."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.comfy import ModelSource, UsedPack
from comfysnap_schema.propose.sources import (
    SOURCES_FILE,
    model_tables,
    read_tables,
    snapshot,
    tables_text,
    tables_to_add,
)

HUB = "https://huggingface.co/owner/repo"
SHA = "ab" * 32


def source(url: str, name: str = "a.safetensors", folder: str = "loras", **more: Any) -> Any:
    return ModelSource(folder=folder, name=name, url=url, **more)


@pytest.mark.parametrize(
    ("url", "table"),
    [
        (
            f"{HUB}/resolve/main/split/a.safetensors?download=true",
            {"repo": "owner/repo", "file": "split/a.safetensors"},
        ),
        (
            f"{HUB}/blob/v1.0/b%20c.safetensors",
            {
                "repo": "owner/repo",
                "file": "b c.safetensors",
                "revision": "v1.0",
                "name": "a.safetensors",
            },
        ),
        (
            "https://huggingface.co/datasets/owner/repo/resolve/main/a.safetensors",
            {"url": "https://huggingface.co/datasets/owner/repo/resolve/main/a.safetensors"},
        ),
        (
            "https://civitai.com/api/download/models/123?type=Model&token=secret",
            {"civitai": 123, "name": "a.safetensors"},
        ),
        (
            "https://x.test/a.safetensors?v=2&token=secret#top",
            {"url": "https://x.test/a.safetensors?v=2"},
        ),
        ("https://x.test/get", {"url": "https://x.test/get", "name": "a.safetensors"}),
    ],
)
def test_a_source_becomes_the_entry_one_would_write(url: str, table: dict[str, Any]) -> None:
    assert model_tables([source(url)]) == [{"folder": "loras"} | table]


def test_a_hash_is_kept_and_lets_plain_http_pass() -> None:
    tables = model_tables([source("http://x.test/a.safetensors", sha256=SHA)])
    assert tables == [{"folder": "loras", "url": "http://x.test/a.safetensors", "sha256": SHA}]


@pytest.mark.parametrize(
    "model",
    [
        source("http://x.test/a.safetensors"),
        source("https://user:pass@x.test/a.safetensors"),
        source("ftp://x.test/a.safetensors"),
        source("https://[/a.safetensors"),
        source("https:///a.safetensors"),
        source(f"{HUB}/resolve/main/a", folder="../up"),
        source(f"{HUB}/resolve/main/a", name=".."),
    ],
)
def test_what_a_deployment_refuses_is_left_out(model: ModelSource) -> None:
    assert model_tables([model]) == []


def test_entries_are_written_as_toml_to_paste() -> None:
    tables = model_tables(
        [source(f"{HUB}/resolve/main/a.safetensors"), source("https://x.test/b", "b.pt")]
    )
    text = tables_text(tables)
    assert tomllib.loads(text) == {"deploy": {"models": tables}}
    assert text.splitlines()[0] == "[[deploy.models]]"


def write(folder: Path, text: str) -> Path:
    (folder / SOURCES_FILE).write_text(text)
    return folder


def test_only_entries_for_places_that_a_project_lacks_are_to_add(tmp_path: Path) -> None:
    tables = model_tables(
        [
            source(f"{HUB}/resolve/main/a.safetensors"),
            source("https://x.test/c", "b.safetensors"),
            source("https://x.test/c.pt", "c.pt", "vae"),
        ]
    )
    folder = write(tmp_path, tables_text(tables))
    assert read_tables(folder) == tables
    assert tables_to_add(folder, {}) == tables
    listed = [
        {"folder": "loras", "url": "https://y.test/a.safetensors"},
        {"folder": "loras", "repo": "o/n", "file": "x.pt", "name": "b.safetensors"},
        {"folder": "other", "url": "https://x.test/c.pt"},
        {"repo": "owner/whole"},
        "odd",
    ]
    assert tables_to_add(folder, {"models": listed}) == tables[2:]
    assert tables_to_add(folder, {"models": "odd"}) == tables


@pytest.mark.parametrize("text", ["=", "", "deploy = 3", "[deploy]", "[deploy]\nmodels = [3]"])
def test_an_odd_file_of_sources_has_none(tmp_path: Path, text: str) -> None:
    assert read_tables(write(tmp_path, text)) == []


def test_a_folder_without_sources_has_none(tmp_path: Path) -> None:
    assert read_tables(tmp_path) == []


def test_packs_are_pinned_by_version_or_by_commit_and_repository() -> None:
    commit = "ab12cd34" * 5
    content, unpinned = snapshot(
        [
            UsedPack(id="comfyui-kjnodes", repo="", version="1.10.2"),
            UsedPack(id="", repo="someone/nodes", version=commit),
            UsedPack(id="nightly-pack", repo="", version=commit),
            UsedPack(id="old-pack", repo="", version="unknown"),
        ]
    )
    assert content == {
        "git_custom_nodes": {
            "https://github.com/someone/nodes": {"hash": commit, "disabled": False}
        },
        "cnr_custom_nodes": {"comfyui-kjnodes": "1.10.2"},
    }
    assert [pack.id for pack in unpinned] == ["nightly-pack", "old-pack"]
    assert snapshot([]) == ({}, [])
