"""The commands, run as a user runs them."""

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.responses import JSONResponse, Response

from comfysnap_client import Progress
from comfysnap_client.cli import demo
from comfysnap_client.testing import MockServer
from comfysnap_schema.workflows.flux import FluxInput, FluxOutput
from tests.client.fakes import CONTRACT, FakeServer, problem, responding

COMMAND = Path(sys.executable).parent / "comfysnap"


@dataclass
class Ran:
    """The result of a command."""

    code: int
    out: str
    err: str


async def start(
    server_url: str, *words: str, env: dict[str, str] | None = None
) -> "asyncio.subprocess.Process":
    return await asyncio.create_subprocess_exec(
        COMMAND, *words, "--url", server_url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, env={**os.environ, **(env or {})},
    )  # fmt: skip


async def run(server: FakeServer, *words: str, stdin: bytes = b"", **env: str) -> Ran:
    process = await start(server.url, *words, env=env)
    out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


async def test_infer_saves_the_files_and_prints_their_paths(
    server: FakeServer, tmp_path: Path
) -> None:
    server.outputs = {"images": [server.stored("fox.png", b"fox")], "text": "a caption"}
    ran = await run(
        server, "infer", "draw", "prompt=a fox", "steps=7", "tiled=yes",
        "--out", str(tmp_path / "new"),
        COMFYSNAP_API_KEY="sesame",
    )  # fmt: skip

    saved = tmp_path / "new" / "fox.png"
    assert (ran.code, ran.out) == (0, f"{saved}\ntext: a caption\n")
    assert saved.read_bytes() == b"fox"
    assert next(iter(server.jobs.values()))["inputs"] == {
        "prompt": "a fox", "steps": 7, "tiled": True,
    }  # fmt: skip
    assert server.requests[0].headers["authorization"] == "Bearer sesame"


@pytest.mark.parametrize("given", [[], ["seed=8"]])
async def test_a_seed_that_the_server_drew_is_shown_beside_the_outputs(
    server: FakeServer, given: list[str]
) -> None:
    job = {
        "id": "job_1", "workflow": "draw", "status": "succeeded", "version": 3,
        "inputs": {"prompt": "x", "seed": 8, "steps": 4}, "outputs": {"text": "a fox"},
        "created_at": "2026-11-26T00:00:00Z",
    }  # fmt: skip
    for options in ([], ["--json"]):
        server.on("/infer_async", responding(JSONResponse(job, 202)))
        ran = await run(server, "infer", "draw", "prompt=x", *given, *options)
        if options:
            assert (json.loads(ran.out)["inputs"]["seed"], ran.err) == (8, "")
        else:
            assert (ran.out, "seed=8" in ran.err) == ("text: a fox\n", not given)


async def test_a_second_result_does_not_overwrite_the_first(
    server: FakeServer, tmp_path: Path
) -> None:
    server.outputs = {"image": server.stored("fox.png", b"new")}
    (tmp_path / "fox.png").write_bytes(b"old")
    ran = await run(server, "infer", "draw", "prompt=x", "--out", str(tmp_path), "--json")

    assert json.loads(ran.out)["files"] == [str(tmp_path / "fox-1.png")]
    assert (tmp_path / "fox.png").read_bytes() == b"old"


