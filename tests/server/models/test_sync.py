import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from comfysnap_server.models.download import RetryPolicy, Stop
from comfysnap_server.models.entry import ModelEntry
from comfysnap_server.models.sources import ModelError
from comfysnap_server.models.storage import ModelsFolder
from comfysnap_server.models.syncing import (
    Downloaded,
    DownloadProgress,
    Failed,
    SyncEvent,
    SyncOptions,
    SyncPlan,
    sync,
)
from tests.server.models.model_server import ModelServer, Served, safetensors, serve_models
from tests.server.tls import https_redirect

QUICK = RetryPolicy(attempts=3, wait_initial=0, wait_max=0)
CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    with serve_models() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("CIVITAI_ENDPOINT", server.url)
        for variable in ("HF_TOKEN", "CIVITAI_TOKEN"):
            monkeypatch.delenv(variable, raising=False)
        yield server


class Run:
    """One sync into a folder."""

    def __init__(self, folder: Path, *entries: ModelEntry, **options: Any) -> None:
        self.events: list[SyncEvent] = []
        self.commits = 0
        self.stop = Stop()
        self.on_event: Callable[[SyncEvent], None] = lambda _event: None
        self.folder = folder
        self.entries = entries
        self.options = SyncOptions(policy=QUICK, **options)

    def __call__(self) -> "Run":
        self.good = sync(
            self.entries,
            ModelsFolder.at(self.folder),
            on_event=self._record_event,
            options=self.options,
            commit=self._commit,
            stop=self.stop,
        )
        return self

    def _record_event(self, event: SyncEvent) -> None:
        self.events.append(event)
        self.on_event(event)

    def _commit(self) -> None:
        self.commits += 1

    @property
    def plan(self) -> SyncPlan:
        return next(event for event in self.events if isinstance(event, SyncPlan))

    @property
    def downloaded(self) -> list[str]:
        return sorted(event.path for event in self.events if isinstance(event, Downloaded))

    @property
    def failed(self) -> dict[str, str]:
        return {event.path: event.code for event in self.events if isinstance(event, Failed)}


