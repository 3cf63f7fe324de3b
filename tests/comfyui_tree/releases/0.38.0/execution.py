"""The executor takes an optional asset manager, and creates one by default."""

import tree_recent_execution
from app.assets.manager import default_asset_manager
from tree_executor import PromptQueue, get_output_from_returns
from tree_recent_execution import CacheSet, CacheType, set_preview_method, validate_prompt

__all__ = ["CacheSet", "CacheType", "PromptQueue", "get_output_from_returns",
           "set_preview_method", "validate_prompt"]  # fmt: skip


class PromptExecutor(tree_recent_execution.PromptExecutor):
    def __init__(self, server, cache_type=False, cache_args=None, asset_manager=None):
        self.asset_manager = asset_manager or default_asset_manager()
        super().__init__(server, cache_type, cache_args)
