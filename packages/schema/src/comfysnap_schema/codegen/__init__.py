"""Typed modules from workflows: Python through datamodel-code-generator, and TypeScript."""

from comfysnap_schema.codegen.emit import generate
from comfysnap_schema.codegen.folder import (
    Outdated,
    find_outdated,
    find_outdated_contracts,
    package_of,
    write,
    write_contracts,
)
from comfysnap_schema.codegen.typescript import (
    find_outdated_typescript,
    generate_typescript,
    write_typescript,
)

__all__ = [
    "Outdated",
    "find_outdated",
    "find_outdated_contracts",
    "find_outdated_typescript",
    "generate",
    "generate_typescript",
    "package_of",
    "write",
    "write_contracts",
    "write_typescript",
]
