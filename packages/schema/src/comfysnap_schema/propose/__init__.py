"""Proposes an input map for a graph, and writes it as a new workflow folder."""

from comfysnap_schema.propose.folder import SNAPSHOT_FILE, Scaffold, write_workflow
from comfysnap_schema.propose.proposal import Proposal, propose
from comfysnap_schema.propose.sources import snapshot, tables_text, tables_to_add

__all__ = [
    "SNAPSHOT_FILE",
    "Proposal",
    "Scaffold",
    "propose",
    "snapshot",
    "tables_text",
    "tables_to_add",
    "write_workflow",
]
