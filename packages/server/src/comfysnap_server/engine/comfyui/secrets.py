"""The key that pays for ComfyUI's API nodes: handed to jobs, kept out of everything they leave.

ComfyUI's front end sends it in a prompt's ``extra_data``, where hidden inputs of nodes read it
(``execution.py``: ``SENSITIVE_EXTRA_DATA_KEYS``). It is read from the environment for each job, so
that no snapshot holds it and a new one counts at once.
"""

import logging
import os
import traceback
from typing import Final

REDACTED: Final = "***"


class ApiKey:
    """The key in one environment variable, if there is one."""

    def __init__(self, variable: str) -> None:
        self._variable = variable

    @property
    def extra_data(self) -> dict[str, str]:
        """What a prompt's ``extra_data`` gets; empty without a key."""
        key = self._key()
        return {"api_key_comfy_org": key} if key else {}

    def redact(self, text: str) -> str:
        """``text`` without the key: a node may put it into an error."""
        key = self._key()
        return text.replace(key, REDACTED) if key else text

    def keep_out_of_logs(self) -> None:
        """Redact what passes the handlers of the root logger; can be called again."""
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
        """Let every record pass, without the key."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit the text
            record.args = ()
            message = str(record.msg)
        clean = self._key.redact(message)
        if clean is not message:
            record.msg, record.args = clean, ()
        if record.exc_info:
            lines = traceback.format_exception(*record.exc_info)
            record.exc_text = self._key.redact("".join(lines).rstrip("\n"))
        return True
