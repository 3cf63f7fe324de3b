"""One cache of ``CacheEntry(ui, outputs)``, which drops results when memory is low."""

import enum
from typing import NamedTuple

import comfy.memory_management
from comfy_execution.caching import Cache
from latent_preview import set_preview_method
from tree_executor import Executor, validate

GIB = 1024**3


class CacheType(enum.Enum):
    CLASSIC = 0
    LRU = 1
    NONE = 2
    RAM_PRESSURE = 3


class CacheEntry(NamedTuple):
    ui: dict
    outputs: list


class RAMPressureCache(Cache):
    """Keeps everything until ``ram_release`` finds that free memory is low."""

    def __init__(self):
        super().__init__(True, max_size=float("inf"))
        self.timestamps = {}

    def get(self, node_id):
        self.timestamps[self.cache_key_set.get_data_key(node_id)] = self.generation
        return super().get(node_id)

    def set(self, node_id, value):
        self.timestamps[self.cache_key_set.get_data_key(node_id)] = self.generation
        super().set(node_id, value)

    def ram_release(self, target, free_active=False):
        """Drops the least recently used until ``target`` bytes are free; with ``free_active`` also
        those of the running prompt."""
        for key in sorted(self.cache, key=self.timestamps.__getitem__):
            if comfy.memory_management.available_memory() >= target:
                return
            if free_active or self.used_generation[key] < self.generation:
                del self.cache[key], self.used_generation[key], self.timestamps[key]


class CacheSet:
    def __init__(self, cache_type, cache_args):
        if cache_type is CacheType.RAM_PRESSURE:
            self.outputs = RAMPressureCache()
        else:
            size = cache_args.get("lru", 0) if cache_type is CacheType.LRU else None
            self.outputs = Cache(True, size)
        self.objects = Cache(False)
        self.all = [self.outputs, self.objects]


class PromptExecutor(Executor):
    def __init__(self, server, cache_type=False, cache_args=None):
        self.server = server
        self.cache_type, self.cache_args = cache_type, cache_args
        self.reset()

    def new_caches(self):
        return CacheSet(self.cache_type, self.cache_args)

    def keep(self, node_id, outputs, ui):
        self.caches.outputs.set(node_id, CacheEntry(ui, outputs))

    def outputs_of(self, node_id):
        entry = self.caches.outputs.get(node_id)
        return None if entry is None else entry.outputs

    def ui_of(self, node_id):
        entry = self.caches.outputs.get(node_id)
        return None if entry is None else entry.ui

    async def execute_async(self, prompt, prompt_id, extra_data=None, execute_outputs=()):
        set_preview_method((extra_data or {}).get("preview_method"))
        self.headroom = int(self.cache_args["ram"] * GIB)
        self.inactive_headroom = int(self.cache_args["ram_inactive"] * GIB)
        await super().execute_async(prompt, prompt_id, extra_data, execute_outputs)

    def node_ended(self):
        if self.cache_type is CacheType.RAM_PRESSURE:
            self.caches.outputs.ram_release(self.inactive_headroom)


def _unknown_class(node_id, entry):
    kind = entry.get("class_type")
    title = entry.get("_meta", {}).get("title", kind)
    return {
        "type": "missing_node_type",
        "message": f"Node '{title}' not found. The custom node may not be installed.",
        "details": f"Node ID '#{node_id}'",
        "extra_info": {"node_id": node_id, "class_type": kind, "node_title": title},
    }


async def validate_prompt(prompt_id, prompt, partial_execution_list):
    return validate(prompt, _unknown_class)
