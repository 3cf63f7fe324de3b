"""The key for API nodes is read for each job and does not appear in logs."""

import io
import logging
from collections.abc import Iterator

import pytest

from comfysnap_server.engine.comfyui.secrets import ApiKey

KEY = "comfyui-0123456789abcdef"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Output of a handler of the root logger."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> ApiKey:
    monkeypatch.setenv("THE_KEY", KEY)
    return ApiKey("THE_KEY")


def test_the_key_is_read_for_each_job(key: ApiKey, monkeypatch: pytest.MonkeyPatch) -> None:
    assert key.extra_data == {"api_key_comfy_org": KEY}
    monkeypatch.setenv("THE_KEY", " another \n")
    assert key.extra_data == {"api_key_comfy_org": "another"}
    monkeypatch.delenv("THE_KEY")
    assert key.extra_data == {}
    assert key.redact(KEY) == KEY


def failing_node() -> None:
    raise RuntimeError(f"401 for {KEY}")


def test_a_node_that_logs_or_raises_the_key_does_not_leave_it_in_the_log(
    key: ApiKey, log: io.StringIO
) -> None:
    key.keep_out_of_logs()
    key.keep_out_of_logs()
    logging.getLogger("a.pack").warning("calling with %s as %s", KEY, "a user")
    try:
        failing_node()
    except RuntimeError:
        logging.exception("a node failed")
    output = log.getvalue()
    assert KEY not in output
    assert "calling with *** as a user" in output
    assert output.count("RuntimeError: 401 for ***") == 1


def test_other_records_are_not_changed(key: ApiKey, log: io.StringIO) -> None:
    key.keep_out_of_logs()
    logging.getLogger("a.pack").warning("%d of %d", 1, 2)
    assert log.getvalue() == "1 of 2\n"


def test_a_record_with_the_wrong_arguments_does_not_fail_the_node(
    key: ApiKey, log: io.StringIO
) -> None:
    key.keep_out_of_logs()
    logging.getLogger("a.pack").warning(f"%d steps with {KEY}", "many")
    assert log.getvalue() == "%d steps with ***\n"
