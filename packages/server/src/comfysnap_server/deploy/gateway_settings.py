"""The gateway's settings on Modal: ``[serve]``, limits of ``[deploy]``, and keys from a secret."""

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from comfysnap_schema.wire import ProjectError
from comfysnap_server.deploy.deployment import Deployment
from comfysnap_server.gateway import GatewaySettings

KEYS_VARIABLE: Final = "COMFYSNAP_KEYS"
"""Variable in the keys secret: JSON object of owner to one or more hashes of API keys."""


def gateway_settings(deployment: Deployment, environment: Mapping[str, str]) -> GatewaySettings:
    """Settings of the gateway function.

    Args:
        deployment: The deployment.
        environment: Environment with the variables of the keys secret.

    Raises:
        ProjectError: ``missing_keys``, ``invalid_keys``, or ``invalid_value`` in ``[serve]``.
    """
    ours = deployment.settings
    given: dict[str, Any] = dict(deployment.project.serve)
    given.pop("local", None)  # only for comfysnap serve
    given["auth"] = ours.auth
    if ours.auth == "keys":
        given["keys"] = _keys(deployment, environment)
    else:
        given.pop("keys", None)
    given["max_attempts"] = ours.max_attempts
    try:
        settings = GatewaySettings.model_validate(given)
    except ValidationError as error:
        found = error.errors()[0]
        field = ".".join(["serve", *(str(part) for part in found["loc"])])
        raise ProjectError(
            "invalid_value", found["msg"], file=str(deployment.file), field=field
        ) from error
    longest = float(ours.timeout)
    if "max_timeout" in settings.model_fields_set:
        longest = min(settings.max_timeout, longest)
    shortest = min(settings.default_timeout, longest)
    return settings.model_copy(update={"max_timeout": longest, "default_timeout": shortest})


def _keys(deployment: Deployment, environment: Mapping[str, str]) -> Any:
    text = environment.get(KEYS_VARIABLE)
    if not text:
        raise ProjectError(
            "missing_keys",
            f"missing variable {KEYS_VARIABLE} in the secret {deployment.keys_secret!r}",
            file=str(deployment.file),
            field="deploy.keys_secret",
        )
    try:
        return json.loads(text)
    except ValueError as error:
        raise ProjectError(
            "invalid_keys",
            f"{KEYS_VARIABLE} is not valid JSON",
            file=str(deployment.file),
            field="deploy.keys_secret",
        ) from error
