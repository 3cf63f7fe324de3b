"""Re-exports ``tree_recent_execution.py``."""

from tree_executor import PromptQueue
from tree_recent_execution import (
    CacheSet,
    CacheType,
    PromptExecutor,
    set_preview_method,
    validate_prompt,
)

__all__ = ["CacheSet", "CacheType", "PromptExecutor", "PromptQueue", "set_preview_method",
           "validate_prompt"]  # fmt: skip
