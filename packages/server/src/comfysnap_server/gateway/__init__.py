"""The HTTP API; it knows only ``backends.protocol.Backend``."""

from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.capacity import raise_descriptor_limit
from comfysnap_server.gateway.key_file import KEYS_FILE, KeyFile, WatchedKeys
from comfysnap_server.gateway.keys import (
    KEY_NAME,
    KeyRecord,
    Keys,
    KeyStore,
    KeyStoreError,
    KeyTable,
    hash_key,
    new_key,
    records_of,
)
from comfysnap_server.gateway.links import (
    LINK_KEY_FILE,
    LinkKeyFile,
    new_link_key,
    parse_link_key,
)
from comfysnap_server.gateway.metrics import Metrics
from comfysnap_server.gateway.output_links import LinkedBackend
from comfysnap_server.gateway.serving import GatewayServer
from comfysnap_server.gateway.settings import AuthMode, GatewaySettings
from comfysnap_server.gateway.submit import new_job_id

__all__ = [
    "KEYS_FILE",
    "KEY_NAME",
    "LINK_KEY_FILE",
    "AuthMode",
    "GatewayServer",
    "GatewaySettings",
    "KeyFile",
    "KeyRecord",
    "KeyStore",
    "KeyStoreError",
    "KeyTable",
    "Keys",
    "LinkKeyFile",
    "LinkedBackend",
    "Metrics",
    "WatchedKeys",
    "create_app",
    "hash_key",
    "new_job_id",
    "new_key",
    "new_link_key",
    "parse_link_key",
    "raise_descriptor_limit",
    "records_of",
]
