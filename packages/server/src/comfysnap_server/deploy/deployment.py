"""Reads a ``comfysnap.toml`` with its workflows and validates them together."""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from comfysnap_schema.wire import ProjectError
from comfysnap_schema.workflow import (
    PROJECT_FILE,
    Project,
    Workflow,
    find_project,
    load_workflows,
    read_project,
)
from comfysnap_server.deploy.settings import COMFYUI_DIR, PROJECT_DIR, DeploySettings

PROJECT_VARIABLE: Final = "COMFYSNAP_PROJECT"
"""Environment variable with the path of ``comfysnap.toml``; set in the containers."""


class SettingsError(ProjectError):
    """``[deploy]`` is not valid; code, field and message are those of the first of ``errors``."""

    def __init__(self, errors: list[ProjectError]) -> None:
        self.errors = errors
        first = errors[0]
        super().__init__(first.code, first.message, file=first.file, field=first.field)

    def __str__(self) -> str:
        """One error per line."""
        return "\n".join(str(error) for error in self.errors)


@dataclass(frozen=True)
class Deployment:
    """A ``comfysnap.toml`` and its settings."""

    file: Path
    """Absolute path of ``comfysnap.toml``."""
    project: Project
    settings: DeploySettings

    @property
    def root(self) -> Path:
        """Folder that paths in the file are relative to."""
        return self.file.parent

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
                    raise ProjectError(
                        "unknown_workflow",
                        f"unknown workflow {name!r}; available: {', '.join(chosen) or 'none'}",
                        file=str(self.file),
                        field=field,
                    )
        return chosen

    def path(self, relative: Path) -> Path:
        """The absolute path of a path in the file."""
        return (self.root / relative).resolve()

    @cached_property
    def workflows_folder(self) -> Path:
        """The workflows folder as written in the file, relative or absolute."""
        written = tomllib.loads(self.file.read_text(encoding="utf-8")).get("workflows")
        return Path(written or Project.model_fields["workflows"].default)

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
        SettingsError: ``unknown_key``, ``invalid_value``, ``unknown_gpu``,
            ``model_without_folder``, ``mount_conflict``, ``missing_file``, ...
    """
    named = os.environ.get(PROJECT_VARIABLE)
    file = path or (Path(named) if named else find_project(Path.cwd()))
    if file is None:
        raise ProjectError(
            "no_project", f"no {PROJECT_FILE} in this folder or a parent; use --project"
        )
    if file.is_dir():
        file = file / PROJECT_FILE
    project = read_project(file)
    try:
        settings = DeploySettings.model_validate(project.deploy)
    except ValidationError as error:
        errors = {
            (each.field, each.message): each
            for each in (_setting_error(str(file), details) for details in error.errors())
        }
        raise SettingsError(list(errors.values())) from error
    deployment = Deployment(file.resolve(), project, settings)
    errors_together = list(_check_project(deployment))
    if errors_together:
        raise SettingsError(errors_together)
    return deployment


def _check_project(deployment: Deployment) -> Iterator[ProjectError]:
    """Errors that the table alone does not show."""
    file = str(deployment.file)
    for key in ("nodes", "extra_model_paths"):
        value: Path | None = getattr(deployment.settings, key)
        if value is not None and not deployment.path(value).is_file():
            message = f"file not found: {deployment.path(value)}"
            yield ProjectError("missing_file", message, file=file, field=f"deploy.{key}")
    mounted = [deployment.models_volume, deployment.files_volume]
    mounted += [mount.volume for mount in deployment.settings.mounts]
    for name in {name for name in mounted if mounted.count(name) > 1}:
        message = f"volume {name!r} is mounted twice; Modal allows one mount path per volume"
        yield ProjectError("mount_conflict", message, file=file, field="deploy.volumes")


def _setting_error(file: str, details: ErrorDetails) -> ProjectError:
    location = list(details["loc"])
    field = "deploy" + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in location
    )
    if details["type"] == "extra_forbidden":
        return ProjectError("unknown_key", _known_keys(location), file=file, field=field)
    # only pydantic's own error types have a url
    code = "invalid_value" if "url" in details else details["type"]
    message = details["msg"]
    if details["type"] in {"model_type", "dict_type"}:
        message = f"must be a table: [{field}]"
    return ProjectError(code, message, file=file, field=field)


def _known_keys(location: list[int | str]) -> str:
    model: type[BaseModel] = DeploySettings
    for part in location[:-1]:
        if isinstance(part, str):
            model = _model_of(model.model_fields[part].annotation)
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown key; {hint}valid keys: {', '.join(sorted(known))}"


def _model_of(annotation: Any) -> type[BaseModel]:
    while not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        annotation = cast("tuple[Any, ...]", annotation.__args__)[0]
    return annotation


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
