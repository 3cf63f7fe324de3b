"""The start page (index.md), followed on a machine that has uv and nothing else of ours.

Its two commands are those of README.md.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, Reader, blocks_of
from tests.paths import ROOT

UV = shutil.which("uv")
HOME = os.environ.get("HOME", "")
NOT_CLONED = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "dist")
WRONG = """\
from comfysnap_models import PostcardInput

PostcardInput(prompt="Porto", stepz=12)
"""


class Newcomer(Reader):
    """A reader who starts in a clone, and makes ``postcards`` beside it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, "", patch)
        shutil.copytree(ROOT, folder / "comfysnap", ignore=NOT_CLONED)
        self.project.rmdir()
        self.project = folder / "postcards"
        self.command = (str(self.project / ".venv" / "bin" / "comfysnap"),)
        self.start = folder / "comfysnap"


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Newcomer]:
    """With the packages that this repository's lock names, and uv's cache of them."""
    assert UV is not None
    cache = subprocess.run([UV, "cache", "dir"], capture_output=True, text=True, check=True)
    pins = tmp_path / "pins.txt"
    export = [UV, "export", "-q", "--frozen", "--no-emit-workspace", "--no-hashes", "-o", pins]
    subprocess.run(export, cwd=ROOT, check=True)
    newcomer = Newcomer(tmp_path, monkeypatch)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uv").write_text(f'#!/bin/sh\nexec {UV} "$@"\n')  # a shim, perhaps
    (tools / "uv").chmod(0o755)
    (tools / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    (tools / "pip").symlink_to("/bin/true")  # pip install uv: it is here already
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin")
    settings = Path(HOME, ".config", "uv", "uv.toml")
    if settings.exists():  # with the address of an index, perhaps
        monkeypatch.setenv("UV_CONFIG_FILE", str(settings))
    monkeypatch.setenv("UV_CACHE_DIR", cache.stdout.strip())
    monkeypatch.setenv("UV_CONSTRAINT", str(pins))
    monkeypatch.setenv("UV_FROZEN", "1")
    try:
        yield newcomer
    finally:
        newcomer.close()


def pyright(folder: Path, file: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", str(folder / ".venv/bin/python"), file],
        cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "HOME": HOME},
    )  # fmt: skip
    return done.stdout


@pytest.mark.timeout(600)  # of the ten minutes that the page promises
@pytest.mark.skipif(UV is None, reason="uv is not installed")
def test_the_start_page_leads_from_an_empty_machine_to_a_typed_call(newcomer: Newcomer) -> None:
    blocks = blocks_of(DOCS / "index.md")
    assert blocks[0].text == blocks_of(ROOT / "README.md")[0].text
    for block in blocks:
        newcomer.follow(block)
    assert list((newcomer.start / "comfysnap-out").glob("*.png"))
    assert (newcomer.project / "porto.png").read_bytes().startswith(b"\x89PNG")
    assert list((newcomer.project / "pictures").glob("*.png"))
    assert "0 errors" in pyright(newcomer.project, "draw.py")
    (newcomer.project / "wrong.py").write_text(WRONG)
    assert "stepz" in pyright(newcomer.project, "wrong.py")
