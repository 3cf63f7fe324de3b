"""The input map that a person would have written."""

from comfysnap_schema.propose.folder import Scaffold, write_workflow
from comfysnap_schema.propose.proposal import Proposal, propose

__all__ = [
    "Proposal",
    "Scaffold",
    "propose",
    "write_workflow",
]
