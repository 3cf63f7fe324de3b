"""``[deploy]`` of ``comfysnap.toml``, and what it becomes on Modal."""

from comfysnap_server.deploy.deployment import (
    BASELINE_VARIABLE,
    PROJECT_VARIABLE,
    Deployment,
    engine_options,
    make_deployment,
    pool_of_class,
    read_chosen_project,
    read_deployment,
    select_project,
)
from comfysnap_server.deploy.image import build_image, comfyui_commit, notice, read_nodes
from comfysnap_server.deploy.plan import plan_lines
from comfysnap_server.deploy.prices import (
    EXAMPLE_JOB_S,
    PRICES_OF,
    SOURCE,
    Rate,
    dollars,
    gateway_rate,
    worker_rate,
)
from comfysnap_server.deploy.settings import (
    DEFAULT_POOL,
    FILES_DIR,
    MAX_TIMEOUT,
    MODELS_DIR,
    DeploySettings,
)

__all__ = [
    "BASELINE_VARIABLE",
    "DEFAULT_POOL",
    "EXAMPLE_JOB_S",
    "FILES_DIR",
    "MAX_TIMEOUT",
    "MODELS_DIR",
    "PRICES_OF",
    "PROJECT_VARIABLE",
    "SOURCE",
    "DeploySettings",
    "Deployment",
    "Rate",
    "build_image",
    "comfyui_commit",
    "dollars",
    "engine_options",
    "gateway_rate",
    "make_deployment",
    "notice",
    "plan_lines",
    "pool_of_class",
    "read_chosen_project",
    "read_deployment",
    "read_nodes",
    "select_project",
    "worker_rate",
]
