"""Removed node classes and their replacements."""

import nodes


class NodeReplaceManager:
    def __init__(self):
        self.replacements = {
            "OldEmptyImage": ("EmptyImage", {"size_x": "width", "size_y": "height"}),
        }

    def has_replacement(self, old_node_id):
        return old_node_id in self.replacements

    def apply_replacements(self, prompt):
        """Requires ``_meta`` in replaced nodes, as the original does."""
        for node_id, entry in list(prompt.items()):
            kind = entry["class_type"]
            if kind in nodes.NODE_CLASS_MAPPINGS or not self.has_replacement(kind):
                continue
            new, renamed = self.replacements[kind]
            inputs = {renamed.get(name, name): value for name, value in entry["inputs"].items()}
            meta = entry["_meta"].copy()
            prompt[node_id] = {"class_type": new, "inputs": inputs, "_meta": meta}
