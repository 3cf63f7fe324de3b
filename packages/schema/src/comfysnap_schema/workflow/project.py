"""``comfysnap.toml``: which workflows a project has and how they run."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from comfysnap_schema.wire import WORKFLOW_NAME_PATTERN, ProjectError
from comfysnap_schema.workflow.map import invalid_name

PROJECT_FILE = "comfysnap.toml"


class GenerateSettings(BaseModel, frozen=True, extra="forbid"):
    """``[generate]``."""

    out: Path | None = None
    """Folder of the generated modules, relative to the file."""


class Project(BaseModel, frozen=True, extra="forbid"):
    """The parts of ``comfysnap.toml`` that every package reads; the server validates the rest."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "comfysnap"
    """Name of the deployment."""
    workflows: Path = Path("workflows")
    """Folder of the workflow folders, relative to the file."""
    default: Annotated[str, Field(pattern=WORKFLOW_NAME_PATTERN)] | None = None
    """Workflow of ``/infer_sync`` and ``/infer_async`` without a name. None: the only workflow."""
    generate: GenerateSettings = GenerateSettings()
    serve: dict[str, Any] = Field(default_factory=dict)
    """``[serve]``: limits of the gateway."""
    deploy: dict[str, Any] = Field(default_factory=dict)
    """``[deploy]``: Modal."""


def read_project(path: Path) -> Project:
    """Read a ``comfysnap.toml``; relative paths in it become absolute.

    Raises:
        ProjectError: ``unreadable``, ``invalid_toml``, ``unknown_key``, ``invalid_value``.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProjectError("unreadable", error.strerror or str(error), file=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError("invalid_toml", str(error), file=str(path)) from error
    try:
        project = Project.model_validate(data)
    except ValidationError as error:
        found = error.errors()[0]
        key = ".".join(str(part) for part in found["loc"])
        if found["type"] != "extra_forbidden":
            message = found["msg"]
            if found["type"] == "string_pattern_mismatch" and key == "name":
                message = f"invalid project name {found['input']!r}: use a-z, 0-9 and -"
            elif found["type"] == "string_pattern_mismatch":
                message = invalid_name("workflow", found["input"])
            raise ProjectError("invalid_value", message, file=str(path), field=key) from error
        known = (GenerateSettings if "." in key else Project).model_fields
        message = f"unknown key; valid keys: {', '.join(known)}"
        raise ProjectError("unknown_key", message, file=str(path), field=key) from error
    root = path.resolve().parent
    out = project.generate.out
    return project.model_copy(
        update={
            "workflows": root / project.workflows,
            "generate": GenerateSettings(out=root / out if out else None),
        }
    )


def open_project(path: Path | None) -> Project:
    """Open the project at ``path`` (a ``comfysnap.toml`` or its folder), by default that of the
    working directory or a parent. Without one, the working directory is a project with defaults.

    Raises:
        ProjectError: Those of ``read_project``.
    """
    if path is not None:
        return read_project(path / PROJECT_FILE if path.is_dir() else path)
    found = find_project(Path.cwd())
    return read_project(found) if found else Project(workflows=Path.cwd() / "workflows")


def find_project(start: Path) -> Path | None:
    """The ``comfysnap.toml`` in ``start`` or the nearest folder above it."""
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / PROJECT_FILE).is_file():
            return folder / PROJECT_FILE
    return None
