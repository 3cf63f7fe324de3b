"""Downloads the missing and wrong files of a ``models/`` folder, several at once."""

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from comfysnap_server.models.download import (
    RetryPolicy,
    Stop,
    download,
    download_from_hub,
    stopped,
)
from comfysnap_server.models.entry import ModelEntry
from comfysnap_server.models.sources import ModelError, ModelFile, resolve
from comfysnap_server.models.storage import FileState, ModelsFolder

if TYPE_CHECKING:
    import httpx

RESERVE_BYTES: Final = 256 * 1024 * 1024
"""Disk space that a sync keeps free."""


@dataclass(frozen=True, kw_only=True)
class SyncPlan:
    """What a sync will download."""

    pending: tuple[ModelFile, ...]
    reasons: dict[str, str]
    """Path to the reason for its download."""
    present: tuple[str, ...]
    """Paths of the files that are there and right."""
    failed: dict[str, str]
    """Entry to the error of its source."""
    need: int
    """Bytes to download, without the files of unknown size."""
    unknown_sizes: int
    """Number of files whose source does not say their size."""
    free: int | None
    """Bytes free on the disk; None: unknown."""


@dataclass(frozen=True)
class DownloadProgress:
    """Bytes of one file downloaded so far."""

    path: str
    done: int
    total: int | None


