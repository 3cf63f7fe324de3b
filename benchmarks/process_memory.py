"""How much memory this process has held."""

import resource
from pathlib import Path


def peak_mb() -> float:
    """The highest resident memory so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would begin with the parent's on Linux
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
