"""Models by URL: downloads that are guarded and checked, and the cache that keeps them."""

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.jobs import RemoteModel
from comfysnap_server.models.cache import CachedModel, ModelCache
from comfysnap_server.models.download import RetryPolicy, Stop
from comfysnap_server.models.remote import RemoteModelError, RemoteModels, download_address
from comfysnap_server.models.remote_settings import RemoteModelSettings
from tests.server.models.model_server import (
    ModelServer,
    Served,
    safetensors,
    serve_models,
    when_received,
)
from tests.server.models.writes import recorded_writes
from tests.server.tls import https_redirect

QUICK = RetryPolicy(attempts=3, wait_initial=0, wait_max=0)
DATA = bytes(range(256)) * 400
FILE = safetensors(DATA)
SHA256 = hashlib.sha256(FILE).hexdigest()
PATH = "/a.safetensors"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    monkeypatch.delenv("SITE_TOKEN", raising=False)
    with serve_models() as server:
        server.files[PATH] = Served(FILE)
        yield server


class Kept:
    """A cache and its downloads."""

    def __init__(self, root: Path, **settings: Any) -> None:
        given: dict[str, Any] = {
            "hosts": ("127.0.0.1",),
            "private_networks": ("127.0.0.1/32",),
            "tokens": {"127.0.0.1": "SITE_TOKEN"},
        }
        self.settings = RemoteModelSettings.model_validate({**given, **settings})
        self.now = 1000.0
        self.root = root
        self.cache = ModelCache(root, self.settings.cache_bytes, clock=lambda: self.now)
        self.models = RemoteModels(self.cache, self.settings, QUICK)
        self.stop = Stop()
        self.progress: list[tuple[int, int | None]] = []
        self.on_progress: Callable[[int], object] = lambda _: None

    def fetch(
        self, url: str, sha256: str | None = None, job: str = "job_1", folder: str = "loras"
    ) -> str:
        model = RemoteModel(url=url, sha256=sha256, folder=folder, field="lora")

        def progress(done: int, total: int | None) -> None:
            self.progress.append((done, total))
            self.on_progress(done)

        found = self.models.fetch(
            {model.placeholder: model}, job, lease=60, progress=progress, stop=self.stop
        )
        return found[model.placeholder]

    def refused(self, url: str, sha256: str | None = None) -> RemoteModelError:
        with pytest.raises(RemoteModelError) as error:
            self.fetch(url, sha256)
        assert error.value.problem.fields[0].field == "lora"
        assert self.files() == []
        return error.value

    def files(self, folder: str = "loras") -> list[str]:
        return sorted(path.name for path in (self.root / "models" / folder).glob("remote/*"))

    def parts(self) -> list[str]:
        return sorted(path.name for path in (self.root / "parts").iterdir())


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "cache")


def serve(server: ModelServer, name: str, size: int) -> str:
    """Serve a file of exactly ``size`` bytes, and return its hash."""
    content = safetensors(b"")
    letter = name.encode()[:1]
    for length in range(size):
        content = safetensors(letter * length)
        if len(content) >= size:
            break
    server.files[f"/{name}"] = Served(content)
    return hashlib.sha256(content).hexdigest()


def test_a_model_is_kept_under_its_hash_where_comfyui_looks_for_its_kind(
    server: ModelServer, kept: Kept
) -> None:
    assert kept.fetch(server.url + PATH) == SHA256
    path = kept.root / "models" / "loras" / "remote" / f"{SHA256}.safetensors"
    assert path.read_bytes() == FILE
    assert kept.files("checkpoints") == []
    assert kept.progress[-1] == (len(FILE), len(FILE))
    assert kept.parts() == []


def test_the_same_address_is_downloaded_once(server: ModelServer, kept: Kept) -> None:
    for job in ("job_1", "job_2"):
        assert kept.fetch(server.url + PATH, job=job) == SHA256
    assert len(server.asked) == 1


def test_a_known_hash_is_not_asked_for_at_another_address(server: ModelServer, kept: Kept) -> None:
    kept.fetch(server.url + PATH)
    assert kept.fetch(server.url + "/elsewhere", SHA256) == SHA256
    assert len(server.asked) == 1