def entry(**keys: Any) -> ModelEntry:
    return ModelEntry.model_validate({"folder": "checkpoints", **keys})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_files_of_every_source_are_downloaded_and_committed(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = Served(CONTENT)
    server.files["/api/download/models/7"] = Served(b"lora")
    server.answers["/api/v1/model-versions/7"] = {
        "files": [{"primary": True, "hashes": {"SHA256": sha256(b"lora").upper()}}]
    }
    server.repositories["owner/one"] = {"unet/b.safetensors": Served(b"unet")}
    run = Run(
        tmp_path,
        entry(url=f"{server.url}/a.safetensors", sha256=sha256(CONTENT)),
        entry(folder="loras/xl", civitai=7, name="style.safetensors"),
        entry(folder="diffusion_models", repo="owner/one", file="unet/b.safetensors"),
    )()
    assert run.good
    assert (tmp_path / "checkpoints" / "a.safetensors").read_bytes() == CONTENT
    assert (tmp_path / "loras" / "xl" / "style.safetensors").read_bytes() == b"lora"
    assert (tmp_path / "diffusion_models" / "b.safetensors").read_bytes() == b"unet"
    assert run.commits == 4
    assert run.plan.need == len(CONTENT) + len(b"unet")
    assert run.plan.unknown_sizes == 1


def test_a_whole_repository_is_laid_out_like_the_models_folder(
    server: ModelServer, tmp_path: Path
) -> None:
    server.repositories["owner/all"] = {
        "README.md": Served(b"read me"),
        ".cache/x.bin": Served(b"x"),
        "checkpoints/a.safetensors": Served(b"a"),
        "loras/deep/b.safetensors": Served(b"b"),
        "vae/c.pt": Served(b"c"),
    }
    run = Run(tmp_path, ModelEntry(repo="owner/all", include=["*.safetensors"]))()
    assert run.downloaded == ["checkpoints/a.safetensors", "loras/deep/b.safetensors"]
    assert (tmp_path / "loras" / "deep" / "b.safetensors").read_bytes() == b"b"


def test_a_second_sync_downloads_nothing(server: ModelServer, tmp_path: Path) -> None:
    server.repositories["owner/one"] = {"a.safetensors": Served(CONTENT)}
    item = entry(repo="owner/one", file="a.safetensors")
    assert Run(tmp_path, item)().downloaded
    before = len(server.downloads(f"/owner/one/resolve/{server.commit}/a.safetensors"))
    again = Run(tmp_path, item)()
    assert (again.good, again.downloaded, again.plan.need) == (True, [], 0)
    after = len(server.downloads(f"/owner/one/resolve/{server.commit}/a.safetensors"))
    assert (before, after) == (1, 1)


@pytest.mark.parametrize("damage", [b"short", b"x" * len(CONTENT)])
def test_a_wrong_file_is_downloaded_again(
    server: ModelServer, tmp_path: Path, damage: bytes
) -> None:
    server.repositories["owner/one"] = {"a.safetensors": Served(CONTENT)}
    item = entry(repo="owner/one", file="a.safetensors")
    Run(tmp_path, item)()
    file = tmp_path / "checkpoints" / "a.safetensors"
    file.write_bytes(damage)
    assert Run(tmp_path, item, verify=True)().downloaded == ["checkpoints/a.safetensors"]
    assert file.read_bytes() == CONTENT


def test_a_newer_version_at_the_source_is_downloaded(server: ModelServer, tmp_path: Path) -> None:
    files = {"a.safetensors": Served(b"first!")}
    server.repositories["owner/one"] = files
    item = entry(repo="owner/one", file="a.safetensors")
    Run(tmp_path, item)()
    files["a.safetensors"] = Served(b"second")
    server.commit = "beef" * 10
    run = Run(tmp_path, item)()
    assert run.downloaded == ["checkpoints/a.safetensors"]
    assert "version" in run.plan.reasons["checkpoints/a.safetensors"]
    assert (tmp_path / "checkpoints" / "a.safetensors").read_bytes() == b"second"


def test_an_existing_file_is_checked_once_and_kept(server: ModelServer, tmp_path: Path) -> None:
    server.files["/a.bin"] = Served(CONTENT)
    file = tmp_path / "checkpoints" / "a.bin"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    good = entry(url=f"{server.url}/a.bin", sha256=sha256(CONTENT))
    assert Run(tmp_path, good)().plan.present == ("checkpoints/a.bin",)
    unhashed = entry(url=f"{server.url}/a.bin")
    assert Run(tmp_path, unhashed)().plan.present == ("checkpoints/a.bin",)


def test_a_lost_connection_is_resumed(server: ModelServer, tmp_path: Path) -> None:
    server.files["/a.bin"] = Served(CONTENT, break_after=[0, 1000, 5000, 70_000])
    run = Run(tmp_path, entry(url=f"{server.url}/a.bin", sha256=sha256(CONTENT)))()
    assert run.good
    ranges = [ask.headers.get("Range") for ask in server.downloads("/a.bin")]
    assert ranges == [None, None, "bytes=1000-", "bytes=6000-", "bytes=76000-"]
    assert (tmp_path / "checkpoints" / "a.bin").read_bytes() == CONTENT


def test_a_stopped_sync_is_resumed_by_the_next(server: ModelServer, tmp_path: Path) -> None:
    server.files["/a.bin"] = Served(CONTENT)
    item = entry(url=f"{server.url}/a.bin")
    first = Run(tmp_path, item)

    def stop(event: SyncEvent) -> None:
        if isinstance(event, DownloadProgress) and event.done:
            first.stop.set()

    first.on_event = stop
    assert first().failed == {"checkpoints/a.bin": "stopped"}
    assert not (tmp_path / "checkpoints" / "a.bin").exists()
    second = Run(tmp_path, item)()
    assert second.good
    assert second.plan.need < len(CONTENT)
    assert "Range" in server.downloads("/a.bin")[-1].headers
    assert (tmp_path / "checkpoints" / "a.bin").read_bytes() == CONTENT
    assert list((tmp_path / ".comfysnap" / "parts").iterdir()) == []


def test_a_partial_file_of_an_older_version_is_deleted(server: ModelServer, tmp_path: Path) -> None:
    old, new = b"old" * 100_000, b"new" * 100_000
    server.files["/a.bin"] = Served(old, break_after=[0, 1000, 0, 0])
    item = entry(url=f"{server.url}/a.bin")
    assert Run(tmp_path, item)().failed == {"checkpoints/a.bin": "download_failed"}
    server.files["/a.bin"] = Served(new)
    assert Run(tmp_path, item)().good
    assert (tmp_path / "checkpoints" / "a.bin").read_bytes() == new


@pytest.mark.parametrize("options", [{"ranges": False}, {"etag": 'W/"weak"'}])
def test_a_server_that_cannot_resume_sends_the_whole_file(
    server: ModelServer, tmp_path: Path, options: dict[str, Any]
) -> None:
    server.files["/a.bin"] = Served(CONTENT, break_after=[0, 2000], **options)
    assert Run(tmp_path, entry(url=f"{server.url}/a.bin", sha256=sha256(CONTENT)))().good
    assert (tmp_path / "checkpoints" / "a.bin").read_bytes() == CONTENT


def test_a_hash_mismatch_is_retried_once(server: ModelServer, tmp_path: Path) -> None:
    wrong = b"!" * len(CONTENT)
    server.files["/a.bin"] = Served(CONTENT, bodies=[CONTENT, wrong])
    assert Run(tmp_path, entry(url=f"{server.url}/a.bin", sha256=sha256(CONTENT)))().good


def test_a_file_with_the_wrong_hash_never_reaches_the_models_folder(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.bin"] = Served(CONTENT)
    run = Run(tmp_path, entry(url=f"{server.url}/a.bin", sha256="0" * 64))()
    assert (run.good, run.failed) == (False, {"checkpoints/a.bin": "hash_mismatch"})
    assert not (tmp_path / "checkpoints").exists()


def test_a_file_is_never_written_past_its_size(server: ModelServer, tmp_path: Path) -> None:
    longer = CONTENT * 20
    server.repositories["owner/repo"] = {"a.bin": Served(CONTENT, bodies=[longer] * 9)}
    run = Run(tmp_path, entry(repo="owner/repo", file="a.bin"))()
    assert run.failed == {"checkpoints/a.bin": "wrong_content"}
    written = [event.done for event in run.events if isinstance(event, DownloadProgress)]
    assert 0 <= max(written) <= len(CONTENT)
    assert list((tmp_path / ".comfysnap" / "parts").iterdir()) == []
    server.repositories["owner/repo"]["a.bin"].bodies = [longer]
    assert Run(tmp_path, entry(repo="owner/repo", file="a.bin"))().good


def test_a_redirect_from_https_to_http_is_refused(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a.bin"] = Served(CONTENT)
    with https_redirect(tmp_path, f"{server.url}/a.bin?key=hidden", monkeypatch) as url:
        run = Run(tmp_path / "models", entry(url=f"{url}/a.bin", sha256=sha256(CONTENT)))()
    (reason,) = run.plan.failed.values()
    assert "without https" in reason
    assert "hidden" not in reason
    assert server.asked == []


def test_a_busy_server_is_retried(server: ModelServer, tmp_path: Path) -> None:
    server.files["/a.bin"] = Served(CONTENT, statuses=[503, 429])
    assert Run(tmp_path, entry(url=f"{server.url}/a.bin", sha256=sha256(CONTENT)))().good


@pytest.mark.parametrize(
    ("served", "code"),
    [
        (Served(b"", statuses=[404] * 9), "not_found"),
        (Served(b"", statuses=[500] * 9), "download_failed"),
        (Served(b"", token="sesame"), "access_denied"),
        (Served(b"<html>", content_type="text/html; charset=utf-8"), "access_denied"),
    ],
)
def test_a_source_that_fails_is_reported_and_the_others_are_downloaded(
    server: ModelServer, tmp_path: Path, served: Served, code: str
) -> None:
    server.files["/bad.bin"] = served
    server.files["/good.bin"] = Served(b"good")
    bad = entry(url=f"{server.url}/bad.bin")
    run = Run(tmp_path, bad, entry(url=f"{server.url}/good.bin"))()
    assert not run.good
    assert run.plan.failed[str(bad)].startswith(code)
    assert run.downloaded == ["checkpoints/good.bin"]


def test_a_token_comes_from_its_variable_and_is_only_sent_to_its_host(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIVITAI_TOKEN", "sesame")
    with serve_models() as storage:
        storage.files["/blob"] = Served(safetensors(b"lora"))
        server.files["/api/download/models/7"] = Served(
            b"", token="sesame", location=f"{storage.url}/blob?signed=1"
        )
        server.answers["/api/v1/model-versions/7"] = {"files": []}
        run = Run(tmp_path, entry(civitai=7, name="a.safetensors"))()
        assert run.good
        assert all("Authorization" not in ask.headers for ask in storage.asked)
    record = (tmp_path / ".comfysnap" / "record.json").read_text()
    assert "sesame" not in record + repr(run.events)


@pytest.mark.parametrize("gated", [True, False])
def test_a_private_repository_needs_its_token(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gated: bool
) -> None:
    server.repositories["owner/one"] = {"a.safetensors": Served(CONTENT, token="sesame")}
    if gated:
        server.gated.add("owner/one")
    item = entry(repo="owner/one", file="a.safetensors", token="OUR_TOKEN")
    run = Run(tmp_path, item)()
    assert run.plan.failed[str(item)].startswith("access_denied")
    assert "OUR_TOKEN" in run.plan.failed[str(item)]
    monkeypatch.setenv("OUR_TOKEN", "sesame")
    assert Run(tmp_path, item)().good


@pytest.mark.parametrize(
    "keys",
    [
        {"repo": "owner/none", "file": "a"},
        {"repo": "owner/one", "file": "none.bin"},
        {"repo": "owner/one", "file": "a.safetensors", "revision": "v9"},
        {"repo": "owner/one", "include": ["*.pt"], "folder": None},
    ],
)
def test_a_missing_repository_or_file_is_reported(
    server: ModelServer, tmp_path: Path, keys: dict[str, Any]
) -> None:
    server.repositories["owner/one"] = {"a.safetensors": Served(b"a")}
    item = entry(**keys)
    run = Run(tmp_path, item)()
    assert not run.good
    assert set(run.plan.failed) == {str(item)}


def test_a_file_in_xet_is_downloaded_with_the_hubs_library(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    server.repositories["owner/one"] = {
        "sub/a.safetensors": Served(CONTENT, chunked=True, break_after=[100_000])
    }
    run = Run(tmp_path, entry(repo="owner/one", file="sub/a.safetensors"))()
    assert run.good
    assert (tmp_path / "checkpoints" / "a.safetensors").read_bytes() == CONTENT
    asked = server.downloads(f"/owner/one/resolve/{server.commit}/sub/a.safetensors")
    assert all("hf_hub" in ask.headers["user-agent"] for ask in asked)
    assert max(event.done for event in run.events if isinstance(event, DownloadProgress)) == len(
        CONTENT
    )
    assert list((tmp_path / ".comfysnap" / "parts").iterdir()) == []


def test_a_full_disk_is_an_error_before_any_download(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType] a stand-in
    server.files["/a.bin"] = Served(CONTENT)
    run = Run(tmp_path, entry(url=f"{server.url}/a.bin"))
    with pytest.raises(ModelError) as raised:
        run()
    assert raised.value.code == "disk_full"
    assert len(server.downloads("/a.bin")) == 1
    assert not (tmp_path / "checkpoints").exists()


def test_a_disk_of_unknown_size_is_not_an_error(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(total=0, free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType] a stand-in
    server.files["/a.bin"] = Served(CONTENT)
    assert Run(tmp_path, entry(url=f"{server.url}/a.bin"))().good


def test_several_files_are_downloaded_at_once(server: ModelServer, tmp_path: Path) -> None:
    names = [f"/{index}.bin" for index in range(6)]
    for name in names:
        server.files[name] = Served(os.urandom(3_000_000))
    run = Run(tmp_path, *(entry(url=f"{server.url}{name}") for name in names), workers=3)
    running: set[str] = set()
    most = 0

    def count(event: SyncEvent) -> None:
        nonlocal most
        if isinstance(event, DownloadProgress):
            running.add(event.path)
            most = max(most, len(running))
        elif isinstance(event, Downloaded):
            running.discard(event.path)

    run.on_event = count
    assert run().good
    assert most > 1


def test_a_dry_run_downloads_nothing(server: ModelServer, tmp_path: Path) -> None:
    server.files["/a.bin"] = Served(CONTENT)
    run = Run(tmp_path, entry(url=f"{server.url}/a.bin"), dry_run=True)()
    assert (run.good, run.downloaded, run.plan.need) == (True, [], len(CONTENT))
    assert not (tmp_path / "checkpoints").exists()


def test_two_syncs_of_one_folder_do_not_run_at_once(server: ModelServer, tmp_path: Path) -> None:
    with ModelsFolder.at(tmp_path).locked(), pytest.raises(TimeoutError):
        Run(tmp_path)()
    assert Run(tmp_path)().good


def test_the_record_says_where_each_file_came_from(server: ModelServer, tmp_path: Path) -> None:
    server.repositories["owner/one"] = {"a.safetensors": Served(CONTENT)}
    Run(tmp_path, entry(repo="owner/one", file="a.safetensors"))()
    record = json.loads((tmp_path / ".comfysnap" / "record.json").read_text())
    assert record["checkpoints/a.safetensors"]["sha256"] == sha256(CONTENT)
    assert record["checkpoints/a.safetensors"]["source"].startswith("owner/one@c0ffee")


def test_a_file_that_cannot_be_written_is_reported_and_the_others_are_downloaded(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.bin"] = Served(b"a")
    (tmp_path / "vae").write_text("in the way of a folder")
    run = Run(
        tmp_path,
        entry(folder="vae", url=f"{server.url}/a.bin"),
        entry(url=f"{server.url}/a.bin", name="b.bin"),
    )()
    assert not run.good
    assert run.failed == {"vae/a.bin": "download_failed"}
    assert run.downloaded == ["checkpoints/b.bin"]


@pytest.mark.parametrize("error", [RuntimeError("CAS service"), httpx2.ReadError("broke")])
def test_an_error_of_the_hubs_library_only_fails_that_file(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", fail)
    server.repositories["owner/one"] = {"sub/a.bin": Served(CONTENT, chunked=True)}
    server.files["/b.bin"] = Served(b"b")
    run = Run(tmp_path, entry(repo="owner/one", file="sub/a.bin"), entry(url=f"{server.url}/b.bin"))
    assert not run().good
    assert run.failed == {"checkpoints/a.bin": "download_failed"}
    assert run.downloaded == ["checkpoints/b.bin"]


def test_partial_files_of_removed_entries_are_deleted_when_all_files_are_there(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/old.bin"] = Served(CONTENT, break_after=[100_000, *[1] * 9], ranges=False)
    server.files["/new.bin"] = Served(b"new")
    parts = tmp_path / ".comfysnap" / "parts"
    assert not Run(tmp_path, entry(url=f"{server.url}/old.bin"))().good
    assert list(parts.iterdir())
    assert Run(tmp_path, entry(url=f"{server.url}/new.bin"))().good
    assert list(parts.iterdir()) == []


PAGE = b"\xef\xbb\xbf\n <!DOCTYPE html><html><title>Sign in</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
WHOLE = safetensors(b"weights" * 100)
NOT_MODELS = [
    ("a.safetensors", PAGE, "web page"),
    ("a.ckpt", PAGE, "web page"),
    ("a.ckpt", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
    ("a.safetensors", POINTER, "Git LFS pointer"),
    ("a.gguf", POINTER, "Git LFS pointer"),
    ("a.gguf", b"GIF89a", "not a GGUF file"),
    ("a.pt", b"", "empty file"),
    ("a.safetensors", WHOLE[:4], "cut off within its header"),
    ("a.safetensors", WHOLE[:30], "cut off within its header"),
    ("a.safetensors", WHOLE[:-1], f"expected {len(WHOLE)} bytes, got {len(WHOLE) - 1}"),
    ("a.safetensors", b'{"error": "not found"}' * 9, "cut off within its header"),
    ("a.safetensors", b"\x09" + b"\0" * 7 + b"not json!", "its header is not valid"),
    ("a.sft", b"\x08" + b"\0" * 7 + b'{"a": 1}', "its header is not valid"),
    ("a.sft", b"\x1c" + b"\0" * 7 + b'{"a":{"data_offsets":[0,""]}}', "its header is not valid"),
]


@pytest.mark.parametrize(("name", "content", "reason"), NOT_MODELS)
def test_a_download_that_is_not_a_model_is_refused_whatever_its_content_type(
    server: ModelServer, tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    server.files["/get"] = Served(content)
    for pin in ({}, {"sha256": "1" * 64}):
        run = Run(tmp_path, entry(url=f"{server.url}/get", name=name, **pin))()
        assert not run.good
        (failed,) = [event for event in run.events if isinstance(event, Failed)]
        assert failed.code == "wrong_content"
        assert reason in failed.reason
    assert not (tmp_path / "checkpoints" / name).exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.safetensors", WHOLE), ("a.gguf", b"GGUF\3"), ("a.pt", b"PK\3\4"), ("a.yaml", b"a: 1")],
)
def test_a_download_that_is_a_model_is_kept(
    server: ModelServer, tmp_path: Path, name: str, content: bytes
) -> None:
    server.files["/get"] = Served(content)
    assert Run(tmp_path, entry(url=f"{server.url}/get", name=name))().good
    assert (tmp_path / "checkpoints" / name).read_bytes() == content


def test_a_file_with_the_pinned_hash_is_kept_whatever_it_is(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/get"] = Served(POINTER)
    pinned = entry(url=f"{server.url}/get", name="a.safetensors", sha256=sha256(POINTER))
    assert Run(tmp_path, pinned)().good


def test_an_existing_page_in_place_of_a_model_is_downloaded_again(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = Served(WHOLE)
    file = tmp_path / "checkpoints" / "a.safetensors"
    file.parent.mkdir()
    file.write_bytes(PAGE.ljust(len(WHOLE)))
    run = Run(tmp_path, entry(url=f"{server.url}/a.safetensors"))()
    assert run.good
    assert "web page" in run.plan.reasons["checkpoints/a.safetensors"]
    assert file.read_bytes() == WHOLE
