"""The gateway's settings on Modal: ``[serve]``, limits of ``[deploy]``, and keys from a secret."""

import json
from collections.abc import Mapping
from typing import Any, Final

from comfysnap_schema.wire import ProjectError
from comfysnap_server.deploy.deployment import Deployment
from comfysnap_server.gateway import GatewaySettings
from comfysnap_server.serve_settings import read_serve

KEYS_VARIABLE: Final = "COMFYSNAP_KEYS"
"""Variable in the keys secret: JSON object of owner to one or more hashes of API keys."""


def gateway_settings(deployment: Deployment, environment: Mapping[str, str]) -> GatewaySettings:
    """Settings of the gateway function.

    Args:
        deployment: The deployment.
        environment: Environment with the variables of the keys secret.

    Raises:
        ProjectError: ``missing_keys``, ``invalid_keys``.
        SettingsError: Those of ``read_serve``.
    """
    ours, settings = deployment.settings, read_serve(deployment.project)
    longest = float(ours.timeout)
    if "max_timeout" in settings.model_fields_set:
        longest = min(settings.max_timeout, longest)
    held = ours.gateway.max_held
    return settings.model_copy(
        update={
            "max_held": min(settings.max_held or held, held),
            "auth": ours.auth,
            "keys": _keys(deployment, environment) if ours.auth == "keys" else {},
            "max_attempts": ours.max_attempts,
            "max_timeout": longest,
            "default_timeout": min(settings.default_timeout, longest),
        }
    )


def _keys(deployment: Deployment, environment: Mapping[str, str]) -> Any:
    where = {"file": str(deployment.file), "field": "deploy.keys_secret"}
    text = environment.get(KEYS_VARIABLE)
    if not text:
        message = f"missing variable {KEYS_VARIABLE} in the secret {deployment.keys_secret!r}"
        raise ProjectError("missing_keys", message, **where)
    try:
        return GatewaySettings(keys=json.loads(text)).keys
    except ValueError as error:  # not JSON, or not valid
        message = f"{KEYS_VARIABLE} must be a JSON object of owner to the hash of a key"
        raise ProjectError("invalid_keys", message, **where) from error
