"""The commands with Modal's client and the loopback control plane."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modal_proto import api_pb2
from packaging.requirements import Requirement

from comfysnap_server import pins
from comfysnap_server.deploy.image import PACKAGES
from tests.control_plane import ControlPlane
from tests.paths import ROOT
from tests.server.models.model_server import ModelServer, Served, safetensors, serve_models
from tests.server.nodepacks.sources import git

pytestmark = pytest.mark.modal

COMFYSNAP = Path(sys.executable).with_name("comfysnap")
COMMIT = "1" * 40

SETTINGS = f"""
name = "pictures"
[deploy]
workflows = ["hello"]
gpu = ["L40S", "A100-80GB"]
cpu = [2, 8]
memory = 20480
region = ["us", "eu"]
timeout = 900
startup_timeout = 300
min_containers = 0
max_containers = 7
buffer_containers = 2
scaledown_window = 120
snapshot = "cpu"
comfyui = "{COMMIT}"
torch = "2.8.0"
cuda = "12.8"
pip = ["sageattention==1.0.6"]
apt = ["espeak-ng"]
nodes = "snapshot.json"
auth = "keys"
secrets = ["run-time"]
build_secrets = ["git-tokens"]
mounts = [{{volume = "shared", path = "/mnt/shared"}}]
[deploy.volumes]
models = "our-models"
[deploy.gateway]
max_containers = 3
custom_domains = []
"""


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as running:
        yield running


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "workflows" / "hello", tmp_path / "workflows" / "hello")
    (tmp_path / "comfysnap.toml").write_text(SETTINGS)
    packs = {f"https://github.com/owner/{name}": {"hash": COMMIT} for name in ("one", "two")}
    (tmp_path / "snapshot.json").write_text(json.dumps({"git_custom_nodes": packs}))
    return tmp_path


def run(
    plane: ControlPlane, project: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMFYSNAP, *arguments],
        cwd=project,
        env=environment(plane, **variables),
        capture_output=True,
        text=True,
        timeout=90,
    )


def environment(plane: ControlPlane, **variables: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key != "COMFYSNAP_PROJECT"}
    return inherited | plane.client_environment | variables


@pytest.fixture
def prepared(plane: ControlPlane) -> ControlPlane:
    """A plane with the secrets and the volume in the settings."""
    for name in ("run-time", "git-tokens", "pictures-keys"):
        plane.secret(name, {"NAME": "value"})
    if ("vo", "shared") not in plane.state.named:
        create = [sys.executable, "-m", "modal", "volume", "create", "shared"]
        subprocess.run(create, env=environment(plane), check=True, capture_output=True)
    return plane


def requests(plane: ControlPlane, name: str) -> list[Any]:
    return list(plane.state.requests[name])


def created(plane: ControlPlane, name: str) -> api_pb2.Function:
    return plane.function(name).definition


def gpu_type(ranked: Any) -> str:
    return str(ranked.function.resources.gpu_config.gpu_type)


def layers(plane: ControlPlane, image_id: str) -> list[tuple[str, api_pb2.Image]]:
    """The image and its bases, the lowest first."""
    image = plane.state.images[image_id]
    below = layers(plane, image.base_images[0].image_id) if image.base_images else []
    return [*below, (image_id, image)]


def test_a_missing_secret_is_an_error_before_any_build(plane: ControlPlane, project: Path) -> None:
    done = run(plane, project, "deploy", "--no-warm-up")
    assert done.returncode == 1, done.stderr
    assert all(
        name in done.stderr for name in ("run-time", "git-tokens", "pictures-keys", "shared")
    )
    assert "ImageGetOrCreate" not in done.stdout
    assert not plane.state.images


def test_deploy_registers_the_settings_and_a_changed_workflow_needs_no_build(
    prepared: ControlPlane, project: Path
) -> None:
    done = run(prepared, project, "deploy", "--no-warm-up", "--tag", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    check_functions(prepared, done.stdout)
    check_layers(prepared)
    check_pages(prepared)
    images, before = set(prepared.state.images), created(prepared, "Worker.*")
    graph = project / "workflows" / "hello" / "graph.json"
    graph.write_text(graph.read_text() + "\n")
    mounts = (before.image_id, list(before.mount_ids))
    assert run(prepared, project, "deploy", "--no-warm-up").returncode == 0
    after = created(prepared, "Worker.*")
    assert set(prepared.state.images) == images
    assert after.image_id == mounts[0]
    assert list(after.mount_ids) != mounts[1]
    check_rollback(prepared, project)


def check_pages(prepared: ControlPlane) -> None:
    """Their files are beside the module that serves them."""
    folder = "/root/comfysnap_server/gateway/page"
    found = [prepared.state.mounts[id] for id in created(prepared, "gateway").mount_ids]
    ours = [files for files in found if f"{folder}/routes.py" in files]
    names = ("workflow.html", "workflow.js", "page.css", "icon.svg")
    assert ours
    assert all(f"{folder}/static/{name}" in files for files in ours for name in names)


def check_functions(prepared: ControlPlane, said: str) -> None:
    worker, gateway = created(prepared, "Worker.*"), created(prepared, "gateway")
    assert "GNU General Public License" in said
    assert prepared.function("gateway").web_url in said
    scaling = worker.autoscaler_settings
    assert (scaling.min_containers, scaling.max_containers) == (0, 7)
    assert (scaling.buffer_containers, scaling.scaledown_window) == (2, 120)
    assert worker.checkpointing_enabled
    assert not worker.resources.gpu_config.count or worker.resources.gpu_config.gpu_type == "L40S"
    assert (worker.resources.milli_cpu, worker.resources.memory_mb) == (2000, 20480)
    assert worker.startup_timeout_secs == 300
    assert worker.timeout_secs >= 900
    paths = {mount.mount_path for mount in worker.volume_mounts}
    assert paths == {"/models", "/files", "/mnt/shared"}
    assert len(worker.secret_ids) == 1
    assert gateway.webhook_config.type == api_pb2.WEBHOOK_TYPE_ASGI_APP
    assert not gateway.webhook_config.requires_proxy_auth
    assert gateway.autoscaler_settings.max_containers == 3
    assert len(gateway.secret_ids) == 1
    names = {request.deployment_name for request in requests(prepared, "VolumeGetOrCreate")}
    assert names >= {"our-models", "pictures-files", "shared"}
    gpus = [
        [gpu_type(entry) for entry in request.function_data.ranked_functions]
        for request in requests(prepared, "FunctionCreate")
    ]
    assert ["L40S", "A100-80GB"] in gpus


def check_layers(prepared: ControlPlane) -> None:
    """In the right order, with the token's secret on the one layer that needs it."""
    found = layers(prepared, created(prepared, "Worker.*").image_id)
    commands = ["\n".join(image.dockerfile_commands) for _, image in found]
    torch = "--torch-backend=cu128 torch==2.8.0 torchvision torchaudio==2.8.0"
    marks = ["espeak-ng", COMMIT, "--exclude-newer", torch, "sageattention==1.0.6",
             "--step=fetch", "--step=install", "ln -s /models", "engine.comfyui.selftest",
             "COMFYSNAP_PROJECT"]  # fmt: skip
    places = [next(i for i, text in enumerate(commands) if mark in text) for mark in marks]
    assert places == sorted(places)
    assert all("--compile-bytecode" in text for text in commands if "uv pip install" in text)
    with_secrets = [index for index, (_, image) in enumerate(found) if image.secret_ids]
    assert with_secrets == [places[5]]
    assert "--token=github.com=GITHUB_TOKEN" in commands[places[5]]
    assert "UV_COMPILE_BYTECODE=1" in commands[places[6]]


