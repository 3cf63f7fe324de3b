"""The gateway: a function on CPU, without ComfyUI."""

# modal's stubs leave the types of its decorators partly unknown
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false

import logging
import os
from importlib import import_module
from typing import Any, Final

import modal

from comfysnap_server.deploy.functions.backend import (
    TIMEOUT_S,
    image,
    make_backend,
    output_secrets,
    outputs,
    volumes,
)
from comfysnap_server.deploy.functions.platform import (
    app,
    deployment,
    make_keys,
    resolving,
    settings,
)
from comfysnap_server.deploy.gateway_settings import gateway_settings
from comfysnap_server.deploy.keys import (
    KEYS_VARIABLE,
    DeployedKeys,
    SharedLinkKey,
    read_secret,
)
from comfysnap_server.gateway import Keys

log = logging.getLogger(__name__)

secrets: Final = [modal.Secret.from_name(deployment.keys_secret)] if deployment.keys_secret else []


def make_api() -> Any:
    """The ASGI app."""
    from comfysnap_server.gateway import LinkedBackend, create_app

    backend = make_backend(patience=10)
    return create_app(
        backend if outputs is None else LinkedBackend(backend, outputs),
        deployment.workflows,
        gateway_settings(deployment),
        default=deployment.project.default,
        keys=keys,
        link_key=SharedLinkKey(make_keys),
    )


keys: Final = Keys() if settings.auth == "keys" else None
"""Filled after the restore: nothing of a secret may lie in a snapshot."""
api: Final = None if modal.is_local() else make_api()
"""Built at import, so that it is in the snapshot: loading FastAPI takes longer than a restore."""


@app.function(
    image=image,
    cpu=settings.gateway.cpu,
    memory=settings.gateway.memory,
    region=settings.region or None,
    volumes=volumes,
    secrets=[*secrets, *output_secrets],
    timeout=TIMEOUT_S,
    min_containers=settings.gateway.min_containers,
    max_containers=settings.gateway.max_containers,
    buffer_containers=settings.gateway.buffer_containers,
    scaledown_window=settings.gateway.scaledown_window,
    enable_memory_snapshot=settings.gateway.snapshot,
)
@modal.concurrent(
    max_inputs=settings.gateway.max_inputs, target_inputs=settings.gateway.target_inputs
)
@modal.asgi_app(
    requires_proxy_auth=settings.auth == "proxy",
    custom_domains=settings.gateway.custom_domains or None,
)
def gateway() -> Any:
    """The HTTP API; called after a restore, with the secrets as they are then."""
    with resolving():
        app = _with_keys()
    log.info("gateway started: %d workflows", len(deployment.workflows))
    return app


def _with_keys() -> Any:
    if keys is None:
        return api
    start = read_secret(os.environ.get(KEYS_VARIABLE), deployment.keys_secret)
    return DeployedKeys(api, keys, make_keys(), start)


if not modal.is_local():
    import_module("aiohttp")  # else Modal's web wrapper imports it after the restore, for 0.3 s
