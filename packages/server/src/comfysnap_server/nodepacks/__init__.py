"""Node packs of a ComfyUI-Manager snapshot. Needs only the standard library and packaging."""

from comfysnap_server.nodepacks.fetch import Sources
from comfysnap_server.nodepacks.install import InstallError, install_snapshot, print_report
from comfysnap_server.nodepacks.manifest import (
    NodeSnapshot,
    SnapshotError,
    complete_commits,
    read_snapshot,
)

__all__ = [
    "InstallError",
    "NodeSnapshot",
    "SnapshotError",
    "Sources",
    "complete_commits",
    "install_snapshot",
    "print_report",
    "read_snapshot",
]
