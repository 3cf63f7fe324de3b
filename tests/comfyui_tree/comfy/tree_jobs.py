"""Parts of ``comfy.model_management``: the interrupt flag and the loaded models."""

import threading

loaded = []
_lock = threading.RLock()
_interrupted = False


class InterruptProcessingException(Exception):
    pass


def interrupt_current_processing(value=True):
    global _interrupted
    with _lock:
        _interrupted = value


def throw_exception_if_processing_interrupted():
    """Raises once, and clears the flag."""
    global _interrupted
    with _lock:
        if _interrupted:
            _interrupted = False
            raise InterruptProcessingException


def unload_all_models():
    loaded.clear()


def soft_empty_cache(_force=False):
    pass
