"""Checks of ``comfysnap doctor``: settings, workflows, node packs, models, secrets."""

from comfysnap_server.doctor.checks import check_modal, check_resources, check_volume, examine
from comfysnap_server.doctor.issue import Level, ProjectIssue
from comfysnap_server.doctor.sources import missing_tables

__all__ = [
    "Level",
    "ProjectIssue",
    "check_modal",
    "check_resources",
    "check_volume",
    "examine",
    "missing_tables",
]
