"""Numbers of containers: of ``[deploy]`` itself, and ``[deploy.gateway]``."""

from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from comfysnap_schema.workflow import setting_error
from comfysnap_server.deploy.settings.values import Cores, Mebibytes


class Scaling(BaseModel, frozen=True, extra="forbid"):
    """Number of containers."""

    min_containers: Annotated[int, Field(ge=0)] = 0
    """Containers that always run, and cost money without any job."""
    max_containers: Annotated[int, Field(ge=1)] = 4
    """Containers that may run at once."""
    buffer_containers: Annotated[int, Field(ge=0)] = 0
    """Idle containers kept in reserve while others are busy."""
    scaledown_window: Annotated[int, Field(ge=2, le=3600)] = 60
    """Seconds until an idle container is stopped."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        self.check_range()
        return self

    def check_range(self) -> None:
        """Raise a setting error if more containers always run than may run."""
        if self.min_containers > self.max_containers:
            raise setting_error(
                "invalid_range",
                f"min_containers ({self.min_containers}) must not exceed "
                f"max_containers ({self.max_containers})",
            )


class GatewayScaling(Scaling, frozen=True, extra="forbid"):
    """``[deploy.gateway]``: the function on CPU with the HTTP API."""

    cpu: Cores = 0.25
    """Cores, or ``[request, limit]``."""
    memory: Mebibytes = 512
    """MiB, or ``[request, limit]``. A container may use more; Modal charges for what it uses."""
    max_inputs: Annotated[int, Field(ge=1, le=1000)] = 100
    """Concurrent requests of a container; each client that waits for a job is one."""
    snapshot: bool = True
    """Whether the gateway starts from a memory snapshot."""
    custom_domains: list[str] = Field(default_factory=list)
    """Your own domains for the gateway; set them up in Modal first."""

    @property
    def target_inputs(self) -> int:
        """Requests with which Modal starts another container; one takes more only for a while."""
        return min(self.max_inputs, max(2, self.max_inputs * 4 // 5))

    @property
    def max_held(self) -> int:
        """How many of them may wait for jobs; the others are reserved for submits and cancels."""
        return max(1, self.target_inputs * 3 // 4)
