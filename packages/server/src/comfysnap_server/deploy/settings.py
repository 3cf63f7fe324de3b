"""``[deploy]`` of ``comfysnap.toml``: the settings of a deployment on Modal."""

from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PlainValidator,
    model_validator,
)

from comfysnap_server.engine.comfyui import pins
from comfysnap_server.models import ModelEntry, is_safe_path, setting_error

COMFYUI_DIR: Final = "/comfyui"
MODELS_DIR: Final = "/models"
FILES_DIR: Final = "/files"
PROJECT_DIR: Final = "/project"
"""Paths in a container: ComfyUI, the two volumes, the project."""

GPU_COUNTS: Final[dict[str, int]] = {
    "T4": 8, "L4": 8, "A10": 4, "A10G": 4, "L40S": 8, "A100": 8, "A100-40GB": 8, "A100-80GB": 8,
    "RTX-PRO-6000": 8, "H100": 8, "H100!": 8, "H200": 8, "B200": 8, "B200+": 8,
}  # fmt: skip
"""GPU name to the maximum number per container (modal.com/docs/guide/gpu)."""

MAX_TIMEOUT: Final = 24 * 3600
"""Seconds; Modal's limit."""
MAX_RETENTION_HOURS: Final = 7 * 24
"""Job records are entries of a ``modal.Dict``, which expire after seven idle days."""


def _known_gpu(text: str) -> str:
    name, colon, count = text.upper().partition(":")
    if name not in GPU_COUNTS:
        known = ", ".join(GPU_COUNTS)
        raise setting_error(
            "unknown_gpu", f"unknown GPU {text!r}; available: {known}, or NAME:COUNT"
        )
    most = GPU_COUNTS[name]
    if colon and not (count.isascii() and count.isdigit() and 1 <= int(count) <= most):
        raise setting_error(
            "unknown_gpu", f"{text!r}: the count of {name} must be 1 to {most}, got {count!r}"
        )
    return name + colon + count


def _amounts(value: object) -> list[float]:
    """A request, or a request and a limit."""
    given = cast("list[object]", value) if isinstance(value, list) else [value]
    amounts = [float(v) for v in given if isinstance(v, (int, float)) and not isinstance(v, bool)]
    right = len(amounts) == len(given) and len(amounts) in {1, 2}
    if not right or not all(amount > 0 and isfinite(amount) for amount in amounts):
        raise setting_error("invalid_value", "must be a positive number, or [request, limit]")
    if amounts[0] > amounts[-1]:
        raise setting_error(
            "invalid_range",
            f"the request ({amounts[0]:g}) must not exceed the limit ({amounts[-1]:g})",
        )
    return amounts


def _cores(value: object) -> float | tuple[float, float]:
    amounts = _amounts(value)
    return amounts[0] if len(amounts) == 1 else (amounts[0], amounts[1])


def _mebibytes(value: object) -> int | tuple[int, int]:
    amounts = [int(amount) for amount in _amounts(value)]
    if not min(amounts):
        raise setting_error("invalid_value", "must be at least 1 MiB")
    return amounts[0] if len(amounts) == 1 else (amounts[0], amounts[1])


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _mount_point(text: str) -> str:
    # PurePosixPath keeps two leading slashes as another root
    path = PurePosixPath("/" + text.lstrip("/")) if text.startswith("/") else PurePosixPath(text)
    if not path.is_absolute() or {"..", "\0"} & {*path.parts, *text} or len(path.parts) < 2:
        raise setting_error("invalid_mount", "must be an absolute path below /")
    return str(path)


def _package(text: str) -> str:
    if not text.strip() or text.startswith("-"):
        raise setting_error(
            "invalid_value", f"{text!r} is not a package requirement (options are not allowed)"
        )
    return text


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise setting_error("invalid_value", f"{text!r} must start with https:// or http://")
    return text


def _commit(text: str) -> str:
    try:
        return pins.commit_of(text)
    except pins.UnknownReleaseError as error:
        raise setting_error("unknown_comfyui", str(error)) from None


def _relative_paths(paths: list[str]) -> list[str]:
    for path in paths:
        if not is_safe_path(path) or "/" not in path:
            raise setting_error(
                "unsafe_path", f"{path!r} is not a path inside models/; use folder/file"
            )
    return paths


