from comfy.tree_files import load_torch_file

__all__ = ["load_torch_file"]

_hook = None


def set_progress_bar_global_hook(function):
    global _hook
    _hook = function


class ProgressBar:
    def __init__(self, total, node_id=None):
        self.total, self.node_id, self.current, self.hook = total, node_id, 0, _hook

    def update_absolute(self, value, total=None, preview=None):
        self.total = total or self.total
        self.current = min(value, self.total)
        if self.hook is not None:
            self.hook(self.current, self.total, preview, node_id=self.node_id)

    def update(self, value):
        self.update_absolute(self.current + value)
