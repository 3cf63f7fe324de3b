"""The API key of ComfyUI's API nodes: passed to jobs, and kept out of logs and errors.

ComfyUI's front end sends it in a prompt's ``extra_data``, where hidden inputs of nodes read it
(``execution.py``: ``SENSITIVE_EXTRA_DATA_KEYS``). It is read from the environment for each job, so
that snapshots do not contain it and a new key takes effect immediately.
"""

import logging
import os
import traceback
from typing import Final

REDACTED: Final = "***"


class ApiKey:
    """The API key in an environment variable, which may be unset."""

    def __init__(self, variable: str) -> None:
        self._variable = variable

    @property
    def extra_data(self) -> dict[str, str]:
        """Entries for a prompt's ``extra_data``; empty without a key."""
        key = self._key()
        return {"api_key_comfy_org": key} if key else {}

    def redact(self, text: str) -> str:
        """Replace the key in ``text``: a node may put it into an error."""
        key = self._key()
        return text.replace(key, REDACTED) if key else text

    def keep_out_of_logs(self) -> None:
        """Redact the key in all handlers of the root logger. Can be called again."""
        for handler in logging.getLogger().handlers:
            if not any(isinstance(known, _Redacting) for known in handler.filters):
                handler.addFilter(_Redacting(self))

    def _key(self) -> str:
        return os.environ.get(self._variable, "").strip()


class _Redacting(logging.Filter):
    def __init__(self, key: ApiKey) -> None:
        super().__init__()
        self._key = key

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the key; returns True."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not match the format
            record.args = ()
            message = str(record.msg)
        clean = self._key.redact(message)
        if clean is not message:
            record.msg, record.args = clean, ()
        if record.exc_info:
            lines = traceback.format_exception(*record.exc_info)
            record.exc_text = self._key.redact("".join(lines).rstrip("\n"))
        return True
