"""Proposes an input map for a graph, and writes it as a new workflow folder."""

from comfysnap_schema.propose.folder import Scaffold, write_workflow
from comfysnap_schema.propose.proposal import Proposal, propose

__all__ = [
    "Proposal",
    "Scaffold",
    "propose",
    "write_workflow",
]
