"""What the documents show is what runs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.processes import new_mark, serving
from tests.docs.blocks import blocks_of
from tests.paths import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of ``comfysnap serve`` in a process of its own."""
    data = tmp_path_factory.mktemp("data")
    with serving(new_mark(), data, "--engine-option=step_seconds=0") as (_, url):
        yield url


def test_every_python_block_of_the_readme_is_an_example() -> None:
    written = {path.read_text(encoding="utf-8") for path in EXAMPLES}
    shown = [block.text for block in blocks_of(ROOT / "README.md")
             if block.language == "python" and not block.not_run]  # fmt: skip
    assert len(shown) >= 2
    assert [block for block in shown if block not in written] == []


@pytest.mark.parametrize(
    "example",
    [path for path in EXAMPLES if not path.name.startswith("test_")],
    ids=lambda p: p.stem,
)
def test_an_example_runs_as_it_stands(example: Path, server: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        env={**os.environ, "COMFYSNAP_URL": server},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.glob("*.png"))
    assert done.stdout


def test_the_example_test_passes_in_a_project_of_its_own(tmp_path: Path) -> None:
    source = (ROOT / "examples" / "test_postcard.py").read_text(encoding="utf-8")
    (tmp_path / "test_postcard.py").write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "-p", "no:xdist"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 passed" in done.stdout


PACKAGES = {
    name: ROOT / "packages" / name / "src" / f"comfysnap_{name}"
    for name in ("schema", "client", "server")
}
BASES = {
    "Who may import whom": PACKAGES["server"],
    "The same tests on a real ComfyUI": PACKAGES["server"],
    "ComfyUI in process": PACKAGES["server"] / "engine" / "comfyui",
}
"""Where the paths of a section start; others start at the document or at a package's name."""
FILES_OF_OTHERS = {"main.py", "prepare.py", "workflow.toml", "graph.json"} | {
    "extra_model_paths.yaml", "extra_paths.yaml", ".docs/site",
}  # fmt: skip
"""Files of ComfyUI and of a user's project, and what ``make docs`` builds."""
FILE = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*\.(?:py|toml|txt|md|json|yaml)")
FOLDER = re.compile(r"[\w.-]+(?:/[\w.-]+)+/?|[\w-]+/")


def missing_paths(document: str, start: Path = ROOT) -> list[str]:
    """The paths in code spans, links and prose of a document that do not exist."""
    missing: list[str] = []
    for section in re.split(
        r"^## ", re.sub(r"^```.*?^```", "", document, flags=re.M | re.S), flags=re.M
    ):
        base = BASES.get(section.split("\n", 1)[0], start)
        for line in section.splitlines():
            spans = re.findall(r"`([^`]+)`|\]\(([^)#:]+)\)", line)
            named = [span or link for span, link in spans]
            named = [name for name in named if FILE.fullmatch(name) or FOLDER.fullmatch(name)]
            prose = re.sub(r"`[^`]+`|\]\([^)]+\)", " ", line)
            named += [word for word in re.findall(r"[\w./*-]+", prose) if is_path(word)]
            folder = base
            for name in named:
                package = PACKAGES.get(name.partition("/")[0])
                if package is not None and "/" in name:
                    path = package / name.partition("/")[2]
                    folder = path if name.endswith("/") else path.parent
                else:
                    path = folder / name
                of_others = name in FILES_OF_OTHERS and folder == base
                if not (of_others or exists(path) or exists(ROOT / name)):
                    missing.append(name)
    return missing


def is_path(word: str) -> bool:
    return bool(FILE.fullmatch(word) or (word.endswith("/") and FOLDER.fullmatch(word)))


def exists(path: Path) -> bool:
    return any(path.parent.glob(path.name)) if "*" in path.name else path.exists()


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "tests/control_plane/README.md",
        "tests/comfyui_tree/README.md",
    ],
)
def test_every_path_in_a_document_exists(document: str) -> None:
    file = ROOT / document
    assert missing_paths(file.read_text(encoding="utf-8"), file.parent) == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("| a | `schema/workflow/map.py`; more: `nowhere.py` |", ["nowhere.py"]),
        ("| a | `nowhere/map.py`, `server/errors.py` |", ["nowhere/map.py"]),
        ("| a | `server/nowhere/` |", ["server/nowhere/"]),
        ("| a | `client/retry.py`, `emit.py` |", ["emit.py"]),
        ("read `tests/nowhere` and `tests/servers.py`", ["tests/nowhere"]),
        (
            "packages/nowhere.py and docs/nowhere/, or README.md",
            ["packages/nowhere.py", "docs/nowhere/"],
        ),
        ("[here](docs/nowhere.md) and [there](docs/guides/node-packs.md)", ["docs/nowhere.md"]),
        ("## Who may import whom\n`deploy/app.py`, `deploy/nowhere.py`", ["deploy/nowhere.py"]),
        ("## ComfyUI in process\n| x | `load.py`, `unload.py` |", ["unload.py"]),
    ],
)
def test_a_wrong_path_is_found_in_tables_code_spans_prose_and_links(
    text: str, missing: list[str]
) -> None:
    assert missing_paths(text) == missing
