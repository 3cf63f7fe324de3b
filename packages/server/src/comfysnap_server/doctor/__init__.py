"""Checks of ``comfysnap doctor``: settings, workflows, node packs, models, secrets."""

from comfysnap_server.doctor.checks import check_modal, check_resources, check_volume, examine
from comfysnap_server.doctor.fixes import Fixes, collect_fixes
from comfysnap_server.doctor.issue import Level, ProjectIssue

__all__ = [
    "Fixes",
    "Level",
    "ProjectIssue",
    "check_modal",
    "check_resources",
    "check_volume",
    "collect_fixes",
    "examine",
]
