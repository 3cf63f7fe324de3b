"""What an operator does with a deployment on Modal. Its modules import ``modal``."""

from comfysnap_server.operations.deployed import (
    DeployedApp,
    PoolState,
    delete_objects,
    find_deployed,
    object_names,
)
from comfysnap_server.operations.starts import (
    PHASES,
    PhaseSeconds,
    median_job_seconds,
    seconds_of,
    summarize,
)

__all__ = [
    "PHASES",
    "DeployedApp",
    "PhaseSeconds",
    "PoolState",
    "delete_objects",
    "find_deployed",
    "median_job_seconds",
    "object_names",
    "seconds_of",
    "summarize",
]
