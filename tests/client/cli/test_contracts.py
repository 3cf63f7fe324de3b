"""``comfysnap generate --url``: what is wrong with a server is one line, and nothing is written."""

from pathlib import Path

import pytest
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from comfysnap_schema.codegen import generate_typescript
from comfysnap_schema.workflow import load_workflows
from tests.client.cli.test_commands import Ran, run
from tests.client.fakes import CONTRACT, FakeServer, problem, responding
from tests.paths import WORKFLOWS

LISTED = [{"name": "draw", "title": "Draw", "contract": "c0ffee"}]


async def generate(server: FakeServer, out: Path, **env: str) -> Ran:
    project = empty_project(out.parent)
    ran = await run(server, "generate", *project, "--out", str(out), stdin=b"", **env)
    assert len(list(out.parent.iterdir())) == 1
    return ran


def empty_project(folder: Path) -> tuple[str, str]:
    """The option that keeps a command from the project that the tests run in."""
    (folder / "comfysnap.toml").touch()
    return "--project", str(folder)


async def test_the_modules_of_a_server_are_written_and_checked(
    server: FakeServer, tmp_path: Path
) -> None:
    workflow = load_workflows(WORKFLOWS)["hello"]
    described = {
        "name": "hello", "title": workflow.spec.title, "description": workflow.spec.description,
        "contract": workflow.contract.hash, "input_schema": workflow.contract.input_schema,
        "output_schema": workflow.contract.output_schema,
    }  # fmt: skip
    module = tmp_path / "models.ts"
    arguments = ("generate", *empty_project(tmp_path), "--typescript", str(module))
    for options in ([], ["--check"]):
        server.on("/workflows", responding(JSONResponse([described])))
        server.on("/workflows/hello", responding(JSONResponse(described)))
        ran = await run(server, *arguments, *options)
        assert (ran.code, ran.out) == (0, "" if options else f"wrote {module}\n")
        assert module.read_text(encoding="utf-8") == generate_typescript({"hello": workflow})


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (HTMLResponse("<p>hello"), 3, "is not a comfysnap server"),
        (HTMLResponse("<p>not here", 404), 3, "is not a comfysnap server"),
        (JSONResponse({"workflows": []}), 3, "is not a comfysnap server"),
        (JSONResponse([]), 1, "serves no workflows"),
        (JSONResponse(LISTED * 1001), 3, "it lists 1001 workflows"),
        (JSONResponse([{**LISTED[0], "name": "../draw"}]), 2, "invalid workflow name '../draw'"),
        (Response(b" " * (33 << 20), media_type="application/json"), 3, "larger than"),
        (problem(401, "unauthorized"), 3, "the key in COMFYSNAP_API_KEY"),
        (RedirectResponse("http://127.0.0.1:9/elsewhere"), 3, "redirects"),
    ],
)
async def test_an_answer_of_no_use_is_an_error(
    server: FakeServer, tmp_path: Path, answer: Response, code: int, says: str
) -> None:
    server.on("/workflows", responding(answer))
    ran = await generate(server, tmp_path / "models", COMFYSNAP_API_KEY="sesame")
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert "Traceback" not in ran.err
    assert len(server.requests) == 1
    assert server.requests[0].headers["authorization"] == "Bearer sesame"


async def test_a_contract_of_another_format_is_an_error(server: FakeServer, tmp_path: Path) -> None:
    server.on("/workflows", responding(JSONResponse(LISTED)))
    server.on("/workflows/draw", responding(JSONResponse(CONTRACT)))
    ran = await generate(server, tmp_path / "models", MODAL_KEY="wk-1", MODAL_SECRET="ws-1")
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "install the version that the server has" in ran.err
    assert server.requests[-1].headers["modal-key"] == "wk-1"


async def test_another_workflow_than_the_one_asked_for_is_an_error(
    server: FakeServer, tmp_path: Path
) -> None:
    server.on("/workflows", responding(JSONResponse(LISTED)))
    server.on("/workflows/draw", responding(JSONResponse({**CONTRACT, "name": "other"})))
    ran = await generate(server, tmp_path / "models")
    assert (ran.code, "another workflow than 'draw'" in ran.err) == (3, True)


async def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    nowhere = FakeServer()
    nowhere.url = "http://127.0.0.1:9"
    ran = await generate(nowhere, tmp_path / "models")
    assert (ran.code, ran.out) == (3, "")
    assert "127.0.0.1:9" in ran.err


async def test_an_address_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    nowhere = FakeServer()
    nowhere.url = "my-app.modal.run"
    ran = await generate(nowhere, tmp_path / "models")
    assert (ran.code, "must start with http" in ran.err) == (2, True)
