"""Fetches node packs from the Comfy registry: zip archives over HTTP."""

import io
import json
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

from comfysnap_server.nodepacks.manifest import RegistryPack
from comfysnap_server.nodepacks.sources import PackFetchError, Sources

HTTP_TIMEOUT: Final = 60.0
TRACKING: Final = ".tracking"
"""File in a registry pack's folder with the list of its files, as Manager writes it."""
MAX_ANSWER_BYTES: Final = 1024 * 1024
MAX_ARCHIVE_BYTES: Final = 512 * 1024**2
MAX_UNPACKED_BYTES: Final = 4 * 1024**3


def fetch_version(pack: RegistryPack, target: Path, sources: Sources) -> str:
    """Fetch a version into a folder; returns the SHA-256 of its archive, in hex."""
    base = sources.registry.rstrip("/")
    address = f"{base}/nodes/{quote(pack.folder)}/install?version={quote(pack.version)}"

    def look_up() -> str:
        try:
            answer: Any = json.loads(_get(address, MAX_ANSWER_BYTES))
        except ValueError as error:
            raise PackFetchError("download_failed", f"{base} returned invalid JSON") from error
        found = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
        download = found.get("downloadUrl")
        if not isinstance(download, str) or not download:
            message = f"{pack.folder} {pack.version} not found in the registry"
            raise PackFetchError("version_not_found", message)
        if urlsplit(download).scheme not in {"https", urlsplit(base).scheme}:
            raise PackFetchError(
                "download_failed", "the registry returned a download URL without https"
            )
        return download

    download = sources.retry(look_up)
    archive = sources.retry(lambda: _get(download, MAX_ARCHIVE_BYTES))
    digest = sha256(archive).hexdigest()
    if pack.sha256 not in {None, digest}:
        message = f"{pack.folder} {pack.version}: expected SHA-256 {pack.sha256}, got {digest}"
        raise PackFetchError("hash_mismatch", message)
    if target.exists() and not (target / TRACKING).is_file():
        message = f"{target} already exists and is not from the registry; move it away"
        raise PackFetchError("already_exists", message)
    # not in custom_nodes, where ComfyUI would load it as a pack
    with tempfile.TemporaryDirectory(dir=target.parents[1]) as folder:
        unpacked = Path(folder, target.name)
        _unpack(io.BytesIO(archive), unpacked)
        _replace_tracked(unpacked, target)
    return digest


def _get(address: str, limit: int) -> bytes:
    """The body of an http(s) URL; ``urlopen`` alone would also open file URLs."""
    if urlsplit(address).scheme not in {"http", "https"}:
        message = f"the download URL must start with https://, got {urlsplit(address).scheme}:"
        raise PackFetchError("download_failed", message)
    try:
        opener = urllib.request.build_opener(_NoDowngrade)
        with opener.open(address, timeout=HTTP_TIMEOUT) as response:
            body: bytes = response.read(limit + 1)
            length = response.headers.get("Content-Length", "")
    except urllib.error.HTTPError as error:
        code = "version_not_found" if error.code == 404 else "download_failed"
        message = f"{urlsplit(address).netloc} returned {error.code}"
        raise PackFetchError(code, message, retryable=error.code >= 500) from error
    except (OSError, HTTPException) as error:
        message = f"{urlsplit(address).netloc}: {error!r}"
        raise PackFetchError("download_failed", message, retryable=True) from error
    if len(body) > limit:
        raise PackFetchError("download_failed", f"larger than {limit} bytes")
    if length.isdigit() and len(body) < int(length):
        message = f"{urlsplit(address).netloc}: connection lost at {len(body)} of {length} bytes"
        raise PackFetchError("download_failed", message, retryable=True)
    return body


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Refuses a redirect from https to another scheme."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        origin = urlsplit(str(req.full_url))
        if urlsplit(newurl).scheme not in {"https", origin.scheme}:
            message = f"{origin.netloc} redirects to {newurl.partition('?')[0]}, without https"
            raise PackFetchError("download_failed", message)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _unpack(stream: io.BytesIO, target: Path) -> None:
    """Unpack a zip of the registry, and write the list of its files as Manager does."""
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
                raise PackFetchError(
                    "bad_archive", f"larger than {MAX_UNPACKED_BYTES} bytes when unpacked"
                )
            _check_names(members)
            target.mkdir(parents=True)
            archive.extractall(target)
            names = [member.filename for member in members if not member.is_dir()]
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError) as error:
        raise PackFetchError("bad_archive", f"not a readable zip: {error}") from error
    (target / TRACKING).write_text("\n".join(sorted(names)) + "\n", encoding="utf-8")


def _check_names(members: Iterable[zipfile.ZipInfo]) -> None:
    """Refuse names that would write outside the folder or over another file, on any system."""
    seen: set[tuple[str, ...]] = set()
    for member in members:
        name = member.orig_filename  # zipfile cuts filename at NUL
        path = PurePosixPath(name)
        if path.is_absolute() or {"..", "\\", ":"} & {*path.parts, *name} or not path.parts:
            raise PackFetchError("bad_archive", f"{name!r} is outside the folder")
        if not name.isprintable():
            raise PackFetchError("bad_archive", f"{name!r} is not a valid file name")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise PackFetchError("bad_archive", f"{name!r} is a symbolic link")
        # the same file on Windows and macOS: case is ignored, and dots at the end
        same = tuple(part.rstrip(". ").casefold() for part in path.parts)
        if same in seen:
            raise PackFetchError("bad_archive", f"{name!r} has the same name as another file")
        seen.add(same)


def _replace_tracked(new: Path, target: Path) -> None:
    """Replace an older version with an unpacked one; files that are not part of it stay."""
    if not target.exists():
        new.rename(target)
        return
    old = set((target / TRACKING).read_text(encoding="utf-8").splitlines())
    for name in old - set((new / TRACKING).read_text(encoding="utf-8").splitlines()):
        path = target / name
        if path.is_file() and path.resolve().is_relative_to(target.resolve()):
            path.unlink()
    shutil.copytree(new, target, dirs_exist_ok=True)
