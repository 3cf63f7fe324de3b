"""Re-exports ``tree_recent_execution.py``."""

from tree_executor import PromptQueue, get_output_from_returns
from tree_recent_execution import (
    CacheSet,
    CacheType,
    PromptExecutor,
    set_preview_method,
    validate_prompt,
)

__all__ = ["CacheSet", "CacheType", "PromptExecutor", "PromptQueue", "get_output_from_returns",
           "set_preview_method", "validate_prompt"]  # fmt: skip
