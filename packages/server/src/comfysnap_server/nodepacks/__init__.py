"""Node packs of a ComfyUI-Manager snapshot. Needs only the standard library and packaging."""

from comfysnap_server.nodepacks.install import PackInstallError, install_packs, print_report
from comfysnap_server.nodepacks.manifest import (
    NodeManifest,
    PackManifestError,
    complete_commits,
    read_manifest,
)
from comfysnap_server.nodepacks.probe import Probe, ProbeError, run_probe
from comfysnap_server.nodepacks.sources import Sources

__all__ = [
    "NodeManifest",
    "PackInstallError",
    "PackManifestError",
    "Probe",
    "ProbeError",
    "Sources",
    "complete_commits",
    "install_packs",
    "print_report",
    "read_manifest",
    "run_probe",
]
