"""Limits and access of the gateway: ``[serve]`` of comfysnap.toml."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from comfysnap_schema.wire import routes
from comfysnap_schema.workflow import setting_error
from comfysnap_server.gateway.keys import KeyHash
from comfysnap_server.jobs import WebhookSettings
from comfysnap_server.logs import LogFormat
from comfysnap_server.models import RemoteModelSettings

AuthMode = Literal["none", "keys", "proxy"]


def _origin(origin: str) -> str:
    if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s?#A-Z]+", origin):
        message = (
            f"{origin!r} is not an origin: use scheme://host[:port] in lower case, without a path,"
            " for example https://app.example.com"
        )
        raise setting_error("invalid_value", message)
    return origin


class OpenAISettings(BaseModel, frozen=True, extra="forbid"):
    """``[serve.openai]``: OpenAI's Images API below ``/v1``."""

    enabled: bool = True
    """Whether the routes below ``/v1`` exist."""
    aliases: dict[Annotated[str, Field(min_length=1, max_length=128)], str] = Field(
        default_factory=dict
    )
    """Model names that programs ask for, and the workflows to run for them:
    ``{"gpt-image-1" = "flux"}``. Workflows can also be named directly."""


class McpSettings(BaseModel, frozen=True, extra="forbid"):
    """``[serve.mcp]``: workflows as tools of the Model Context Protocol at ``/mcp``."""

    enabled: bool | None = None
    """None: if the package ``mcp`` is installed, which is imported when first used. A deployment
    needs true, which installs it; the server then imports it when it starts."""
    max_wait: Annotated[float, Field(gt=0, le=routes.MAX_SYNC_WAIT_S)] = 45.0
    """Seconds that a call waits for its job; many hosts give up on a call after 60 s."""


class GatewaySettings(BaseModel, frozen=True, extra="forbid"):
    """What the gateway allows. Sizes in bytes, times in seconds."""

    auth: AuthMode = "none"
    """``none``: one owner, ``local``. ``keys``: bearer keys, an owner each. ``proxy``: something
    in front (Modal's proxy auth) already checked; one owner, ``proxy``."""
    keys: dict[str, KeyHash | list[KeyHash]] = Field(default_factory=dict)
    """SHA-256 of each owner's keys, with the default scopes. ``comfysnap keys`` keeps others in a
    file in the data folder, with scopes and budgets."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """For each key without its own number, or each owner without keys, in each process of the
    server; after a pause, those of 5 s, but at least 20, may come at once. None: unlimited."""
    hosts: tuple[str, ...] = ()
    """Accepted names in the ``Host`` header. Empty: any. Without authentication, this keeps web
    pages from reaching a server on the machine of the browser."""
    origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    """Origins of web pages that may call (CORS), for example ``https://app.example.com``."""

    log_format: LogFormat = "text"
    """Format of the log: ``text``, or ``json``, one object per line."""
    max_body_bytes: Annotated[int, Field(gt=0)] = routes.MAX_BODY_BYTES
    """Maximum size of a JSON body, inline files included."""
    body_timeout: Annotated[float, Field(gt=0)] = 60.0
    """Time for a whole JSON body to arrive, and for pauses within an upload."""
    min_upload_rate: Annotated[float, Field(gt=0)] = 16 * 1024
    """Bytes per second: an upload that is slower for ``body_timeout`` seconds is refused."""
    max_file_bytes: Annotated[int, Field(gt=0)] = routes.MAX_FILE_BYTES
    """Maximum size of an uploaded file."""
    max_waits: Annotated[int, Field(gt=0)] = 2000
    """Requests of one owner that may be held open at once: waits, event streams, infer_sync. Fewer
    where the system's limit of open files is low."""
    max_held: Annotated[int, Field(gt=0)] | None = None
    """Requests of all owners that are held open at once; above it, the longest held gets its
    response early. None: unlimited; on Modal, three fifths of ``deploy.gateway.max_inputs``."""
    max_wait: Annotated[float, Field(ge=0)] = routes.MAX_WAIT_S
    """Longest hold of ``/check_status``; a longer ``wait`` is reduced to it."""
    max_sync_wait: Annotated[float, Field(ge=0)] = routes.MAX_SYNC_WAIT_S
    """Longest hold of ``/infer_sync``."""
    keep_alive: Annotated[float, Field(gt=0)] = 15.0
    """Time between comments on an idle event stream."""

    default_timeout: Annotated[float, Field(gt=0)] = 600.0
    """Longest run of a job without its own ``timeout``."""
    max_timeout: Annotated[float, Field(gt=0)] = 3600.0
    """Maximum ``timeout``; a longer one is reduced to it."""
    remote_models: RemoteModelSettings = RemoteModelSettings()
    """Models that jobs may name by URL; none by default."""
    queue_timeout: Annotated[float, Field(gt=0)] | None = None
    """Time after which a job that has not started expires. None: never."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 1
    """Maximum number of runs of a job whose worker is lost."""
    webhooks: WebhookSettings = WebhookSettings()
    openai: OpenAISettings = OpenAISettings()
    mcp: McpSettings = McpSettings()
