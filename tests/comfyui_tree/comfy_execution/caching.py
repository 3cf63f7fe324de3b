"""Node results by class, inputs, and those of all ancestors."""

import json

import nodes


class Keys:
    def __init__(self, prompt, by_signature):
        self.by_signature, self.keys = by_signature, {}
        self.add(prompt, prompt)

    def add(self, prompt, node_ids):
        for node in node_ids:
            kind = prompt[node]["class_type"]
            self.keys[node] = _signature(prompt, node) if self.by_signature else (node, kind)

    def get_data_key(self, node_id):
        return self.keys.get(node_id)

    def get_subcache_key(self, node_id):
        return self.keys.get(node_id)


def _signature(prompt, node_id):
    entry = prompt[node_id]
    kind = nodes.NODE_CLASS_MAPPINGS[entry["class_type"]]
    if hasattr(kind, "IS_CHANGED") and "is_changed" not in entry:
        literal = {k: v for k, v in entry["inputs"].items() if not isinstance(v, list)}
        entry["is_changed"] = [kind.IS_CHANGED(**literal)]
    inputs = {
        name: ["link", _signature(prompt, value[0]), value[1]] if isinstance(value, list) else value
        for name, value in entry["inputs"].items()
    }
    return json.dumps([entry["class_type"], entry.get("is_changed"), inputs], sort_keys=True)


class Cache:
    """Drops the least recently used with ``max_size``; else all that the prompt does not use."""

    def __init__(self, by_signature, max_size=None):
        self.by_signature, self.max_size = by_signature, max_size
        self.cache, self.subcaches, self.used_generation, self.children = {}, {}, {}, {}
        self.generation = 0
        self.cache_key_set = None

    def set_prompt(self, prompt):
        self.cache_key_set = Keys(prompt, self.by_signature)
        self.generation += 1
        used = set(self.cache_key_set.keys.values())
        for key in used:
            self.used_generation[key] = self.generation
        if self.max_size is None:
            self.cache = {key: value for key, value in self.cache.items() if key in used}
        while self.max_size is not None and len(self.cache) > self.max_size:
            oldest = min(self.cache, key=self.used_generation.__getitem__)
            if self.used_generation[oldest] == self.generation:
                return
            del self.cache[oldest]

    def get(self, node_id):
        return self.cache.get(self.cache_key_set.get_data_key(node_id))

    def set(self, node_id, value):
        key = self.cache_key_set.get_data_key(node_id)
        self.cache[key], self.used_generation[key] = value, self.generation