async def test_a_folder_that_cannot_be_created_fails_before_a_job_is_submitted(
    server: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    ran = await run(server, "infer", "draw", "prompt=x", "--out", str(tmp_path / "taken"))

    assert ran.code == 2
    assert str(tmp_path / "taken") in ran.err
    assert server.jobs == {}


async def test_outputs_that_cannot_be_saved_are_reported_with_their_job(
    server: FakeServer, tmp_path: Path
) -> None:
    """The job has been paid for: its ID is needed to get its outputs."""
    server.outputs = {"image": server.stored("fox.png", b"new")}
    job_id = await server.create()
    (tmp_path / "taken").write_text("a file")
    ran = await run(server, "result", job_id, "--out", str(tmp_path / "taken"))

    assert ran.code == 2
    assert f"comfysnap result {job_id}" in ran.err


async def test_invalid_inputs_are_reported_by_field_and_nothing_is_submitted(
    server: FakeServer,
) -> None:
    ran = await run(server, "infer", "draw", "promt=x", "steps=many", "image=fox.png")

    assert ran.code == 2
    for field in ("promt", "steps", "image", "prompt"):
        assert f"{field}: " in ran.err
    assert not server.jobs


async def test_a_file_is_uploaded_from_disk_and_from_stdin(
    server: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "big.png"
    path.write_bytes(b"x" * 400_000)
    assert (await run(server, "infer", "draw", "prompt=x", f"image=@{path}")).code == 0
    assert (await run(server, "infer", "draw", "prompt=x", "image=@-", stdin=b"pipe")).code == 0

    first, second = (job["inputs"]["image"] for job in server.jobs.values())
    assert server.files[first["sha256"]] == path.read_bytes()
    assert second["data"] == "cGlwZQ=="


async def test_ctrl_c_cancels_the_job(server: FakeServer) -> None:
    server.outputs = None
    process = await start(server.url, "infer", "draw", "prompt=x")
    await server.requested("/check_status")
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()

    job = next(iter(server.jobs.values()))
    assert (process.returncode, job["status"]) == (130, "cancelled")
    assert job["id"] in err.decode()


async def test_ctrl_c_while_waiting_for_a_result_does_not_cancel_the_job(
    server: FakeServer,
) -> None:
    server.outputs = None
    process = await start(server.url, "result", await server.create())
    await server.requested("/check_status", 2)
    process.send_signal(signal.SIGINT)
    await process.communicate()

    assert process.returncode == 130
    assert next(iter(server.jobs.values()))["status"] == "queued"


async def test_status_cancel_and_jobs(server: FakeServer) -> None:
    server.outputs = None
    ids = [(await run(server, "infer", "draw", "prompt=x", "--no-wait")).out.strip()]
    ids += [await server.create() for _ in range(2)]
    cancelled = await run(server, "cancel", ids[0], "--json")
    status = await run(server, "status", ids[0])
    listed = await run(server, "jobs", "--json")

    assert json.loads(cancelled.out)["status"] == "cancelled"
    assert "cancelled" in status.out
    assert [job["id"] for job in json.loads(listed.out)] == ids[::-1]


async def test_limits_show_budgets_and_their_use(server: FakeServer) -> None:
    limits = {
        "owner": "anna", "key": "phone", "scopes": ["infer", "read"],
        "budgets": {
            "requests_per_minute": {"limit": 60, "used": 3, "reset_s": 2.6},
            "max_unfinished_jobs": {"limit": 5, "used": 1},
            "max_stored_bytes": {},
        },
        "max_body_bytes": 10, "max_file_bytes": 20, "max_wait": 25.0, "max_sync_wait": 140.0,
        "max_timeout": 3600.0,
    }  # fmt: skip
    server.on("/limits", *[responding(JSONResponse(limits)) for _ in range(2)])
    shown = await run(server, "limits")
    printed = await run(server, "limits", "--json")

    assert (shown.code, printed.code) == (0, 0)
    assert shown.out.splitlines() == [
        "owner anna, key phone, scopes infer, read",
        "requests_per_minute: 3 of 60, all back in 3 s",
        "max_unfinished_jobs: 1 of 5",
        "max_stored_bytes: - of unlimited",
        "largest file: 20 bytes; longest job: 3600 s",
    ]
    assert json.loads(printed.out)["budgets"]["requests_per_minute"]["used"] == 3


@pytest.mark.parametrize(
    ("status", "code"),
    [("failed", 1), ("cancelled", 1), ("timed_out", 4), ("expired", 4)],
)
async def test_exit_codes_of_jobs_that_did_not_succeed(
    server: FakeServer, status: str, code: int
) -> None:
    server.outputs = None
    job_id = await server.create()
    await server.finish(job_id, status=status)

    assert (await run(server, "result", job_id)).code == code


async def test_exit_codes_of_rejected_requests(server: FakeServer) -> None:
    async def refuse(_request: object) -> Response:
        return problem(401, "unauthorized")

    assert (await run(server, "infer", "drew", "prompt=x")).code == 2
    assert (await run(server, "status", "job_unknown")).code == 2
    assert (await run(server, "status", "../etc")).code == 2
    server.on("/", refuse)
    refused = await run(server, "jobs")
    assert refused.code == 3
    assert "COMFYSNAP_API_KEY" in refused.err
    server.url = "http://127.0.0.1:1"
    gone, unknown = await asyncio.gather(run(server, "jobs"), run(server, "status", "job_1"))
    assert gone.code == 3
    assert "to http://127.0.0.1:1 (" in gone.err
    assert "COMFYSNAP_URL" in gone.err
    assert "comfysnap result job_1" in unknown.err


async def test_a_job_that_exceeds_the_timeout_is_cancelled_with_exit_code_4(
    server: FakeServer,
) -> None:
    server.outputs = None
    ran = await run(server, "infer", "draw", "prompt=x", "--timeout", "3")

    assert ran.code == 4
    assert next(iter(server.jobs.values()))["status"] == "cancelled"


async def test_without_a_name_the_default_workflow_runs_and_labels_are_sent(
    server: FakeServer,
) -> None:
    refused = await run(server, "infer", "prompt=x")
    server.on("/workflows", responding(JSONResponse([{**CONTRACT, "default": True}])))
    ran = await run(server, "infer", "prompt=x", "--label", "team:a", "--no-wait", "--json")
    wrong = await run(server, "jobs", "--label", "team")
    listed = await run(server, "jobs", "--limit", "1")

    assert (refused.code, ran.code, wrong.code, listed.code) == (2, 0, 2, 0)
    assert json.loads(ran.out)["id"] in listed.out
    assert server.requests_to("/infer_async")[0].query_params["label"] == "team:a"


async def test_a_failed_job_and_json_outputs_are_printed(server: FakeServer) -> None:
    server.outputs = {"text": "x", "scores": [1, 2]}
    ran = await run(server, "infer", "draw", "prompt=x")
    assert ran.out == "text: x\nscores: [1, 2]\n"

    server.outputs = None
    job_id = await server.create()
    error = {"title": "no", "code": "node_failed", "fields": [{"field": "steps", "message": "few"}]}
    await server.finish(job_id, status="failed", error=error)
    ran = await run(server, "result", job_id)
    assert ran.code == 1
    assert "node_failed" in ran.err
    assert "steps: few" in ran.err
    assert job_id in ran.err


async def test_the_demo_that_loses_its_parent_cancels_the_job(
    server: FakeServer, tmp_path: Path
) -> None:
    server.outputs = None
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "comfysnap_client.cli.demo", server.url, "a fox", tmp_path,
        stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await server.requested("/check_status")
    _, err = await process.communicate(b"typed")  # then closes its standard input

    job = next(iter(server.jobs.values()))
    assert (process.returncode, job["status"]) == (130, "cancelled")
    assert job["id"] in err.decode()


async def test_the_demo_prints_each_node_once_and_saves_the_image(
    comfysnap_server: MockServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [
        Progress(fraction=step / 4, node="3", node_class="KSampler", step=step, steps=4)
        for step in range(1, 4)
    ]
    done = FluxOutput(images=[comfysnap_server.image()])
    comfysnap_server.on(FluxInput).succeeds(done, progress=steps)
    async with comfysnap_server.client() as client:
        saved = await demo.draw(client, "a fox", tmp_path)
        assert await demo.draw(client, "a fox", tmp_path) != saved
    assert saved.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("KSampler") == 2  # once a run
