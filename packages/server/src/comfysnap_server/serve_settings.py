"""``[serve]`` and ``[serve.local]``, read here alone for ``serve``, ``deploy`` and ``doctor``."""

from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ConfigDict, with_config

from comfysnap_schema.workflow import Project, read_table
from comfysnap_server.backends.local import LocalLimits
from comfysnap_server.gateway import GatewaySettings

STORED_BYTES_PER_KEY: Final = 20 * 1024**3


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
    given = project.serve.get("local", {})
    defaults: dict[str, Any] = {
        "max_file_bytes": settings.max_file_bytes,
        **(_shares(settings.local) if settings.auth == "keys" else {}),
    }
    changes = {name: value for name, value in defaults.items() if name not in given}
    return settings.model_copy(update={"local": replace(settings.local, **changes)})


def _shares(local: LocalLimits) -> dict[str, int]:
    """Limits of one key, so that none keeps the others from the server."""
    return {
        "max_unfinished_per_owner": max(local.max_queued // 2, 1),
        "max_queued_bytes_per_owner": local.max_queued_bytes // 2,
        "max_stored_bytes_per_owner": STORED_BYTES_PER_KEY,
    }
