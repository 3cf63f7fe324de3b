"""``[serve]`` and ``[serve.local]``, read here alone for ``serve``, ``deploy`` and ``doctor``."""

from dataclasses import dataclass, replace

from pydantic import ConfigDict, with_config

from comfysnap_schema.workflow import Project, read_table
from comfysnap_server.backends.local import LocalLimits
from comfysnap_server.gateway import GatewaySettings


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class _LocalTable(LocalLimits):
    """``[serve.local]``."""


class ServeSettings(GatewaySettings, frozen=True, extra="forbid"):
    """``[serve]``: limits and access of the gateway."""

    local: _LocalTable = _LocalTable()
    """Limits of the local backend; not used on Modal."""


def read_serve(project: Project) -> ServeSettings:
    """Validate ``[serve]`` of a project.

    Raises:
        SettingsError: ``unknown_key``, ``invalid_value``: every error in the table.
    """
    settings = read_table(ServeSettings, project.serve, file=project.file, name="serve")
    if "max_file_bytes" in project.serve.get("local", {}):
        return settings
    local = replace(settings.local, max_file_bytes=settings.max_file_bytes)
    return settings.model_copy(update={"local": local})
