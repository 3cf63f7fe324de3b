"""Parses JSON of strangers at a bounded cost: one body must not hold up the other requests."""

import json
import math
import re
from typing import Any, Final, cast

from pydantic import JsonValue
from pydantic_core import from_json

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.gateway.problems import ProblemError

MAX_TOKENS: Final = 50_000
"""Strings, numbers, separators and opening brackets of one body."""
MAX_DIGITS: Final = 100
"""Consecutive digits of a number; a 64-bit integer has 20, an exact double about 60."""
MAX_DEPTH: Final = 200
"""Arrays and objects within each other."""

_SEPARATORS: Final = b",:[{"
_DIGITS_ALIKE: Final = bytes.maketrans(b"123456789", b"0" * 9)
# Possessive, and content with an end that never comes: linear whatever is sent.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[,:\[{]|[0-9]++', re.DOTALL)


def parse_json_object(body: bytes) -> dict[str, JsonValue]:
    """A JSON object. Strict: UTF-8, no NaN, no infinity, no key twice.

    Raises:
        ProblemError: ``invalid_json``; above ``MAX_TOKENS``, ``MAX_DIGITS`` or ``MAX_DEPTH`` too.
    """
    try:
        value = parse_json(body)
    except (ValueError, RecursionError) as error:
        raise ProblemError(
            ErrorCode.INVALID_JSON, f"the body is not valid JSON: {str(error)[:300]}"
        ) from error
    if not isinstance(value, dict):
        raise ProblemError(
            ErrorCode.INVALID_JSON, 'the body must be a JSON object, {"name": value}'
        )
    return value


def parse_json(body: bytes) -> JsonValue:
    """Any JSON value, as strict as ``parse_json_object``.

    Raises:
        ValueError: It is not valid, or too costly to parse.
        RecursionError: It is too deep.
    """
    _check_cost(body)
    # Refuses what the standard library accepts: NaN, control characters, more than 200 levels.
    from_json(body, allow_inf_nan=False, cache_strings="none")
    return cast("JsonValue", _DECODER.decode(body.decode()))


def _check_cost(body: bytes) -> None:
    """Refuse what is slow to parse. Most bodies only need the counts, in which strings are not
    told apart from the rest; the others are read token by token, up to the limit.

    Raises:
        ValueError: A limit is exceeded.
    """
    separators = len(body) - len(body.translate(None, _SEPARATORS))
    digits = body.translate(_DIGITS_ALIKE).find(b"0" * (MAX_DIGITS + 1)) >= 0
    if separators < MAX_TOKENS // 2 and not digits:
        return
    for count, token in enumerate(_TOKEN.finditer(body)):
        if count >= MAX_TOKENS:
            raise ValueError(f"it has more than {MAX_TOKENS} values and separators")
        if token.end() - token.start() > MAX_DIGITS and body[token.start()] != ord('"'):
            raise ValueError(f"a number has more than {MAX_DIGITS} digits")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:100]} is too large")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("duplicate key")
    return result


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite)
