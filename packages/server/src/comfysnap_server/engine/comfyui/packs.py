"""Custom node packs: found, prestarted and imported as ``main.py`` does it, with reasons kept."""

import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfysnap_server.engine.comfyui.report import PackReport
from comfysnap_server.engine.comfyui.resources import held_resources

logger = logging.getLogger(__name__)

LoadCustomNode = Callable[[str], Coroutine[Any, Any, bool]]


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


def run_prestartup(packs: Sequence[Pack]) -> dict[str, str | None]:
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
    *,
    after_restore: bool = False,
) -> PackReport:
    """Import one pack with ComfyUI's own loader, and tell what came of it."""
    before, started = held_resources(), time.perf_counter()
    with _Reasons() as reasons:
        try:
            loaded = await load(str(pack.path))
        except (Exception, SystemExit) as error:
            loaded = False
            reasons.add(describe(error))
    left = held_resources().since(before)
    failed = prestartup.get(pack.name)
    reason = None if loaded else (reasons.first or "it defines no nodes")
    if failed is not None:
        reason = f"prestartup script: {failed}" + (f"; {reason}" if reason else "")
    if reason is not None:
        logger.warning("node pack %s: %s", pack.name, reason)
    return PackReport(
        name=pack.name,
        loaded=loaded,
        seconds=time.perf_counter() - started,
        reason=reason,
        prestartup=failed is None if pack.name in prestartup else None,
        threads=tuple(left.threads.values()),
        open_files=tuple(left.open_files.values()),
        children=len(left.children),
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
