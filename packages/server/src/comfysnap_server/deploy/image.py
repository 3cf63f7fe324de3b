"""The images: ComfyUI with its node packs for the GPU class, a small one for the gateway."""

import os
from importlib.resources import files
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, Final

from comfysnap_schema.errors import ProjectError
from comfysnap_server.deploy.deployment import PROJECT_VARIABLE, Deployment
from comfysnap_server.deploy.nodes_snapshot import NodeSnapshot, SnapshotError, read_snapshot
from comfysnap_server.deploy.settings import COMFYUI_DIR, DEFAULT_COMFYUI, MODELS_DIR

if TYPE_CHECKING:
    import modal

BUILD_DIR: Final = "/build"
"""Holds what only the image build reads."""
UV_VERSION: Final = "0.13.9"
APT_PACKAGES: Final = ("git", "ffmpeg", "libgl1", "libglib2.0-0")
"""git for the node packs; the others are what OpenCV and video nodes load."""
PACKAGES: Final = ("comfysnap_schema", "comfysnap_server")


def requirements(name: str) -> str:
    """Path of a requirement file that was exported from ``uv.lock``: ``gateway`` or ``worker``."""
    return str(files("comfysnap_server.deploy") / f"requirements-{name}.txt")


def read_nodes(deployment: Deployment) -> NodeSnapshot | None:
    """The node snapshot that the settings name.

    Raises:
        ProjectError: It cannot be installed as it stands.
    """
    if deployment.settings.nodes is None:
        return None
    path = deployment.path(deployment.settings.nodes)
    try:
        return read_snapshot(path)
    except SnapshotError as error:
        raise ProjectError(
            error.code, error.message, file=str(path), field=error.entry or None
        ) from error


def comfyui_commit(deployment: Deployment, nodes: NodeSnapshot | None) -> str:
    """The one commit that settings and node snapshot agree on.

    Raises:
        ProjectError: ``comfyui_conflict``.
    """
    ours, theirs = deployment.settings.comfyui, nodes.comfyui if nodes else None
    if ours and theirs and ours != theirs:
        raise ProjectError(
            "comfyui_conflict",
            f"{ours}, but {deployment.settings.nodes} says {theirs}; leave one out",
            file=str(deployment.file),
            field="deploy.comfyui",
        )
    return ours or theirs or DEFAULT_COMFYUI


def build_image(deployment: Deployment) -> "modal.Image":
    """The image of the GPU class and of ``comfysnap ui``.

    What changes seldom comes first. Our packages, ``comfysnap.toml`` and the workflows are added to
    containers as they start, so that editing one builds nothing. It holds no model.

    Raises:
        ProjectError: The node snapshot is wrong.
    """
    import modal

    image = modal.Image.debian_slim(python_version=deployment.settings.python)
    if modal.is_local():
        image = image.uv_pip_install(requirements=[requirements("worker")], uv_version=UV_VERSION)
        if deployment.settings.engine == "comfyui":
            image = _with_comfyui(image, deployment)
        image = image.env(_environment(deployment))
        image = _with_project(image, deployment)
    return image


def build_gateway_image(deployment: Deployment) -> "modal.Image":
    """The image of the gateway and of ``comfysnap models sync``: no ComfyUI, no torch."""
    import modal

    image = modal.Image.debian_slim(python_version=deployment.settings.python)
    if modal.is_local():
        image = image.uv_pip_install(requirements=[requirements("gateway")], uv_version=UV_VERSION)
        image = image.env(_environment(deployment))
        image = _with_project(image, deployment)
    return image


def _with_comfyui(image: "modal.Image", deployment: Deployment) -> "modal.Image":
    settings = deployment.settings
    nodes = read_nodes(deployment)
    commit = comfyui_commit(deployment, nodes)
    image = (
        image.apt_install(*APT_PACKAGES, *settings.apt)
        .pip_install(f"uv=={UV_VERSION}")
        .run_commands(
            f"uv pip install --system --torch-backend=cu{settings.cuda.replace('.', '')} "
            f"torch=={settings.torch} torchvision torchaudio"
        )
        .run_commands(
            f"git init -q {COMFYUI_DIR}"
            f" && git -C {COMFYUI_DIR} remote add origin {quote(settings.comfyui_repository)}"
            f" && git -C {COMFYUI_DIR} fetch -q --depth 1 origin {commit}"
            f" && git -C {COMFYUI_DIR} -c advice.detachedHead=false checkout -q FETCH_HEAD"
            f" && uv pip install --system -r {COMFYUI_DIR}/requirements.txt"
        )
        .uv_pip_install(settings.pip, uv_version=UV_VERSION)
    )
    if nodes is not None and settings.nodes is not None:
        image = _with_nodes(image, deployment, deployment.path(settings.nodes))
    image = image.run_commands(
        # the volume is mounted at MODELS_DIR; what a script put into models/ is dropped
        f"rm -rf {COMFYUI_DIR}/models && ln -s {MODELS_DIR} {COMFYUI_DIR}/models",
        # without bytecode each cold start would compile ComfyUI and every pack again
        f"python -m compileall -q -j 0 {COMFYUI_DIR} || true",
    )
    notice = str(files("comfysnap_server.deploy") / "NOTICE.txt")
    return image.add_local_file(notice, f"{COMFYUI_DIR}-NOTICE.txt", copy=True)


def _with_nodes(image: "modal.Image", deployment: Deployment, snapshot: Path) -> "modal.Image":
    import modal

    settings = deployment.settings
    here = Path(str(files("comfysnap_server.deploy")))
    image = image.add_local_dir(
        here,
        f"{BUILD_DIR}/comfysnap_server/deploy",
        copy=True,
        ignore=lambda path: not (path.name.startswith("nodes_") and path.suffix == ".py"),
    ).add_local_file(snapshot, f"{BUILD_DIR}/snapshot.json", copy=True)
    if (snapshot.parent / "custom_nodes").is_dir():
        image = image.add_local_dir(
            snapshot.parent / "custom_nodes", f"{BUILD_DIR}/custom_nodes", copy=True
        )
    install = ["python", "-m", "comfysnap_server.deploy.nodes_install"]
    install += [f"{BUILD_DIR}/snapshot.json", COMFYUI_DIR, "--registry", settings.registry]
    for host, variable in settings.git_tokens.items():
        install += ["--token", f"{host}={variable}"]
    return image.run_commands(
        f"PYTHONPATH={BUILD_DIR} {join(install)}",
        secrets=[modal.Secret.from_name(name) for name in settings.build_secrets],
    )


def _environment(deployment: Deployment) -> dict[str, str]:
    variables = {PROJECT_VARIABLE: deployment.in_container(deployment.file)}
    if deployment.settings.snapshot == "gpu":
        # compile workers are processes, and a GPU snapshot cannot hold those
        variables["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    return variables


def _with_project(image: "modal.Image", deployment: Deployment) -> "modal.Image":
    image = image.add_local_python_source(*PACKAGES)
    settings = deployment.settings
    project_files = [deployment.file]
    project_files += [
        deployment.path(path)
        for path in (settings.nodes, settings.extra_model_paths)
        if path is not None
    ]
    for path in project_files:
        image = image.add_local_file(path, deployment.in_container(path))
    workflows = deployment.project.workflows
    return image.add_local_dir(
        workflows,
        os.fspath(deployment.in_container(workflows)),
        ignore=["**/__pycache__", "**/.*"],
    )
