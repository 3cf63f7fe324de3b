"""Finds and imports custom node packs as ``main.py`` does, and records why packs failed."""

import importlib.util
import inspect
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from comfysnap_server.engine.comfyui.report import PackReport
from comfysnap_server.engine.comfyui.resources import ProcessResources, held_resources

logger = logging.getLogger(__name__)

LoadCustomNode = Callable[[str], Coroutine[Any, Any, bool]]

THREADS_END: Final = 1.0
"""Seconds to wait for threads of packs after loading; many only read a folder (wildcards)."""
_POLL: Final = 0.01


@dataclass(frozen=True)
class Pack:
    """A folder or a single file below ``custom_nodes``."""

    path: Path

    @property
    def name(self) -> str:
        """Its name in the options: the folder's name, or the file's with ``.py``."""
        return self.path.name

    @property
    def prestartup(self) -> Path | None:
        """Its ``prestartup_script.py``, if it has one."""
        script = self.path / "prestartup_script.py"
        return script if self.path.is_dir() and script.is_file() else None


def find_packs(folders: Sequence[Path], disabled: Collection[str]) -> list[Pack]:
    """The packs that ``main.py`` loads, in a fixed order (``nodes.py``:
    init_external_custom_nodes)."""
    found: list[Pack] = []
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.name == "__pycache__" or path.name.endswith(".disabled"):
                continue
            if path.is_file() and path.suffix != ".py":
                continue
            if not is_listed(path.name, disabled):
                found.append(Pack(path))
    return found


def is_listed(name: str, names: Collection[str]) -> bool:
    """Whether a pack is in ``names``, where ``.py`` of a single file is optional."""
    return name in names or name.removesuffix(".py") in names


class PackNames:
    """Maps source files to node packs."""

    def __init__(self, folders: Sequence[Path]) -> None:
        found = {form for folder in folders for form in (str(folder), os.path.realpath(folder))}
        self._roots = tuple(root + os.sep for root in found)

    def __call__(self, file: str) -> str | None:
        """The name of the file's pack; None for other files."""
        for root in self._roots:
            if file.startswith(root):
                return file[len(root) :].split(os.sep, 1)[0]
        return None


class Leftovers:
    """Load time of each pack, and the threads, files and child processes that it left behind."""

    def __init__(self, pack_of: Callable[[str], str | None]) -> None:
        """``pack_of`` maps a source file to the name of its node pack, or None."""
        self._pack_of = pack_of
        self._left: dict[str, ProcessResources] = {}
        self._seconds: dict[str, float] = {}
        self._starters: dict[int, str] = {}

    @contextmanager
    def naming_starters(self) -> Generator[None]:
        """Record which pack starts each thread inside the block: a pack's thread may start others
        while another pack is imported."""
        start, pack_of, starters = threading.Thread.start, self._pack_of, self._starters

        def noting(self: threading.Thread) -> None:
            start(self)
            stack = traceback.walk_stack(inspect.currentframe())
            files = (frame.f_code.co_filename for frame, _ in stack)
            pack = next(filter(None, map(pack_of, files)), None)
            if pack is not None and self.native_id is not None:
                starters[self.native_id] = pack

        threading.Thread.start = noting
        try:
            yield
        finally:
            threading.Thread.start = start

    @contextmanager
    def watch(self, name: str) -> Generator[None]:
        """Attribute new threads, files and children inside the block to the pack."""
        before, started = held_resources(), time.perf_counter()
        try:
            yield
        finally:
            left = held_resources().since(before)
            self._left[name] = self._left[name].union(left) if name in self._left else left
            self._seconds[name] = self.seconds(name) + time.perf_counter() - started

    def seconds(self, name: str) -> float:
        """Total seconds of the pack's ``watch`` blocks."""
        return self._seconds.get(name, 0.0)

    def settle(self, reports: Sequence[PackReport], patience: float = 0.0) -> list[PackReport]:
        """Add the leftovers that still exist to the reports.

        Args:
            reports: Reports of watched packs.
            patience: Maximum seconds to wait for threads to end.
        """
        deadline = time.monotonic() + patience
        while True:
            now = held_resources()
            left = {name: found.still_in(now) for name, found in self._left.items()}
            threads = self._threads(now, left)
            if not any(threads.values()) or time.monotonic() >= deadline:
                break
            time.sleep(_POLL)
        return [
            replace(
                report,
                threads=threads[report.name],
                open_files=tuple(left[report.name].open_files.values()),
                children=len(left[report.name].children),
            )
            for report in reports
        ]

    def _threads(
        self, now: ProcessResources, left: Mapping[str, ProcessResources]
    ) -> dict[str, tuple[str, ...]]:
        """Names of threads by pack: the pack that started it, else the one being imported."""
        found: dict[str, dict[int, str]] = {name: {} for name in left}
        for name, held in left.items():
            for thread in held.threads:
                owner = self._starters.get(thread, name)
                found.setdefault(owner, {})[thread] = held.threads[thread]
        for thread, name in self._starters.items():
            if thread in now.threads and name in found:
                found[name][thread] = now.threads[thread]
        return {name: tuple(threads.values()) for name, threads in found.items()}


def run_prestartup(packs: Sequence[Pack], leftovers: Leftovers) -> dict[str, str | None]:
    """Run each pack's ``prestartup_script.py``; returns errors by pack, None for success."""
    results: dict[str, str | None] = {}
    for pack in packs:
        script = pack.prestartup
        if script is None:
            continue
        try:
            spec = importlib.util.spec_from_file_location(str(script.with_suffix("")), script)
            if spec is None or spec.loader is None:
                continue
            with leftovers.watch(pack.name):
                spec.loader.exec_module(importlib.util.module_from_spec(spec))
            results[pack.name] = None
        except (Exception, SystemExit) as error:
            logger.exception("prestartup script of %s failed", pack.name)
            results[pack.name] = describe(error)
    return results


async def load_pack(
    pack: Pack,
    load: LoadCustomNode,
    prestartup: dict[str, str | None],
    leftovers: Leftovers,
    *,
    after_restore: bool = False,
) -> PackReport:
    """Import one pack with ComfyUI's loader; its leftovers are added by ``Leftovers.settle``."""
    with leftovers.watch(pack.name), _Reasons() as reasons:
        try:
            loaded = await load(str(pack.path))
        except (Exception, SystemExit) as error:
            loaded = False
            reasons.add(describe(error))
    failed = prestartup.get(pack.name)
    reason = None if loaded else (reasons.first or "does not define any nodes")
    if failed is not None:
        reason = f"prestartup script: {failed}" + (f"; {reason}" if reason else "")
    if reason is not None:
        logger.warning("node pack %s: %s", pack.name, reason)
    return PackReport(
        name=pack.name,
        loaded=loaded,
        seconds=leftovers.seconds(pack.name),
        reason=reason,
        prestartup=failed is None if pack.name in prestartup else None,
        after_restore=after_restore,
    )


def describe(error: BaseException) -> str:
    """Describe an exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Reasons(logging.Handler):
    """Captures the exception that ComfyUI's loader logs and suppresses."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first: str | None = None

    def add(self, reason: str) -> None:
        self.first = self.first or reason

    def emit(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if error is not None:
            self.add(describe(error))
        elif not record.getMessage().startswith("Unable to parse pyproject"):
            self.add(record.getMessage())

    def __enter__(self) -> "_Reasons":
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
