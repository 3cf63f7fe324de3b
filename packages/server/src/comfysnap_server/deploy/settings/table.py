"""``[deploy]`` of ``comfysnap.toml``: the settings of a deployment on Modal."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from comfysnap_schema.workflow import setting_error
from comfysnap_server import pins
from comfysnap_server.deploy.settings.scaling import GatewayScaling, Scaling
from comfysnap_server.deploy.settings.values import (
    Commit,
    Cores,
    EnvironmentName,
    GitHost,
    Gpus,
    Mebibytes,
    ModelPaths,
    Names,
    ObjectName,
    Package,
    Version,
    WebAddress,
)
from comfysnap_server.deploy.settings.volumes import Mount, VolumeNames, check_mounts
from comfysnap_server.models import ModelEntry

MAX_TIMEOUT: Final = 24 * 3600
"""Seconds; Modal's limit."""
STOP_MARGIN_S: Final = 120
"""Seconds that Modal's timeout is longer than a job's, to end containers that hang."""
MAX_RETENTION_HOURS: Final = 7 * 24
"""Job records are entries of a ``modal.Dict``, which expire after seven idle days."""


class DeploySettings(Scaling, frozen=True, extra="forbid"):
    """``[deploy]``. Every key has a default."""

    engine: Literal["comfyui", "simulated"] = "comfyui"
    """``simulated`` needs no GPU and no ComfyUI: for testing a deployment."""
    engine_options: dict[str, Any] = Field(default_factory=dict)
    """Other options of the engine, for example ``arguments = ["--fast"]`` for ComfyUI."""
    workflows: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the workflows to serve. None: all in the folder."""

    gpu: Gpus = Field(default_factory=lambda: ["L40S"])
    """One GPU type, or several in order of preference; ``H100:2`` for two GPUs."""
    cpu: Cores = 2.0
    """Cores, or ``[request, limit]``."""
    memory: Mebibytes = 16384
    """MiB, or ``[request, limit]``."""
    ephemeral_disk: Annotated[int, Field(gt=0, le=3_145_728)] | None = None
    """MiB. None: Modal's default."""
    region: Names = Field(default_factory=list[str])
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
    preload: ModelPaths = Field(default_factory=list[str])
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
    git_tokens: dict[GitHost, EnvironmentName] = Field(
        default_factory=lambda: {"github.com": "GITHUB_TOKEN"}
    )
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
    """Secrets for ``comfysnap models sync`` and models by URL: ``HF_TOKEN``, ``CIVITAI_TOKEN``."""

    gateway: GatewayScaling = GatewayScaling()
    volumes: VolumeNames = VolumeNames()
    mounts: list[Mount] = Field(default_factory=list[Mount])
    models: list[ModelEntry] = Field(default_factory=list[ModelEntry])

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        check_mounts(self.mounts)
        self._check_models()
        return self

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
    def longest_run(self) -> int:
        """Seconds that a job may run: ``timeout``, and less where Modal's own limit is near."""
        return min(self.timeout, MAX_TIMEOUT - STOP_MARGIN_S)

    @property
    def worker_secrets(self) -> list[str]:
        """Secrets of the GPU containers, each once."""
        names = [*self.secrets, *([self.api_key_secret] if self.api_key_secret else [])]
        return list(dict.fromkeys(names))

    @property
    def gpus(self) -> list[str] | None:
        """GPU types for Modal. None: no GPU, with the simulated engine."""
        return None if self.engine == "simulated" else list(self.gpu)
