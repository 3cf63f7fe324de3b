"""The version of all packages, and what a release must have.

``make version`` and ``make release-check`` run it. The version is that of the root
``pyproject.toml``. Publishing is left to the maintainers.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECTS = (
    "pyproject.toml",
    *(f"packages/{n}/pyproject.toml" for n in ("schema", "client", "server")),
)
NPM = ("packages/client-ts/package.json", "packages/client-ts/package-lock.json")
_VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")
_PIN = re.compile(r'(?<=")(comfysnap-\w+(?:\[[\w,]+\])?)(==[^"]*)?(?=")')


def version_of(root: Path) -> str:
    """The version of the release: that of the distribution ``comfysnap``."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["project"]["version"])


def write_version(root: Path, version: str) -> None:
    """Write a version into every package, and into the pins between them."""
    for name in PROJECTS:
        path = root / name
        text = path.read_text(encoding="utf-8")
        text = re.sub(r'^version = "[^"]*"', f'version = "{version}"', text, count=1, flags=re.M)
        path.write_text(_PIN.sub(lambda found: _pinned(found, version), text), encoding="utf-8")
    for name in NPM:
        path = root / name
        data = json.loads(path.read_text(encoding="utf-8"))
        data["version"] = version
        if "packages" in data:
            data["packages"][""]["version"] = version
        path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _pinned(found: re.Match[str], version: str) -> str:
    """A pin with the new version; names that are not requirements (sources, extras) stay."""
    return f"{found[1]}=={version}" if found[2] else found[1]


def issues(root: Path, tag: str | None = None) -> Iterator[str]:
    """What keeps this tree from being released; with a tag, as that release."""
    version = version_of(root)
    if not _VERSION.fullmatch(version):
        yield f"pyproject.toml: {version!r} is not a version such as 0.2.0 or 0.2.0rc1"
    for name in PROJECTS:
        yield from _project_issues(root, name, version)
    for name in NPM:
        found = json.loads((root / name).read_text(encoding="utf-8"))["version"]
        if found != version:
            yield f"{name}: version {found}, not {version}; run: make version"
    yield from _changelog_issues(root, version, released=tag is not None)
    if tag is not None:
        yield from _tag_issues(root, version, tag)


def _project_issues(root: Path, name: str, version: str) -> Iterator[str]:
    project = tomllib.loads((root / name).read_text(encoding="utf-8"))["project"]
    if project["version"] != version:
        yield f"{name}: version {project['version']}, not {version}; run: make version"
    extras: dict[str, list[str]] = project.get("optional-dependencies", {})
    for requirement in (
        *project["dependencies"],
        *(one for each in extras.values() for one in each),
    ):
        if requirement.startswith("comfysnap") and not requirement.endswith(f"=={version}"):
            yield f"{name}: {requirement} must be pinned to =={version}; run: make version"
    licence = (root / name).parent / "LICENSE"
    if licence.read_bytes() != (root / "LICENSE").read_bytes():
        yield f"{licence.relative_to(root)}: must be a copy of LICENSE"


def _changelog_issues(root: Path, version: str, *, released: bool) -> Iterator[str]:
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = re.search(r"^## (\S+) \((.+)\)$", text, re.M)
    if heading is None or heading[1] != version:
        yield f"CHANGELOG.md: the first section must be ## {version} (DATE)"
    elif released and not re.fullmatch(r"\d{4}-\d\d-\d\d", heading[2]):
        yield f"CHANGELOG.md: ## {version} ({heading[2]}) must have the date of the release"


def _tag_issues(root: Path, version: str, tag: str) -> Iterator[str]:
    if tag != f"v{version}":
        yield f"tag {tag}: must be v{version}, the version of pyproject.toml"
    for name in PROJECTS:
        project = tomllib.loads((root / name).read_text(encoding="utf-8"))["project"]
        if "Repository" not in project.get("urls", {}):
            yield f"{name}: [project.urls] has no Repository"


def main() -> int:
    """Run a command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("version", help="write a version into every package").add_argument(
        "version"
    )
    check = commands.add_parser("check", help="list what keeps this tree from being released")
    check.add_argument("--tag", help="as the release of this tag, for example v0.2.0")
    check.add_argument("--root", type=Path, default=ROOT, help="the tree to check")
    options = parser.parse_args()
    if options.command == "version":
        if not _VERSION.fullmatch(options.version):
            parser.error(f"{options.version!r} is not a version such as 0.2.0 or 0.2.0rc1")
        write_version(ROOT, options.version)
        return subprocess.run(["uv", "lock", "--quiet"], cwd=ROOT, check=False).returncode
    found = list(issues(options.root, options.tag))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
