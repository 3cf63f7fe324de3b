"""Results and ``ui`` are plain values in two caches, whose size is a number."""

import enum

from comfy_execution.caching import Cache
from tree_executor import Executor, PromptQueue, get_output_from_returns, validate

__all__ = ["PromptQueue", "get_output_from_returns"]


class CacheType(enum.Enum):
    CLASSIC = 0
    LRU = 1
    DEPENDENCY_AWARE = 2


class CacheSet:
    def __init__(self, max_size):
        self.outputs, self.ui = Cache(True, max_size), Cache(True, max_size)
        self.objects = Cache(False)
        self.all = [self.outputs, self.ui, self.objects]


class PromptExecutor(Executor):
    def __init__(self, server, cache_type=False, cache_size=None):
        self.server = server
        self.cache_size = cache_size if cache_type is CacheType.LRU else None
        self.reset()

    def new_caches(self):
        return CacheSet(self.cache_size)

    def keep(self, node_id, outputs, ui):
        self.caches.outputs.set(node_id, outputs)
        if ui:
            self.caches.ui.set(node_id, ui)

    def outputs_of(self, node_id):
        return self.caches.outputs.get(node_id)

    def ui_of(self, node_id):
        return self.caches.ui.get(node_id)


def _unknown_class(node_id, entry):
    message = f"Cannot execute because node {entry.get('class_type')} does not exist."
    details = f"Node ID '#{node_id}'"
    return {"type": "invalid_prompt", "message": message, "details": details, "extra_info": {}}


async def validate_prompt(prompt_id, prompt, partial_execution_list):
    return validate(prompt, _unknown_class)
