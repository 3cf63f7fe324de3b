import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from comfysnap_schema.cli import build_app
from comfysnap_server.gateway.keys import hash_key, new_key
from tests.contract.processes import COMMAND, environment, left_behind, new_mark, serving
from tests.paths import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

HELLO = {"width": 32, "height": 32}
SLOW = "--engine-option=step_seconds=5"


def failed_start(*options: str) -> tuple[int, str]:
    """Exit code and output of a server that does not start."""
    done = CliRunner().invoke(build_app(), ["serve", "--port=0", "--engine=simulated", *options])
    return done.exit_code, f"{done.output} {done.exception}"


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (None, 0)]
)
def test_a_stopped_server_keeps_its_jobs_and_leaves_no_process(
    tmp_path: Path, how: signal.Signals | None, code: int
) -> None:
    mark = new_mark()
    with serving(mark, tmp_path, "--until-stdin-closes", SLOW) as (process, url):
        done = httpx.post(f"{url}/infer_sync/hello", json=HELLO, timeout=30).json()
        assert done["status"] == "succeeded"
        slow = {"prompt": "a fox", "steps": 50}
        left = httpx.post(f"{url}/infer_async/flux", json=slow).json()["id"]
        if how is None:
            assert process.stdin is not None
            process.stdin.close()
        else:
            process.send_signal(how)
        assert process.wait(60) == code
    assert left_behind(mark) == []
    with serving(mark, tmp_path, SLOW) as (_, url):
        again = httpx.get(f"{url}/check_status/{done['id']}").json()
        assert again["outputs"] == done["outputs"]
        assert httpx.get(url + done["outputs"]["images"][0]["url"]).status_code == 200
        assert httpx.get(f"{url}/check_status/{left}").json()["status"] in ("queued", "running")


def test_the_first_line_ends_with_the_address_and_the_last_begins_with_ctrl_c(
    tmp_path: Path,
) -> None:
    with serving(new_mark(), tmp_path) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        rest = process.stdout.read()
    assert rest.splitlines()[-1].startswith("Ctrl-C ")
    assert f"page: {url}/" in rest.splitlines()


def test_a_server_stopped_while_it_starts_leaves_no_process(tmp_path: Path) -> None:
    mark = new_mark()
    with serving(mark, tmp_path) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    assert left_behind(mark) == []


def test_other_machines_need_a_key_or_explicit_auth_none(tmp_path: Path) -> None:
    code, output = failed_start("--host=0.0.0.0", f"--data={tmp_path}")
    assert code == 2
    assert "--auth none" in output


def test_a_data_folder_or_port_in_use_is_an_error(tmp_path: Path) -> None:
    with serving(new_mark(), tmp_path) as (_, url):
        port = url.rpartition(":")[2]
        for options in ([f"--data={tmp_path}"], [f"--data={tmp_path / 'other'}", f"--port={port}"]):
            done = subprocess.run(
                [*COMMAND, "serve", "--port=0", "--engine=simulated", *options],
                env=environment("none"), capture_output=True, text=True, timeout=60, cwd=ROOT,
            )  # fmt: skip
            assert done.returncode == 1
            assert "in use" in done.stderr
            assert "Traceback" not in done.stderr
        assert f"127.0.0.1:{port}" in done.stderr
        assert "--port" in done.stderr


@pytest.mark.parametrize(
    ("table", "field"),
    [("max_body_bites = 1", "serve.max_body_bites"), ("max_wait = -1", "serve.max_wait"),
     ("[serve.local]\nmax_queue = 1", "serve.local.max_queue"), ('auth = "keys"', "no key"),
     ('[serve.keys]\nme = "secret"', "serve.keys.me")],
)  # fmt: skip
def test_an_invalid_setting_is_an_error_of_its_field(
    tmp_path: Path, table: str, field: str
) -> None:
    project = tmp_path / "comfysnap.toml"
    project.write_text(f'workflows = "{ROOT / "workflows"}"\ndefault = "flux"\n[serve]\n{table}\n')
    code, output = failed_start(f"--project={project}", f"--data={tmp_path / 'data'}")
    assert code != 0
    assert field in output


@pytest.mark.parametrize(
    ("table", "known"), [("nope = 1", "max_body_bytes"), ("[serve.local]\nnope = 1", "max_queued")]
)
def test_an_unknown_setting_is_an_error_with_the_known_ones(
    tmp_path: Path, table: str, known: str
) -> None:
    text = f'workflows = "{ROOT / "workflows"}"\ndefault = "flux"\n[serve]\n{table}\n'
    (tmp_path / "comfysnap.toml").write_text(text)
    code, output = failed_start(f"--project={tmp_path}", f"--data={tmp_path / 'data'}")
    assert code != 0
    assert known in output


def test_without_a_project_the_error_suggests_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = failed_start()
    assert code != 0
    assert "comfysnap demo" in output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--devices=tpu"], "--devices must be"),
        (["--devices=1,1"], "duplicate index"),
        (["--devices=0,1", "--workers=1"], "--workers must be at least 2"),
    ],
)
def test_devices_that_cannot_be_used_are_an_error_at_start(
    tmp_path: Path, options: list[str], said: str
) -> None:
    code, output = failed_start(*options, f"--data={tmp_path}")
    assert (code, said in output) == (2, True)


def test_two_pretended_devices_run_two_jobs_at_once(tmp_path: Path) -> None:
    with serving(new_mark(), tmp_path, "--devices=0,1", SLOW) as (process, url):
        body = {"prompt": "a fox", "steps": 50}
        jobs = [httpx.post(f"{url}/infer_async/flux", json=body).json()["id"] for _ in range(2)]
        found = [
            httpx.get(f"{url}/check_status/{job}?after=1&wait=20", timeout=30).json()
            for job in jobs
        ]
        assert [job["status"] for job in found] == ["running", "running"]
        devices = sorted(job["timings"]["device"] for job in found)
        assert devices == ["simulated (GPU 0)", "simulated (GPU 1)"]
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert "workers: 2 on GPU 0, 1" in process.stdout.read()


def test_a_missing_gpu_that_was_requested_is_an_error_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = failed_start("--devices=cuda", f"--data={tmp_path}")
    assert (code, "--devices cuda" in output) == (2, True)
    monkeypatch.setenv("COMFYUI_PATH", str(ROOT / "tests" / "comfyui_tree"))
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    code, output = failed_start("--engine=comfyui", "--devices=cuda", f"--data={tmp_path}")
    assert (code, "no CUDA device: " in output) == (2, True)


def test_an_engine_option_without_a_value_is_an_error(tmp_path: Path) -> None:
    code, output = failed_start("--engine-option=step_seconds", f"--data={tmp_path}")
    assert code == 2
    assert "KEY=VALUE" in output


def test_a_key_gives_access_and_only_its_hash_is_stored(tmp_path: Path) -> None:
    key = new_key()
    project = tmp_path / "comfysnap.toml"
    project.write_text(
        f'workflows = "{ROOT / "workflows"}"\n[serve]\nauth = "keys"\n'
        f'[serve.keys]\nalice = "{hash_key(key)}"\n'
    )
    with serving(new_mark(), tmp_path / "data", f"--project={project}") as (_, url):
        assert httpx.get(f"{url}/jobs").status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{url}/jobs", headers=headers).status_code == 200
