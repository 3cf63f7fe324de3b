"""``[deploy]`` of ``comfysnap.toml``, and what it makes on Modal."""

from comfysnap_server.deploy.deployment import Deployment, SettingsError, read_deployment
from comfysnap_server.deploy.engine_options import engine_options
from comfysnap_server.deploy.image import build_image, comfyui_commit, notice, read_nodes
from comfysnap_server.deploy.modal_session import modal_session, point_at
from comfysnap_server.deploy.plan import plan_lines
from comfysnap_server.deploy.settings import FILES_DIR, MAX_TIMEOUT, MODELS_DIR, DeploySettings

__all__ = [
    "FILES_DIR",
    "MAX_TIMEOUT",
    "MODELS_DIR",
    "DeploySettings",
    "Deployment",
    "SettingsError",
    "build_image",
    "comfyui_commit",
    "engine_options",
    "modal_session",
    "notice",
    "plan_lines",
    "point_at",
    "read_deployment",
    "read_nodes",
]
