"""JSON that is cheap to send and slow to parse."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfysnap_schema.wire import ErrorCode
from comfysnap_schema.wire.routes import MAX_BODY_BYTES
from comfysnap_server.gateway import json_bodies
from comfysnap_server.gateway.json_bodies import MAX_DIGITS, MAX_TOKENS, parse_json_object
from comfysnap_server.gateway.problems import ProblemError


def refusal(body: bytes) -> str:
    with pytest.raises(ProblemError) as error:
        parse_json_object(body)
    assert error.value.code is ErrorCode.INVALID_JSON
    return str(error.value)


@pytest.fixture
def no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object, **__: object) -> None:
        pytest.fail("the body was parsed")

    monkeypatch.setattr(json_bodies, "from_json", parse)
    monkeypatch.setattr(json, "loads", parse)


@pytest.mark.usefixtures("no_parser")
@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b"[]," * (MAX_BODY_BYTES // 3 - 10) + b"[]]}",
        b"{" + b",".join(b'"k%d":1' % number for number in range(390_000)) + b"}",
        b'{"a":[' + b'"",' * (MAX_BODY_BYTES // 3 - 10) + b'""]}',
        b"[" * MAX_BODY_BYTES,
        b'{"a":' * (MAX_BODY_BYTES // 5),
    ],
    ids=["empty arrays", "keys", "empty strings", "brackets", "nested objects"],
)
def test_a_body_of_very_many_values_is_refused_without_parsing_it(body: bytes) -> None:
    assert str(MAX_TOKENS) in refusal(body)


@pytest.mark.usefixtures("no_parser")
@pytest.mark.parametrize(
    "number", [b"9" * 4300, b"-" + b"1" * 101, b"1." + b"3" * 200, b"1e" + b"0" * 101]
)
def test_a_number_of_very_many_digits_is_refused_without_parsing_it(number: bytes) -> None:
    assert str(MAX_DIGITS) in refusal(b'{"a":[' + b",".join([number] * 900) + b"]}")


@pytest.mark.parametrize(
    "text",
    ["1" * 100_000, "a, b: [c] {d} " * 20_000, '\\"' * 20_000, '"1,' * 20_000 + "9" * 200],
    ids=["digits", "separators", "escapes", "everything"],
)
def test_what_is_in_a_string_does_not_count(text: str) -> None:
    body = {"prompt": text, "seed": 18446744073709551615, "noise": 0.1}
    assert parse_json_object(json.dumps(body).encode()) == body


@pytest.mark.parametrize(
    "body", [b'{"a":"' + b'\\"' * 2_000_000, b'"' * 4_000_001, b'{"a":"' + b"\\" * 4_000_001]
)
def test_strings_without_an_end_are_read_once(body: bytes) -> None:
    refusal(body)


@given(st.dictionaries(st.text(), st.integers(-(10**99), 10**99) | st.text() | st.booleans()))
def test_ordinary_bodies_are_parsed(body: dict[str, object]) -> None:
    assert parse_json_object(json.dumps(body).encode()) == body
