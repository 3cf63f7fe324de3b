"""Reads a ``comfysnap.toml`` with its workflows and validates them together."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from comfysnap_server.deploy.settings import COMFYUI_DIR, PROJECT_DIR, DeploySettings

PROJECT_VARIABLE: Final = "COMFYSNAP_PROJECT"
"""Environment variable with the path of ``comfysnap.toml``; set in the containers."""


@dataclass(frozen=True)
class Deployment:
    """A ``comfysnap.toml`` and its settings."""

    project: Project
    settings: DeploySettings

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
        for field, wanted in named.items():
            for name in wanted:
                if name not in chosen:
                    raise self.project.unknown_workflow(name, chosen, field)
        return chosen

    def in_container(self, path: Path) -> str:
        """Path in a container of a path in the file.

        Args:
            path: As written in the file. A relative path becomes one in ``PROJECT_DIR``; an
                absolute one stays.
        """
        return os.path.normpath(Path(PROJECT_DIR) / path)


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
    return deployment


def _check_project(deployment: Deployment) -> Iterator[ProjectError]:
    """Errors that the table alone does not show."""
    file = str(deployment.file)
    for key in ("nodes", "extra_model_paths"):
        value: Path | None = getattr(deployment.settings, key)
        if value is not None and not deployment.project.path(value).is_file():
            message = f"file not found: {deployment.project.path(value)}"
            yield ProjectError("missing_file", message, file=file, field=f"deploy.{key}")
    mounted = [deployment.models_volume, deployment.files_volume]
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
    options: dict[str, JsonValue] = {
        "path": os.environ.get("COMFYUI_PATH", COMFYUI_DIR),
        "preload": list(settings.preload),
        "after_restore": list(settings.after_restore),
        "mask_cuda": settings.snapshot == "cpu",
        "device": "cuda" if settings.gpus else None,
        "api_nodes": settings.api_key_secret is not None,
    }
    if settings.extra_model_paths is not None:
        options["extra_model_paths"] = [deployment.in_container(settings.extra_model_paths)]
    return options | settings.engine_options
