"""Typed modules from workflows, through datamodel-code-generator."""

from comfysnap_schema.codegen.drift import (
    find_contract_drift,
    find_drift,
    package_of,
    write,
    write_contracts,
)
from comfysnap_schema.codegen.emit import generate

__all__ = [
    "find_contract_drift",
    "find_drift",
    "generate",
    "package_of",
    "write",
    "write_contracts",
]
