"""``comfysnap.toml``: which workflows a project has and how they run."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, LiteralString, TypeVar, cast, get_args, get_origin

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from comfysnap_schema.wire import WORKFLOW_NAME_PATTERN, ProjectError
from comfysnap_schema.workflow.map import invalid_name

PROJECT_FILE = "comfysnap.toml"

TableT = TypeVar("TableT", bound=BaseModel)


class SettingsError(ProjectError):
    """Settings are not valid; code, field and message are those of the first of ``errors``."""

    def __init__(self, errors: list[ProjectError]) -> None:
        self.errors = errors
        first = errors[0]
        super().__init__(first.code, first.message, file=first.file, field=first.field)

    def __str__(self) -> str:
        """One error per line."""
        return "\n".join(str(error) for error in self.errors)


def setting_error(code: LiteralString, message: str) -> PydanticCustomError:
    """The error that a validator of a setting raises; its ``SettingsError`` has the same code."""
    return PydanticCustomError(code, "{message}", {"message": message})


def _project_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        message = f"invalid project name {name!r}: use a-z, 0-9 and -"
        raise setting_error("invalid_value", message)
    return name


def _workflow_name(name: str) -> str:
    if not re.fullmatch(WORKFLOW_NAME_PATTERN, name):
        raise setting_error("invalid_value", invalid_name("workflow", name))
    return name


class GenerateSettings(BaseModel, frozen=True, extra="forbid"):
    """``[generate]``."""

    out: Path | None = None
    """Folder of the generated modules, relative to the file."""
    typescript: Path | None = None
    """The generated TypeScript module, relative to the file."""
    url: Annotated[str, Field(pattern="^https?://")] | None = None
    """The server whose workflows are generated. None: the workflow folders."""


class ProjectTable(BaseModel, frozen=True, extra="forbid"):
    """The parts of ``comfysnap.toml`` that every package reads; the server validates the rest."""

    name: Annotated[str, AfterValidator(_project_name)] = "comfysnap"
    """Name of the deployment."""
    workflows: Path = Path("workflows")
    """Folder of the workflow folders, relative to the file."""
    default: Annotated[str, AfterValidator(_workflow_name)] | None = None
    """Workflow of ``/infer_sync`` and ``/infer_async`` without a name. None: the only workflow."""
    generate: GenerateSettings = GenerateSettings()
    serve: dict[str, Any] = Field(default_factory=dict)
    """``[serve]``: limits of the gateway."""
    deploy: dict[str, Any] = Field(default_factory=dict)
    """``[deploy]``: Modal."""


class Project(ProjectTable, frozen=True, extra="forbid"):
    """A ``comfysnap.toml`` with its paths resolved."""

    file: Path = Field(default_factory=lambda: Path.cwd() / PROJECT_FILE)
    """Absolute path of the file, which need not exist for a project of defaults."""
    written_workflows: Path = Path("workflows")
    """``workflows`` as written in the file, relative or absolute."""

    def path(self, written: Path) -> Path:
        """The absolute path of a path in the file."""
        return (self.file.parent / written).resolve()

    def unknown_workflow(self, name: str, known: Mapping[str, Any], field: str) -> ProjectError:
        """The error for a setting with the name of a workflow that does not exist."""
        message = f"unknown workflow {name!r}; available: {', '.join(known) or 'none'}"
        return ProjectError("unknown_workflow", message, file=str(self.file), field=field)


def read_project(path: Path) -> Project:
    """Read a ``comfysnap.toml``; relative paths in it become absolute.

    Raises:
        ProjectError: ``unreadable``, ``invalid_toml``.
        SettingsError: ``unknown_key``, ``invalid_value``.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProjectError("unreadable", error.strerror or str(error), file=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError("invalid_toml", str(error), file=str(path)) from error
    table = read_table(ProjectTable, data, file=path)
    root = path.resolve().parent
    paths = {key: root / path for key, path in table.generate if isinstance(path, Path)}
    return Project.model_validate(
        dict(table)
        | {
            "file": path.resolve(),
            "workflows": root / table.workflows,
            "written_workflows": table.workflows,
            "generate": table.generate.model_copy(update=paths),
        }
    )


def open_project(path: Path | None) -> Project:
    """Open the project at ``path`` (a ``comfysnap.toml`` or its folder), by default that of the
    working directory or a parent. Without one, the working directory is a project with defaults.

    Raises:
        ProjectError: Those of ``read_project``.
    """
    if path is None and find_project(Path.cwd()) is None:
        return Project(workflows=Path.cwd() / "workflows")
    return read_project(locate_project(path))


def locate_project(path: Path | None) -> Path:
    """The ``comfysnap.toml`` at ``path``, the file or its folder. None: the nearest one.

    Raises:
        ProjectError: ``no_project``.
    """
    if path is not None:
        return path / PROJECT_FILE if path.is_dir() else path
    found = find_project(Path.cwd())
    if found is None:
        message = (
            "not found in this folder or a parent: create a project with `comfysnap init`, choose"
            " one with --project, or try `comfysnap demo`"
        )
        raise ProjectError("no_project", message, file=PROJECT_FILE)
    return found


def find_project(start: Path) -> Path | None:
    """The ``comfysnap.toml`` in ``start`` or the nearest folder above it."""
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / PROJECT_FILE).is_file():
            return folder / PROJECT_FILE
    return None


