"""Log lines: fields beside the message, as text and as JSON."""

import io
import json
import logging
from collections.abc import Generator

import pytest

from comfysnap_server.logs import every_line, fields, formatter


@pytest.fixture
def written() -> Generator[tuple[logging.Logger, logging.StreamHandler[io.StringIO]]]:
    logger = logging.Logger("comfysnap.test")
    handler = logging.StreamHandler(io.StringIO())
    logger.addHandler(handler)
    yield logger, handler
    handler.close()


Written = tuple[logging.Logger, "logging.StreamHandler[io.StringIO]"]


def test_text_shows_fields_behind_the_message(written: Written) -> None:
    logger, handler = written
    handler.setFormatter(formatter("text", times=False))
    logger.warning("job %s", "ended", extra=fields(job="job_1", seconds=1.23456, error=None))
    line = handler.stream.getvalue()
    assert line == "WARNING comfysnap.test: job ended job=job_1 seconds=1.235\n"


@pytest.mark.parametrize("value", ["a\nINFO comfysnap: all is well", 'x" status=succeeded', "a b"])
def test_no_value_looks_like_another_field_or_line(written: Written, value: str) -> None:
    logger, handler = written
    handler.setFormatter(formatter("text", times=False))
    logger.info("hello", extra=fields(owner=value))
    line = handler.stream.getvalue()
    assert line == f"INFO comfysnap.test: hello owner={json.dumps(value)}\n"


def test_json_is_one_object_a_line_with_the_exception_in_it(written: Written) -> None:
    logger, handler = written
    handler.setFormatter(formatter("json"))
    try:
        int("no")
    except ValueError:
        logger.exception("it failed", extra=fields(job="job_1", seconds=0.5))
    (line,) = handler.stream.getvalue().splitlines()
    found = json.loads(line)
    assert found.pop("time").endswith("Z")
    assert "ValueError: invalid literal" in found.pop("exception")
    assert found == {
        "level": "error", "logger": "comfysnap.test", "message": "it failed",
        "job": "job_1", "seconds": 0.5,
    }  # fmt: skip


def test_fields_of_a_request_stand_in_every_line_of_it_and_in_no_other(written: Written) -> None:
    logger, handler = written
    handler.setFormatter(formatter("text", times=False))
    with every_line(request="req_1", client=None):
        logger.info("in", extra=fields(job="job_1"))
    logger.info("out")
    assert [line.split(": ")[1] for line in handler.stream.getvalue().splitlines()] == [
        "in request=req_1 job=job_1",
        "out",
    ]
