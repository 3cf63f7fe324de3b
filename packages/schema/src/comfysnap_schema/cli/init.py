"""``comfysnap init``: a project with an example workflow, its types and a test."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer

from comfysnap_schema.wire import ProjectError
from comfysnap_schema.workflow import PROJECT_FILE

_EXAMPLE: Final = Path(__file__).parent / "example" / "hello"

_PROJECT: Final = """\
# Settings of this project. Every key: docs/reference/comfysnap-toml.md of comfysnap (`make docs`).
name = "{name}"
workflows = "workflows"             # every folder below it is served
# default = "hello"                 # workflow of /infer_sync and /infer_async without a name

[generate]
out = "comfysnap_models"            # Python package of typed models, written by: comfysnap generate
# typescript = "web/workflows.ts"   # the same for TypeScript

# [serve]                           # access and limits
# auth = "keys"                     # callers need a key: comfysnap keys add NAME
# hosts = ["images.example.com"]    # names in the Host header, for a server behind a proxy
# origins = ["https://example.com"] # web pages that may call from a browser
# requests_per_minute = 120         # for each key
# max_timeout = 3600.0              # seconds; a job that asks for more gets this

# [serve.local]                     # only for comfysnap serve
# devices = "auto"                  # "cpu", "cuda", or GPUs such as "0,1"
# max_queued = 100                  # jobs

# [deploy]                          # Modal: comfysnap deploy --dry-run shows what would be made
# gpu = "L40S"                      # or several, in order of preference
# memory = 32768                    # MiB
# max_containers = 1
# scaledown_window = 60             # seconds without work until a container stops, and its cost
# auth = "proxy"                    # Modal's proxy tokens; "keys": comfysnap keys add NAME

# [[deploy.models]]                 # one table per model file; comfysnap doctor prints missing ones
# folder = "checkpoints"
# repo = "stabilityai/stable-diffusion-xl-base-1.0"
# file = "sd_xl_base_1.0.safetensors"
"""

_GITIGNORE: Final = """\
# jobs, files and keys of comfysnap serve
.comfysnap/
comfysnap-out/
.env
.venv/
__pycache__/
.pytest_cache/
"""

_PYTEST: Final = """\
[tool.pytest.ini_options]
pythonpath = ["."]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
"""

_PYPROJECT: Final = """\
[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["comfysnap>={version}"]

[dependency-groups]
dev = ["comfysnap[testing]"]

{pytest}"""

_TEST: Final = '''\
"""Tests without a server, a network or a GPU: the fixture answers, and checks each request."""

from comfysnap_client import Client
from comfysnap_client.testing import MockServer
from comfysnap_models import HelloInput, HelloOutput


async def test_a_picture_is_drawn(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(HelloInput).succeeds(HelloOutput(images=[comfysnap_server.image()]))

    async with Client.from_env() as client:
        out = await client.infer_sync(HelloInput(color=0xFF8800, width=256))
        assert (await out.images[0].read()).startswith(b"\\x89PNG")

    assert comfysnap_server.inputs_of(HelloInput)[0].width == 256
'''


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of the project, created if needed.")
    ] = Path(),
) -> None:
    """Create a project: settings, an example workflow with its typed models, and a test.

    The example needs no model: it runs on the simulated engine and on any ComfyUI.

    Example: comfysnap init shop
    """
    from comfysnap_schema.cli.generate import generate

    if (folder / PROJECT_FILE).exists():
        message = "already exists; add a workflow with `comfysnap new NAME EXPORT.json`"
        raise ProjectError("exists", message, file=str(folder / PROJECT_FILE))
    name = project_name(folder)
    files = {
        PROJECT_FILE: project_text(name),
        ".gitignore": _GITIGNORE,
        "pyproject.toml": _PYPROJECT.format(
            name=name, version=version("comfysnap-schema"), pytest=_PYTEST
        ),
        "tests/test_hello.py": _TEST,
        **{
            f"workflows/hello/{path.name}": path.read_text(encoding="utf-8")
            for path in sorted(_EXAMPLE.iterdir())
        },
    }
    kept = [path for path, text in files.items() if not _write(folder / path, text)]
    generate(project=folder)
    for path in kept:
        print(f"kept {folder / path}, which already exists")
    if "pyproject.toml" in kept:
        print(f"for tests that need no server, add to it:\n\n{_PYTEST}")
    _print_next(folder)


def project_name(folder: Path) -> str:
    """A valid name for a project in this folder."""
    base = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    return base[:63].strip("-") or "comfysnap"


def project_text(name: str) -> str:
    """The ``comfysnap.toml`` of a new project."""
    return _PROJECT.format(name=name)


def _write(path: Path, text: str) -> bool:
    """Write a file, unless there is one."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
    return True


def _print_next(folder: Path) -> None:
    enter = [] if folder.resolve() == Path.cwd() else [(f"cd {folder}", "")]
    steps = [
        *enter,
        ("comfysnap serve", "http://127.0.0.1:8000, until Ctrl-C"),
        ("comfysnap infer hello color=16746496", "in another terminal: saves a picture"),
        ("python -m pytest", "needs: pip install 'comfysnap[testing]'"),
        ("comfysnap new NAME EXPORT.json", "add your own workflow"),
        ("comfysnap deploy --dry-run", "show what would be made on Modal"),
    ]
    print("\nnext:")
    for command, note in steps:
        print(f"  {command:38} {note}".rstrip())
