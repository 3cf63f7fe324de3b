import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from comfysnap_server.deploy.image import requirements
from comfysnap_server.deploy.nodes_install import OURS

ROOT = Path(__file__).parents[3]


def pins(text: str) -> list[str]:
    return re.findall(r"^[^#\s].*", text, re.MULTILINE)


@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
@pytest.mark.parametrize(
    ("name", "options"), [("gateway", ["--no-dev"]), ("worker", ["--only-group", "worker"])]
)
def test_the_image_installs_what_the_lock_file_says(name: str, options: list[str]) -> None:
    command = ["uv", "export", "--package", "comfysnap-server", "--frozen", "-q"]
    exported = subprocess.run(
        [*command, "--no-emit-workspace", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    file = Path(requirements(name))
    again = f"{' '.join(command)} --no-emit-workspace {' '.join(options)} -o {file}"
    assert pins(exported) == pins(file.read_text()), f"uv.lock changed; run: {again}"


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_every_pin_is_exact_and_none_is_a_workspace_package(name: str) -> None:
    found = pins(Path(requirements(name)).read_text())
    assert found
    assert all("==" in pin and not pin.startswith("comfysnap") for pin in found)


def test_node_packs_are_held_to_what_the_worker_needs() -> None:
    project = tomllib.loads((ROOT / "packages" / "server" / "pyproject.toml").read_text())
    assert set(OURS) == set(project["dependency-groups"]["worker"])
