"""What ``comfysnap doctor`` finds."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """The deployment, or some job, would fail."""
    WARNING = "warning"
    """It would cost money, time or safety without need."""
    NOTE = "note"
    """Worth knowing."""


@dataclass(frozen=True)
class Symptom:
    """One thing that was found."""

    level: Level
    code: str
    """Stable, for programs: ``model_not_listed``, ``class_not_pinned``, ..."""
    where: str
    """File and key, workflow and node, or setting."""
    message: str
    """What is wrong and what would be right."""

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "level": self.level.value,
            "code": self.code,
            "where": self.where,
            "message": self.message,
        }
