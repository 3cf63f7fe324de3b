"""What node packs ask of Python packages, and where two of them cannot be had together."""

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
    """One requirement of one pack."""

    pack: str
    requirement: Requirement

    def __str__(self) -> str:
        """``Pack asks for numpy<2``."""
        return f"{self.pack} asks for {self.requirement}"


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Requirements on one package that no version fulfils."""

    package: str
    asks: tuple[PackRequirement, ...]
    kept: str | None = None
    """The version that the image holds to, when that is what they clash with."""

    def __str__(self) -> str:
        """Who asks for what."""
        asks = ", ".join(str(ask) for ask in self.asks)
        return f"{self.package}: {asks}" + (
            f", but the image keeps {self.kept}" if self.kept else ""
        )


def read_requirements(pack: str, file: Path) -> list[PackRequirement]:
    """The named requirements of a ``requirements.txt`` that hold on this machine; addresses,
    options and lines that cannot be read are left to the installer."""
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


def find_conflicts(asks: Iterable[PackRequirement], kept: Mapping[str, str]) -> list[Conflict]:
    """Packages that cannot fulfil everyone who asks, or not at the version the image keeps.

    Args:
        asks: The requirements of all packs.
        kept: Package name to the version that must stay.
    """
    by_package: dict[str, list[PackRequirement]] = defaultdict(list)
    for ask in asks:
        by_package[canonicalize_name(ask.requirement.name)].append(ask)
    conflicts: list[Conflict] = []
    for package, group in sorted(by_package.items()):
        version = kept.get(package)
        refusing = tuple(
            ask
            for ask in group
            if version is not None
            and not ask.requirement.specifier.contains(version, prereleases=True)
        )
        if refusing:
            conflicts.append(Conflict(package=package, asks=refusing, kept=version))
        elif clashing := _clashing(group):
            conflicts.append(Conflict(package=package, asks=clashing))
    return conflicts


def _clashing(group: list[PackRequirement]) -> tuple[PackRequirement, ...]:
    """The asks that clash with some other, or all when only together they do."""
    clashing = [
        ask
        for ask in group
        if any(
            _unsatisfiable([ask, other]) or _other_address(ask, other)
            for other in group
            if other is not ask
        )
    ]
    if clashing:
        return tuple(clashing)
    return tuple(group) if _unsatisfiable(group) else ()


def _unsatisfiable(asks: list[PackRequirement]) -> bool:
    together = SpecifierSet()
    for ask in asks:
        together &= ask.requirement.specifier
    return together.is_unsatisfiable()


def _other_address(one: PackRequirement, other: PackRequirement) -> bool:
    first, second = one.requirement.url, other.requirement.url
    return first is not None and second is not None and first != second


def installed_versions(packages: Iterable[str], path: Iterable[str]) -> dict[str, str]:
    """Versions of the named packages among the distributions on ``path``."""
    wanted = {canonicalize_name(name) for name in packages}
    found: dict[str, str] = {}
    for distribution in Distribution.discover(path=list(path)):
        name = canonicalize_name(distribution.metadata["Name"] or "")
        if name in wanted:
            found[name] = distribution.version
    return found
