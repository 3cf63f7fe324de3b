import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import comfysnap_server.pins as comfyui
from comfysnap_server.deploy.image import requirements
from comfysnap_server.deploy.settings import DeploySettings
from comfysnap_server.pins import TESTED
from tests.paths import ROOT
from tests.server.engine.comfyui.conftest import real_comfyui

ENVIRONMENTS = [
    {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux",
     "python_full_version": f"{version}.0", "python_version": version}
    for version in ("3.11", "3.12", "3.13")
]  # fmt: skip

TORCH = [
    f"torch=={comfyui.TORCH}",
    f"torchvision=={comfyui.TORCHVISION}",
    f"torchaudio=={comfyui.TORCHAUDIO}",
]
COMPILE = [
    "uv", "pip", "compile", "--universal", "--generate-hashes", "--no-strip-extras",
    "--no-annotate", "--python-version=3.11", f"--exclude-newer={comfyui.LOCK_DATE}",
    "requirements.txt", "manager_requirements.txt", "-",
]  # fmt: skip
COMPILE_AGAIN = (
    f"(cd $COMFYUI_PATH && printf '%s\\n' {shlex.join([*TORCH, *comfyui.WORKER])} | "
    f"{shlex.join(COMPILE)}) > "
    "packages/server/src/comfysnap_server/engine/comfyui/requirements-comfyui.txt"
)


def pins(text: str) -> list[str]:
    return re.findall(r"^[^#\s].*", text, re.MULTILINE)


def locked() -> dict[str, list[Requirement]]:
    """Package name to its pins in the lock of ComfyUI; markers distinguish several."""
    found: dict[str, list[Requirement]] = {}
    for pin in pins(comfyui.lock_file().read_text()):
        requirement = Requirement(pin.removesuffix(" \\"))
        found.setdefault(requirement.name, []).append(requirement)
    return found


@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gateway", ["--no-dev"]),
        ("gateway-mcp", ["--no-dev", "--extra", "mcp"]),
        ("worker", ["--only-group", "worker"]),
    ],
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


def test_the_library_of_the_object_store_is_that_of_the_lock_file() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    (package,) = (found for found in lock["package"] if found["name"] == "obstore")
    text = Path(requirements("store")).read_text()
    assert [pin.removesuffix(" \\") for pin in pins(text)] == [f"obstore=={package['version']}"]
    assert {wheel["hash"] for wheel in package["wheels"]} <= set(
        re.findall(r"--hash=(\S+)", text)
    ), "uv.lock changed; write deploy/requirements-store.txt again"


@pytest.mark.parametrize("name", ["gateway", "gateway-mcp", "worker", "store"])
def test_every_pin_is_exact_and_none_is_a_workspace_package(name: str) -> None:
    found = pins(Path(requirements(name)).read_text())
    assert found
    assert all("==" in pin and not pin.startswith("comfysnap") for pin in found)


def test_comfyui_is_locked_with_hashes_at_the_versions_the_settings_name() -> None:
    text = comfyui.lock_file().read_text()
    for name, version in (
        ("torch", comfyui.TORCH),
        ("torchvision", comfyui.TORCHVISION),
        ("torchaudio", comfyui.TORCHAUDIO),
        ("comfyui-manager", comfyui.MANAGER.partition("==")[2]),
    ):
        assert [str(pin.specifier) for pin in locked()[name]] == [f"=={version}"]
    (toolkit,) = locked()["cuda-toolkit"]
    assert str(toolkit.specifier).startswith(f"=={comfyui.CUDA}.")
    assert all(pin.endswith("\\") for pin in pins(text))
    assert len(re.findall(r"^    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)) > len(pins(text))
    assert "://" not in text


def test_the_default_release_is_the_newest_that_is_known_and_tested() -> None:
    assert comfyui.VERSION == next(iter(comfyui.RELEASES)) == TESTED[-1]


def test_the_lock_names_the_extras_without_which_pip_refuses_it() -> None:
    """pip requires pins with the extras of each requirement; uv does not."""
    assert locked()["pyjwt"][0].extras == {"crypto"}
    assert "cublas" in locked()["cuda-toolkit"][0].extras


def test_the_lock_has_one_version_of_each_package_for_every_python_of_the_settings() -> None:
    settings = DeploySettings.model_fields["python"].annotation
    assert {env["python_version"] for env in ENVIRONMENTS} == set(getattr(settings, "__args__", ()))
    for environment in ENVIRONMENTS:
        for name, found in locked().items():
            valid = [r for r in found if not r.marker or r.marker.evaluate(environment)]
            assert len(valid) <= 1, (name, environment)
            assert name == "colorama" or valid, (name, environment)


def test_comfyui_and_the_worker_fit_in_one_environment() -> None:
    for text in comfyui.WORKER:
        wanted = Requirement(text)
        (pin,) = locked()[wanted.name]
        assert wanted.specifier.contains(str(pin.specifier).removeprefix("=="))


@pytest.mark.comfyui
@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
def test_the_lock_satisfies_the_requirements_of_the_pinned_release() -> None:
    _, checkout = real_comfyui()
    if f'__version__ = "{comfyui.VERSION}"' not in (checkout / "comfyui_version.py").read_text():
        pytest.skip(f"the checkout is not ComfyUI {comfyui.VERSION}")
    compiled = subprocess.run(
        [*COMPILE, f"--custom-compile-command={COMPILE_AGAIN}"],
        cwd=checkout,
        input="\n".join([*TORCH, *comfyui.WORKER]),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert compiled == comfyui.lock_file().read_text(), f"run: {COMPILE_AGAIN}"
    assert (checkout / "manager_requirements.txt").read_text().strip() == comfyui.MANAGER


def test_node_packs_cannot_break_requirements_of_the_worker() -> None:
    project = tomllib.loads((ROOT / "packages" / "server" / "pyproject.toml").read_text())
    assert set(comfyui.WORKER) == set(project["dependency-groups"]["worker"])
