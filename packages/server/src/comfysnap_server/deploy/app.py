"""The Modal app of a deployment, for ``modal deploy -m comfysnap_server.deploy.app``."""

# modal's stubs leave the type of a function partly unknown
# pyright: reportUnknownVariableType=false

from comfysnap_server.deploy.functions import remote_models
from comfysnap_server.deploy.functions.gateway import gateway
from comfysnap_server.deploy.functions.platform import app
from comfysnap_server.deploy.functions.sweep import sweep  # and with it ``deliver``
from comfysnap_server.deploy.functions.worker import workers

__all__ = ["app", "gateway", "remote_models", "sweep", "workers"]
