"""The first commands of a newcomer: what they load, make and say."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import httpx
import pytest

from tests.contract.processes import COMMAND, environment, left_behind, new_mark, serving

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def comfysnap(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env={**environment(new_mark()), **variables},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", [[], ["--help"], ["--version"], ["init", "--help"]])
def test_help_loads_neither_modal_nor_fastapi_nor_torch(command: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from comfysnap_schema.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as ended:\n    assert not ended.code\n"
        "heavy = {'modal', 'fastapi', 'starlette', 'uvicorn', 'torch', 'httpx', 'PIL'}\n"
        "print('loaded:', *sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_a_new_project_is_tested_served_called_and_planned(tmp_path: Path) -> None:
    made = comfysnap(tmp_path, "init", "shop")
    assert made.returncode == 0, made.stderr
    shop = tmp_path / "shop"

    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"],
        cwd=shop, env=environment(new_mark()), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert "1 passed" in tested.stdout, tested.stdout + tested.stderr

    with serving(new_mark(), shop / ".comfysnap", f"--project={shop}") as (_, url):
        infer = re.search(r"comfysnap (infer hello \S+)", made.stdout)
        assert infer
        called = comfysnap(shop, *infer[1].split(), COMFYSNAP_URL=url)
        assert called.returncode == 0, called.stderr
        assert (shop / called.stdout.strip()).read_bytes().startswith(b"\x89PNG")

    planned = comfysnap(shop, "deploy", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "hello" in planned.stdout


def test_serve_says_how_to_call_it(tmp_path: Path) -> None:
    assert comfysnap(tmp_path, "init").returncode == 0
    with serving(new_mark(), tmp_path / "data", f"--project={tmp_path}") as (process, _):
        assert process.stdout is not None
        shown: list[str] = []
        while not (shown and shown[-1].startswith("Ctrl-C")):
            shown.append(process.stdout.readline().rstrip("\n"))
        (docs,) = [line for line in shown if line.startswith("docs: ")]
        assert httpx.get(docs.removeprefix("docs: ")).status_code == 200
        (call,) = [line for line in shown if line.startswith("call it: ")]
        words = call.removeprefix("call it: comfysnap ").split()
        called = comfysnap(tmp_path, *words)
        assert called.returncode == 0, called.stderr
        assert (tmp_path / called.stdout.strip()).is_file()


def test_a_server_with_reload_starts_anew_after_a_change_and_keeps_its_jobs(tmp_path: Path) -> None:
    assert comfysnap(tmp_path, "init").returncode == 0
    spec = tmp_path / "workflows" / "hello" / "workflow.toml"
    original = spec.read_text()
    mark = new_mark()
    server = subprocess.Popen(
        [*COMMAND, "serve", "--reload", "--port=0", "--engine=simulated"],
        cwd=tmp_path, env=environment(mark), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    assert server.stderr is not None
    try:
        url = address(server.stdout)
        job = httpx.post(f"{url}/infer_sync/hello", json={}, timeout=60).json()
        assert job["status"] == "succeeded"

        spec.write_text(original.replace("A plain picture", "A plainer picture"))
        url = address(server.stdout)
        (found,) = httpx.get(f"{url}/workflows").json()
        assert found["title"].startswith("A plainer picture")
        assert httpx.get(f"{url}/check_status/{job['id']}").json()["outputs"] == job["outputs"]

        spec.write_text("name = 3")
        assert next(line for line in server.stderr if line.startswith("error: "))
        spec.write_text(original)
        assert httpx.get(f"{address(server.stdout)}/workflows").json()[0]["title"] != found["title"]
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 130
        assert left_behind(mark) == []
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
        server.stderr.close()


def address(lines: IO[str]) -> str:
    """The URL in the next first line of a server that then listens."""
    line = next(line for line in lines if line.startswith("comfysnap is running on "))
    assert next(line for line in lines if line.startswith("Ctrl-C"))
    return line.split()[-1]
