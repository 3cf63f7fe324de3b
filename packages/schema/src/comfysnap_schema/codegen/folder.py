"""The folder of generated files: writing it, and finding files that are out of date."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from comfysnap_schema.codegen.schema import HEADER
from comfysnap_schema.wire import ProjectError
from comfysnap_schema.workflow import CONTRACTS_FILE, Workflow

_INIT = "__init__.py"


@dataclass(frozen=True)
class Outdated:
    """A generated file that differs from what would be generated now."""

    path: Path
    reason: str
    """``missing``, ``changed`` or ``stale`` (its workflow is gone)."""


def find_outdated(folder: Path, sources: Mapping[str, str]) -> list[Outdated]:
    """What ``write`` would change in ``folder``; hand-written files are ignored.

    Raises:
        ProjectError: ``not_generated``.
    """
    found: list[Outdated] = []
    for name, source in sources.items():
        path = folder / name
        present = _text(path) if path.exists() else None
        if present is None:
            found.append(Outdated(path, "missing"))
        elif present == source or (name == _INIT and _is_hand_written(present)):
            continue
        elif _is_hand_written(present):
            raise ProjectError(
                "not_generated",
                "not a generated file, so it is not overwritten; move it, or rename the workflow",
                file=str(path),
            )
        else:
            found.append(Outdated(path, "changed"))
    for path in sorted(folder.glob("*.py")):
        if path.name not in sources and _is_generated(_text(path)):
            found.append(Outdated(path, "stale"))
    return found


def find_outdated_contracts(workflows: Iterable[Workflow]) -> list[Outdated]:
    """The ``contracts.json`` files that are out of date."""
    found: list[Outdated] = []
    for workflow in workflows:
        path = workflow.folder / CONTRACTS_FILE
        if not path.is_file():
            found.append(Outdated(path, "missing"))
        elif _text(path) != workflow.history.dumps():
            found.append(Outdated(path, "changed"))
    return found


def write_contracts(workflows: Iterable[Workflow]) -> list[Outdated]:
    """Bring every ``contracts.json`` up to date; return those that were not."""
    workflows = list(workflows)
    outdated = find_outdated_contracts(workflows)
    texts = {w.folder / CONTRACTS_FILE: w.history.dumps() for w in workflows}
    for item in outdated:
        item.path.write_text(texts[item.path], encoding="utf-8", newline="\n")
    return outdated


def write(folder: Path, sources: Mapping[str, str]) -> list[Outdated]:
    """Write ``sources`` to ``folder`` where they differ, delete stale modules; return both.

    Raises:
        ProjectError: ``not_generated``; then nothing was written.
    """
    outdated = find_outdated(folder, sources)
    folder.mkdir(parents=True, exist_ok=True)
    for item in outdated:
        if item.reason == "stale":
            item.path.unlink()
        else:
            item.path.write_text(sources[item.path.name], encoding="utf-8", newline="\n")
    return outdated


def package_of(folder: Path) -> str:
    """Dotted name of the package in ``folder`` if it is inside another package, else empty."""
    packages = takewhile(lambda parent: (parent / _INIT).is_file(), folder.parents)
    parts = [folder.name, *(parent.name for parent in packages)]
    return ".".join(reversed(parts)) if len(parts) > 1 else ""


def _is_generated(source: str) -> bool:
    """Whether the module's docstring has the header."""
    return source.startswith('"""') and HEADER in source.split('"""', 2)[1]


def _is_hand_written(source: str) -> bool:
    return bool(source.strip()) and not _is_generated(source)


def _text(path: Path) -> str:
    """The text of a file that may have any content."""
    return path.read_text(encoding="utf-8", errors="replace")
