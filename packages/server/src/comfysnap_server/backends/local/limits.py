"""Limits of the local backend."""

from dataclasses import dataclass, replace
from typing import Self

from comfysnap_schema.wire import MAX_FILE_BYTES
from comfysnap_server.backends.protocol import NO_BUDGET, OwnerBudget


@dataclass(frozen=True, kw_only=True)
class LocalLimits:
    """Limits of the local backend. Times in seconds."""

    max_queued: int = 1000
    """Jobs that wait; more are refused with ``queue_full``."""
    max_queued_bytes: int = 1024 * 1024 * 1024
    """Requests of unfinished jobs, which wait on the disk."""
    max_unfinished_per_owner: int | None = None
    """Queued and running jobs of an owner; None: no limit but the common one. With several keys:
    half of ``max_queued`` by default."""
    max_queued_bytes_per_owner: int | None = None
    """Of the same; None: no limit but the common one. With several keys: half of it by default."""
    max_stored_bytes_per_owner: int | None = None
    """Uploads, outputs and jobs of an owner; None: the whole disk. With keys: 20 GiB by default."""
    max_file_bytes: int = MAX_FILE_BYTES
    """Of one uploaded file; by default that of ``[serve]``."""
    keep_free_bytes: int = 256 * 1024 * 1024
    """Of the disk: uploads stop there, so that accepted jobs can still run and end."""
    interrupt_grace: float = 10.0
    """Between an interrupt and the end of a worker that does not heed it."""
    start_timeout: float = 600.0
    """For the engine to load and attach."""
    takeover_patience: float = 15.0
    """For the workers of a server that was killed to be gone."""
    keep_outputs: float = 7 * 24 * 3600.0
    """After the end of a job; then its files are ``output_expired``."""
    keep_inputs: float = 7 * 24 * 3600.0
    """After an input file was last stored or asked for."""
    keep_jobs: float = 30 * 24 * 3600.0
    """After the end of a job; then it is ``unknown_job``."""
    sweep_interval: float = 600.0
    """Between two looks for what is past its time."""

    def within(self, budget: OwnerBudget) -> Self:
        """With what a key sets in place of the limits of owners."""
        if budget is NO_BUDGET:
            return self
        return replace(
            self,
            max_unfinished_per_owner=budget.max_unfinished_jobs or self.max_unfinished_per_owner,
            max_stored_bytes_per_owner=budget.max_stored_bytes or self.max_stored_bytes_per_owner,
        )