Gpu = Annotated[str, AfterValidator(_known_gpu)]
ObjectName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Name of a Modal object (app, volume, secret)."""
Cores = Annotated[float | tuple[float, float], PlainValidator(_cores)]
Mebibytes = Annotated[int | tuple[int, int], PlainValidator(_mebibytes)]
Commit = Annotated[str, AfterValidator(_commit)]
Package = Annotated[str, AfterValidator(_package)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_HOST: Final = r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$"
Version = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+){1,2}$")]


class Scaling(BaseModel, frozen=True, extra="forbid"):
    """Number of containers."""

    min_containers: Annotated[int, Field(ge=0)] = 0
    """Containers that always run, and cost money without any job."""
    max_containers: Annotated[int, Field(ge=1)] = 4
    buffer_containers: Annotated[int, Field(ge=0)] = 0
    """Idle containers kept in reserve while others are busy."""
    scaledown_window: Annotated[int, Field(ge=2, le=3600)] = 60
    """Seconds until an idle container is stopped."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.min_containers > self.max_containers:
            raise setting_error(
                "invalid_range",
                f"min_containers ({self.min_containers}) must not exceed "
                f"max_containers ({self.max_containers})",
            )
        return self


class GatewayScaling(Scaling, frozen=True, extra="forbid"):
    """``[deploy.gateway]``: the function on CPU with the HTTP API."""

    scaledown_window: Annotated[int, Field(ge=2, le=3600)] = 300
    cpu: Cores = 1.0
    memory: Mebibytes = 1024
    max_inputs: Annotated[int, Field(ge=1, le=1000)] = 100
    """Concurrent requests of a container; each client that waits for a job is one."""
    snapshot: bool = True
    """Whether the gateway starts from a memory snapshot."""
    custom_domains: list[str] = Field(default_factory=list)


class VolumeNames(BaseModel, frozen=True, extra="forbid"):
    """``[deploy.volumes]``: names of volumes. None: ``<name>-models`` and ``<name>-files``."""

    models: ObjectName | None = None
    files: ObjectName | None = None


class Mount(BaseModel, frozen=True, extra="forbid"):
    """``[[deploy.mounts]]``: another volume in the GPU containers."""

    volume: ObjectName
    path: Annotated[str, AfterValidator(_mount_point)]
    read_only: bool = True