def test_the_default_image_installs_the_lock_and_ends_with_a_test_of_our_sources(
    project: Path,
) -> None:
    (project / "comfysnap.toml").write_text('[deploy]\nworkflows = ["hello"]\nauth = "none"\n')
    with ControlPlane() as plane:
        done = run(plane, project, "deploy", "--no-warm-up")
        assert done.returncode == 0, done.stderr
        images = [image for _, image in layers(plane, created(plane, "Worker.*").image_id)]
        mounts = {
            frozenset(file.filename for file in request.files)
            for request in requests(plane, "MountGetOrCreate")
        }
    commands = ["\n".join(image.dockerfile_commands) for image in images]
    (lock,) = [
        text
        for image, text in zip(images, commands, strict=True)
        if any(file.data == pins.lock_file().read_bytes() for file in image.context_files)
    ]
    assert "--require-hashes" in lock
    assert "--compile-bytecode" in lock
    assert any(f"origin {pins.COMMIT}" in text for text in commands)
    assert not any("--torch-backend" in text or "--exclude-newer" in text for text in commands)
    (place,) = [i for i, text in enumerate(commands) if "engine.comfyui.selftest" in text]
    assert all("COPY . /" in text for text in commands[place - len(PACKAGES) : place])
    for package, file in zip(PACKAGES, ("wire/jobs.py", "engine/comfyui/selftest.py"), strict=True):
        (copied,) = [files for files in mounts if f"/build/{package}/{file}" in files]
        assert all(name.endswith(".py") for name in copied)
    sample = "/root/comfysnap_server/engine/simulated/sample.webm"
    assert any(sample in files for files in mounts)


