"""An issue that ``comfysnap doctor`` found. Every check imports this module."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self


class Level(StrEnum):
    """Severity of an issue."""

    ERROR = "error"
    """The deployment or some of its jobs would fail."""
    WARNING = "warning"
    """It wastes money or time, or is unsafe."""
    NOTE = "note"
    """Good to know."""


@dataclass(frozen=True)
class ProjectIssue:
    """Something that is wrong or deserves attention."""

    level: Level
    code: str
    """Stable, for programs: ``model_not_listed``, ``class_not_pinned``, ..."""
    where: str
    """File and key, workflow and node, or setting."""
    message: str
    """What is wrong, then what to do."""
    fix: str = ""
    """What to paste: TOML for ``comfysnap.toml`` with its table, or a command. Empty: unknown."""

    @classmethod
    def error(cls, code: str, where: str, message: str, fix: str = "") -> Self:
        """An issue of level ``error``."""
        return cls(Level.ERROR, code, where, message, fix)

    @classmethod
    def warning(cls, code: str, where: str, message: str, fix: str = "") -> Self:
        """An issue of level ``warning``."""
        return cls(Level.WARNING, code, where, message, fix)

    @classmethod
    def note(cls, code: str, where: str, message: str, fix: str = "") -> Self:
        """An issue of level ``note``."""
        return cls(Level.NOTE, code, where, message, fix)

    def as_json(self) -> dict[str, str]:
        """One element of ``comfysnap doctor --json``."""
        return asdict(self)
