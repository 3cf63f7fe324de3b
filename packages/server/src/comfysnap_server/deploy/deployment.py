"""Reads a ``comfysnap.toml`` with its workflows and validates them together."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from comfysnap_schema.wire import ProjectError
from comfysnap_schema.workflow import (
    Project,
    SettingsError,
    Workflow,
    load_workflows,
    locate_project,
    read_project,
    read_table,
)
from comfysnap_server.deploy.settings import (
    COMFYUI_DIR,
    DEFAULT_POOL,
    PROJECT_DIR,
    DeploySettings,
    WorkerSettings,
)
from comfysnap_server.jobs import OutputStoreSettings
from comfysnap_server.models import CACHED_MODELS, RemoteModelSettings

PROJECT_VARIABLE: Final = "COMFYSNAP_PROJECT"
"""Environment variable with the path of ``comfysnap.toml``; set in the containers."""
BASELINE_VARIABLE: Final = "COMFYSNAP_BASELINE"
"""Set where the deployment is ``without_snapshots``: in its deploy and in its containers."""
LOCAL_MODEL_CACHE: Final = "/tmp/comfysnap-model-cache"  # noqa: S108, a container has one user
"""Folder on a GPU container's own disk with the models by URL that its jobs used."""

_CLASS: Final = "Worker"
"""Class of the default pool; those of the others begin with it."""