def test_an_address_is_asked_again_after_an_hour_and_only_a_new_version_is_downloaded(
    server: ModelServer, kept: Kept
) -> None:
    kept.fetch(server.url + PATH)
    kept.now += 4000
    assert kept.fetch(server.url + PATH) == SHA256
    assert [ask.headers.get("If-None-Match") is None for ask in server.asked] == [True, False]
    kept.fetch(server.url + PATH)
    assert len(server.asked) == 2  # the answer counts for an hour
    newer = safetensors(b"newer")
    server.files[PATH] = Served(newer)
    kept.now += 4000
    assert kept.fetch(server.url + PATH) == hashlib.sha256(newer).hexdigest()
    assert len(kept.files()) == 2


def test_what_is_kept_is_used_while_its_server_is_in_trouble_but_not_after_it_refused(
    server: ModelServer, kept: Kept
) -> None:
    kept.fetch(server.url + PATH)
    kept.now += 4000
    server.files[PATH].statuses.append(503)
    assert kept.fetch(server.url + PATH) == SHA256
    kept.now += 4000
    server.files[PATH].token = "now a secret"
    with pytest.raises(RemoteModelError, match="access denied"):
        kept.fetch(server.url + PATH)


def test_a_broken_download_is_resumed(server: ModelServer, kept: Kept) -> None:
    server.files[PATH].break_after = [1000, 30_000]
    assert kept.fetch(server.url + PATH, SHA256) == SHA256
    assert [ask.headers.get("Range") for ask in server.asked] == [
        None, "bytes=1000-", "bytes=31000-",
    ]  # fmt: skip


def test_a_later_job_resumes_what_an_earlier_one_could_not_finish(
    server: ModelServer, kept: Kept
) -> None:
    server.files[PATH].break_after = [1000, 0, 0, 0]
    error = kept.refused(server.url + PATH)
    assert error.problem.code == ErrorCode.MODEL_UNAVAILABLE
    server.files[PATH].break_after = []
    server.asked.clear()
    assert kept.fetch(server.url + PATH) == SHA256
    assert server.asked[0].headers["Range"] == "bytes=1000-"


PAGE = b"<!doctype html><title>Log in</title>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n"


def overlapping() -> bytes:
    tensor = {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}
    header = json.dumps({"a": tensor, "b": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + b"12345678"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PAGE, "web page"),
        (POINTER, "LFS pointer"),
        (b"", "empty"),
        (b"PK\x03\x04" + b"pickle" * 50, "not a safetensors file"),
        (FILE[:-1], "cut off"),
        (FILE[:20], "cut off"),
        (overlapping(), "overlap"),
    ],
)
def test_what_is_no_model_is_refused_and_nothing_of_it_stays(
    server: ModelServer, kept: Kept, content: bytes, reason: str
) -> None:
    server.files[PATH] = Served(content)
    error = kept.refused(server.url + PATH)
    assert error.problem.code == ErrorCode.MODEL_REFUSED
    assert reason in str(error)
    assert kept.parts() == []


def test_another_hash_than_the_expected_is_refused(server: ModelServer, kept: Kept) -> None:
    error = kept.refused(server.url + PATH, "0" * 64)
    assert error.problem.code == ErrorCode.MODEL_REFUSED
    assert SHA256 in str(error)
    assert kept.parts() == []


@pytest.mark.parametrize("told", [None, -1])
def test_a_file_over_the_limit_is_refused_whether_its_size_is_told_or_not(
    server: ModelServer, tmp_path: Path, told: int | None
) -> None:
    kept = Kept(tmp_path / "cache", max_bytes=len(FILE) - 1)
    server.files[PATH].told = told
    error = kept.refused(server.url + PATH)
    assert error.problem.code == ErrorCode.MODEL_REFUSED
    assert "larger than" in str(error)
    assert kept.parts() == []
    assert len(server.asked) == 1


@pytest.mark.parametrize("told", [len(FILE) - 10, len(FILE) + 10])
def test_a_size_that_is_a_lie_is_noticed(server: ModelServer, kept: Kept, told: int) -> None:
    server.files[PATH].told = told
    server.files[PATH].break_after = [len(FILE)] * 10  # it closes the connection then
    kept.refused(server.url + PATH)


