"""What the engine is made with in a container."""

import os

from pydantic import JsonValue

from comfysnap_server.deploy.deployment import Deployment
from comfysnap_server.deploy.settings import COMFYUI_DIR


def engine_options(deployment: Deployment) -> dict[str, JsonValue]:
    """The engine's options from the settings; those of ``engine_options`` there come last."""
    settings = deployment.settings
    if settings.engine != "comfyui":
        return dict(settings.engine_options)
    options: dict[str, JsonValue] = {
        "path": os.environ.get("COMFYUI_PATH", COMFYUI_DIR),
        "preload": list(settings.preload),
        "after_restore": list(settings.after_restore),
        "mask_cuda": settings.snapshot == "cpu",
        "device": "cuda" if settings.gpus else None,
        "api_nodes": settings.api_key_secret is not None,
    }
    if settings.extra_model_paths is not None:
        options["extra_model_paths"] = [deployment.in_container(settings.extra_model_paths)]
    return options | settings.engine_options
