"""The programs of "as code" do what the form does."""

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import pytest
from PIL import Image

import comfysnap_client
from comfysnap_schema.codegen import generate, generate_typescript
from comfysnap_schema.workflow import Workflow, load_workflows
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.gateway import AuthMode, GatewaySettings, create_app, hash_key, new_key
from tests.paths import WORKFLOWS
from tests.server.gateway.page.conftest import RunModule
from tests.servers import running
from tests.typescript.conftest import Compile

KEY = new_key()
SHA256 = "0123456789abcdef" * 4
OTHER = SHA256[::-1]
URL = "https://example.org/a.safetensors"
HARD = "it's \"quoted\" \\n $HOME `id` {x}\nä😀\u2028\t'''"


def call_of(workflow: Workflow, inputs: dict[str, Any], **others: Any) -> dict[str, Any]:
    outputs = {
        name: {"kind": spec.kind, "many": spec.many} for name, spec in workflow.outputs.items()
    }
    return {
        "url": "http://127.0.0.1:8000", "name": workflow.name, "inputs": inputs,
        "schema": workflow.contract.input_schema, "outputs": outputs, "files": {},
        "keys": False, **others,
    }  # fmt: skip


@pytest.fixture
def generated(
    tmp_path: Path, workflows: dict[str, Workflow], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with the generated package."""
    for name, source in generate(workflows, package="comfysnap_models").items():
        path = tmp_path / "comfysnap_models" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "comfysnap_models", raising=False)
    return tmp_path


class RecordingClient:
    """Takes the inputs of a program, and answers with outputs that do nothing."""

    given: Any = None

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def infer_sync(self, inputs: Any) -> Any:
        type(self).given = inputs
        raise Recorded


class Recorded(Exception):
    """The program came to its call."""


CALLS: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("flux", {"prompt": HARD, "seed": "18446744073709551615", "count": 2}, {}),
    ("hello", {}, {}),
    ("sdxl", {"prompt": "", "sampler": "euler", "guidance": 1.5}, {}),
    ("img2img", {"image": {"sha256": SHA256}, "prompt": "x"}, {SHA256: "my 'photo'.png"}),
    ("img2img", {"image": {"sha256": SHA256}, "prompt": "x"}, {}),
    ("img2img", {"image": {"url": URL}, "prompt": "x"}, {}),
    ("everything", {"text": "x", "size": 16, "signed": "-9223372036854775808", "data": None,
                    "image": {"sha256": SHA256}}, {}),
    ("everything", {"text": "x", "size": 16, "signed": 1, "image": {"url": URL},
                    "data": {"a": [True, None, 1.5, "x"], "a b": {}}}, {}),
    ("lists", {"images": [{"sha256": SHA256}, {"url": URL}], "checkpoint": "x.safetensors"}, {}),
    ("lists", {"images": [{"sha256": SHA256}, {"sha256": OTHER}],
               "checkpoint": {"url": URL, "sha256": SHA256}}, {OTHER: "b.png"}),
]  # fmt: skip


@pytest.mark.usefixtures("generated")
@pytest.mark.parametrize(("name", "inputs", "files"), CALLS)
def test_python_passes_the_values_of_the_form(
    run_module: RunModule,
    workflows: dict[str, Workflow],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    inputs: dict[str, Any],
    files: dict[str, str],
) -> None:
    (texts,) = run_module("code_texts.js", [call_of(workflows[name], inputs, files=files)])
    monkeypatch.setattr(comfysnap_client, "Client", RecordingClient)
    program = compile(texts["python"], "pasted.py", "exec")
    with pytest.raises(Recorded):
        exec(program, {"__name__": "__main__"})  # noqa: S102 -- the program is ours
    given = RecordingClient.given
    assert given.__workflow__ == name
    sent = {key: as_sent(value, files) for key, value in given if key in given.model_fields_set}
    assert sent == {key: as_number(value, key) for key, value in inputs.items()}


def as_sent(value: Any, files: dict[str, str]) -> Any:
    """A field's value as it is on the wire."""
    if isinstance(value, list):
        return [as_sent(item, files) for item in cast("list[Any]", value)]
    if isinstance(value, Path):
        (digest,) = [digest for digest, name in files.items() if name == str(value)]
        return {"sha256": digest}
    return value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value


def as_number(value: Any, name: str) -> Any:
    return int(value) if name in ("seed", "signed") else value


def test_names_of_types_and_constants_are_those_of_the_generators(
    run_module: RunModule, workflows: dict[str, Workflow]
) -> None:
    names = ["flux", "control_net", "sd3_5", "file", "model", "workflow", "delete", "client", "a_b"]
    some = {name: renamed(workflows["hello"], name) for name in names}
    calls = [call_of(one, {}) | {"name": name} for name, one in some.items()]
    texts = run_module("code_texts.js", calls)
    package = generate(some, package="comfysnap_models")["__init__.py"]
    module = generate_typescript(some)
    for name, text in zip(names, texts, strict=True):
        python = text["python"].split("import ")[3].split()[0]
        assert f"import {python}, {python.removesuffix('Input')}Output" in package, name
        constant = text["typescript"].split("\nimport { ")[-1].split()[0]
        assert f"export const {constant} = " in module, name


def renamed(workflow: Workflow, name: str) -> Workflow:
    return replace(workflow, spec=workflow.spec.model_copy(update={"name": name}))


def test_typescript_is_accepted_by_the_compiler(
    run_module: RunModule,
    workflows: dict[str, Workflow],
    tsc: Compile,
    build: Path,
    tmp_path: Path,
) -> None:
    texts = run_module(
        "code_texts.js",
        [
            call_of(workflows[name], inputs, files=files, keys=bool(index % 2))
            for index, (name, inputs, files) in enumerate(CALLS)
        ],
    )
    project = tmp_path
    (project / "programs").mkdir()
    (project / "node_modules").symlink_to(build / "node_modules")
    for file in ("package.json", "tsconfig.json", "programs/node.d.ts"):
        shutil.copy(build / file, project / file)
    (project / "programs" / "workflows.ts").write_text(generate_typescript(workflows))
    for number, text in enumerate(texts):
        (project / "programs" / f"call{number}.ts").write_text(text["typescript"])
    assert tsc(cwd=project).stdout == ""


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    auth: AuthMode = request.param
    settings = GatewaySettings(auth=auth, keys={"anna": hash_key(KEY)})
    backend = LocalBackend(tmp_path / "data", engine_options={"step_seconds": 0})
    with running(create_app(backend, load_workflows(WORKFLOWS), settings)) as app:
        yield app.url


async def run(folder: Path, *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "COMFYSNAP_API_KEY": KEY, "HOME": str(folder)},
    )  # fmt: skip
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, error.decode()
    return out.decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("server", ["none", "keys"], indirect=True)
async def test_python_and_curl_run_a_job_with_a_file(
    server: str,
    run_module: RunModule,
    workflows: dict[str, Workflow],
    generated: Path,
    request: pytest.FixtureRequest,
) -> None:
    photo = generated / "it's mine.png"
    Image.new("RGB", (64, 64), "red").save(photo)
    digest = hashlib.sha256(photo.read_bytes()).hexdigest()
    inputs = {"image": {"sha256": digest}, "prompt": HARD, "steps": 2, "seed": 7}
    keys = request.node.callspec.params["server"] == "keys"
    call = call_of(workflows["img2img"], inputs, url=server, files={digest: photo.name}, keys=keys)
    (texts,) = run_module("code_texts.js", [call])
    job = json.loads(await run(generated, "sh", "-c", texts["curl"]))
    assert (job["status"], job["inputs"]["prompt"]) == ("succeeded", HARD)
    assert job["inputs"]["image"] == {"sha256": digest}
    (generated / "program.py").write_text(texts["python"], encoding="utf-8")
    saved = await run(generated, sys.executable, "program.py")
    assert (generated / saved.strip()).read_bytes().startswith(b"\x89PNG")
