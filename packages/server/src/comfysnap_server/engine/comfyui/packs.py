"""Custom node packs: found, prestarted and imported as ``main.py`` does it, with reasons kept."""

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
"""Seconds that threads of packs have to end after loading: many only read a folder (wildcards)."""
_LOOK: Final = 0.01


@dataclass(frozen=True)
class Pack:
    """A folder or a single file below ``custom_nodes``."""

    path: Path

    @property
    def name(self) -> str:
        """As on the lists of the options: the folder's name, or the file's with ``.py``."""
        return self.path.name

    @property
    def prestartup(self) -> Path | None:
        """Its ``prestartup_script.py``, if it has one."""
        script = self.path / "prestartup_script.py"
        return script if self.path.is_dir() and script.is_file() else None


def find_packs(folders: Sequence[Path], disabled: Collection[str]) -> list[Pack]:
    """The packs that ``main.py`` would load, in a fixed order (``nodes.py``:
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
    """Whether a pack is on a list; a single file may be named without ``.py``."""
    return name in names or name.removesuffix(".py") in names


class PackNames:
    """Tells which pack a source file belongs to."""

    def __init__(self, folders: Sequence[Path]) -> None:
        found = {form for folder in folders for form in (str(folder), os.path.realpath(folder))}
        self._roots = tuple(root + os.sep for root in found)

    def __call__(self, file: str) -> str | None:
        """The pack's name, None for a file of nobody."""
        for root in self._roots:
            if file.startswith(root):
                return file[len(root) :].split(os.sep, 1)[0]
        return None


class Leftovers:
    """What each pack took: seconds, and the threads, files and children that it left behind."""

    def __init__(self, pack_of: Callable[[str], str | None]) -> None:
        """Args: pack_of: Source file to the name of its node pack, None for others."""
        self._pack_of = pack_of
        self._left: dict[str, ProcessResources] = {}
        self._seconds: dict[str, float] = {}
        self._starters: dict[int, str] = {}

    @contextmanager
    def naming_starters(self) -> Generator[None]:
        """Note which pack starts a thread inside the block: a pack's thread starts more of them
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
        """Count what comes inside the block for the pack, with what it left before."""
        before, started = held_resources(), time.perf_counter()
        try:
            yield
        finally:
            left = held_resources().since(before)
            self._left[name] = self._left[name].and_also(left) if name in self._left else left
            self._seconds[name] = self.seconds(name) + time.perf_counter() - started

    def seconds(self, name: str) -> float:
        """How long the pack's blocks took together."""
        return self._seconds.get(name, 0.0)

    def settle(self, reports: Sequence[PackReport], patience: float = 0.0) -> list[PackReport]:
        """The reports, with what is still there.

        Args:
            reports: Of the packs that were watched.
            patience: Seconds to wait for threads to end.
        """
        deadline = time.monotonic() + patience
        while True:
            now = held_resources()
            left = {name: found.still_in(now) for name, found in self._left.items()}
            threads = self._threads(now, left)
            if not any(threads.values()) or time.monotonic() >= deadline:
                break
            time.sleep(_LOOK)
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
        """Names of threads by pack: the one that started it, else the one that was imported."""
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
    """Run each pack's ``prestartup_script.py``; its name to the error, None when it went well."""
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
    """Import one pack with ComfyUI's own loader, and tell what came of it; what it left behind is
    up to ``leftovers``."""
    with leftovers.watch(pack.name), _Reasons() as reasons:
        try:
            loaded = await load(str(pack.path))
        except (Exception, SystemExit) as error:
            loaded = False
            reasons.add(describe(error))
    failed = prestartup.get(pack.name)
    reason = None if loaded else (reasons.first or "it defines no nodes")
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
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Reasons(logging.Handler):
    """Keeps the exception that ComfyUI's loader logs and swallows."""

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
