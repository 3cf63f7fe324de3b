"""Limits of the local backend."""

from dataclasses import dataclass, replace
from typing import Self

from comfysnap_schema.wire import MAX_FILE_BYTES
from comfysnap_server.backends.protocol import NO_BUDGET, OwnerBudget


@dataclass(frozen=True, kw_only=True)
class LocalLimits:
    """Limits of the local backend. Times in seconds."""

    max_queued: int = 1000
    """Maximum number of waiting jobs; further ones are refused with ``queue_full``."""
    max_queued_bytes: int = 1024 * 1024 * 1024
    """Total size of the requests of unfinished jobs, which wait on the disk."""
    max_unfinished_per_owner: int | None = None
    """Queued and running jobs of one owner. None: only ``max_queued`` limits them. With keys: half
    of it by default."""
    max_queued_bytes_per_owner: int | None = None
    """``max_queued_bytes`` for one owner. None: no limit of its own. With keys: half by default."""
    max_stored_bytes_per_owner: int | None = None
    """Uploads, outputs and jobs of one owner. None: unlimited. With keys: 20 GiB by default."""
    max_file_bytes: int = MAX_FILE_BYTES
    """Maximum size of an uploaded file. Default: that of ``[serve]``."""
    keep_free_bytes: int = 256 * 1024 * 1024
    """Free disk space below which uploads are refused, so that accepted jobs can still end."""
    interrupt_grace: float = 10.0
    """Time between an interrupt and killing a worker that ignores it."""
    start_timeout: float = 600.0
    """Time for the engine to load and attach."""
    takeover_patience: float = 15.0
    """Time for the workers of a killed server to end."""
    keep_outputs: float = 7 * 24 * 3600.0
    """Time after a job's end until its output files are deleted (``output_expired``)."""
    keep_inputs: float = 7 * 24 * 3600.0
    """Time since an input file was last stored or used until it is deleted."""
    keep_jobs: float = 30 * 24 * 3600.0
    """Time after a job's end until it is deleted (``unknown_job``)."""
    sweep_interval: float = 600.0
    """Time between two sweeps, which delete what has expired."""

    def within(self, budget: OwnerBudget) -> Self:
        """These limits, with those of an owner replaced by what a key sets."""
        if budget is NO_BUDGET:
            return self
        return replace(
            self,
            max_unfinished_per_owner=budget.max_unfinished_jobs or self.max_unfinished_per_owner,
            max_stored_bytes_per_owner=budget.max_stored_bytes or self.max_stored_bytes_per_owner,
        )