@dataclass(frozen=True)
class Deployment:
    """A ``comfysnap.toml`` and its settings."""

    project: Project
    settings: DeploySettings
    pool: str = DEFAULT_POOL
    """Whose containers the settings are of; see ``of_pool``."""
    is_baseline: bool = False
    """See ``without_snapshots``."""

    @property
    def file(self) -> Path:
        """Absolute path of ``comfysnap.toml``."""
        return self.project.file

    @property
    def name(self) -> str:
        """Name of the Modal app."""
        return self.project.name

    @property
    def models_volume(self) -> str:
        """Name of the volume mounted at ``MODELS_DIR``."""
        return self.settings.volumes.models or f"{self.name}-models"

    @property
    def files_volume(self) -> str:
        """Name of the volume mounted at ``FILES_DIR``."""
        return self.settings.volumes.files or f"{self.name}-files"

    @property
    def model_cache_volume(self) -> str:
        """Name of the volume mounted at ``MODEL_CACHE_DIR``, where jobs may name models by URL."""
        return f"{self.name}-model-cache"

    @cached_property
    def remote_models(self) -> RemoteModelSettings:
        """``[serve.remote_models]``; read alone, as GPU containers have no gateway.

        Raises:
            SettingsError: ``unknown_key``, ``invalid_value``.
        """
        table = self.project.serve.get("remote_models", {})
        name = "serve.remote_models"
        return read_table(RemoteModelSettings, table, file=self.file, name=name)

    @cached_property
    def outputs(self) -> OutputStoreSettings:
        """``[serve.outputs]``; read alone, as GPU containers have no gateway.

        Raises:
            SettingsError: ``unknown_key``, ``invalid_value``.
        """
        table = self.project.serve.get("outputs", {})
        return read_table(OutputStoreSettings, table, file=self.file, name="serve.outputs")

    @property
    def output_secrets(self) -> list[str]:
        """Names of the secrets with the credentials of the object store."""
        return [self.outputs.secret] if self.outputs.store and self.outputs.secret else []

    @property
    def keys_secret(self) -> str | None:
        """Name of the secret with the key hashes; None unless ``auth`` is ``keys``."""
        if self.settings.auth != "keys":
            return None
        return self.settings.keys_secret or f"{self.name}-keys"

    @property
    def webhook_secret(self) -> str | None:
        """Name of the secret that signs webhooks; None unless ``[serve.webhooks]`` allows any."""
        table: Any = self.project.serve.get("webhooks")
        if not isinstance(table, dict) or not table.keys() & {"hosts", "url"}:
            return None
        return self.settings.webhook_secret or f"{self.name}-webhooks"

    @cached_property
    def workflows(self) -> Mapping[str, Workflow]:
        """The workflows to serve, by name.

        Raises:
            WorkflowError: One of them is not valid.
            ProjectError: ``unknown_workflow``.
        """
        found = load_workflows(self.project.workflows)
        names = self.settings.workflows
        chosen = found if names is None else {name: found[name] for name in names if name in found}
        named = {
            "default": [self.project.default] if self.project.default else [],
            "deploy.workflows": names or [],
            "deploy.warm_up": [self.settings.warm_up] if self.settings.warm_up else [],
        }
        for name, pool in self.settings.pools.items():
            named[f"deploy.pools.{name}.workflows"] = pool.workflows
            named[f"deploy.pools.{name}.warm_up"] = [pool.warm_up] if pool.warm_up else []
        for field, wanted in named.items():
            for name in wanted:
                if name not in chosen:
                    raise self.project.unknown_workflow(name, chosen, field)
        return chosen

    @cached_property
    def pools(self) -> tuple["Deployment", ...]:
        """The deployment as each pool sees it; the default pool is first, and left out when the
        others run all workflows.

        Raises:
            WorkflowError: Those of ``workflows``.
            ProjectError: Those of ``workflows``.
        """
        if not self.settings.pools:
            return (self,)
        default = (self,) if DEFAULT_POOL in self.pool_of.values() else ()
        return (*default, *(self.of_pool(name) for name in self.settings.pools))

    def of_pool(self, name: str) -> "Deployment":
        """The deployment with the settings of a pool's containers."""
        if name == DEFAULT_POOL:
            return self
        return replace(self, settings=self.settings.of_pool(name), pool=name)

    def without_snapshots(self) -> "Deployment":
        """A twin to compare starts with: of another name, with the same models and secrets, and
        files and records of its own."""
        settings = self.settings
        bare: dict[str, Any] = {"snapshot": "off", "preload": [], "min_containers": 0}
        pools = {name: pool.model_copy(update=bare) for name, pool in settings.pools.items()}
        changes: dict[str, Any] = bare | {
            "pools": pools,
            "keys_secret": self.keys_secret,
            "volumes": settings.volumes.model_copy(
                update={"models": self.models_volume, "files": None}
            ),
        }
        return replace(
            self,
            project=self.project.model_copy(update={"name": f"{self.name}-baseline"}),
            settings=settings.model_copy(update=changes),
            is_baseline=True,
        )

    @cached_property
    def pool_of(self) -> Mapping[str, str]:
        """Workflow to the name of the pool that runs it. Raises what ``workflows`` raises."""
        return {name: self.settings.pool_of(name) for name in self.workflows}

    @property
    def longest_run(self) -> int:
        """Seconds that a job may run in the pool that gives it most."""
        pools = [self.of_pool(name) for name in (DEFAULT_POOL, *self.settings.pools)]
        return max(pool.settings.longest_run for pool in pools)

    @property
    def served(self) -> list[str]:
        """Names of the workflows of this pool."""
        return [name for name, pool in self.pool_of.items() if pool == self.pool]

    @property
    def class_name(self) -> str:
        """Name of this pool's class in the Modal app."""
        return _CLASS if self.pool == DEFAULT_POOL else f"{_CLASS}_{self.pool}"

    @property
    def preloaded(self) -> list[str]:
        """Model files that the snapshot of any pool holds."""
        tables = (self.settings, *self.settings.pools.values())
        return list(dict.fromkeys(name for table in tables for name in table.preload))

    @property
    def table(self) -> str:
        """Name of the table with this pool's keys, for messages."""
        return "deploy" if self.pool == DEFAULT_POOL else f"deploy.pools.{self.pool}"

    def in_container(self, path: Path) -> str:
        """Path in a container of a path in the file.

        Args:
            path: As written in the file. A relative path becomes one in ``PROJECT_DIR``; an
                absolute one stays.
        """
        return os.path.normpath(Path(PROJECT_DIR) / path)


