"""The folder of generated modules: writing it, and finding what drifted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from comfysnap_schema.codegen.schema import HEADER
from comfysnap_schema.wire import ProjectError
from comfysnap_schema.workflow import CONTRACTS_FILE, Workflow

_INIT = "__init__.py"


@dataclass(frozen=True)
class Drift:
    """One generated file that is not what it would be now."""

    path: Path
    reason: str
    """``missing``, ``changed`` or ``stale`` (its workflow is gone)."""


def find_drift(folder: Path, sources: Mapping[str, str]) -> list[Drift]:
    """What ``write`` would change in ``folder``; files that a person wrote are not looked at.

    Raises:
        ProjectError: ``not_generated``.
    """
    found: list[Drift] = []
    for name, source in sources.items():
        path = folder / name
        present = _text(path) if path.exists() else None
        if present is None:
            found.append(Drift(path, "missing"))
        elif present == source or (name == _INIT and _is_hand_written(present)):
            continue
        elif _is_hand_written(present):
            raise ProjectError(
                "not_generated",
                "this file was not generated, so it is left alone; move it, or rename the workflow",
                file=str(path),
            )
        else:
            found.append(Drift(path, "changed"))
    for path in sorted(folder.glob("*.py")):
        if path.name not in sources and _is_generated(_text(path)):
            found.append(Drift(path, "stale"))
    return found


def find_contract_drift(workflows: Iterable[Workflow]) -> list[Drift]:
    """The ``contracts.json`` files that are not what they would be now."""
    found: list[Drift] = []
    for workflow in workflows:
        path = workflow.folder / CONTRACTS_FILE
        if not path.is_file():
            found.append(Drift(path, "missing"))
        elif _text(path) != workflow.history.dumps():
            found.append(Drift(path, "changed"))
    return found


def write_contracts(workflows: Iterable[Workflow]) -> list[Drift]:
    """Bring every ``contracts.json`` up to date; say which changed."""
    workflows = list(workflows)
    drift = find_contract_drift(workflows)
    texts = {w.folder / CONTRACTS_FILE: w.history.dumps() for w in workflows}
    for item in drift:
        item.path.write_text(texts[item.path], encoding="utf-8", newline="\n")
    return drift


def write(folder: Path, sources: Mapping[str, str]) -> list[Drift]:
    """Make ``folder`` hold ``sources``: write what differs, delete stale modules; say which.

    Raises:
        ProjectError: ``not_generated``; then nothing was written.
    """
    drift = find_drift(folder, sources)
    folder.mkdir(parents=True, exist_ok=True)
    for item in drift:
        if item.reason == "stale":
            item.path.unlink()
        else:
            item.path.write_text(sources[item.path.name], encoding="utf-8", newline="\n")
    return drift


def package_of(folder: Path) -> str:
    """Dotted name of the package in ``folder`` when it lies inside another one, else empty."""
    packages = takewhile(lambda parent: (parent / _INIT).is_file(), folder.parents)
    parts = [folder.name, *(parent.name for parent in packages)]
    return ".".join(reversed(parts)) if len(parts) > 1 else ""


def _is_generated(source: str) -> bool:
    """The header stands in the docstring of the module, where no other text of ours puts it."""
    return source.startswith('"""') and HEADER in source.split('"""', 2)[1]


def _is_hand_written(source: str) -> bool:
    return bool(source.strip()) and not _is_generated(source)


def _text(path: Path) -> str:
    """The text of a file that may be anybody's."""
    return path.read_text(encoding="utf-8", errors="replace")
