"""The two images: ComfyUI with its node packs for the GPU class, a small one for the gateway."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, Final

from comfysnap_schema.wire import ProjectError
from comfysnap_server import pins
from comfysnap_server.deploy.deployment import (
    BASELINE_VARIABLE,
    PROJECT_VARIABLE,
    Deployment,
    engine_options,
)
from comfysnap_server.deploy.settings import COMFYUI_DIR, MODELS_DIR, DeploySettings
from comfysnap_server.nodepacks import NodeManifest, PackManifestError, read_manifest

if TYPE_CHECKING:
    import modal

BUILD_DIR: Final = "/build"
"""Folder for files that only the image build uses."""
TORCH_VERSIONS: Final = "/torch-versions.txt"
"""Constraints file with the installed torch, so that no later step changes it."""
APT_PACKAGES: Final = ("git", "ffmpeg", "libgl1", "libglib2.0-0")
"""git fetches node packs; OpenCV and video nodes need the others."""
PACKAGES: Final = ("comfysnap_schema", "comfysnap_server")
INSTALLER_SOURCES: Final = (
    "errors.py",
    "pins.py",
    *sorted(
        f"nodepacks/{file.name}"
        for file in Path(str(files("comfysnap_server"))).glob("nodepacks/*.py")
    ),
)
"""Files of ``comfysnap_server`` that the image build needs to install node packs."""


def requirements(name: str) -> str:
    """Path of the pins of ``uv.lock`` for ``gateway``, ``gateway-mcp`` (with its extra), ``worker``
    or ``store``."""
    return str(files("comfysnap_server.deploy") / f"requirements-{name}.txt")


def notice() -> str:
    """Text on ComfyUI's licence, for those who run or distribute the image."""
    return (files("comfysnap_server.deploy") / "NOTICE.txt").read_text(encoding="utf-8")


def read_nodes(deployment: Deployment) -> NodeManifest | None:
    """The node snapshot in ``deploy.nodes``; None if it is not set.

    Raises:
        ProjectError: Any code of ``PackManifestError``.
    """
    if deployment.settings.nodes is None:
        return None
    path = deployment.project.path(deployment.settings.nodes)
    try:
        return read_manifest(path)
    except PackManifestError as error:
        raise ProjectError(
            error.code, error.message, file=str(path), field=error.entry or None
        ) from error


def comfyui_commit(deployment: Deployment, nodes: NodeManifest | None) -> str:
    """The commit of ComfyUI in the settings or the node snapshot, else the default.

    Raises:
        ProjectError: ``comfyui_conflict``.
    """
    ours, theirs = deployment.settings.comfyui, nodes.comfyui if nodes else None
    if ours and theirs and ours != theirs:
        raise ProjectError(
            "comfyui_conflict",
            f"{pins.describe(ours)} differs from {pins.describe(theirs)} in "
            f"{deployment.settings.nodes}; remove one of them",
            file=str(deployment.file),
            field="deploy.comfyui",
        )
    return ours or theirs or pins.COMMIT


@dataclass(frozen=True)
class Layer:
    """A step of an image build."""

    title: str
    detail: str
    """What it contains, for ``comfysnap deploy --dry-run``."""
    add: Callable[["modal.Image"], "modal.Image"]
    built: bool = True
    """False: added when a container starts, so that a change needs no build."""


def build_image(deployment: Deployment) -> "modal.Image":
    """The image of the GPU class and of ``comfysnap ui``.

    Raises:
        ProjectError: The node snapshot is not valid.
    """
    return _build(deployment, image_layers)


def build_gateway_image(deployment: Deployment) -> "modal.Image":
    """The image of the gateway and of ``comfysnap models sync``: no ComfyUI, no torch."""
    return _build(deployment, gateway_layers)


def _build(deployment: Deployment, layers: Callable[[Deployment], list[Layer]]) -> "modal.Image":
    import modal

    image = modal.Image.debian_slim(python_version=deployment.settings.python)
    if modal.is_local():
        for layer in layers(deployment):
            image = layer.add(image)
    return image


def image_layers(deployment: Deployment) -> list[Layer]:
    """Layers of the GPU class, those that change least often first. Models are not in the image.

    Raises:
        ProjectError: The node snapshot is not valid.
    """
    own = (
        _comfyui_layers(deployment)
        if deployment.settings.engine == "comfyui"
        else [_pins("worker", Path(requirements("worker")))]
    )
    return [*own, *_store(deployment), _variables(deployment), *_project_layers(deployment)]


def gateway_layers(deployment: Deployment) -> list[Layer]:
    """Layers of the gateway."""
    from comfysnap_server.deploy.gateway_settings import gateway_settings  # not in GPU containers

    has_mcp = gateway_settings(deployment).mcp.enabled is True
    own = _pins("gateway", Path(requirements("gateway-mcp" if has_mcp else "gateway")))
    return [own, *_store(deployment), _variables(deployment), *_project_layers(deployment)]