def test_every_step_of_the_images_that_installs_packages_compiles_them(
    prepared: ControlPlane, project: Path
) -> None:
    assert run(prepared, project, "deploy").returncode == 0
    installs = {
        line
        for name in ("Worker.*", "gateway", "sweep")
        for _, image in layers(prepared, created(prepared, name).image_id)
        for line in image.dockerfile_commands
        if "uv pip install" in line or ("nodepacks install" in line and "--step=install" in line)
    }
    assert len(installs) >= 5  # pip compiles, uv has to be asked to
    assert all(re.search("--compile-bytecode|UV_COMPILE_BYTECODE=1", line) for line in installs)


def test_other_releases_get_their_requirements_as_of_their_commit(
    prepared: ControlPlane, project: Path, tmp_path: Path
) -> None:
    assert run(prepared, project, "deploy", "--no-warm-up").returncode == 0
    (line,) = [
        line
        for _, image in layers(prepared, created(prepared, "Worker.*").image_id)
        for line in image.dockerfile_commands
        if "--exclude-newer" in line
    ]
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    git(checkout, "init", "-q")
    (checkout / "requirements.txt").write_text("torch\n")
    (checkout / "manager_requirements.txt").write_text("comfyui_manager\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "one", "--date", "2001-02-03T04:05:06+00:00")
    made = git(checkout, "log", "-1", "--format=%cI")
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    uv.chmod(0o755)
    command = line.removeprefix("RUN ").replace("/comfyui", str(checkout))
    command = command.replace("/without-torch.txt", str(tmp_path / "without-torch.txt"))
    path = f"{uv.parent}:{os.environ['PATH']}"
    for manager in (["-r", "manager_requirements.txt"], []):
        said = subprocess.run(
            ["/bin/sh", "-c", command],
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert said[said.index("--exclude-newer") + 1] == made
        assert said[said.index("-r") :] == ["-r", "requirements.txt", *manager]
        (checkout / "manager_requirements.txt").unlink(missing_ok=True)
    dropped = (tmp_path / "without-torch.txt").read_text().splitlines()
    for text, name in zip(dropped, ("torch", "torchvision", "torchaudio"), strict=True):
        requirement = Requirement(text)
        assert (requirement.name, requirement.marker and requirement.marker.evaluate()) == (
            name, False,
        )  # fmt: skip


def test_deploy_stops_on_errors_of_the_doctor(plane: ControlPlane, project: Path) -> None:
    file = project / "comfysnap.toml"
    file.write_text(SETTINGS.replace('snapshot = "cpu"', 'after_restore = ["three"]'))
    done = run(plane, project, "deploy", "--no-warm-up")
    assert done.returncode == 1
    assert "unknown_pack" in done.stderr


def test_a_dry_run_needs_neither_account_nor_network(project: Path) -> None:
    nowhere = {"MODAL_SERVER_URL": "http://127.0.0.1:9", "MODAL_CONFIG_PATH": "/nonexistent"}
    done = subprocess.run(
        [COMFYSNAP, "deploy", "--dry-run"],
        cwd=project,
        env=os.environ | nowhere,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for said in (
        "pictures", "hello", "L40S or A100-80GB", "0 to 7 containers", "our-models",
        "pictures-files", "git-tokens", "pictures-keys", COMMIT, "one, two", "scales to zero",
    ):  # fmt: skip
        assert said in done.stdout


@pytest.mark.parametrize("command", [["deploy"], ["models", "list"], ["doctor", "--online"]])
def test_modal_without_an_account_exits_with_3(project: Path, command: list[str]) -> None:
    nobody = {"MODAL_CONFIG_PATH": "/nonexistent", "MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": ""}
    done = subprocess.run(
        [COMFYSNAP, *command], cwd=project, env=os.environ | nobody, capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr


def test_modal_deploy_accepts_the_app_module(prepared: ControlPlane, project: Path) -> None:
    file = ROOT / "packages/server/src/comfysnap_server/deploy/app.py"
    prepared.deploy(str(file), environment={"COMFYSNAP_PROJECT": str(project / "comfysnap.toml")})
    assert created(prepared, "Worker.*").autoscaler_settings.max_containers == 7


def check_rollback(prepared: ControlPlane, project: Path) -> None:
    assert run(prepared, project, "rollback", "--no-warm-up").returncode == 0
    assert run(prepared, project, "rollback", "v1", "--no-warm-up").returncode == 0
    assert [request.version for request in requests(prepared, "AppRollback")[-2:]] == [-1, 1]
    assert run(prepared, project, "rollback", "nonsense").returncode != 0


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serve_models() as server:
        yield server


def test_models_sync_fills_the_volume_in_a_container(
    plane: ControlPlane, project: Path, server: ModelServer
) -> None:
    content = safetensors(os.urandom(2_000_000))
    server.files["/a.safetensors"] = Served(content, token="sesame", break_after=[0, 500_000])
    (project / "comfysnap.toml").write_text(
        'name = "filled"\n[deploy]\nworkflows = ["hello"]\nmodel_secrets = ["model-tokens"]\n'
        f'[[deploy.models]]\nurl = "{server.url}/a.safetensors"\nfolder = "loras"\n'
        'token = "OUR_TOKEN"\n'
    )
    plane.secret("model-tokens", {"OUR_TOKEN": "sesame"})
    mounted = {"COMFYSNAP_MODELS_DIR": str(plane.mounts / "models")}
    plane.add_container_environment(
        mounted | {"COMFYSNAP_PROJECT": str(project / "comfysnap.toml")}
    )
    done = run(plane, project, "models", "sync", **mounted)
    assert done.returncode == 0, done.stdout + done.stderr + plane.logs()
    assert "downloaded loras/a.safetensors" in done.stdout
    assert "sesame" not in done.stdout + done.stderr
    listed = run(plane, project, "models", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    (row,) = json.loads(listed.stdout)
    assert (row["path"], row["size"], row["listed"]) == ("loras/a.safetensors", len(content), True)
    removed = run(plane, project, "models", "rm", "loras/a.safetensors", "--yes")
    assert removed.returncode == 0, removed.stderr
    (row,) = json.loads(run(plane, project, "models", "list", "--json").stdout)
    assert row["state"] == "missing"


def test_ui_runs_one_container_behind_a_token_until_it_is_stopped(
    prepared: ControlPlane, project: Path
) -> None:
    with subprocess.Popen(
        [COMFYSNAP, "ui"],
        cwd=project,
        env=environment(prepared),
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        address = next(line for line in running.stdout if "?token=" in line)
        definition = next(
            f.staged for f in prepared.state.functions.values() if f.name == "ui" and f.staged
        )
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
    assert len(address.partition("?token=")[2].strip()) > 30
    assert definition.webhook_config.type == api_pb2.WEBHOOK_TYPE_WEB_SERVER
    assert definition.autoscaler_settings.max_containers == 1
    assert {mount.mount_path for mount in definition.volume_mounts} >= {"/models", "/files"}


def test_a_new_files_volume_has_version_2_and_one_of_an_earlier_deployment_stays(
    project: Path,
) -> None:
    (project / "comfysnap.toml").write_text(
        'name = "pictures"\n[deploy]\nworkflows = ["hello"]\nengine = "simulated"\nauth = "none"\n'
    )

    def version(plane: ControlPlane) -> int:
        return plane.state.volume_version(plane.state.named["vo", "pictures-files"])

    with ControlPlane() as plane:
        for _ in range(2):
            done = run(plane, project, "deploy")
            assert done.returncode == 0, done.stderr
            assert version(plane) == api_pb2.VOLUME_FS_VERSION_V2
    with ControlPlane() as plane:
        create = [sys.executable, "-m", "modal", "volume", "create", "pictures-files"]
        subprocess.run(create, env=environment(plane), check=True, capture_output=True)
        done = run(plane, project, "deploy")
        assert done.returncode == 0, done.stderr
        assert version(plane) == api_pb2.VOLUME_FS_VERSION_V1