def test_a_redirect_is_followed_and_the_token_stays_at_its_host(
    server: ModelServer, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITE_TOKEN", "secret-1")
    with serve_models() as other:
        other.files["/signed"] = Served(FILE)
        server.files[PATH] = Served(b"", token="secret-1", location=f"{other.url}/signed?key=x")
        assert kept.fetch(server.url + PATH) == SHA256
        assert server.asked[0].headers["Authorization"] == "Bearer secret-1"
        assert "Authorization" not in other.asked[0].headers


def test_a_missing_token_is_said_without_naming_the_address(
    server: ModelServer, kept: Kept
) -> None:
    server.files[PATH].token = "secret-1"
    error = kept.refused(f"{server.url}{PATH}?token=private-key")
    assert error.problem.code == ErrorCode.MODEL_UNAVAILABLE
    assert "127.0.0.1: access denied (401)" in str(error)
    assert "private-key" not in error.problem.model_dump_json()


def test_no_address_and_no_token_is_logged_or_written(
    server: ModelServer,
    kept: Kept,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("SITE_TOKEN", "secret-1")
    server.files[PATH] = Served(FILE, token="secret-1", break_after=[1000])
    kept.fetch(f"{server.url}{PATH}?key=private-key")
    kept.now += 4000
    server.files[PATH].statuses.append(503)
    kept.fetch(f"{server.url}{PATH}?key=private-key")
    written = b"".join(
        str(path).encode() + path.read_bytes() for path in kept.root.rglob("*") if path.is_file()
    )
    for secret in ("secret-1", "private-key"):
        assert secret not in caplog.text
        assert secret.encode() not in written


@pytest.mark.parametrize("target", ["http://127.0.0.2:{port}/a", "http://169.254.169.254/a"])
def test_a_redirect_to_a_private_address_is_refused(
    server: ModelServer, kept: Kept, target: str
) -> None:
    port = server.url.rpartition(":")[2]
    server.files[PATH] = Served(b"", location=target.format(port=port))
    error = kept.refused(server.url + PATH)
    assert error.problem.code == ErrorCode.MODEL_REFUSED
    assert "not on the public internet" in str(error)
    assert len(server.asked) == 1


def test_a_redirect_from_https_to_http_is_refused(
    server: ModelServer, kept: Kept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with https_redirect(tmp_path, server.url + PATH, monkeypatch) as url:
        error = kept.refused(url)
    assert "without https" in str(error)
    assert server.asked == []


def test_endless_redirects_end(server: ModelServer, kept: Kept) -> None:
    server.files[PATH] = Served(b"", location=PATH)
    kept.refused(server.url + PATH)
    assert len(server.asked) <= 9 * QUICK.attempts


def test_a_name_that_a_server_sends_decides_nothing(server: ModelServer, kept: Kept) -> None:
    before = {path for path in kept.root.parent.rglob("*") if kept.root not in path.parents}
    server.files["/..%2f..%2fevil"] = Served(FILE)
    kept.fetch(f"{server.url}/..%2f..%2fevil?filename=..%2f..%2fevil")
    assert kept.files() == [f"{SHA256}.safetensors"]
    after = {path for path in kept.root.parent.rglob("*") if kept.root not in path.parents}
    assert after == before


def test_a_stopped_download_ends_at_once_and_is_resumed_later(
    server: ModelServer, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files[PATH].hold_after = 2000
    received = when_received(monkeypatch, 2000)
    stopper = threading.Thread(target=lambda: (received.wait(60), kept.stop.set()))
    stopper.start()
    with pytest.raises(RemoteModelError, match="stopped"):
        kept.fetch(server.url + PATH)
    stopper.join()
    server.release.set()
    server.files[PATH].hold_after = None
    kept.stop = Stop()
    assert kept.fetch(server.url + PATH) == SHA256
    assert server.asked[-1].headers["Range"] == "bytes=2000-"


def test_the_least_recently_used_files_make_room(server: ModelServer, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "cache", cache_bytes=250)
    digests = {name: serve(server, name, 100) for name in "abc"}
    for name in "ab":
        kept.fetch(f"{server.url}/{name}", job=f"job_{name}")
        kept.now += 1
    kept.fetch(f"{server.url}/a", job="job_a")
    kept.cache.release("job_a")
    kept.cache.release("job_b")
    kept.fetch(f"{server.url}/c")
    assert kept.files() == sorted(f"{digests[name]}.safetensors" for name in "ac")


def test_what_a_job_uses_is_never_deleted_for_another(server: ModelServer, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "cache", cache_bytes=250)
    digests = {name: serve(server, name, 100) for name in "abc"}
    for name in "ab":
        kept.fetch(f"{server.url}/{name}", job=f"job_{name}")
    with pytest.raises(RemoteModelError, match="no room") as error:
        kept.fetch(f"{server.url}/c", job="job_c")
    assert error.value.problem.code == ErrorCode.MODEL_UNAVAILABLE
    assert kept.files() == sorted(f"{digests[name]}.safetensors" for name in "ab")
    kept.cache.release("job_b")
    assert kept.fetch(f"{server.url}/c", job="job_c") == digests["c"]
    kept.now += 61  # the leases end by themselves
    kept.fetch(f"{server.url}/b", job="job_d")
    assert len(kept.files()) == 2


def test_a_file_of_unknown_size_makes_room_while_it_comes(
    server: ModelServer, tmp_path: Path
) -> None:
    kept = Kept(tmp_path / "cache", cache_bytes=250)
    digests = {name: serve(server, name, 100) for name in "abc"}
    server.files["/c"].told = -1
    for name in "abc":
        kept.fetch(f"{server.url}/{name}", job="job_1" if name == "c" else "job_0")
        kept.cache.release("job_0")
        kept.now += 1
    assert kept.files() == sorted(f"{digests[name]}.safetensors" for name in "bc")


def test_abandoned_parts_make_room_before_whole_files(server: ModelServer, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "cache", cache_bytes=len(FILE) + 250)
    digests = {name: serve(server, name, 100) for name in "ab"}
    server.files[PATH].break_after = [5000, 0, 0, 0]
    kept.refused(server.url + PATH)
    assert kept.parts() != []
    kept.fetch(f"{server.url}/a", job="job_0")
    kept.cache.release("job_0")
    serve(server, "big", len(FILE) + 100)
    kept.fetch(f"{server.url}/big")
    assert kept.parts() == []
    assert f"{digests['a']}.safetensors" in kept.files()


def test_one_address_asked_for_by_many_threads_is_downloaded_once(
    server: ModelServer, kept: Kept
) -> None:
    server.files[PATH].hold_after = 100
    found: list[str] = []

    def fetch(job: str) -> None:
        found.append(kept.fetch(server.url + PATH, job=job))

    threads = [threading.Thread(target=fetch, args=(f"job_{n}",)) for n in range(5)]
    for thread in threads:
        thread.start()
    assert server.holding.wait(60)
    server.release.set()
    for thread in threads:
        thread.join()
    assert found == [SHA256] * 5
    assert len(server.asked) == 1


def fetch_in_process(root: str, url: str, job: str) -> None:
    Kept(Path(root)).fetch(url, job=job)


def test_one_address_asked_for_by_two_processes_is_downloaded_once(
    server: ModelServer, kept: Kept
) -> None:
    server.files[PATH].hold_after = 100
    context = multiprocessing.get_context("spawn")
    children = [
        context.Process(target=fetch_in_process, args=(str(kept.root), server.url + PATH, f"j{n}"))
        for n in range(2)
    ]
    for child in children:
        child.start()
    assert server.holding.wait(60)
    server.release.set()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert len(server.asked) == 1
    assert kept.files() == [f"{SHA256}.safetensors"]


def test_a_process_that_dies_leaves_no_half_file_and_no_lock(
    server: ModelServer, kept: Kept
) -> None:
    server.files[PATH].hold_after = 3000
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=fetch_in_process, args=(str(kept.root), server.url + PATH, "j"))
    child.start()
    assert server.holding.wait(60)
    child.kill()
    child.join(60)
    server.release.set()
    assert kept.files() == []
    server.files[PATH].hold_after = None
    assert kept.fetch(server.url + PATH) == SHA256


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"sha256": "gone"}'])
def test_damaged_notes_are_only_forgotten(server: ModelServer, kept: Kept, text: str) -> None:
    kept.fetch(server.url + PATH)
    for note in (*kept.root.glob("origins/*"), *kept.root.glob("used/*")):
        note.write_text(text)
    assert kept.fetch(server.url + PATH) == SHA256


def test_a_folder_that_cannot_be_written_is_said(server: ModelServer, kept: Kept) -> None:
    (kept.root / "parts").rmdir()
    (kept.root / "parts").write_text("a file")
    error = kept.refused(server.url + PATH)
    assert error.problem.code == ErrorCode.MODEL_UNAVAILABLE
    assert str(kept.root) not in str(error)


def test_files_are_read_only(server: ModelServer, kept: Kept) -> None:
    kept.fetch(server.url + PATH)
    path = kept.cache.path(CachedModel("loras", SHA256))
    assert path.stat().st_mode & 0o777 == 0o444


def settings(**given: Any) -> RemoteModelSettings:
    return RemoteModelSettings.model_validate(given)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://huggingface.co/a/b/resolve/main/c.safetensors", None),
        ("https://HuggingFace.co./a", None),
        ("https://cdn.models.example.com/a", None),
        ("http://10.1.2.3:8000/a", None),
        ("https://models.example.com/a", "not allowed"),
        ("https://evil-huggingface.co/a", "not allowed"),
        ("https://huggingface.co.evil.com/a", "not allowed"),
        ("https://huggingface.co@evil.com/a", "user name"),
        ("https://user:secret@huggingface.co/a", "user name"),
        ("http://huggingface.co/a", "https"),
        ("http://10.2.0.1/a", "not allowed"),
        ("https:///a", "not a valid"),
        ("https://huggingface.co:99999/a", "not a valid"),
        ("https://huggingface.co/a b", "not a valid"),
        ("https://[::1/a", "not a valid"),
    ],
)
def test_only_listed_hosts_are_asked(url: str, reason: str | None) -> None:
    allowed = settings(
        hosts=["huggingface.co", "*.models.example.com", "10.1.2.3"],
        private_networks=["10.1.0.0/16"],
    )
    found = allowed.problem(url)
    assert found is None if reason is None else reason in str(found)
    assert "secret" not in str(found)


