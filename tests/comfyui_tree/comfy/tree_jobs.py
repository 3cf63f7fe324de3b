"""Of ``comfy.model_management``: the interrupt flag, and the models that are loaded."""

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
    """Raises once: the flag is down again afterwards."""
    global _interrupted
    with _lock:
        if _interrupted:
            _interrupted = False
            raise InterruptProcessingException


def unload_all_models():
    loaded.clear()


def soft_empty_cache(_force=False):
    pass
