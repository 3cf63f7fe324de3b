"""``[serve]`` and ``[serve.local]``, read here alone for ``serve``, ``deploy`` and ``doctor``."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, with_config

from comfysnap_schema.workflow import Project, read_table
from comfysnap_server.backends.local import LocalLimits
from comfysnap_server.gateway import AuthMode, GatewaySettings
from comfysnap_server.jobs import OutputStoreSettings

STORED_BYTES_PER_KEY: Final = 20 * 1024**3


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class _LocalTable(LocalLimits):
    """``[serve.local]``: limits and workers of one machine; options of ``comfysnap serve`` take
    precedence. Sizes in bytes, times in seconds."""

    devices: Annotated[str, Field(pattern=r"^(auto|cpu|cuda|\d{1,2}(,\d{1,2})*)$")] = "auto"
    """Devices of the workers: ``auto``, ``cpu``, ``cuda``, or indices of GPUs such as ``0,1``."""
    workers: Annotated[int | None, Field(ge=1, le=64)] = None
    """Number of worker processes, spread over the devices. None: one for each."""


class ServeSettings(GatewaySettings, frozen=True, extra="forbid"):
    """``[serve]``: limits and access of the gateway. Sizes in bytes, times in seconds."""

    outputs: OutputStoreSettings = OutputStoreSettings()
    """Where output files are kept."""
    local: _LocalTable = _LocalTable()
    """Limits and workers of the local backend; not used on Modal."""


def read_serve(project: Project, auth: AuthMode | None = None) -> ServeSettings:
    """Validate ``[serve]`` of a project.

    Args:
        project: The project.
        auth: Replaces ``serve.auth``.

    Raises:
        SettingsError: ``unknown_key``, ``invalid_value``: every error in the table.
    """
    settings = read_table(ServeSettings, project.serve, file=project.file, name="serve")
    if auth is not None:
        settings = settings.model_copy(update={"auth": auth})
    given = project.serve.get("local", {})
    defaults: dict[str, Any] = {
        "max_file_bytes": settings.max_file_bytes,
        **(_shares(settings.local) if settings.auth == "keys" else {}),
    }
    changes = {name: value for name, value in defaults.items() if name not in given}
    return settings.model_copy(update={"local": replace(settings.local, **changes)})


def _shares(local: LocalLimits) -> dict[str, int]:
    """Limits of an owner of a key, so that none keeps the others from the server; keys of more
    owners may come while it runs."""
    return {
        "max_stored_bytes_per_owner": STORED_BYTES_PER_KEY,
        "max_unfinished_per_owner": (local.max_queued + 1) // 2,
        "max_queued_bytes_per_owner": (local.max_queued_bytes + 1) // 2,
    }
