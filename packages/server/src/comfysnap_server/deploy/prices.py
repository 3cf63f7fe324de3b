"""What Modal charges, as a dated table: a deployment's cost at rest, of an idle tail, of a job.

Prices are dollars a second, without taxes, credits and plans. A choice of `region` multiplies them
by 1.5 to 1.75 on Modal, which is not counted here.
"""

from dataclasses import dataclass
from typing import Final

from comfysnap_server.deploy.deployment import Deployment

PRICES_OF: Final = "2026-08-19"
"""Date of the prices; look at ``SOURCE`` for those of today."""
SOURCE: Final = "https://modal.com/pricing"
"""Read through third parties that quote it; T4 is of 2026-05-07."""
CORE: Final = 0.0000131
GIB: Final = 0.00000222
GPUS: Final[dict[str, float]] = {
    "T4": 0.000164,
    "L4": 0.000222,
    "A10": 0.000306,
    "L40S": 0.000542,
    "A100-40GB": 0.000583,
    "A100-80GB": 0.000694,
    "H100": 0.001097,
    "H200": 0.001261,
    "B200": 0.001736,
}
_SAME: Final = {"A10G": "A10", "A100": "A100-40GB", "H100!": "H100", "B200+": "B200"}
EXAMPLE_JOB_S: Final = 10.0


@dataclass(frozen=True)
class Rate:
    """Cost of the containers of one function."""

    second: float
    """Dollars a second of one container."""
    min_containers: int
    scaledown_window: float
    """Seconds of the idle tail."""

    @property
    def at_rest(self) -> float:
        """Dollars an hour without any job."""
        return self.of(3600) * self.min_containers

    @property
    def tail(self) -> float:
        """Dollars of the idle time after the last job; those that always run have none."""
        return 0.0 if self.min_containers else self.of(self.scaledown_window)

    def of(self, seconds: float) -> float:
        """Dollars of one container for so long."""
        return self.second * seconds


def worker_rate(pool: Deployment) -> Rate | None:
    """The GPU class of a pool, on the GPU that it prefers; None if its price is not known."""
    settings = pool.settings
    gpu = 0.0
    if settings.gpus:
        name, _, count = settings.gpus[0].partition(":")
        price = GPUS.get(_SAME.get(name, name))
        if price is None:
            return None
        gpu = price * int(count or 1)
    second = gpu + _second(settings.cpu, settings.memory)
    return Rate(second, settings.min_containers, settings.scaledown_window)


def gateway_rate(deployment: Deployment) -> Rate:
    """The gateway."""
    gateway = deployment.settings.gateway
    second = _second(gateway.cpu, gateway.memory)
    return Rate(second, gateway.min_containers, gateway.scaledown_window)


def _second(cpu: float | tuple[float, float], memory: int | tuple[int, int]) -> float:
    """Of what is requested, which is paid for when less is used."""
    cores = cpu[0] if isinstance(cpu, tuple) else cpu
    mebibytes = memory[0] if isinstance(memory, tuple) else memory
    return cores * CORE + mebibytes / 1024 * GIB


def dollars(amount: float) -> str:
    """An amount with two significant digits or more: ``$2.07``, ``$0.0054``."""
    if amount == 0:
        return "$0"
    return f"${amount:.2f}" if amount >= 0.1 else f"${amount:.2g}"
