"""What log lines look like: a message and fields beside it, as text or as JSON, one line each.

Also used in worker processes, which have the standard library only.
"""

import json
import logging
import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final, Literal

LogFormat = Literal["text", "json"]

FORMAT_VARIABLE: Final = "COMFYSNAP_LOG_FORMAT"
"""Tells worker processes which format to use."""

_FIELDS: Final = "comfysnap_fields"
_PLAIN: Final = re.compile(r"[!#-<>-~]+")
"""Values that text shows without quotes."""
_context: ContextVar[Mapping[str, object]] = ContextVar("log fields", default=MappingProxyType({}))


def fields(**values: object) -> dict[str, dict[str, object]]:
    """The ``extra`` of a log line: what is not None stands beside the message.

    Example::

        log.info("job ended", extra=fields(job=job_id, seconds=1.5))
    """
    return {_FIELDS: {name: value for name, value in values.items() if value is not None}}


@contextmanager
def every_line(**values: object) -> Generator[None]:
    """Put these fields into every line that is logged meanwhile in this task."""
    token = _context.set({**_context.get(), **fields(**values)[_FIELDS]})
    try:
        yield
    finally:
        _context.reset(token)


def formatter(form: object, *, times: bool = True) -> logging.Formatter:
    """A formatter for lines with fields.

    Args:
        form: A ``LogFormat``; anything else is text.
        times: Whether lines of text start with the time, as JSON always does; Modal's logs have
            one already.
    """
    return _JsonFormatter() if form == "json" else _TextFormatter(times=times)


class OncePerMinute(logging.Filter):
    """Of each warning, whatever its values, one line a minute: strangers can cause any number."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it; errors are always logged."""
        now = time.monotonic()
        if record.levelno >= logging.ERROR:
            return True
        if now < self._next.get(str(record.msg), 0.0):
            return False
        self._next[str(record.msg)] = now + 60.0
        return True


class _TextFormatter(logging.Formatter):
    def __init__(self, *, times: bool) -> None:
        line = "%(levelname)s %(name)s: %(message)s"
        super().__init__(f"%(asctime)s {line}" if times else line)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, then ``name=value`` for each field."""
        shown = (f"{name}={_text(value)}" for name, value in _fields_of(record).items())
        return " ".join([super().formatMessage(record), *shown])


class _JsonFormatter(logging.Formatter):
    converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object: time, level, logger, message, the fields, and the exception if any."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    return {**_context.get(), **getattr(record, _FIELDS, {})}


def _text(value: object) -> str:
    """In quotes unless it is plain, so that no value can look like another field or line."""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
