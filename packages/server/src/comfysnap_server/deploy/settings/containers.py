"""What containers of a GPU class are made of, in ``[deploy]`` and in ``[deploy.pools.NAME]``."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from comfysnap_server import pins
from comfysnap_server.deploy.settings.scaling import Scaling
from comfysnap_server.deploy.settings.values import (
    Commit,
    Cores,
    Gpus,
    Mebibytes,
    ModelPaths,
    Names,
    Package,
    Version,
    WebAddress,
)

MAX_TIMEOUT: Final = 24 * 3600
"""Seconds; Modal's limit."""
STOP_MARGIN_S: Final = 120
"""Seconds that Modal's timeout is longer than a job's, to end containers that hang."""


class WorkerSettings(Scaling, frozen=True, extra="forbid"):
    """The keys that a pool may set too."""

    gpu: Gpus = Field(default_factory=lambda: ["L40S"])
    """One GPU type, or several in order of preference; ``H100:2`` for two GPUs."""
    cpu: Cores = 2.0
    """Cores, or ``[request, limit]``."""
    memory: Mebibytes = 16384
    """MiB, or ``[request, limit]``."""
    ephemeral_disk: Annotated[int, Field(gt=0, le=3_145_728)] | None = None
    """MiB. None: Modal's default."""
    region: Names = Field(default_factory=list[str])
    """Modal's regions (``us``, ``eu-west``). Empty: any region, which is cheapest."""
    cloud: str | None = None
    """One of Modal's cloud providers (``aws``, ``gcp``, ``oci``). None: any."""
    timeout: Annotated[int, Field(ge=10, le=MAX_TIMEOUT)] = 1800
    """Seconds; maximum run time of a job, and of the timeout it may ask for."""
    startup_timeout: Annotated[int, Field(ge=10, le=MAX_TIMEOUT)] = 900
    """Seconds to load ComfyUI, warm up and preload."""
    engine_options: dict[str, Any] = Field(default_factory=dict)
    """Other options of the engine, for example ``arguments = ["--fast"]`` for ComfyUI."""

    snapshot: Literal["cpu", "gpu", "off"] = "cpu"
    """Memory snapshot: without GPU state, with it (alpha at Modal), or none."""
    preload: ModelPaths = Field(default_factory=list[str])
    """Model files, as ``folder/file`` inside models/, whose weights are in the snapshot."""
    after_restore: list[str] = Field(default_factory=list)
    """Node packs (folders in custom_nodes) that are loaded after a restore, not before."""
    read_ahead: Literal["auto", "on", "off"] = "auto"
    """Whether several streams read a job's model files while ComfyUI loads them: ``auto`` where one
    stream is slow and the files are not on a local disk."""
    read_ahead_libraries: Literal["auto", "on", "off"] = "auto"
    """Whether the library pages that a job touches are found before the snapshot, and read with
    several streams after a restore. Needs a kernel with page maps, which gVisor lacks."""
    warm_up: str | None = None
    """Workflow to run once: before a GPU snapshot, else in each container that starts and has no
    job for 2 s. A job that comes then stops it."""

    comfyui: Commit | None = None
    """A version (``0.33.0``) or a full commit; stored as a commit. None: that of the node snapshot,
    else the default in ``pins``."""
    comfyui_repository: WebAddress = pins.REPOSITORY
    """Repository that ComfyUI is cloned from; change it to use a fork."""
    python: Literal["3.11", "3.12", "3.13"] = "3.11"
    """Version of Python in the image."""
    torch: Version = pins.TORCH
    """Version of torch. The lock is only used for the default."""
    cuda: Version = pins.CUDA
    """Version of CUDA. The lock is only used for the default."""
    pip: list[Package] = Field(default_factory=list)
    """Additional Python packages, as requirements (``sageattention==2.2.0``)."""
    apt: list[Package] = Field(default_factory=list)
    """Additional Debian packages."""
    nodes: Path | None = None
    """ComfyUI-Manager's ``snapshot.json``, relative to ``comfysnap.toml``."""
    extra_model_paths: Path | None = None
    """An ``extra_model_paths.yaml``, relative to ``comfysnap.toml``."""

    @property
    def longest_run(self) -> int:
        """Seconds that a job may run: ``timeout``, and less where Modal's own limit is near."""
        return min(self.timeout, MAX_TIMEOUT - STOP_MARGIN_S)