def read_table(
    model: type[TableT], table: Mapping[str, Any], *, file: Path, name: str = ""
) -> TableT:
    """Validate a table of a ``comfysnap.toml``.

    Args:
        model: What the table must be.
        table: The table as read.
        file: The file, for the errors.
        name: Name of the table, for example ``deploy``. Empty: the whole file.

    Raises:
        SettingsError: Every error, each with its key: ``unknown_key``, ``invalid_value``, and the
            codes of ``setting_error``.
    """
    try:
        return model.model_validate(table)
    except ValidationError as error:
        found: dict[str, ProjectError] = {}  # one per key: a union has an error for each branch
        for details in error.errors():
            each = _error_of(model, table, details, str(file), name)
            found.setdefault(str(each.field), each)
        raise SettingsError(list(found.values())) from error


def _error_of(
    model: type[BaseModel], table: Mapping[str, Any], details: ErrorDetails, file: str, name: str
) -> ProjectError:
    location = _location(details["loc"], table)
    field = name + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in location
    )
    field = field.removeprefix(".")
    if details["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        known = _known_keys(model, location)
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        message = f"unknown key; {hint}valid keys: {', '.join(sorted(known))}"
        return ProjectError("unknown_key", message, file=file, field=field)
    # only pydantic's own error types have a url
    code = "invalid_value" if "url" in details else details["type"]
    message = details["msg"]
    if details["type"] in {"model_type", "dict_type", "dataclass_type"}:
        message = f"must be a table: [{field}]"
    return ProjectError(code, message, file=file, field=field or None)


def _location(location: tuple[int | str, ...], table: Any) -> list[int | str]:
    """The part of a Pydantic location that is in the file, without the branches of unions."""
    found: list[int | str] = []
    for part in location:
        if isinstance(table, dict):
            table = cast("dict[Any, Any]", table).get(part)
            found.append(part)
        elif isinstance(part, int):
            table = cast("list[Any]", table)[part] if isinstance(table, list) else None
            found.append(part)
    return found


def _known_keys(model: type[BaseModel], location: list[int | str]) -> list[str]:
    kind: Any = model
    for part in location[:-1]:
        if isinstance(part, str):
            is_dict = get_origin(kind) is dict
            kind = get_args(kind)[1] if is_dict else kind.model_fields[part].annotation
            while not _has_keys(kind):
                kind = kind.__args__[0]
    fields: Any = getattr(kind, "__dataclass_fields__", None) or kind.model_fields
    return list(fields)


def _has_keys(kind: Any) -> bool:
    is_model = hasattr(kind, "__dataclass_fields__") or hasattr(kind, "model_fields")
    return is_model or get_origin(kind) is dict
