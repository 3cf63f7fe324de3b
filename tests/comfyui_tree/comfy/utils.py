import time

from comfy.tree_files import load_torch_file

__all__ = ["load_torch_file"]

MIN_INTERVAL = 0.1
MIN_PERCENT = 0.5
_hook = None


def set_progress_bar_global_hook(function):
    global _hook
    _hook = function


class ProgressBar:
    """Calls the hook for the first step, the last, and steps with a preview; for others only after
    some time and some part of the work."""

    def __init__(self, total, node_id=None):
        self.total, self.node_id, self.current, self.hook = total, node_id, 0, _hook
        self.sent_at, self.sent = 0.0, -1

    def update_absolute(self, value, total=None, preview=None):
        self.total = self.total if total is None else total
        self.current = min(value, self.total)
        if self.hook is not None and (preview is not None or self._is_due()):
            self.hook(self.current, self.total, preview, node_id=self.node_id)
            self.sent_at, self.sent = time.perf_counter(), self.current

    def _is_due(self):
        if self.sent < 0 or self.current >= self.total:
            return True
        percent = (self.current - self.sent) / self.total * 100 if self.total > 0 else 100
        return percent >= MIN_PERCENT and time.perf_counter() - self.sent_at >= MIN_INTERVAL

    def update(self, value):
        self.update_absolute(self.current + value)
