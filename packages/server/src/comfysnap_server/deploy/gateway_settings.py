"""The gateway's settings on Modal: ``[serve]``, and limits of ``[deploy]``."""

from comfysnap_server.deploy.deployment import Deployment
from comfysnap_server.gateway import GatewaySettings
from comfysnap_server.serve_settings import read_serve


def gateway_settings(deployment: Deployment) -> GatewaySettings:
    """Settings of the gateway function, without keys, which are read later; see ``keys``.

    Raises:
        SettingsError: Those of ``read_serve``.
    """
    ours, settings = deployment.settings, read_serve(deployment.project)
    longest = float(deployment.longest_run)
    if "max_timeout" in settings.model_fields_set:
        longest = min(settings.max_timeout, longest)
    held = ours.gateway.max_held
    return settings.model_copy(
        update={
            "max_held": min(settings.max_held or held, held),
            "auth": ours.auth,
            "keys": {},
            "max_attempts": ours.max_attempts,
            "max_timeout": longest,
            "default_timeout": min(settings.default_timeout, longest),
        }
    )
