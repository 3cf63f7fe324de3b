"""Requirements of node packs, and conflicts between them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name


@dataclass(frozen=True, kw_only=True)
class PackRequirement:
    """A line of a pack's ``requirements.txt``."""

    pack: str
    requirement: Requirement

    def __str__(self) -> str:
        """``Pack requires numpy<2``."""
        return f"{self.pack} requires {self.requirement}"


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Requirements on one package that no version satisfies."""

    package: str
    requirements: tuple[PackRequirement, ...]
    pinned: str | None = None
    """Version pinned in the image, if that is what they conflict with."""

    def __str__(self) -> str:
        """The package, its requirements and the pinned version."""
        texts = ", ".join(str(each) for each in self.requirements)
        pinned = f", but the image has {self.pinned}" if self.pinned else ""
        return f"{self.package}: {texts}{pinned}"


def read_requirements(pack: str, file: Path) -> list[PackRequirement]:
    """The requirements in a ``requirements.txt`` whose markers match this machine. URLs, options
    and invalid lines are skipped: uv handles them."""
    if not file.is_file():
        return []
    found: list[PackRequirement] = []
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        text = line.split(" #", 1)[0].strip()
        if not text or text.startswith(("#", "-")):
            continue
        try:
            requirement = Requirement(text.split(" --hash", 1)[0].rstrip(" \\"))
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            found.append(PackRequirement(pack=pack, requirement=requirement))
    return found


def find_conflicts(
    requirements: Iterable[PackRequirement], pins: Mapping[str, str]
) -> list[Conflict]:
    """Find packages without a version that satisfies every pack and the pinned version.

    Args:
        requirements: The requirements of all packs.
        pins: Package name to the version that must not change.
    """
    by_package: dict[str, list[PackRequirement]] = defaultdict(list)
    for each in requirements:
        by_package[canonicalize_name(each.requirement.name)].append(each)
    conflicts: list[Conflict] = []
    for package, group in sorted(by_package.items()):
        version = pins.get(package)
        excluding = tuple(
            each
            for each in group
            if version is not None
            and not each.requirement.specifier.contains(version, prereleases=True)
        )
        if excluding:
            conflicts.append(Conflict(package=package, requirements=excluding, pinned=version))
        elif conflicting := _conflicting(group):
            conflicts.append(Conflict(package=package, requirements=conflicting))
    return conflicts


def _conflicting(group: list[PackRequirement]) -> tuple[PackRequirement, ...]:
    """Requirements that conflict with one other, or all of them if they only conflict together."""
    conflicting = [
        each
        for each in group
        if any(
            _unsatisfiable([each, other]) or _have_different_urls(each, other)
            for other in group
            if other is not each
        )
    ]
    if conflicting:
        return tuple(conflicting)
    return tuple(group) if _unsatisfiable(group) else ()


def _unsatisfiable(requirements: list[PackRequirement]) -> bool:
    together = SpecifierSet()
    for each in requirements:
        together &= each.requirement.specifier
    return together.is_unsatisfiable()


def _have_different_urls(one: PackRequirement, other: PackRequirement) -> bool:
    first, second = one.requirement.url, other.requirement.url
    return first is not None and second is not None and first != second


def installed_versions(packages: Iterable[str], path: Iterable[str]) -> dict[str, str]:
    """Package to its version, for those of ``packages`` that are installed on ``path``."""
    wanted = {canonicalize_name(name) for name in packages}
    found: dict[str, str] = {}
    for distribution in Distribution.discover(path=list(path)):
        name = canonicalize_name(distribution.metadata["Name"] or "")
        if name in wanted:
            found[name] = distribution.version
    return found
