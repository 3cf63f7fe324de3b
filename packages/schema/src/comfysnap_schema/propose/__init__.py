"""Proposes an input map for a graph, and writes and updates workflow folders."""

from comfysnap_schema.propose.folder import SNAPSHOT_FILE, Scaffold, write_workflow
from comfysnap_schema.propose.proposal import Proposal, propose
from comfysnap_schema.propose.sources import place_of, snapshot, tables_text, tables_to_add
from comfysnap_schema.propose.update import Update, plan_update

__all__ = [
    "SNAPSHOT_FILE",
    "Proposal",
    "Scaffold",
    "Update",
    "place_of",
    "plan_update",
    "propose",
    "snapshot",
    "tables_text",
    "tables_to_add",
    "write_workflow",
]
