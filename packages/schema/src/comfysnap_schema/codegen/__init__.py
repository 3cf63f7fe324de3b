"""Typed modules from workflows, through datamodel-code-generator."""

from comfysnap_schema.codegen.emit import generate
from comfysnap_schema.codegen.folder import (
    find_outdated,
    find_outdated_contracts,
    package_of,
    write,
    write_contracts,
)

__all__ = [
    "find_outdated",
    "find_outdated_contracts",
    "generate",
    "package_of",
    "write",
    "write_contracts",
]