def _store(deployment: Deployment) -> list[Layer]:
    """The library of the object store, where there is one."""
    if deployment.outputs.store is None:
        return []
    return [_pins("the object store", Path(requirements("store")))]


def _pins(name: str, file: Path) -> Layer:
    lines = file.read_text(encoding="utf-8").splitlines()
    count = sum("==" in line and not line.startswith("#") for line in lines)
    return Layer(
        f"packages of {name}",
        f"{count} pins with hashes",
        lambda image: image.uv_pip_install(
            requirements=[str(file)], extra_options="--require-hashes", uv_version=pins.UV
        ),
    )


def _commands(title: str, detail: str, *commands: str) -> Layer:
    return Layer(title, detail, lambda image: image.run_commands(*commands))


def _comfyui_layers(deployment: Deployment) -> list[Layer]:
    settings = deployment.settings
    nodes = read_nodes(deployment)
    commit = comfyui_commit(deployment, nodes)
    apt = (*APT_PACKAGES, *settings.apt)
    checkout = _commands(
        "ComfyUI",
        f"{settings.comfyui_repository} at {pins.describe(commit)}",
        f"git init -q {COMFYUI_DIR}"
        f" && git -C {COMFYUI_DIR} remote add origin {quote(settings.comfyui_repository)}"
        f" && git -C {COMFYUI_DIR} fetch -q --depth 1 origin {commit}"
        f" && git -C {COMFYUI_DIR} -c advice.detachedHead=false checkout -q FETCH_HEAD",
    )
    layers = [
        Layer("Debian packages", ", ".join(apt), lambda image: image.apt_install(*apt)),
        *(
            [_pins(f"ComfyUI {pins.VERSION}", pins.lock_file()), checkout]
            if is_locked(settings, commit)
            else [
                Layer("uv", pins.UV, lambda image: image.pip_install(f"uv=={pins.UV}")),
                checkout,
                *_resolved_packages(settings),
            ]
        ),
        _commands(
            "torch constraint",
            f"{TORCH_VERSIONS} constrains all later steps",
            f"uv pip freeze --system | grep -E '^torch(vision|audio)?==' > {TORCH_VERSIONS}",
        ),
    ]
    if settings.pip:
        extra = list(settings.pip)
        layers.append(
            Layer(
                "more packages",
                ", ".join(extra),
                lambda image: image.uv_pip_install(
                    extra, extra_options=f"--constraints {TORCH_VERSIONS}", uv_version=pins.UV
                ),
            )
        )
    if nodes is not None and settings.nodes is not None:
        layers += _node_layers(deployment, nodes, deployment.project.path(settings.nodes))
    notice_file = str(files("comfysnap_server.deploy") / "NOTICE.txt")
    return [
        *layers,
        _commands(
            "models folder and bytecode",
            f"{COMFYUI_DIR}/models links to the volume at {MODELS_DIR}",
            # drops files that scripts of packs put into models/
            f"rm -rf {COMFYUI_DIR}/models && ln -s {MODELS_DIR} {COMFYUI_DIR}/models",
            compile_command(COMFYUI_DIR),
        ),
        Layer(
            "notice",
            "ComfyUI is under the GPL, version 3",
            lambda image: image.add_local_file(notice_file, f"{COMFYUI_DIR}-NOTICE.txt", copy=True),
        ),
        _self_test_layer(deployment),
    ]


def is_locked(settings: DeploySettings, commit: str) -> bool:
    """Whether the lock of ComfyUI's packages is for this commit, torch and CUDA."""
    chosen = (commit, settings.torch, settings.cuda)
    return chosen == (pins.COMMIT, pins.TORCH, pins.CUDA)


def _resolved_packages(settings: DeploySettings) -> list[Layer]:
    """Without a lock: ComfyUI's requirements as of the date of its commit, then torch, whose builds
    for a CUDA have no date."""
    torch = pins.torch_packages(settings.torch)
    return [
        _commands(
            "packages of ComfyUI",
            "its requirements as of the date of its commit",
            f"cd {COMFYUI_DIR} && printf '%s\\n' {join(pins.WITHOUT_TORCH)} > /without-torch.txt"
            " && set -- -r requirements.txt"
            " && if [ -f manager_requirements.txt ]; then"
            ' set -- "$@" -r manager_requirements.txt; fi'
            " && uv pip install --system --compile-bytecode --overrides /without-torch.txt"
            ' --exclude-newer "$(git log -1 --format=%cI)" "$@"',
        ),
        _commands(
            "torch",
            f"{', '.join(torch)} for CUDA {settings.cuda}",
            "uv pip install --system --compile-bytecode"
            f" --torch-backend=cu{settings.cuda.replace('.', '')} {join([*torch, *pins.WORKER])}",
        ),
    ]


def compile_command(comfyui: str) -> str:
    """Shell command that compiles ComfyUI and every pack, which each cold start would do otherwise.
    A file that cannot be compiled is left as it is."""
    return f"python -m compileall -q -j 0 {comfyui} || true"


