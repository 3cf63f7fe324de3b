"""Ten mistakes of a first hour: each ends in one message that says what to do next."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from PIL import Image

from tests.contract.processes import COMMAND, environment, new_mark, serving

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

EDITOR_EXPORT: Final = {
    "last_node_id": 1, "last_link_id": 0, "version": 0.4, "links": [],
    "nodes": [{"id": 1, "type": "KSampler", "inputs": [], "outputs": [], "widgets_values": [7]}],
}  # fmt: skip
OLD_PROGRAM: Final = """\
from comfysnap_client.blocking import Client
from comfysnap_client import ComfysnapError
from comfysnap_models import HelloInput

HelloInput.__contract__ = "0123456789abcdef"  # generated before the workflow changed
with Client.from_env() as client:
    try:
        client.infer_sync(HelloInput())
    except ComfysnapError as error:
        print(error, end="")
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A new project."""
    assert say(tmp_path, "init", "shop")[0] == 0
    return tmp_path / "shop"


def say(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code and stderr of a command, with the folder as FOLDER and IDs of requests as ID."""
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env={**environment(new_mark()), **variables},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, plain(done.stderr, folder)


def plain(text: str, folder: Path) -> str:
    text = re.sub(r"request [0-9a-f]{32}", "request ID", text.replace(str(folder), "FOLDER"))
    return re.sub(r"127\.0\.0\.1:\d+", "HOST:PORT", text)


def test_no_server(tmp_path: Path) -> None:
    assert say(tmp_path, "infer", "hello", "--url", "http://127.0.0.1:9") == (
        3,
        "error: cannot connect to http://HOST:PORT (All connection attempts failed): check the URL,"
        " or start a server with `comfysnap serve`\n"
        "set the URL of the server with --url or COMFYSNAP_URL\n",
    )


def test_a_wrong_key(shop: Path) -> None:
    assert say(shop, "keys", "add", "alice", "--data=data")[0] == 0
    with serving(new_mark(), shop / "data", f"--project={shop}", "--auth=keys") as (_, url):
        said = say(shop, "infer", "hello", COMFYSNAP_URL=url, COMFYSNAP_API_KEY="cs_wrong")
    assert said == (
        3,
        "error: unauthorized: send a valid key as 'Authorization: Bearer KEY'\n"
        "the server does not accept the key in COMFYSNAP_API_KEY; to create one, run"
        " `comfysnap keys add NAME` where the server runs\n"
        "request ID\n",
    )


def test_no_project(tmp_path: Path) -> None:
    assert say(tmp_path, "serve") == (
        2,
        "error: comfysnap.toml: not found in this folder or a parent: create a project with"
        " `comfysnap init`, choose one with --project, or try `comfysnap demo`\n",
    )


def test_an_export_in_the_format_of_the_editor(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(EDITOR_EXPORT))
    assert say(tmp_path, "new", "mine", "mine.json") == (
        2,
        "error: mine.json: this is a UI-format export: pass --object-info http://HOST:PORT (a"
        " running ComfyUI) to convert it, or in ComfyUI, choose Workflow > Export (API)\n",
    )


def test_a_picture_without_a_workflow(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    assert say(tmp_path, "new", "mine", "photo.png") == (
        2,
        "error: photo.png: no ComfyUI workflow in the metadata: it was saved without one, or lost"
        " it on its way here; use the original file, or export the workflow: Workflow > Export"
        " (API)\n",
    )


def test_a_model_that_the_deployment_lacks(shop: Path) -> None:
    graph = json.loads((shop / "workflows" / "hello" / "graph.json").read_text())
    graph["9"] = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "x4.pth"}}
    (shop / "workflows" / "hello" / "graph.json").write_text(json.dumps(graph))
    assert say(shop, "deploy") == (
        1,
        "error: hello: 9.inputs.model_name: UpscaleModelLoader needs x4.pth in its folder; not in"
        " deploy.models (model_not_listed)\n"
        "`comfysnap doctor` prints the lines to paste for these errors\n",
    )


def test_a_port_in_use(shop: Path) -> None:
    with serving(new_mark(), shop / "data", f"--project={shop}") as (_, url):
        port = url.rpartition(":")[2]
        said = say(shop, "serve", "--engine=simulated", f"--port={port}", "--data=other")
    assert said == (
        1,
        "error: HOST:PORT is in use by another program: choose another port with --port, 0 for any"
        " free one\n",
    )


def test_a_client_that_is_older_than_the_workflow(shop: Path) -> None:
    (shop / "old.py").write_text(OLD_PROGRAM)
    with serving(new_mark(), shop / "data", f"--project={shop}") as (_, url):
        done = subprocess.run(
            [sys.executable, "old.py"], cwd=shop, env={**os.environ, "COMFYSNAP_URL": url},
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    assert plain(done.stdout, shop) == (
        "the client was generated from contract '0123456789abcdef' of 'hello' and the server has"
        " 'da27d5e82190bdcc'; run 'comfysnap generate' again (request ID, status 409)"
    )


def test_no_modal_account(shop: Path) -> None:
    nobody = {"MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": ""}
    assert say(shop, "deploy", MODAL_CONFIG_PATH=str(shop / "none.toml"), **nobody) == (
        3,
        "error: no Modal account on this machine: sign in with `modal setup`, or set MODAL_TOKEN_ID"
        " and MODAL_TOKEN_SECRET\n",
    )


def test_a_typo_in_comfysnap_toml(shop: Path) -> None:
    (shop / "comfysnap.toml").write_text('worklows = "workflows"\n')
    assert say(shop, "serve") == (
        2,
        "error: FOLDER/comfysnap.toml: worklows: unknown key; did you mean workflows? valid keys:"
        " default, deploy, generate, name, serve, workflows\n",
    )
