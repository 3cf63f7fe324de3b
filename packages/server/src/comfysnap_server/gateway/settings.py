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
    """Names of models that programs ask for, to the workflows that stand in for them:
    ``{"gpt-image-1" = "flux"}``. Workflows have their own names besides."""


class McpSettings(BaseModel, frozen=True, extra="forbid"):
    """``[serve.mcp]``: workflows as tools of the Model Context Protocol at ``/mcp``."""

    enabled: bool | None = None
    """None: where the package ``mcp`` is installed, which is imported when it is first used. A
    deployment needs true, which installs it; the server then imports it when it starts."""
    max_wait: Annotated[float, Field(gt=0, le=routes.MAX_SYNC_WAIT_S)] = 45.0
    """Seconds that a call waits for its job; many hosts give a call up after 60 s."""


class GatewaySettings(BaseModel, frozen=True, extra="forbid"):
    """What the gateway allows. Sizes in bytes, times in seconds."""

    auth: AuthMode = "none"
    """``none``: one owner, ``local``. ``keys``: bearer keys, an owner each. ``proxy``: something
    in front (Modal's proxy auth) already checked; one owner, ``proxy``."""
    keys: dict[str, KeyHash | list[KeyHash]] = Field(default_factory=dict)
    """Owner to the SHA-256 of the owner's keys, which have the default scopes. ``comfysnap keys``
    keeps others in a file beside the jobs, with scopes and budgets."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Of each key that names no other number, or of each owner without keys, in each process of the
    server; after a pause those of 5 s, at least 20, may come at once. None: any number."""
    hosts: tuple[str, ...] = ()
    """Accepted names in the ``Host`` header; empty: any. Without auth this is what keeps a web
    page from reaching a server on the reader's own machine."""
    origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    """Origins of web pages that may call from a browser (CORS), as ``https://app.example.com``."""

    log_format: LogFormat = "text"
    """How log lines look: ``text``, or ``json``, an object a line."""
    max_body_bytes: Annotated[int, Field(gt=0)] = routes.MAX_BODY_BYTES
    """Of a JSON body, inline files included."""
    body_timeout: Annotated[float, Field(gt=0)] = 60.0
    """For the whole JSON body to come, and for the silences of an upload."""
    min_upload_rate: Annotated[float, Field(gt=0)] = 16 * 1024
    """Bytes per second: an upload that is slower for ``body_timeout`` seconds is refused."""
    max_file_bytes: Annotated[int, Field(gt=0)] = routes.MAX_FILE_BYTES
    """Of one uploaded file."""
    max_waits: Annotated[int, Field(gt=0)] = 2000
    """Requests of one owner that may be held open at once: waits, event streams, infer_sync. Fewer
    where the system lets the server open only few files."""
    max_held: Annotated[int, Field(gt=0)] | None = None
    """Requests of all owners that are held open at once; above it the longest held is answered
    early. None: any number, and on Modal three fifths of
    ``deploy.gateway.max_inputs``."""
    max_wait: Annotated[float, Field(ge=0)] = routes.MAX_WAIT_S
    """Longest hold of ``/check_status``; a longer ``wait`` is cut to it."""
    max_sync_wait: Annotated[float, Field(ge=0)] = routes.MAX_SYNC_WAIT_S
    """Longest hold of ``/infer_sync``."""
    keep_alive: Annotated[float, Field(gt=0)] = 15.0
    """Between comments on a silent event stream."""

    default_timeout: Annotated[float, Field(gt=0)] = 600.0
    """Longest run of a job that names no ``timeout``."""
    max_timeout: Annotated[float, Field(gt=0)] = 3600.0
    """A longer ``timeout`` is cut to it."""
    remote_models: RemoteModelSettings = RemoteModelSettings()
    """Models that jobs may name by URL; none by default."""
    queue_timeout: Annotated[float, Field(gt=0)] | None = None
    """After which a job that did not start expires; None: never."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 1
    """How often a job is run whose worker is lost."""
    webhooks: WebhookSettings = WebhookSettings()
    openai: OpenAISettings = OpenAISettings()
    mcp: McpSettings = McpSettings()