@dataclass(frozen=True)
class Downloaded:
    """A file was downloaded and checked."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Failed:
    """A file could not be downloaded."""

    path: str
    code: str
    reason: str


SyncEvent = SyncPlan | DownloadProgress | Downloaded | Failed


@dataclass(frozen=True, kw_only=True)
class SyncOptions:
    """Options of a sync."""

    workers: int = 4
    """Number of parallel downloads."""
    verify: bool = False
    """Whether to hash every file again instead of trusting the record."""
    dry_run: bool = False
    """Whether to stop after the plan."""
    policy: RetryPolicy = field(default_factory=RetryPolicy)


def make_client(transport: "httpx.BaseTransport | None" = None) -> "httpx.Client":
    """HTTP client that follows redirects, but none from https to http, and drops the token on one
    to another host.

    Args:
        transport: Connects in its own way, and then without the proxies of the environment.
    """
    import httpx

    timeout = httpx.Timeout(60.0, connect=15.0)
    hooks = {"response": [_refuse_downgrade]}
    return httpx.Client(
        follow_redirects=True, timeout=timeout, event_hooks=hooks, transport=transport
    )


def _refuse_downgrade(response: "httpx.Response") -> None:
    if response.has_redirect_location and response.url.scheme == "https":
        target = response.url.join(response.headers["Location"])
        if target.scheme != "https":
            message = f"{response.url.host} redirects to {target.copy_with(query=None)}"
            raise ModelError("download_failed", f"{message}, without https")


def plan(
    entries: Sequence[ModelEntry],
    folder: ModelsFolder,
    client: "httpx.Client",
    options: SyncOptions,
) -> SyncPlan:
    """Look up every entry at its source, and compare with the folder."""

    def look_up(entry: ModelEntry) -> list[ModelFile] | ModelError:
        failures = 0
        while True:
            try:
                return resolve(entry, client)
            except ModelError as error:
                failures += 1
                if not error.retryable or failures >= options.policy.attempts:
                    return error
            time.sleep(options.policy.pause(failures))

    failed: dict[str, str] = {}
    wanted: dict[PurePosixPath, ModelFile] = {}
    with ThreadPoolExecutor(options.workers) as pool:
        for entry, found in zip(entries, pool.map(look_up, entries), strict=True):
            if isinstance(found, ModelError):
                failed[str(entry)] = f"{found.code}: {found}"
                continue
            # an entry for one file takes precedence over a whole repository with the same path
            for file in found:
                if file.path not in wanted or not entry.whole_repository:
                    wanted[file.path] = file
    states = {path: folder.check(file, verify=options.verify) for path, file in wanted.items()}
    pending = [file for path, file in wanted.items() if states[path][0] is not FileState.PRESENT]
    have = sum(folder.part(file).size() for file in pending)
    return SyncPlan(
        pending=tuple(pending),
        reasons={str(file.path): states[file.path][1] for file in pending},
        present=tuple(
            str(path) for path, (state, _) in states.items() if state is FileState.PRESENT
        ),
        failed=failed,
        need=max(0, sum(file.size or 0 for file in pending) - have),
        unknown_sizes=sum(file.size is None for file in pending),
        free=_free(folder.root),
    )


def _free(root: Path) -> int | None:
    usage = shutil.disk_usage(root)
    return usage.free if usage.total else None


def sync(
    entries: Sequence[ModelEntry],
    folder: ModelsFolder,
    *,
    on_event: Callable[[SyncEvent], None],
    options: SyncOptions | None = None,
    commit: Callable[[], None] = lambda: None,
    stop: Stop | None = None,
) -> bool:
    """Download what is missing or wrong; returns whether every file is there and right.

    Args:
        entries: The files that should be there.
        folder: Folder to fill.
        on_event: Called with the plan first, then with each event, from several threads.
        options: Options.
        commit: Called after each downloaded file and at the end.
        stop: Set it to end the sync soon; the next sync resumes partial downloads.

    Raises:
        ModelError: ``disk_full``, before any download.
        TimeoutError: Another sync is using the folder.
    """
    options = options or SyncOptions()
    stop = stop or Stop()
    with folder.locked(), make_client() as client:
        sync_plan = plan(entries, folder, client, options)
        on_event(sync_plan)
        if sync_plan.free is not None and sync_plan.need > max(0, sync_plan.free - RESERVE_BYTES):
            raise ModelError(
                "disk_full",
                f"not enough disk space in {folder.root}: {sync_plan.need:,} bytes are needed, "
                f"{sync_plan.free:,} are free",
            )
        if options.dry_run:
            return not sync_plan.failed
        try:
            done = _download_all(sync_plan.pending, folder, client, options, on_event, commit, stop)
        finally:
            commit()
    if done and not sync_plan.failed:
        if folder.delete_parts():
            commit()
        return True
    return False


def _download_all(
    files: Iterable[ModelFile],
    folder: ModelsFolder,
    client: "httpx.Client",
    options: SyncOptions,
    on_event: Callable[[SyncEvent], None],
    commit: Callable[[], None],
    stop: Stop,
) -> bool:
    def outcome_of(file: ModelFile) -> Downloaded | Failed:
        try:
            digest = _download(file, folder, client, options, on_event, stop)
        except ModelError as error:
            return Failed(str(file.path), error.code, str(error))
        except OSError as error:
            return Failed(str(file.path), "download_failed", f"cannot write the file: {error}")
        return Downloaded(str(file.path), digest)

    good = True
    with ThreadPoolExecutor(options.workers) as pool:
        futures = [pool.submit(outcome_of, file) for file in files]
        try:
            for future in as_completed(futures):
                outcome = future.result()
                on_event(outcome)
                if isinstance(outcome, Downloaded):
                    commit()
                else:
                    good = False
        except BaseException:
            stop.set()
            raise
    return good


def _download(
    file: ModelFile,
    folder: ModelsFolder,
    client: "httpx.Client",
    options: SyncOptions,
    on_event: Callable[[SyncEvent], None],
    stop: Stop,
) -> str:
    if stop.is_set():
        raise stopped()

    def progress(done: int) -> None:
        on_event(DownloadProgress(str(file.path), done, file.size))

    if file.hub is not None and file.hub.chunked:
        staging = folder.staging(file)
        path, digest = download_from_hub(file, file.hub, staging, progress=progress, stop=stop)
        folder.place(file, path, digest)
        shutil.rmtree(staging, ignore_errors=True)
        return digest
    part = folder.part(file)
    digest = download(file, part, client, options.policy, progress=progress, stop=stop)
    folder.place(file, part.path, digest)
    part.delete()
    return digest
