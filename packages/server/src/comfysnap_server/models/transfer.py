"""Downloads one model file: resumed after a break, also that of an earlier run, and checked."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from comfysnap_server.models.sources import (
    IDENTITY,
    HubFile,
    ModelError,
    ModelFile,
    hub_endpoint,
    refusal,
)

if TYPE_CHECKING:
    import httpx


class Stopped(Exception):
    """The transfer was asked to stop; what is there stays for the next run."""


@dataclass(frozen=True, kw_only=True)
class TransferPolicy:
    """How hard to try."""

    attempts: int = 6
    """In a row without a single new byte."""
    wait_initial: float = 1.0
    """Seconds, doubled each time."""
    wait_max: float = 30.0

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(self.wait_max, self.wait_initial * 2 ** (failures - 1))


@dataclass(frozen=True)
class Part:
    """An unfinished file, and which version of the remote one it is a part of."""

    path: Path

    @property
    def note(self) -> Path:
        """Holds the validator."""
        return self.path.with_suffix(".json")

    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def validator(self) -> str | None:
        """What the server called the version, when that can be relied on."""
        try:
            note: Any = json.loads(self.note.read_text())
        except (OSError, ValueError):
            return None
        return note if isinstance(note, str) else None

    def drop(self) -> None:
        """Forget it."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def transfer(
    file: ModelFile,
    part: Part,
    client: "httpx.Client",
    policy: TransferPolicy,
    *,
    progress: Callable[[int], None],
    stop: Event,
) -> str:
    """Bring the file to ``part.path`` and return its SHA-256.

    Args:
        file: What to bring.
        part: Where to; a part that is there is continued if it is one of the same version.
        client: Follows redirects, and drops the token when one leads to another host.
        policy: How hard to try.
        progress: Told how many bytes are there.
        stop: Ends the transfer soon.

    Raises:
        ModelError: ``access_denied``, ``not_found``, ``download_failed``, ``hash_mismatch``,
            ``wrong_content``.
        Stopped: ``stop`` was set.
    """
    for last_try in (False, True):
        _bring(file, part, client, policy, progress, stop)
        digest = sha256_of(part.path)
        if file.sha256 in {None, digest}:
            return digest
        part.drop()
        if last_try:
            raise ModelError(
                "hash_mismatch", f"{file.source} has SHA-256 {digest}, not {file.sha256}"
            )
    raise AssertionError("the second try returns or raises")


def _bring(
    file: ModelFile,
    part: Part,
    client: "httpx.Client",
    policy: TransferPolicy,
    progress: Callable[[int], None],
    stop: Event,
) -> None:
    failures = 0
    while True:
        before = part.size()
        try:
            return _stream(file, part, client, progress, stop)
        except ModelError as error:
            failures = 1 if part.size() > before else failures + 1
            if not error.passing or failures >= policy.attempts:
                raise
        if stop.wait(policy.pause(failures)):
            raise Stopped


def _stream(
    file: ModelFile,
    part: Part,
    client: "httpx.Client",
    progress: Callable[[int], None],
    stop: Event,
) -> None:
    """One request: what is missing if the version is still the same, else everything."""
    import httpx

    have, validator = part.size(), part.validator()
    headers = dict(IDENTITY)
    if file.token:
        headers["Authorization"] = f"Bearer {file.token}"
    if have and validator is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        with client.stream("GET", file.url, headers=headers) as response:
            if response.status_code == 416:
                part.drop()
                raise ModelError("download_failed", f"{file.source} has changed", passing=True)
            if reason := refusal(response, file.source):
                raise reason
            _save(response, file, part, have, progress, stop)
    except httpx.HTTPError as error:
        message = f"{file.source}: the connection broke: {type(error).__name__}"
        raise ModelError("download_failed", message, passing=True) from error
    except OSError as error:
        raise ModelError("disk_full", f"{part.path}: {error.strerror or error}") from error


def _save(
    response: "httpx.Response",
    file: ModelFile,
    part: Part,
    have: int,
    progress: Callable[[int], None],
    stop: Event,
) -> None:
    """Append what comes; a server that did not resume starts the part anew."""
    if not (response.status_code == 206 and _starts_at(response, have)):
        have = 0
        part.drop()
        part.path.parent.mkdir(parents=True, exist_ok=True)
        if (name := _validator(response)) is not None:
            part.note.write_text(json.dumps(name))
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else file.size
    with part.path.open("ab") as stream:
        progress(have)
        # a set chunk size would hold bytes back, and lose them when the connection breaks
        for chunk in response.iter_raw():
            stream.write(chunk)
            have += len(chunk)
            progress(have)
            if stop.is_set():
                raise Stopped
    if total is not None and have != total:
        raise ModelError("download_failed", f"{file.source}: {have} of {total} bytes", passing=True)


def _starts_at(response: "httpx.Response", have: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _validator(response: "httpx.Response") -> str | None:
    """What If-Range may name (RFC 9110, 13.1.5): a strong ETag, or else a date."""
    etag: str | None = response.headers.get("ETag")
    if etag is not None:
        return None if etag.startswith("W/") else etag
    return response.headers.get("Last-Modified")


def transfer_from_hub(
    file: ModelFile,
    hub: HubFile,
    folder: Path,
    *,
    progress: Callable[[int], None],
    stop: Event,
) -> tuple[Path, str]:
    """Bring a file that Hugging Face stores in chunks; returns where it lies and its SHA-256.

    Raises:
        ModelError: ``download_failed``, ``access_denied``, ``hash_mismatch``.
        Stopped: ``stop`` was set.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from tqdm import tqdm

    counted = 0

    class Bar(tqdm):  # pyright: ignore[reportMissingTypeArgument] generic in its stubs alone
        """Hands on what huggingface_hub counts."""

        def update(self, n: float | None = 1) -> None:
            nonlocal counted
            counted += int(n or 0)
            progress(counted)
            if stop.is_set():
                raise Stopped

    try:
        api = HfApi(endpoint=hub_endpoint(), token=file.token)
        name = api.hf_hub_download(  # pyright: ignore[reportUnknownMemberType] tqdm is untyped
            hub.repo,
            hub.name,
            revision=hub.commit,
            local_dir=folder,
            tqdm_class=Bar,
        )
    except HfHubHTTPError as error:
        raise ModelError("download_failed", f"{file.source}: {error}", passing=True) from error
    except (httpx2.HTTPError, OSError, RuntimeError) as error:  # hf_xet raises RuntimeError
        raise ModelError("download_failed", f"{file.source}: {error}") from error
    path = Path(str(name))
    digest = sha256_of(path)
    if file.sha256 not in {None, digest}:
        path.unlink()
        message = f"{file.source} has SHA-256 {digest}, not {file.sha256}"
        raise ModelError("hash_mismatch", message)
    return path, digest


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
