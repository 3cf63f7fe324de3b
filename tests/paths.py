"""Where things lie in this repository."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
WORKFLOWS: Final = ROOT / "workflows"
