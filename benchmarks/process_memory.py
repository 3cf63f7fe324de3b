"""Peak memory of this process."""

import resource
from pathlib import Path


def peak_mb() -> float:
    """Maximum resident memory so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss starts with that of the parent
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
