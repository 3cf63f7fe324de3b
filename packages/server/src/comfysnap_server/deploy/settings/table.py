"""``[deploy]`` of ``comfysnap.toml``: the settings of a deployment on Modal."""

from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from comfysnap_schema.workflow import setting_error
from comfysnap_server.deploy.settings.containers import WorkerSettings
from comfysnap_server.deploy.settings.pools import DEFAULT_POOL, Pools, PoolSettings
from comfysnap_server.deploy.settings.scaling import GatewayScaling
from comfysnap_server.deploy.settings.values import (
    EnvironmentName,
    GitHost,
    ObjectName,
    WebAddress,
)
from comfysnap_server.deploy.settings.volumes import Mount, VolumeNames, check_mounts
from comfysnap_server.models import ModelEntry

MAX_RETENTION_HOURS: Final = 7 * 24
"""Job records are entries of a ``modal.Dict``, which expire after seven idle days."""


class DeploySettings(WorkerSettings, frozen=True, extra="forbid"):
    """``[deploy]``. Every key has a default."""

    engine: Literal["comfyui", "simulated"] = "comfyui"
    """``simulated`` needs no GPU and no ComfyUI: for testing a deployment."""
    workflows: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the workflows to serve. None: all in the folder."""

    max_attempts: Annotated[int, Field(ge=1, le=10)] = 1
    """Maximum number of runs of a job whose container is lost."""
    max_unfinished_per_owner: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of queued and running jobs of one owner. None: unlimited. Approximate: each
    gateway container only counts the jobs it accepted."""
    retention_hours: Annotated[int, Field(ge=1, le=MAX_RETENTION_HOURS)] = MAX_RETENTION_HOURS
    """Hours that jobs and their output files are kept."""

    registry: WebAddress = "https://api.comfy.org"
    """Base URL of the registry of ``cnr_custom_nodes``."""
    git_tokens: dict[GitHost, EnvironmentName] = Field(
        default_factory=lambda: {"github.com": "GITHUB_TOKEN"}
    )
    """Git host to the variable with its token, in one of ``build_secrets``."""

    auth: Literal["proxy", "keys", "none"] = "proxy"
    """``proxy``: Modal's proxy auth; ``keys``: API keys from a secret; ``none``: anyone."""
    keys_secret: ObjectName | None = None
    """Secret with the key hashes, for ``keys``. None: ``<name>-keys``."""
    webhook_secret: ObjectName | None = None
    """Secret with ``COMFYSNAP_WEBHOOK_SECRET``, for ``[serve.webhooks]``. None:
    ``<name>-webhooks``."""
    secrets: list[ObjectName] = Field(default_factory=list)
    """Secrets in the environment of the GPU containers."""
    api_key_secret: ObjectName | None = None
    """Secret with ``COMFY_ORG_API_KEY`` for ComfyUI's paid API nodes. None: they are not loaded."""
    build_secrets: list[ObjectName] = Field(default_factory=list)
    """Secrets in the environment of the image build: tokens of private repositories."""
    model_secrets: list[ObjectName] = Field(default_factory=list)
    """Secrets for ``comfysnap models sync`` and models by URL: ``HF_TOKEN``, ``CIVITAI_TOKEN``."""

    pools: Pools = Field(default_factory=dict[str, PoolSettings])
    gateway: GatewayScaling = GatewayScaling()
    volumes: VolumeNames = VolumeNames()
    mounts: list[Mount] = Field(default_factory=list[Mount])
    models: list[ModelEntry] = Field(default_factory=list[ModelEntry])

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        check_mounts(self.mounts)
        self._check_models()
        for name in self.pools:
            self._check_pool(name)
        return self

    def _check_pool(self, name: str) -> None:
        try:
            self.of_pool(name).check_range()
        except PydanticCustomError as error:
            raise setting_error("invalid_range", f"pools.{name}: {error.message()}") from None

    def of_pool(self, name: str) -> Self:
        """The settings of a pool's containers; those of the default pool are ``self``."""
        return self.model_copy(update=self.pools[name].own_keys)

    def pool_of(self, workflow: str) -> str:
        """Name of the pool that runs a workflow."""
        named = (name for name, pool in self.pools.items() if workflow in pool.workflows)
        return next(named, DEFAULT_POOL)

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
