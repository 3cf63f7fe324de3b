"""The sweep: a function of its own module, because its container must not need what the gateway
needs, such as the keys."""

# modal's stubs leave the types of its decorators partly unknown
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false

import logging
from typing import Final

import modal

from comfysnap_server.deploy.functions.backend import (
    TIMEOUT_S,
    image,
    make_backend,
    output_secrets,
    volumes,
)
from comfysnap_server.deploy.functions.platform import app
from comfysnap_server.deploy.functions.webhooks import deliveries, secrets

log = logging.getLogger(__name__)

SCHEDULE: Final = modal.Cron("*/30 * * * *")
"""By the clock: a period begins anew with each deployment."""


@app.function(
    image=image,
    volumes=volumes,
    secrets=[*secrets, *output_secrets],
    timeout=TIMEOUT_S,
    schedule=SCHEDULE,
    max_containers=1,
)
async def sweep() -> int:
    """Update jobs that nobody polls, send webhooks again, and delete files past their retention."""
    backend = make_backend(patience=60)  # nobody waits
    try:
        deleted = await backend.sweep()
        if secrets:
            await deliveries().sweep()
    finally:
        await backend.stop()
    log.info("swept %d entries", deleted)
    return deleted
