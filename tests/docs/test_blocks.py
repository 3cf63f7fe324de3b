"""Every code block of the documentation runs, page by page, as a reader would run it."""

import ast
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer
from PIL import Image

from comfysnap_schema.cli import build_app
from tests.contract.processes import new_mark, serving
from tests.docs.blocks import Block, Reader, blocks_of, pages
from tests.paths import ROOT

pytestmark = pytest.mark.timeout(600)  # a page is many commands

LANGUAGES: Final = {"sh", "console", "python", "toml", "json", "ts", "text", ""}
REASONS: Final = {
    "a Modal account": "nothing is deployed by tests",
    "a real ComfyUI": "its tests run where COMFYUI_PATH is set",
    "npm": "the TypeScript tests run it where a compiler is installed",
    "the packages": "they are not on PyPI yet; the newcomer's path runs on built wheels",
    "another program": "a reverse proxy, or a host of tools",
    "another project": "code of others, to compare with",
    "a machine of its own": "users, services and packages of the system",
    "a form": "names to be replaced",
}
"""What a block that is not run needs, and why the tests do not have it."""
BLOCKS: Final = [block for page in pages() for block in blocks_of(page)]
PAGES: Final = {page.relative_to(ROOT).as_posix(): page for page in pages()}


def of(page: str) -> list[Block]:
    return [block for block in BLOCKS if block.page == page]


def run_here(block: Block) -> bool:
    return not block.not_run and not block.run_by


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``comfysnap serve`` with this repository's workflows, for pages that start no server."""
    data = tmp_path_factory.mktemp("data")
    with serving(new_mark(), data, "--engine-option=step_seconds=0") as (_, url):
        yield url


@pytest.fixture
def reader(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    reader = Reader(tmp_path, url, monkeypatch)
    try:
        yield reader
    finally:
        reader.close()


def repository(project: Path) -> None:
    """The project is a clone of this repository."""
    shutil.copytree(ROOT / "workflows", project / "workflows")
    shutil.copytree(ROOT / "examples", project / "examples")
    (project / "comfysnap.toml").write_text((ROOT / "comfysnap.toml").read_text())
    shutil.copy(ROOT / "tests" / "schema" / "comfy" / "saved" / "still.png", project / "lisbon.png")


def hello(project: Path) -> None:
    """The project has one workflow, ``hello``, and its generated module."""
    shutil.copytree(ROOT / "workflows" / "hello", project / "workflows" / "hello")
    (project / "comfysnap.toml").write_text(
        'name = "shop"\n[generate]\nout = "comfysnap_models"\n', encoding="utf-8"
    )
    Image.new("RGB", (8, 8)).save(project / "cup.png")


SET_UP: Final[dict[str, Callable[[Path], None]]] = {"README.md": repository}
"""What a page assumes; the others have ``hello``."""


@pytest.mark.parametrize(
    "page",  # the start page is followed by the newcomer
    [page for page in PAGES if page != "docs/index.md" and any(map(run_here, of(page)))],
)
def test_the_blocks_of_a_page_run_one_after_the_other(page: str, reader: Reader) -> None:
    SET_UP.get(page, hello)(reader.project)
    for block in filter(run_here, of(page)):
        reader.follow(block)


def test_every_page_has_an_example_that_runs() -> None:
    ran = {
        block.page for block in BLOCKS if not block.not_run and block.language not in ("", "text")
    }
    assert [page for page in PAGES if page not in ran] == []


def test_a_block_that_is_not_run_says_what_it_needs(record_property: Any) -> None:
    needs = Counter(block.not_run for block in BLOCKS if block.not_run)
    record_property("not run", dict(needs))
    assert set(needs) <= set(REASONS)
    assert sum(needs.values()) < len(BLOCKS) / 2


def test_python_that_is_not_run_is_python() -> None:
    for block in BLOCKS:
        if block.not_run and block.language == "python":
            ast.parse(block.text, str(block))


def test_a_block_that_another_test_runs_is_read_there() -> None:
    for block in BLOCKS:
        if block.run_by:
            assert Path(block.page).name in (ROOT / block.run_by).read_text(encoding="utf-8"), str(
                block
            )


def test_every_block_has_a_language_that_can_be_checked() -> None:
    odd = [str(block) for block in BLOCKS if run_here(block) and block.language not in LANGUAGES]
    assert odd == []


def test_typescript_blocks_are_part_of_what_the_typescript_tests_compile() -> None:
    compiled = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "examples" / "typescript").glob("*.ts")
    )
    shown = [block for block in BLOCKS if block.language == "ts" and not block.not_run]
    assert [str(block) for block in shown if block.text.strip() not in compiled] == []


def commands() -> list[tuple[Block, list[str]]]:
    found: list[tuple[Block, list[str]]] = []
    for block in BLOCKS:
        if block.language in ("sh", "console"):
            text = re.sub(r"\\\n\s*", " ", block.text)
            prompt = r"\$ " if block.language == "console" else ""
            for line in re.findall(rf"^{prompt}(?:uv run )?(comfysnap .*)", text, re.MULTILINE):
                found.append((block, shlex.split(line.split(" | ")[0], comments=True)))
    return found


def test_every_command_that_is_shown_exists_with_its_options() -> None:
    root: Any = typer.main.get_command(build_app())
    wrong = [f"{block}: {words}" for block, words in commands() if not exists(root, words[1:])]
    assert len(commands()) > 20
    assert wrong == []


def exists(command: Any, words: list[str]) -> bool:
    """Whether a command has these words for its inner commands and options."""
    inner: dict[str, Any] = getattr(command, "commands", {})
    if inner and words and not words[0].startswith("-"):
        return words[0] in inner and exists(inner[words[0]], words[1:])
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    given = {word.split("=")[0] for word in words if word.startswith("-") and word != "--"}
    return given <= known | {"--help"}