class DeploySettings(Scaling, frozen=True, extra="forbid"):
    """``[deploy]``. Every key has a default."""

    engine: Literal["comfyui", "simulated"] = "comfyui"
    """``simulated`` needs no GPU and no ComfyUI: for testing a deployment."""
    engine_options: dict[str, Any] = Field(default_factory=dict)
    """Other options of the engine, for example ``arguments = ["--fast"]`` for ComfyUI."""
    workflows: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the workflows to serve. None: all in the folder."""

    gpu: Annotated[list[Gpu], Field(min_length=1), BeforeValidator(_as_list)] = ["L40S"]
    """One GPU type, or several in order of preference; ``H100:2`` for two GPUs."""
    cpu: Cores = 2.0
    """Cores, or ``[request, limit]``."""
    memory: Mebibytes = 16384
    """MiB, or ``[request, limit]``."""
    ephemeral_disk: Annotated[int, Field(gt=0, le=3_145_728)] | None = None
    """MiB. None: Modal's default."""
    region: Annotated[list[str], BeforeValidator(_as_list)] = Field(default_factory=list[str])
    """Modal's regions (``us``, ``eu-west``). Empty: any region, which is cheapest."""
    cloud: str | None = None
    timeout: Annotated[int, Field(ge=10, le=MAX_TIMEOUT)] = 1800
    """Seconds; maximum run time of a job, and of the timeout it may ask for."""
    startup_timeout: Annotated[int, Field(ge=10, le=MAX_TIMEOUT)] = 900
    """Seconds to load ComfyUI, warm up and preload."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 1
    """Maximum number of runs of a job whose container is lost."""
    max_unfinished_per_owner: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of queued and running jobs of one owner. None: unlimited. Approximate: each
    gateway container only counts the jobs it accepted."""
    retention_hours: Annotated[int, Field(ge=1, le=MAX_RETENTION_HOURS)] = MAX_RETENTION_HOURS
    """Hours that jobs and their output files are kept."""

    snapshot: Literal["cpu", "gpu", "off"] = "cpu"
    """Memory snapshot: without GPU state, with it (alpha at Modal), or none."""
    preload: Annotated[list[str], AfterValidator(_relative_paths)] = Field(
        default_factory=list[str]
    )
    """Model files, as ``folder/file`` inside models/, whose weights are in the snapshot."""
    after_restore: list[str] = Field(default_factory=list)
    """Node packs (folders in custom_nodes) that are loaded after a restore, not before."""
    warm_up: str | None = None
    """Workflow to run once before a GPU snapshot, else at each container start."""

    comfyui: Commit | None = None
    """A version (``0.33.0``) or a full commit; stored as a commit. None: that of the node snapshot,
    else the default in ``pins``."""
    comfyui_repository: WebAddress = pins.REPOSITORY
    python: Literal["3.11", "3.12", "3.13"] = "3.11"
    torch: Version = pins.TORCH
    cuda: Version = pins.CUDA
    """Versions of torch and CUDA. With others than the defaults the lock is not used."""
    pip: list[Package] = Field(default_factory=list)
    """Additional Python packages, as requirements (``sageattention==2.2.0``)."""
    apt: list[Package] = Field(default_factory=list)
    """Additional Debian packages."""
    nodes: Path | None = None
    """ComfyUI-Manager's ``snapshot.json``, relative to ``comfysnap.toml``."""
    registry: WebAddress = "https://api.comfy.org"
    """Base URL of the registry of ``cnr_custom_nodes``."""
    git_tokens: dict[Annotated[str, Field(pattern=_HOST)], EnvironmentName] = {
        "github.com": "GITHUB_TOKEN"
    }
    """Git host to the variable with its token, in one of ``build_secrets``."""
    extra_model_paths: Path | None = None
    """An ``extra_model_paths.yaml``, relative to ``comfysnap.toml``."""

    auth: Literal["proxy", "keys", "none"] = "proxy"
    """``proxy``: Modal's proxy auth; ``keys``: API keys from a secret; ``none``: anyone."""
    keys_secret: ObjectName | None = None
    """Secret with the key hashes, for ``keys``. None: ``<name>-keys``."""
    secrets: list[ObjectName] = Field(default_factory=list)
    """Secrets in the environment of the GPU containers."""
    api_key_secret: ObjectName | None = None
    """Secret with ``COMFY_ORG_API_KEY`` for ComfyUI's paid API nodes. None: they are not loaded."""
    build_secrets: list[ObjectName] = Field(default_factory=list)
    """Secrets in the environment of the image build: tokens of private repositories."""
    model_secrets: list[ObjectName] = Field(default_factory=list)
    """Secrets for ``comfysnap models sync``: ``HF_TOKEN``, ``CIVITAI_TOKEN``."""

    gateway: GatewayScaling = GatewayScaling()
    volumes: VolumeNames = VolumeNames()
    mounts: list[Mount] = Field(default_factory=list[Mount])
    models: list[ModelEntry] = Field(default_factory=list[ModelEntry])

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        self._check_mounts()
        self._check_models()
        return self

    def _check_mounts(self) -> None:
        taken = [COMFYUI_DIR, MODELS_DIR, FILES_DIR, PROJECT_DIR]
        for mount in self.mounts:
            inside = [path for path in taken if _overlap(mount.path, path)]
            if inside:
                raise setting_error(
                    "mount_conflict",
                    f"{mount.path} overlaps {inside[0]}; mount {mount.volume!r} elsewhere, for "
                    f"example at /mnt/{mount.volume}",
                )
            taken.append(mount.path)

    def _check_models(self) -> None:
        seen: dict[PurePosixPath, ModelEntry] = {}
        for entry in self.models:
            path = entry.path
            if path is not None and path in seen:
                raise setting_error(
                    "model_conflict",
                    f"{path} has two sources, {seen[path]} and {entry}; remove one",
                )
            if path is not None:
                seen[path] = entry

    @property
    def worker_secrets(self) -> list[str]:
        """Secrets of the GPU containers, each once."""
        names = [*self.secrets, *([self.api_key_secret] if self.api_key_secret else [])]
        return list(dict.fromkeys(names))

    @property
    def gpus(self) -> list[str] | None:
        """GPU types for Modal. None: no GPU, with the simulated engine."""
        return None if self.engine == "simulated" else list(self.gpu)


def _overlap(one: str, other: str) -> bool:
    first, second = PurePosixPath(one), PurePosixPath(other)
    return first.is_relative_to(second) or second.is_relative_to(first)
