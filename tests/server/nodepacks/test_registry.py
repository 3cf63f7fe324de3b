"""Packs from the registry: its answers and its archives."""

import hashlib
import io
import json
import shutil
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfysnap_server.nodepacks.install import REPORT_FILE
from tests.server.nodepacks.sources import BROKEN, INIT, Host
from tests.server.tls import https_redirect

pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")

Install = Callable[..., tuple[int, dict[str, Any], str]]


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
        "custom_nodes", REPORT_FILE,
    }  # fmt: skip


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


def zip_of(*members: tuple[str, str] | tuple[zipfile.ZipInfo, str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings(action="ignore"):
        for member, content in members:
            archive.writestr(member, content)
    return stream.getvalue()


def member(name: str, mode: int = 0o644) -> zipfile.ZipInfo:
    """A member whose name is written as it is."""
    info = zipfile.ZipInfo("x")
    info.filename, info.external_attr = name, mode << 16
    return info


@pytest.mark.parametrize(
    "name",
    ["../../evil.py", "/evil.py", "a\\..\\evil.py", "C:/evil.py", "C:evil.py", "evil.py:stream",
     "evil.py\0.txt", "a\n/evil.py", "//host/evil.py"],
)  # fmt: skip
def test_an_archive_with_an_unsafe_name_writes_nothing(
    install: Install, host: Host, tmp_path: Path, name: str
) -> None:
    host.version("pack", "1.0.0", INIT)
    host.answers["/zips/pack-1.0.0.zip"] = [(200, zip_of((member(name), "import os")))]
    code, report, _ = install({"cnr_custom_nodes": {"pack": "1.0.0"}})
    assert code == 1
    assert report["failed"]["pack"].startswith("bad_archive")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    "second", ["Nodes.py", "nodes.py.", "nodes.py ", "nodes.py", "NODES.PY..", "nodes.py/"]
)
def test_an_archive_with_two_names_for_one_file_is_refused(
    install: Install, host: Host, second: str
) -> None:
    host.version("pack", "1.0.0", INIT)
    twice = zip_of((member("nodes.py"), "good"), (member(second), "evil"))
    host.answers["/zips/pack-1.0.0.zip"] = [(200, twice)]
    code, report, _ = install({"cnr_custom_nodes": {"pack": "1.0.0"}})
    assert (code, report["failed"]["pack"].split(":")[0]) == (1, "bad_archive")


def test_an_archive_with_a_symbolic_link_is_refused(install: Install, host: Host) -> None:
    host.version("pack", "1.0.0", INIT)
    link = zip_of((member("link", stat.S_IFLNK | 0o777), "/etc/passwd"))
    host.answers["/zips/pack-1.0.0.zip"] = [(200, link)]
    code, report, _ = install({"cnr_custom_nodes": {"pack": "1.0.0"}})
    assert (code, report["failed"]["pack"].split(":")[0]) == (1, "bad_archive")


def test_an_archive_is_checked_by_the_hash_in_the_snapshot(install: Install, host: Host) -> None:
    host.version("pack", "1.0.0", INIT)
    archive = host.answers["/zips/pack-1.0.0.zip"][0][1]
    digest = hashlib.sha256(archive).hexdigest()
    code, report, log = install({"cnr_custom_nodes": {"pack": "1.0.0"}})
    assert (code, report["sha256"]) == (0, {"pack": digest})
    assert digest in log
    pinned = {"cnr_custom_nodes": {"pack": {"version": "1.0.0", "sha256": digest.upper()}}}
    assert install(pinned)[0] == 0
    host.version("pack", "1.0.0", INIT | {"evil.py": ""})
    code, report, _ = install(pinned)
    assert (code, report["failed"]["pack"].split(":")[0]) == (1, "hash_mismatch")


def test_a_redirect_from_https_to_http_is_refused(
    install: Install, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.version("pack", "1.0.0", INIT)
    with https_redirect(tmp_path, f"{host.url}/zips/pack-1.0.0.zip", monkeypatch) as url:
        answer = json.dumps({"downloadUrl": f"{url}/pack.zip"}).encode()
        host.answers["/nodes/pack/install?version=1.0.0"] = [(200, answer)]
        code, report, _ = install({"cnr_custom_nodes": {"pack": "1.0.0"}})
    assert code == 1
    assert "without https" in report["failed"]["pack"]


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
