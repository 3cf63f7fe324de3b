"""What the documents show is what runs."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
COMFYSNAP = [str(Path(sys.executable).with_name("comfysnap"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of ``comfysnap serve`` in a process of its own."""
    command = [*COMFYSNAP, "serve", "--port", "0", "--engine", "simulated"]
    command += ["--engine-option", "step_seconds=0", "--until-stdin-closes"]
    command += ["--data", str(tmp_path_factory.mktemp("data"))]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0]
                break
        else:
            pytest.fail("the server did not say where it listens")
        process.communicate(timeout=20)


def test_every_python_block_of_the_readme_is_an_example() -> None:
    written = {path.read_text(encoding="utf-8") for path in EXAMPLES}
    assert len(blocks("python")) >= 3
    assert [block for block in blocks("python") if block not in written] == []


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


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("comfysnap ")]


@pytest.mark.parametrize("command", commands(), ids=lambda words: words[1])
def test_every_command_of_the_readme_exists_with_its_options(command: list[str]) -> None:
    done = subprocess.run(
        [*COMFYSNAP, command[1], "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert done.returncode == 0
    for option in (word.split("=")[0] for word in command if word.startswith("--")):
        assert option in done.stdout


def test_every_file_that_the_architecture_names_is_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.split("## To change X, open Y", 1)[1]
    missing: list[str] = []
    for row in re.findall(r"^\| .* \| (.*) \|$", table, re.MULTILINE):
        folder = ROOT
        for name in re.findall(r"`([\w./*]+)`", row):
            head, _, rest = name.partition("/")
            if head in ("schema", "server", "client"):
                base = ROOT / "packages" / head / "src" / f"comfysnap_{head}"
                folder = (base / rest).parent
                name = str((base / rest).relative_to(ROOT))
            elif head != "tests" and name.endswith((".py", "/")):
                name = str((folder / name).relative_to(ROOT))
            if name.endswith((".py", "/")) and not list(ROOT.glob(name)):
                missing.append(name)
    assert missing == []
