"""Downloads one model file; resumes partial downloads, also of an earlier run."""

import hashlib
import json
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from comfysnap_server.models.content import content_problem
from comfysnap_server.models.sources import (
    IDENTITY,
    HubFile,
    ModelError,
    ModelFile,
    hub_endpoint,
    response_error,
)

if TYPE_CHECKING:
    import httpx


class Stop(Event):
    """Ends downloads, those that wait for bytes too."""

    def __init__(self) -> None:
        super().__init__()
        self._connections: set[socket.socket] = set()

    def set(self) -> None:
        """End every download soon."""
        super().set()
        for connection in list(self._connections):
            _end(connection)

    @contextmanager
    def ends(self, response: "httpx.Response") -> Generator[None]:
        """Let ``set`` end the reads of a response."""
        connection: socket.socket = response.extensions["network_stream"].get_extra_info("socket")
        self._connections.add(connection)
        if self.is_set():
            _end(connection)
        try:
            yield
        finally:
            self._connections.discard(connection)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not TLS's own, for its reader


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Retries of a download."""

    attempts: int = 6
    """Maximum number of attempts in a row without a new byte."""
    wait_initial: float = 1.0
    """Seconds before the second attempt; doubled for each further one."""
    wait_max: float = 30.0
    """Seconds; upper bound of each pause."""

    def pause(self, failures: int) -> float:
        """Seconds to wait after ``failures`` failures in a row (at least 1)."""
        return min(self.wait_max, self.wait_initial * 2 ** (failures - 1))


@dataclass(frozen=True)
class PartialFile:
    """A partial download, with the validator of the remote version it belongs to."""

    path: Path

    @property
    def note(self) -> Path:
        """Path of the file with the validator."""
        return self.path.with_suffix(".json")

    def size(self) -> int:
        """Bytes downloaded so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def validator(self) -> str | None:
        """Strong ETag or date of the remote version; None if the server sent none."""
        try:
            note: Any = json.loads(self.note.read_text())
        except (OSError, ValueError):
            return None
        return note if isinstance(note, str) else None

    def delete(self) -> None:
        """Delete the file and its validator."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download(
    file: ModelFile,
    part: PartialFile,
    client: "httpx.Client",
    policy: RetryPolicy,
    *,
    progress: Callable[[int], None],
    stop: Stop,
    expect: Callable[[int | None], None] = lambda _: None,
) -> str:
    """Download a file to ``part.path``; returns its SHA-256 in hex.

    Args:
        file: The file, as its source describes it.
        part: An existing partial download is resumed if it is of the same version.
        client: Must follow redirects and drop the token on a redirect to another host.
        policy: Retries.
        progress: Called with the number of bytes downloaded so far; may raise ``ModelError``.
        stop: Set it to end the download; the partial file stays.
        expect: Called with the size that the server tells, or None, before the body is read; may
            raise ``ModelError``.

    Raises:
        ModelError: ``access_denied``, ``not_found``, ``download_failed``, ``wrong_content``,
            ``hash_mismatch``, ``disk_full``, ``stopped``.
    """
    for last_try in (False, True):
        _retry(file, part, client, policy, progress, stop, expect)
        digest = sha256_of(part.path)
        if file.sha256 == digest:
            return digest
        problem = content_problem(part.path, file.path.name)
        if problem is None and file.sha256 is None:
            return digest
        part.delete()
        if problem is not None:
            raise ModelError("wrong_content", f"{file.source}: {problem}")
        if last_try:
            raise ModelError(
                "hash_mismatch", f"{file.source}: expected SHA-256 {file.sha256}, got {digest}"
            )
    raise AssertionError("the second try returns or raises")


def _retry(
    file: ModelFile,
    part: PartialFile,
    client: "httpx.Client",
    policy: RetryPolicy,
    progress: Callable[[int], None],
    stop: Stop,
    expect: Callable[[int | None], None],
) -> None:
    failures = 0
    furthest = part.size()
    while True:
        try:
            return _stream(file, part, client, progress, stop, expect)
        except ModelError as error:
            # bytes that came before count for nothing: a server may lie about the size for ever
            failures = 1 if part.size() > furthest else failures + 1
            furthest = max(furthest, part.size())
            if not error.retryable or failures >= policy.attempts:
                raise
        if stop.wait(policy.pause(failures)):
            raise stopped()


def stopped() -> ModelError:
    """The error of a download that was stopped."""
    return ModelError("stopped", "stopped; the next sync resumes the download")


def _stream(
    file: ModelFile,
    part: PartialFile,
    client: "httpx.Client",
    progress: Callable[[int], None],
    stop: Stop,
    expect: Callable[[int | None], None],
) -> None:
    """Send one request: for the missing bytes if the version is the same, else for the file."""
    import httpx

    have, validator = part.size(), part.validator()
    headers = dict(IDENTITY)
    if file.token:
        headers["Authorization"] = f"Bearer {file.token}"
    if have and validator is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        with client.stream("GET", file.url, headers=headers) as response, stop.ends(response):
            if response.status_code == 416:
                part.delete()
                raise ModelError(
                    "download_failed", f"{file.source} changed during the download", retryable=True
                )
            if failure := response_error(response, file.source):
                raise failure
            _save(response, file, part, have, progress, stop, expect)
    except httpx.HTTPError as error:
        message = f"{file.source}: connection lost ({type(error).__name__})"
        raise ModelError("download_failed", message, retryable=True) from error
    except OSError as error:
        raise ModelError("disk_full", f"{part.path}: {error.strerror or error}") from error


def _save(
    response: "httpx.Response",
    file: ModelFile,
    part: PartialFile,
    have: int,
    progress: Callable[[int], None],
    stop: Stop,
    expect: Callable[[int | None], None],
) -> None:
    """Append the body; starts again if the server did not resume."""
    if not (response.status_code == 206 and _starts_at(response, have)):
        have = 0
        part.delete()
        part.path.parent.mkdir(parents=True, exist_ok=True)
        if (name := _validator(response)) is not None:
            part.note.write_text(json.dumps(name))
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else file.size
    most = min((size for size in (file.size, total) if size is not None), default=None)
    expect(total)
    too_long = False
    with part.path.open("ab") as stream:
        progress(have)
        # a fixed chunk size would buffer bytes, and lose them when the connection breaks
        for chunk in response.iter_raw():
            if too_long := most is not None and have + len(chunk) > most:
                break
            stream.write(chunk)
            have += len(chunk)
            progress(have)
            if stop.is_set():
                raise stopped()
    if too_long:
        part.delete()
        message = f"{file.source}: more than the expected {most} bytes"
        raise ModelError("wrong_content", message, retryable=True)
    if total is not None and have != total:
        raise ModelError(
            "download_failed", f"{file.source}: got {have} of {total} bytes", retryable=True
        )


def _starts_at(response: "httpx.Response", have: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _validator(response: "httpx.Response") -> str | None:
    """Value for If-Range (RFC 9110, 13.1.5): a strong ETag, else a date."""
    etag: str | None = response.headers.get("ETag")
    if etag is not None:
        return None if etag.startswith("W/") else etag
    return response.headers.get("Last-Modified")


def download_from_hub(
    file: ModelFile,
    hub: HubFile,
    folder: Path,
    *,
    progress: Callable[[int], None],
    stop: Stop,
) -> tuple[Path, str]:
    """Download a file that Hugging Face stores in Xet; returns its path and its SHA-256.

    Raises:
        ModelError: ``download_failed``, ``hash_mismatch``, ``wrong_content``, ``stopped``.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from tqdm import tqdm

    counted = 0

    class Bar(tqdm):  # pyright: ignore[reportMissingTypeArgument] generic in its stubs alone
        """Reports the bytes that huggingface_hub counts."""

        def update(self, n: float | None = 1) -> None:
            nonlocal counted
            counted += int(n or 0)
            progress(counted)
            if stop.is_set():
                raise stopped()

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
        raise ModelError("download_failed", f"{file.source}: {error}", retryable=True) from error
    except (httpx2.HTTPError, OSError, RuntimeError) as error:  # hf_xet raises RuntimeError
        raise ModelError("download_failed", f"{file.source}: {error}") from error
    path = Path(str(name))
    digest = sha256_of(path)
    problem = content_problem(path, file.path.name) if file.sha256 != digest else None
    if problem is not None:
        path.unlink()
        raise ModelError("wrong_content", f"{file.source}: {problem}")
    if file.sha256 not in {None, digest}:
        path.unlink()
        message = f"{file.source}: expected SHA-256 {file.sha256}, got {digest}"
        raise ModelError("hash_mismatch", message)
    return path, digest


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
