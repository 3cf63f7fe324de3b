"""Fills a ``models/`` folder: plans what is missing or wrong, then brings it, several at once."""

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Event
from typing import TYPE_CHECKING, Final

from comfysnap_server.models.folder import ModelsFolder, State
from comfysnap_server.models.listed import ModelEntry
from comfysnap_server.models.sources import ModelError, ModelFile, resolve
from comfysnap_server.models.transfer import (
    Stopped,
    TransferPolicy,
    transfer,
    transfer_from_hub,
)

if TYPE_CHECKING:
    import httpx

RESERVE_BYTES: Final = 256 * 1024 * 1024
"""Disk space that a sync leaves free."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What stands before a sync."""

    to_bring: tuple[ModelFile, ...]
    reasons: dict[str, str]
    """Path to why it is brought."""
    present: tuple[str, ...]
    failed: dict[str, str]
    """Entry to why its source could not be asked."""
    need: int
    """Bytes to bring, as far as the sources tell sizes."""
    unknown_sizes: int
    """Files of which the source told no size."""
    free: int | None
    """Bytes free on the disk; None: it does not say."""


@dataclass(frozen=True)
class Progressed:
    """Bytes of one file that are there now."""

    path: str
    done: int
    total: int | None


@dataclass(frozen=True)
class Brought:
    """One file is in place."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Failed:
    """One file could not be brought."""

    path: str
    code: str
    reason: str


SyncEvent = Planned | Progressed | Brought | Failed


@dataclass(frozen=True, kw_only=True)
class SyncOptions:
    """How to sync."""

    workers: int = 4
    """Files brought at once."""
    verify: bool = False
    """Read every file again instead of trusting the record."""
    dry_run: bool = False
    policy: TransferPolicy = field(default_factory=TransferPolicy)


def make_client() -> "httpx.Client":
    """The HTTP client of a sync: follows redirects, and drops the token towards other hosts."""
    import httpx

    return httpx.Client(follow_redirects=True, timeout=httpx.Timeout(60.0, connect=15.0))


def plan(
    entries: Sequence[ModelEntry],
    folder: ModelsFolder,
    client: "httpx.Client",
    options: SyncOptions,
) -> Planned:
    """Ask every source, and compare with what is there."""

    def ask(entry: ModelEntry) -> list[ModelFile] | ModelError:
        failures = 0
        while True:
            try:
                return resolve(entry, client)
            except ModelError as error:
                failures += 1
                if not error.passing or failures >= options.policy.attempts:
                    return error
            time.sleep(options.policy.pause(failures))

    failed: dict[str, str] = {}
    wanted: dict[PurePosixPath, ModelFile] = {}
    with ThreadPoolExecutor(options.workers) as pool:
        for entry, found in zip(entries, pool.map(ask, entries), strict=True):
            if isinstance(found, ModelError):
                failed[str(entry)] = f"{found.code}: {found}"
                continue
            # an entry for one file stands above a whole repository that has the same path
            for file in found:
                if file.path not in wanted or not entry.whole_repository:
                    wanted[file.path] = file
    states = {path: folder.check(file, verify=options.verify) for path, file in wanted.items()}
    to_bring = [file for path, file in wanted.items() if states[path][0] is not State.PRESENT]
    have = sum(folder.part(file).size() for file in to_bring)
    return Planned(
        to_bring=tuple(to_bring),
        reasons={str(file.path): states[file.path][1] for file in to_bring},
        present=tuple(str(path) for path, (state, _) in states.items() if state is State.PRESENT),
        failed=failed,
        need=max(0, sum(file.size or 0 for file in to_bring) - have),
        unknown_sizes=sum(file.size is None for file in to_bring),
        free=_free(folder.root),
    )


def _free(root: Path) -> int | None:
    usage = shutil.disk_usage(root)
    return usage.free if usage.total else None


def sync(
    entries: Sequence[ModelEntry],
    folder: ModelsFolder,
    *,
    tell: Callable[[SyncEvent], None],
    options: SyncOptions | None = None,
    commit: Callable[[], None] = lambda: None,
    stop: Event | None = None,
) -> bool:
    """Fill the folder; returns whether every file is there and right.

    Args:
        entries: What should be there.
        folder: Where.
        tell: Told the plan first, then what happens; called from several threads.
        options: How.
        commit: Called after each file that is in place, and at the end.
        stop: Set it to end the sync soon; parts are kept for the next one.

    Raises:
        ModelError: ``disk_full``, before anything is brought.
        TimeoutError: Another sync works in the folder.
    """
    options = options or SyncOptions()
    stop = stop or Event()
    with folder.locked(), make_client() as client:
        planned = plan(entries, folder, client, options)
        tell(planned)
        if planned.free is not None and planned.need > max(0, planned.free - RESERVE_BYTES):
            raise ModelError(
                "disk_full",
                f"{planned.need:,} bytes are needed and {planned.free:,} are free in {folder.root}",
            )
        if options.dry_run:
            return not planned.failed
        try:
            done = _bring_all(planned.to_bring, folder, client, options, tell, commit, stop)
        finally:
            commit()
    if done and not planned.failed:
        if folder.forget_parts():
            commit()
        return True
    return False


def _bring_all(
    files: Iterable[ModelFile],
    folder: ModelsFolder,
    client: "httpx.Client",
    options: SyncOptions,
    tell: Callable[[SyncEvent], None],
    commit: Callable[[], None],
    stop: Event,
) -> bool:
    def bring(file: ModelFile) -> Brought | Failed:
        try:
            digest = _bring(file, folder, client, options, tell, stop)
        except ModelError as error:
            return Failed(str(file.path), error.code, str(error))
        except OSError as error:
            return Failed(str(file.path), "download_failed", f"cannot be put there: {error}")
        except Stopped:
            return Failed(str(file.path), "stopped", "stopped; the next sync goes on from here")
        return Brought(str(file.path), digest)

    good = True
    with ThreadPoolExecutor(options.workers) as pool:
        futures = [pool.submit(bring, file) for file in files]
        try:
            for future in as_completed(futures):
                outcome = future.result()
                tell(outcome)
                if isinstance(outcome, Brought):
                    commit()
                else:
                    good = False
        except BaseException:
            stop.set()
            raise
    return good


def _bring(
    file: ModelFile,
    folder: ModelsFolder,
    client: "httpx.Client",
    options: SyncOptions,
    tell: Callable[[SyncEvent], None],
    stop: Event,
) -> str:
    if stop.is_set():
        raise Stopped

    def progress(done: int) -> None:
        tell(Progressed(str(file.path), done, file.size))

    if file.hub is not None and file.hub.chunked:
        staging = folder.staging(file)
        path, digest = transfer_from_hub(file, file.hub, staging, progress=progress, stop=stop)
        folder.place(file, path, digest)
        shutil.rmtree(staging, ignore_errors=True)
        return digest
    part = folder.part(file)
    digest = transfer(file, part, client, options.policy, progress=progress, stop=stop)
    folder.place(file, part.path, digest)
    part.drop()
    return digest
