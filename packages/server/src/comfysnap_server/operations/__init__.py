"""What an operator does with a deployment on Modal. Its modules import ``modal``."""

from comfysnap_server.operations.chart import draw_starts
from comfysnap_server.operations.deployed import (
    DeployedApp,
    PoolState,
    delete_objects,
    find_deployed,
    object_names,
)
from comfysnap_server.operations.measure import (
    MODAL_URL,
    Estimate,
    baseline,
    estimate,
    make_request,
    measure_starts,
    server_url,
)
from comfysnap_server.operations.starts import (
    PHASES,
    PhaseSeconds,
    Sample,
    median_job_seconds,
    summarize,
    summarize_samples,
)

__all__ = [
    "MODAL_URL",
    "PHASES",
    "DeployedApp",
    "Estimate",
    "PhaseSeconds",
    "PoolState",
    "Sample",
    "baseline",
    "delete_objects",
    "draw_starts",
    "estimate",
    "find_deployed",
    "make_request",
    "measure_starts",
    "median_job_seconds",
    "object_names",
    "server_url",
    "summarize",
    "summarize_samples",
]
