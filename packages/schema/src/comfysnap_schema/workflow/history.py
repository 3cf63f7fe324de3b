"""``contracts.json``: the contract as last generated, and earlier ones that are compatible."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from comfysnap_schema.wire import WorkflowError
from comfysnap_schema.workflow.contract import Contract, JsonSchema, bare, hash_of
from comfysnap_schema.workflow.diff import compare

CONTRACTS_FILE = "contracts.json"

_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class _File(BaseModel, frozen=True, extra="forbid"):
    hash: _Hash
    compatible: tuple[_Hash, ...]
    input: JsonSchema
    output: JsonSchema


@dataclass(frozen=True)
class History:
    """A contract, and the hashes of earlier ones whose callers it does not break."""

    contract: Contract
    compatible: tuple[str, ...] = ()
    """Newest first, without the hash of the contract itself."""

    @property
    def accepted(self) -> frozenset[str]:
        """Every hash that a caller may send."""
        return frozenset((self.contract.hash, *self.compatible))

    def advance(self, contract: Contract) -> "History":
        """The history with ``contract`` as the current one; a breaking change starts a new one."""
        if contract.hash == self.contract.hash:
            return History(contract, self.compatible)
        if any(change.breaking for change in compare(self.contract, contract)):
            return History(contract)
        return History(contract, (self.contract.hash, *self.compatible))

    def dumps(self) -> str:
        """The text of a ``contracts.json``; equal histories give equal bytes."""
        record = {
            "hash": self.contract.hash,
            "compatible": list(self.compatible),
            "input": bare(self.contract.input_schema),
            "output": bare(self.contract.output_schema),
        }
        return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_history(path: Path) -> History | None:
    """Read a ``contracts.json``; None when it does not exist.

    Raises:
        WorkflowError: ``unreadable``, ``invalid_contracts`` (edited by hand, or damaged).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise WorkflowError("unreadable", str(error), file=str(path)) from error
    try:
        record = _File.model_validate_json(text)
        found = hash_of(record.input, record.output)
    except (ValidationError, ValueError) as error:
        raise _invalid(path) from error
    if found != record.hash:
        raise _invalid(path)
    return History(Contract(record.input, record.output, record.hash), record.compatible)


def _invalid(path: Path) -> WorkflowError:
    return WorkflowError(
        "invalid_contracts",
        "not as `comfysnap generate` wrote it; restore it from version control, or delete it"
        " (callers of earlier contracts are then rejected)",
        file=str(path),
    )