def test_urls_are_off_by_default(server: ModelServer, tmp_path: Path) -> None:
    assert "takes no URLs" in str(RemoteModelSettings().problem("https://huggingface.co/a"))
    kept = Kept(tmp_path / "cache", hosts=())
    assert kept.refused(server.url + PATH).problem.code == ErrorCode.MODEL_REFUSED
    assert server.asked == []


@pytest.mark.parametrize(
    "given",
    [{"hosts": ["https://x.com"]}, {"hosts": ["*"]}, {"hosts": ["a/b"]},
     {"private_networks": ["10.0.0.0/40"]}, {"max_bytes": 0}, {"host": ["x.com"]}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**given)


def test_the_page_of_a_file_at_hugging_face_means_the_file() -> None:
    page = "https://huggingface.co/owner/name/blob/main/folder/a.safetensors#x"
    file = "https://huggingface.co/owner/name/resolve/main/folder/a.safetensors"
    assert download_address(page) == file
    assert download_address(file) == file


@pytest.fixture(autouse=True)
def nothing_is_written_outside_the_cache(tmp_path: Path) -> Iterator[None]:
    """Holds for every test of this file, whatever the server does."""
    with recorded_writes() as written:
        yield
    assert [path for path in written if not path.is_relative_to(tmp_path / "cache")] == []


def test_nothing_is_written_outside_the_folder(server: ModelServer, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "cache")
    server.files[PATH].break_after = [10]
    with recorded_writes() as written:
        kept.fetch(server.url + PATH)
        with suppress(RemoteModelError):
            kept.fetch(server.url + "/missing", job="../../job")
        kept.cache.release("job_1")
    assert kept.cache.path(CachedModel("loras", SHA256)) in written
    assert {path.relative_to(tmp_path).parts[0] for path in written} == {"cache"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


WAYS: dict[str, Callable[[Path], object]] = {
    "written": lambda path: path.write_bytes(b""),
    "appended to": lambda path: path.open("ab").close(),
    "opened by the system": lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY)),
    "made": lambda path: path.mkdir(),
    "renamed": lambda path: (path.parent / "a").rename(path),
    "linked": lambda path: path.symlink_to("a"),
    "deleted": lambda path: path.unlink(missing_ok=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_change_a_file_would_be_seen(way: str, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a").touch()
    with recorded_writes() as written:
        (tmp_path / "cache" / "a").read_bytes()
        WAYS[way](tmp_path / "cache" / "b")
    assert tmp_path / "cache" / "b" in written
    assert way == "renamed" or tmp_path / "cache" / "a" not in written