def pool_of_class(class_name: str) -> str | None:
    """The pool whose class has this name; None if it is no pool's."""
    if class_name == _CLASS:
        return DEFAULT_POOL
    name = class_name.removeprefix(f"{_CLASS}_")
    return None if name == class_name else name


def read_deployment(path: Path | None = None) -> Deployment:
    """Read a ``comfysnap.toml`` and validate its ``[deploy]``.

    Args:
        path: The file or its folder. None: ``COMFYSNAP_PROJECT``, else this folder or a parent.

    Raises:
        ProjectError: ``no_project``, and the codes of ``read_project``.
        SettingsError: Those of ``make_deployment``.
    """
    return make_deployment(read_chosen_project(path))


def read_chosen_project(path: Path | None) -> Project:
    """As ``read_deployment``, without its ``[deploy]``."""
    named = os.environ.get(PROJECT_VARIABLE)
    return read_project(locate_project(path or (Path(named) if named else None)))


def make_deployment(project: Project) -> Deployment:
    """Validate the ``[deploy]`` of a project.

    Raises:
        SettingsError: ``unknown_key``, ``invalid_value``, ``unknown_gpu``,
            ``model_without_folder``, ``mount_conflict``, ``missing_file``, ...
    """
    settings = read_table(DeploySettings, project.deploy, file=project.file, name="deploy")
    deployment = Deployment(project, settings)
    errors = list(_check_project(deployment))
    if errors:
        raise SettingsError(errors)
    return deployment.without_snapshots() if os.environ.get(BASELINE_VARIABLE) else deployment


def _check_project(deployment: Deployment) -> Iterator[ProjectError]:
    """Errors that the table alone does not show."""
    file = str(deployment.file)
    tables: dict[str, WorkerSettings] = {"deploy": deployment.settings}
    tables |= {f"deploy.pools.{name}": pool for name, pool in deployment.settings.pools.items()}
    for table, settings in tables.items():
        for key in ("nodes", "extra_model_paths"):
            value: Path | None = getattr(settings, key)
            if value is not None and not deployment.project.path(value).is_file():
                message = f"file not found: {deployment.project.path(value)}"
                yield ProjectError("missing_file", message, file=file, field=f"{table}.{key}")
    mounted = [
        deployment.models_volume, deployment.files_volume, deployment.model_cache_volume
    ]  # fmt: skip
    mounted += [mount.volume for mount in deployment.settings.mounts]
    for name in {name for name in mounted if mounted.count(name) > 1}:
        message = f"volume {name!r} is mounted twice; Modal allows one mount path per volume"
        yield ProjectError("mount_conflict", message, file=file, field="deploy.volumes")


def select_project(deployment: Deployment) -> None:
    """Set ``PROJECT_VARIABLE``, which modules with a Modal app read when they are imported."""
    os.environ[PROJECT_VARIABLE] = str(deployment.file)


def engine_options(deployment: Deployment) -> dict[str, JsonValue]:
    """Options of the engine in a container; ``[deploy.engine_options]`` overrides the others."""
    settings = deployment.settings
    if settings.engine != "comfyui":
        return dict(settings.engine_options)
    snapshot = settings.snapshot != "off"
    options: dict[str, JsonValue] = {
        "path": os.environ.get("COMFYUI_PATH", COMFYUI_DIR),
        "preload": list(settings.preload),
        "after_restore": list(settings.after_restore),
        "read_ahead": settings.read_ahead,
        "read_ahead_libraries": settings.read_ahead_libraries if snapshot else "off",
        "mask_cuda": settings.snapshot == "cpu",
        "device": "cuda" if settings.gpus else None,
        "api_nodes": settings.api_key_secret is not None,
    }
    if deployment.remote_models.enabled:
        options["remote_models"] = f"{LOCAL_MODEL_CACHE}/{CACHED_MODELS}"
    if settings.extra_model_paths is not None:
        options["extra_model_paths"] = [deployment.in_container(settings.extra_model_paths)]
    return options | settings.engine_options
