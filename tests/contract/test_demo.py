import ast
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.contract.processes import COMMAND, environment, left_behind, new_mark
from tests.paths import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

PACKAGED = ROOT / "packages/server/src/comfysnap_server/demo/workflows/flux"


def test_the_demo_saves_an_image(tmp_path: Path) -> None:
    mark = new_mark()
    done = subprocess.run(
        [*COMMAND, "demo", "a red fox"], cwd=tmp_path, env=environment(mark),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    saved = re.search(r"saved (\S+)", done.stdout)
    assert saved
    assert (tmp_path / saved[1]).read_bytes().startswith(b"\x89PNG")
    assert "placeholder" in done.stdout
    assert " INFO " not in done.stderr  # the server's log is not what a newcomer came for
    same = done.stdout[done.stdout.index("from comfysnap_client") :]
    assert "FluxInput(prompt='a red fox')" in same
    compile(same, "pasted", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert left_behind(mark) == []


def test_ctrl_c_in_a_terminal_cancels_the_job_and_leaves_no_process(tmp_path: Path) -> None:
    mark = new_mark()
    code, shown = in_terminal(tmp_path, mark, lambda terminal, _: os.write(terminal, b"\x03"))
    assert code == 130
    assert re.search(r"cancelled job_\w+", shown)
    assert left_behind(mark) == []
    assert not list(tmp_path.glob("*/*.png"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_killed_leaves_no_process(tmp_path: Path, how: signal.Signals) -> None:
    mark = new_mark()
    code, _ = in_terminal(tmp_path, mark, lambda _, pid: os.kill(pid, how))
    assert code == (-how if how == signal.SIGKILL else 130)
    assert left_behind(mark) == []


def test_the_demo_leaves_the_page_open_until_ctrl_c(tmp_path: Path) -> None:
    mark = new_mark()
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\nprintf %s "$1" > opened.part && mv opened.part opened\n')
    browser.chmod(0o755)
    with subprocess.Popen(
        [*COMMAND, "demo", "--open"], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env={**environment(mark), "BROWSER": str(browser)}, stderr=subprocess.STDOUT,
    ) as demo:  # fmt: skip
        assert demo.stdout is not None
        lines = iter(demo.stdout.readline, "")
        page = next(line for line in lines if line.startswith("page: ")).split()[1]
        assert next(lines).startswith("Ctrl-C ")
        wait_for(tmp_path / "opened")
        assert (tmp_path / "opened").read_text() == page
        assert "<title>comfysnap</title>" in httpx.get(page).text
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
    assert left_behind(mark) == []


def wait_for(path: Path) -> None:
    limit = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_the_packaged_workflow_is_that_of_the_project() -> None:
    files = {path.name: path.read_bytes() for path in (ROOT / "workflows/flux").glob("*.*")}
    packaged = {path.name: path.read_bytes() for path in PACKAGED.glob("*.*")}
    assert packaged == files, f"cp workflows/flux/* {PACKAGED.relative_to(ROOT)}"


def in_terminal(folder: Path, mark: str, act: Callable[[int, int], object]) -> tuple[int, str]:
    """Run the demo in a terminal of its own, act when a node is at work; exit code and screen."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        variables = {**environment(mark), "TERM": "xterm"}
        os.execve(sys.executable, [*COMMAND, "demo"], variables)  # noqa: S606 -- the child of a pty
    shown = ""
    acted = False
    limit = time.monotonic() + 200
    while time.monotonic() < limit:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                shown += os.read(terminal, 65536).decode(errors="replace")
            except OSError:  # Linux's way to say that the other side is closed
                break
        if not acted and re.search("Sampler", shown):
            act(terminal, pid)
            acted = True
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert acted, shown
    return os.waitstatus_to_exitcode(status), shown
