"""Sending webhooks: a function on CPU, so that no GPU container waits for a slow receiver."""

# modal's stubs leave the types of its decorators partly unknown
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false

import os
from functools import cache
from typing import Final

import modal

from comfysnap_server.backends.modal import WebhookDeliveries
from comfysnap_server.deploy.functions.backend import image, make_backend, volumes
from comfysnap_server.deploy.functions.platform import app, deployment, make_webhook_records
from comfysnap_server.jobs import SECRET_VARIABLE, WebhookSender, webhook_keys

TIMEOUT_S: Final = 120
secrets: Final = (
    [modal.Secret.from_name(deployment.webhook_secret)] if deployment.webhook_secret else []
)


@cache
def deliveries() -> WebhookDeliveries:
    """Those of this container."""
    from comfysnap_server.deploy.gateway_settings import gateway_settings

    keys = webhook_keys(os.environ.get(SECRET_VARIABLE))
    sender = WebhookSender(gateway_settings(deployment).webhooks, keys)
    return WebhookDeliveries(make_webhook_records(), make_backend(patience=60), sender)


if deployment.webhook_secret:

    @app.function(
        image=image, volumes=volumes, secrets=secrets, timeout=TIMEOUT_S, max_containers=4
    )
    @modal.concurrent(max_inputs=100)
    async def deliver(job_id: str) -> None:
        """Send the webhook of a job that has ended; see ``WebhookDeliveries.deliver``."""
        await deliveries().deliver(job_id)
