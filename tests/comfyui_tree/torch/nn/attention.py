import enum
from contextlib import contextmanager


class SDPBackend(enum.Enum):
    FLASH_ATTENTION = 1
    CUDNN_ATTENTION = 3


@contextmanager
def sdpa_kernel(backends, set_priority=False):
    yield
