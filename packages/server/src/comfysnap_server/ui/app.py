"""The Modal app of ``comfysnap ui``: ComfyUI's interface in one container, behind a new token."""

# modal's stubs leave the types of its decorators partly unknown
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false

import os
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import modal

from comfysnap_server.deploy import (
    FILES_DIR,
    MAX_TIMEOUT,
    MODELS_DIR,
    build_image,
    engine_options,
    read_deployment,
)
from comfysnap_server.engine.comfyui.options import ComfyOptions
from comfysnap_server.ui.command import UiCommand, comfyui_command
from comfysnap_server.ui.proxy import ACCESS_VARIABLE

PORT: Final = 8188
UPSTREAM_PORT: Final = 8189
MANAGER_ON: Final = (
    "Node packs installed in Manager are lost when this container stops. To keep them, open "
    "/v2/snapshot/get_current at this address, save it as the file in deploy.nodes, and "
    "run `comfysnap deploy`."
)
MANAGER_OFF: Final = (
    "ComfyUI-Manager is off: this release of ComfyUI does not support --enable-manager, or "
    "comfyui_manager is not installed in the image."
)

deployment: Final = read_deployment()
settings: Final = deployment.settings
app: Final = modal.App(f"{deployment.name}-ui")
files_dir: Final = os.environ.get("COMFYSNAP_FILES_DIR", FILES_DIR)
models_dir: Final = os.environ.get("COMFYSNAP_MODELS_DIR", MODELS_DIR)
"""Mount paths. Tests set the variables."""


def _volumes() -> dict[str | Any, Any]:
    named = {files_dir: deployment.files_volume, models_dir: deployment.models_volume}
    own = {
        path: modal.Volume.from_name(name, create_if_missing=True) for path, name in named.items()
    }
    extra = {
        mount.path: modal.Volume.from_name(mount.volume).with_mount_options(
            read_only=mount.read_only
        )
        for mount in settings.mounts
    }
    return own | extra


def comfyui() -> UiCommand:
    """The command that starts ComfyUI. User data is in ``ui/`` on the files volume."""
    options = ComfyOptions.model_validate(engine_options(deployment))
    return comfyui_command(
        options.checkout,
        os.environ.get("COMFYUI_PYTHON", sys.executable),
        port=UPSTREAM_PORT,
        own=Path(files_dir) / "ui",
        database=Path(mkdtemp(prefix="comfysnap-ui-")) / "comfyui.db",
        arguments=options.arguments,
        extra_model_paths=[str(file) for file in options.extra_model_paths],
    )


@app.function(
    image=build_image(deployment),
    gpu=settings.gpus,
    cpu=settings.cpu,
    memory=settings.memory,
    ephemeral_disk=settings.ephemeral_disk,
    region=settings.region or None,
    cloud=settings.cloud,
    volumes=_volumes(),
    secrets=[
        *(modal.Secret.from_name(name) for name in settings.secrets),
        modal.Secret.from_dict({ACCESS_VARIABLE: os.environ.get(ACCESS_VARIABLE, "")}),
    ],
    timeout=MAX_TIMEOUT,
    startup_timeout=settings.startup_timeout,
    max_containers=1,
    scaledown_window=max(settings.scaledown_window, 300),
)
@modal.concurrent(max_inputs=200)
@modal.web_server(PORT, startup_timeout=60)
def ui() -> None:
    """Starts the proxy, which starts ComfyUI."""
    command = comfyui()
    sys.stderr.write((MANAGER_ON if command.manager else MANAGER_OFF) + "\n")
    proxy = ["-m", "comfysnap_server.ui.proxy"]
    ports = ["--port", str(PORT), "--upstream", str(UPSTREAM_PORT)]
    subprocess.Popen([sys.executable, *proxy, *ports, *command.argv])
