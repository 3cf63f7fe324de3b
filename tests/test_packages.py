"""The distributions: one version, and every import that is used is declared."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.paths import ROOT

PACKAGES = ("schema", "client", "server")
RELEASE = [sys.executable, str(ROOT / "scripts" / "release.py")]


def project(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"]


def declared(name: str) -> set[str]:
    table = project(ROOT / "packages" / name / "pyproject.toml")
    extras: dict[str, list[str]] = table.get("optional-dependencies", {})
    lines = [*table["dependencies"], *(line for each in extras.values() for line in each)]
    return {canonical(Requirement(line).name) for line in lines}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(name: str) -> Iterator[tuple[str, Path]]:
    for path in (ROOT / "packages" / name / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((alias.name.partition(".")[0], path) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None, f"{path}: relative import"
                yield node.module.partition(".")[0], path


@pytest.mark.parametrize("name", PACKAGES)
def test_every_import_is_of_a_declared_dependency(name: str) -> None:
    allowed = declared(name)
    distributions = packages_distributions()
    own = sys.stdlib_module_names | {f"comfysnap_{name}"}
    missing = {
        f"{path.relative_to(ROOT)}: {module}"
        for module, path in imported(name)
        if module not in own
        and not {canonical(each) for each in distributions.get(module, [module])} & allowed
    }
    assert missing == set()


def release_check(*options: str) -> tuple[int, str]:
    done = subprocess.run(
        [*RELEASE, "check", *options], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files that a release check reads, to change."""
    names = ["pyproject.toml", "LICENSE", "CHANGELOG.md", "packages/client-ts/package.json"]
    names += ["packages/client-ts/package-lock.json"]
    names += [
        f"packages/{name}/{file}" for name in PACKAGES for file in ("pyproject.toml", "LICENSE")
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def test_every_package_has_the_version_of_the_distribution() -> None:
    assert release_check() == (0, "")


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("packages/client/pyproject.toml", r'^version = ".*"', 'version = "9"', "version 9, not"),
        (
            "packages/server/pyproject.toml",
            r"schema\[cli\]==[\d.]+",
            "schema[cli]",
            "must be pinned",
        ),
        ("pyproject.toml", r"\[store\]==[\d.]+", "[store]>=0", "must be pinned"),
        ("packages/client-ts/package.json", r'"version": ".*"', '"version": "9"', "version 9, not"),
        ("packages/schema/LICENSE", "MIT", "BSD", "must be a copy of LICENSE"),
        ("CHANGELOG.md", r"^## \S+", "## 9.9.9", "the first section must be"),
        ("pyproject.toml", r'^version = ".*"', 'version = "next"', "is not a version"),
    ],
)
def test_what_keeps_a_tree_from_being_released_is_listed(
    tree: Path, file: str, old: str, new: str, said: str
) -> None:
    text = (tree / file).read_text()
    changed = re.sub(old, new, text, count=1, flags=re.M)
    assert changed != text
    (tree / file).write_text(changed)
    code, output = release_check("--root", str(tree))
    assert code == 1
    assert said in output


def test_a_tag_needs_its_version_a_dated_changelog_and_a_repository(tree: Path) -> None:
    version = project(tree / "pyproject.toml")["version"]
    code, output = release_check("--root", str(tree), "--tag", "v9.9.9")
    assert code == 1
    assert f"tag v9.9.9: must be v{version}" in output
    changelog = (tree / "CHANGELOG.md").read_text()
    dated = re.sub(r"^## .*$", f"## {version} (2026-12-01)", changelog, count=1, flags=re.M)
    (tree / "CHANGELOG.md").write_text(dated)
    assert "packages/client/pyproject.toml: [project.urls] has no Repository" in output
    for file in tree.rglob("pyproject.toml"):
        with file.open("a") as added:
            added.write('[project.urls]\nRepository = "https://example.com/comfysnap"\n')
    assert release_check("--root", str(tree), "--tag", f"v{version}") == (0, "")