def self_test_command(deployment: Deployment, *, build: str, comfyui: str, models: str) -> str:
    """Shell command that runs a graph on the image's ComfyUI, and fails if the graph fails.

    Args:
        deployment: Its engine options are used, except those that need volumes or a GPU.
        build: Folder with our packages; deleted at the end.
        comfyui: Folder of the checkout.
        models: Mount path of the models volume; empty during the test.
    """
    options = engine_options(deployment) | {"mask_cuda": True}
    for name in ("path", "preload", "extra_model_paths"):
        options.pop(name, None)
    test = ["python", "-m", "comfysnap_server.engine.comfyui.selftest", comfyui]
    command = join([*test, "--options", json.dumps(options)])
    return f"mkdir {models} && PYTHONPATH={build} {command} && rm -r {build} {models}"


def _self_test_layer(deployment: Deployment) -> Layer:
    def add(image: "modal.Image") -> "modal.Image":
        import modal

        for name in PACKAGES:
            image = image.add_local_dir(
                str(files(name)),
                f"{BUILD_DIR}/{name}",
                copy=True,
                ignore=~modal.FilePatternMatcher("**/*.py"),
            )
        command = self_test_command(
            deployment, build=BUILD_DIR, comfyui=COMFYUI_DIR, models=MODELS_DIR
        )
        return image.run_commands(command)

    return Layer("self-test", "runs a graph on the CPU; the build fails if the graph fails", add)


def _node_layers(deployment: Deployment, nodes: NodeManifest, snapshot: Path) -> list[Layer]:
    settings = deployment.settings
    install = ["python", "-m", "comfysnap_server.nodepacks", "install"]
    install += [f"{BUILD_DIR}/snapshot.json", COMFYUI_DIR, "--registry", settings.registry]
    tokens = [f"--token={host}={variable}" for host, variable in settings.git_tokens.items()]

    def add_files(image: "modal.Image") -> "modal.Image":
        for source in INSTALLER_SOURCES:
            image = image.add_local_file(
                str(files("comfysnap_server") / source),
                f"{BUILD_DIR}/comfysnap_server/{source}",
                copy=True,
            )
        image = image.add_local_file(snapshot, f"{BUILD_DIR}/snapshot.json", copy=True)
        own = snapshot.parent / "custom_nodes"
        return (
            image.add_local_dir(own, f"{BUILD_DIR}/custom_nodes", copy=True)
            if own.is_dir()
            else image
        )

    def fetch(image: "modal.Image") -> "modal.Image":
        import modal

        secrets = [modal.Secret.from_name(name) for name in settings.build_secrets]
        command = f"PYTHONPATH={BUILD_DIR} {join([*install, *tokens, '--step=fetch'])}"
        return image.run_commands(command, secrets=secrets)

    packs = ", ".join(
        pack.folder if pack.required else f"{pack.folder} (optional)" for pack in nodes.packs
    )
    return [
        Layer("node snapshot", str(snapshot), add_files),
        Layer("node packs", packs or "none", fetch),
        _commands(
            "packages of node packs",
            "their requirements and scripts, without the secrets of the build",
            # a variable, so that uv in a pack's install.py has it too
            f"UV_COMPILE_BYTECODE=1 PYTHONPATH={BUILD_DIR} {join([*install, '--step=install'])}",
        ),
    ]


def _variables(deployment: Deployment) -> Layer:
    variables = {PROJECT_VARIABLE: deployment.in_container(Path(deployment.file.name))}
    if deployment.is_baseline:
        variables[BASELINE_VARIABLE] = "1"
    if deployment.settings.snapshot == "gpu":
        # compile workers are processes, which a GPU snapshot cannot contain
        variables["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    shown = ", ".join(f"{name}={value}" for name, value in variables.items())
    return Layer("variables", shown, lambda image: image.env(variables))


def _is_left_here(path: Path) -> bool:
    """Whether a file of our packages is not for containers: of modules and pages both are."""
    return path.suffix != ".py" and path.parts[-3:-1] != ("page", "static")


def _project_layers(deployment: Deployment) -> list[Layer]:
    project = deployment.project
    tables = [deployment.settings, *deployment.settings.pools.values()]
    optional = [path for table in tables for path in (table.nodes, table.extra_model_paths)]
    own = [Path(deployment.file.name), *(path for path in optional if path is not None)]
    own = list(dict.fromkeys(own))
    workflows = project.written_workflows

    def add_files(image: "modal.Image") -> "modal.Image":
        for path in own:
            image = image.add_local_file(
                deployment.project.path(path), deployment.in_container(path)
            )
        return image.add_local_dir(
            project.path(workflows),
            deployment.in_container(workflows),
            ignore=["**/__pycache__", "**/.*"],
        )

    return [
        Layer(
            "our packages",
            ", ".join(PACKAGES),
            lambda image: image.add_local_python_source(*PACKAGES, ignore=_is_left_here),
            built=False,
        ),
        Layer(
            "workflows and settings",
            ", ".join([*(path.name for path in own), str(workflows)]),
            add_files,
            built=False,
        ),
    ]
