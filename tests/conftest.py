import inspect

import httpx
from hypothesis import settings

# A busy machine is slow at times, which says nothing about the code.
settings.register_profile("comfysnap", deadline=None)
settings.load_profile("comfysnap")

_patience: httpx.Timeout = inspect.signature(httpx.get).parameters["timeout"].default
"""Of every request that is sent without a timeout of its own, instead of 5 s."""
_patience.connect = _patience.read = _patience.write = _patience.pool = 60.0
