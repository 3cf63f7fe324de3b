from functools import cached_property

import torch


class Registry:
    def __init__(self):
        self.capabilities, self.unavailable = {}, {}

    @cached_property
    def _compute_capability(self):
        return torch.cuda.get_device_capability() if torch.cuda.is_available() else None

    def register(self, name, capabilities):
        self.capabilities[name] = sorted(
            function
            for function, least in capabilities.items()
            if least is None or (self._compute_capability or (0, 0)) >= least
        )
        self.unavailable.pop(name, None)

    def mark_unavailable(self, name, reason):
        self.unavailable[name] = reason

    def list_backends(self):
        return {
            name: {"available": name in self.capabilities,
                   "unavailable_reason": self.unavailable.get(name),
                   "capabilities": self.capabilities.get(name, [])}
            for name in ("cuda", "eager")
        }  # fmt: skip


registry = Registry()
