"""A deployment: ``comfysnap.toml`` with its workflows, read and checked as a whole."""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

from pydantic import BaseModel, ValidationError
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
from comfysnap_server.deploy.settings import PROJECT_DIR, DeploySettings

PROJECT_VARIABLE: Final = "COMFYSNAP_PROJECT"
"""Environment variable that names the ``comfysnap.toml``; set inside the containers."""


class SettingsError(ProjectError):
    """``[deploy]`` is wrong; code, field and message are those of the first of ``findings``."""

    def __init__(self, findings: list[ProjectError]) -> None:
        self.findings = findings
        first = findings[0]
        super().__init__(first.code, first.message, file=first.file, field=first.field)

    def __str__(self) -> str:
        """One finding a line."""
        return "\n".join(str(finding) for finding in self.findings)


@dataclass(frozen=True)
class Deployment:
    """What one ``comfysnap.toml`` deploys."""

    file: Path
    """Absolute."""
    project: Project
    settings: DeploySettings

    @property
    def root(self) -> Path:
        """Folder that relative paths in the file start from."""
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
        """Secret with the key hashes; None unless ``auth`` is ``keys``."""
        if self.settings.auth != "keys":
            return None
        return self.settings.keys_secret or f"{self.name}-keys"

    @cached_property
    def workflows(self) -> Mapping[str, Workflow]:
        """The workflows to serve, by name.

        Raises:
            WorkflowError: One of them is wrong.
            ProjectError: ``unknown_workflow``.
        """
        found = load_workflows(self.project.workflows)
        names = self.settings.workflows
        chosen = found if names is None else {name: found[name] for name in names if name in found}
        asked = {
            "default": [self.project.default] if self.project.default else [],
            "deploy.workflows": names or [],
            "deploy.warm_up": [self.settings.warm_up] if self.settings.warm_up else [],
        }
        for field, wanted in asked.items():
            for name in wanted:
                if name not in chosen:
                    raise ProjectError(
                        "unknown_workflow",
                        f"no workflow {name!r}; there are {', '.join(chosen) or 'none'}",
                        file=str(self.file),
                        field=field,
                    )
        return chosen

    def path(self, relative: Path) -> Path:
        """A path of the file, made absolute."""
        return (self.root / relative).resolve()

    @cached_property
    def workflows_folder(self) -> Path:
        """The folder as the file writes it, relative or absolute."""
        written = tomllib.loads(self.file.read_text(encoding="utf-8")).get("workflows")
        return Path(written or Project.model_fields["workflows"].default)

    def in_container(self, path: Path) -> str:
        """Where something lies in a container, so that the file is right there too.

        Args:
            path: As the file writes it: relative paths start from ``PROJECT_DIR`` there, absolute
                ones stay.
        """
        return os.path.normpath(Path(PROJECT_DIR) / path)


def read_deployment(path: Path | None = None) -> Deployment:
    """Read a ``comfysnap.toml`` with its ``[deploy]``.

    Args:
        path: The file; None: the one that ``COMFYSNAP_PROJECT`` names, else the nearest above the
            working directory.

    Raises:
        ProjectError: ``no_project``, and those of ``read_project``.
        SettingsError: ``unknown_key``, ``invalid_value``, ``unknown_gpu``,
            ``model_without_folder``, ``mount_conflict``, ``missing_file``, ...
    """
    named = os.environ.get(PROJECT_VARIABLE)
    file = path or (Path(named) if named else find_project(Path.cwd()))
    if file is None:
        raise ProjectError("no_project", f"no {PROJECT_FILE} here or in a folder above")
    if file.is_dir():
        file = file / PROJECT_FILE
    project = read_project(file)
    try:
        settings = DeploySettings.model_validate(project.deploy)
    except ValidationError as error:
        findings = {
            (finding.field, finding.message): finding
            for finding in (_finding(str(file), details) for details in error.errors())
        }
        raise SettingsError(list(findings.values())) from error
    deployment = Deployment(file.resolve(), project, settings)
    together = list(_against_the_project(deployment))
    if together:
        raise SettingsError(together)
    return deployment


def _against_the_project(deployment: Deployment) -> Iterator[ProjectError]:
    """What the table alone does not show."""
    file = str(deployment.file)
    for key in ("nodes", "extra_model_paths"):
        value: Path | None = getattr(deployment.settings, key)
        if value is not None and not deployment.path(value).is_file():
            message = f"{deployment.path(value)} is no file"
            yield ProjectError("missing_file", message, file=file, field=f"deploy.{key}")
    mounted = [deployment.models_volume, deployment.files_volume]
    mounted += [mount.volume for mount in deployment.settings.mounts]
    for name in {name for name in mounted if mounted.count(name) > 1}:
        message = f"volume {name!r} is mounted twice; Modal allows one path each"
        yield ProjectError("mount_conflict", message, file=file, field="deploy.volumes")


def _finding(file: str, details: ErrorDetails) -> ProjectError:
    location = list(details["loc"])
    field = "deploy" + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in location
    )
    if details["type"] == "extra_forbidden":
        return ProjectError("unknown_key", _known_keys(location), file=file, field=field)
    # pydantic documents its own error types with a url; ours have none
    code = "invalid_value" if "url" in details else details["type"]
    message = details["msg"]
    if details["type"] in {"model_type", "dict_type"}:
        message = f"it is a table: [{field}]"
    return ProjectError(code, message, file=file, field=field)


def _known_keys(location: list[int | str]) -> str:
    model: type[BaseModel] = DeploySettings
    for part in location[:-1]:
        if isinstance(part, str):
            model = _model_of(model.model_fields[part].annotation)
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown key; {hint}known are {', '.join(sorted(known))}"


def _model_of(annotation: Any) -> type[BaseModel]:
    while not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        annotation = cast("tuple[Any, ...]", annotation.__args__)[0]
    return annotation
