"""The code blocks of a page, and a folder in which they run one after the other."""

import ast
import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from comfysnap_client import Client
from comfysnap_schema.workflow import read_project, read_spec, read_table
from comfysnap_server.deploy import DeploySettings
from comfysnap_server.serve_settings import read_serve
from tests.contract.processes import COMMAND, new_mark, serving
from tests.paths import ROOT

DOCS: Final = ROOT / "docs"
BIN: Final = Path(sys.executable).parent
DEFAULT_URL: Final = "http://127.0.0.1:8000"
_BLOCK: Final = re.compile(
    r"^(?:[ \t]*<!-- (?P<kind>not run|run by): (?P<note>.*?) -->\n+)?"
    r"(?P<fence>[ \t]*)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=fence)```$",
    re.MULTILINE | re.DOTALL,
)
_TITLE: Final = re.compile(r'title="([^"]+)"')


class Block(NamedTuple):
    """One fenced block."""

    page: str
    line: int
    language: str
    title: str
    """The file that the block is, if any."""
    text: str
    not_run: str
    """Why it is not run; empty if it is."""
    run_by: str
    """The test file that runs it; empty for those of this folder."""

    def __str__(self) -> str:
        """``page:line``."""
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """The blocks of a Markdown file, in order."""
    page = path.relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        info = match["info"].strip()
        title = _TITLE.search(info)
        indent = len(match["fence"])
        lines = [line[indent:] for line in match["text"].splitlines()]
        notes = {match["kind"]: match["note"]} if match["kind"] else {}
        found.append(
            Block(
                page,
                text[: match.start("fence")].count("\n") + 1,
                info.partition(" ")[0],
                title[1] if title else "",
                "\n".join(lines) + "\n",
                notes.get("not run", ""),
                notes.get("run by", ""),
            )
        )
    return found


def pages() -> list[Path]:
    """Every page with blocks of ours."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


class Reader:
    """Someone who follows a page, in an empty folder with an empty home."""

    command = COMMAND

    def __init__(self, folder: Path, url: str, patch: pytest.MonkeyPatch) -> None:
        self.project = self.start = folder / "project"
        self.folder = folder
        self.url = url
        self.printed = ""
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._stack = ExitStack()
        self._patch = patch
        self.project.mkdir()
        (folder / "home").mkdir()
        for name in ("COMFYUI_PATH", "COMFYUI_PYTHON", "MODAL_KEY", "MODAL_SECRET", "VIRTUAL_ENV"):
            patch.delenv(name, raising=False)
        patch.chdir(self.project)
        patch.setattr(sys, "path", [str(self.project), *sys.path])
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("COMFYSNAP_URL", url)
        patch.setenv("COMFYSNAP_API_KEY", "")
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "120")

    def close(self) -> None:
        """Stop the servers that the page started, and forget its generated modules."""
        self._stack.close()
        own = {path.stem for path in self.project.iterdir()}
        for name in [name for name in sys.modules if name.split(".")[0] in own]:
            del sys.modules[name]

    def follow(self, block: Block) -> None:
        """Do what a block says: write a file with a title, run everything else."""
        if block.title:
            path = self.project / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text.replace(DEFAULT_URL, self.url), encoding="utf-8")
        getattr(self, f"_{block.language or 'literal'}")(block)

    def _toml(self, block: Block) -> None:
        check_toml(block, self.folder)

    def _json(self, block: Block) -> None:
        json.loads(block.text)

    def _ts(self, block: Block) -> None:
        """Compiled with the example that it is a part of."""

    def _literal(self, block: Block) -> None:
        """What nobody types."""

    def _text(self, block: Block) -> None:
        if not block.title:
            expect(block.text, self.printed, str(block))

    def _sh(self, block: Block) -> None:
        text = block.text
        while served := re.search(r"^comfysnap serve\b.*\n", text, re.MULTILINE):
            self.shell(text[: served.start()], block)
            self._serve(served[0])
            text = text[served.end() :]
        self.printed = self.shell(text, block)

    def _console(self, block: Block) -> None:
        for command, shown in _prompts(block.text):
            self.printed = self.shell(command, block)
            expect(shown, self.printed, str(block))

    def shell(self, text: str, block: Block) -> str:
        """Run commands in one shell, which remembers its folder and variables."""
        if not text.strip():
            return ""
        state = self.folder / "state"
        before = f". {state}\n" if state.exists() else ""
        after = f'\n{{ export -p; printf "cd %q\\n" "$PWD"; }} > {state}\n'
        done = subprocess.run(
            ["bash", "-ec", before + text.replace(DEFAULT_URL, self.url) + after],
            capture_output=True, text=True, timeout=100, check=False, cwd=self.start,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}: {text}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def _serve(self, line: str) -> None:
        words = shlex.split(re.sub(r"--(engine|engine-option|port) \S+", "", line), comments=True)
        given = (f"--project={self.project}", "--engine-option=step_seconds=0", *words[2:])
        started = serving(new_mark(), self.project / ".comfysnap", *given, command=self.command)
        _, self.url = self._stack.enter_context(started)
        self._patch.setenv("COMFYSNAP_URL", self.url)
        state = self.folder / "state"
        if state.exists():
            state.write_text(f"{state.read_text()}export COMFYSNAP_URL={self.url}\n")

    def _python(self, block: Block) -> None:
        if block.title:
            return
        text = block.text.replace(DEFAULT_URL, self.url)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(text, str(block), "exec", flags=flags, dont_inherit=True)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            result = eval(code, self._names)  # noqa: S307  # our own page
            if inspect.iscoroutine(result):
                asyncio.run(self._with_client(result))
        self.printed = out.getvalue()

    async def _with_client(self, coroutine: Any) -> None:
        """Await what has a top-level ``await``; such blocks use ``client`` without making it."""
        async with Client(self.url) as client:
            self._names["client"] = client
            await coroutine


def expect(shown: str, printed: str, where: str) -> None:
    """Every shown line was printed, in order; ``…`` stands for anything, spaces do not count."""
    rest = [" ".join(line.split()) for line in printed.splitlines()]
    for line in (" ".join(line.split()) for line in shown.splitlines()):
        pattern = ".*".join(map(re.escape, line.split("…")))
        found = next((n for n, each in enumerate(rest) if re.fullmatch(pattern, each)), None)
        assert found is not None, f"{where}: not printed: {line!r}\n{printed}"
        rest = rest[found + 1 :]


def _prompts(text: str) -> Iterator[tuple[str, str]]:
    """Each command behind a ``$``, and what is shown below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def check_toml(block: Block, folder: Path) -> None:
    """Read a block with the reader of its file, adding what a part of one leaves out."""
    path = folder / "checked.toml"
    text = block.text
    if re.search(r"^\[(inputs|outputs|constants)", text, re.MULTILINE):
        text = text if re.search(r"^name = ", text, re.MULTILINE) else f'name = "part"\n{text}'
        text += "" if "[outputs." in text else '[outputs.x]\nnode = "9"\n'
        path.write_text(text, encoding="utf-8")
        read_spec(path)
        return
    path.write_text(text, encoding="utf-8")
    project = read_project(path)
    read_serve(project)
    read_table(DeploySettings, project.deploy, file=path, name="deploy")
