"""The HTTP API; it knows only ``backends.protocol.Backend``."""

from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.auth import Keys, hash_key, new_key
from comfysnap_server.gateway.capacity import raise_descriptor_limit
from comfysnap_server.gateway.metrics import Metrics
from comfysnap_server.gateway.output_links import LinkedBackend
from comfysnap_server.gateway.serving import GatewayServer
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.gateway.submit import new_job_id

__all__ = [
    "GatewayServer",
    "GatewaySettings",
    "Keys",
    "LinkedBackend",
    "Metrics",
    "create_app",
    "hash_key",
    "new_job_id",
    "new_key",
    "raise_descriptor_limit",
]
