"""Reading what a client sends, within limits."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final, cast

from pydantic import JsonValue
from pydantic_core import from_json
from starlette.requests import Request

from comfysnap_schema.comfy import canonical_json
from comfysnap_schema.wire import ErrorCode
from comfysnap_server.gateway.problems import ProblemError

_JSON_TYPES: Final = frozenset({"", "application/json", "application/x-www-form-urlencoded"})
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


async def limited_stream(
    request: Request, limit: int, code: ErrorCode, *, patience: float
) -> AsyncIterator[bytes]:
    """The body in chunks, none of which may take longer than ``patience`` seconds.

    Raises:
        ProblemError: ``code``, before anything is read when the length was announced; 408.
    """
    error = ProblemError(code, f"the body may have at most {limit} bytes")
    announced = request.headers.get("content-length", "")
    if _LENGTH.fullmatch(announced) and int(announced) > limit:
        raise error
    read = 0
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(chunks, None)
        except TimeoutError as silence:
            raise _late(patience) from silence
        if chunk is None:
            return
        read += len(chunk)
        if read > limit:
            raise error
        yield chunk


async def read_json_object(
    request: Request, limit: int, timeout: float
) -> tuple[dict[str, JsonValue], bytes]:
    """The body as a JSON object, and its canonical bytes.

    A missing content type is JSON, and so is the form type that ``curl -d`` sends by itself.

    Raises:
        ProblemError: ``unsupported_media_type``, ``body_too_large``, ``invalid_json``, and 408
            when the body takes longer than ``timeout`` seconds.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _JSON_TYPES and not kind.endswith("+json"):
        raise ProblemError(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            f"send the input as application/json, not {kind[:100]!r}",
            headers={"Accept-Post": "application/json"},
        )
    chunks = limited_stream(request, limit, ErrorCode.BODY_TOO_LARGE, patience=timeout)
    try:
        async with asyncio.timeout(timeout):
            body = b"".join([chunk async for chunk in chunks])
    except TimeoutError as error:
        raise _late(timeout) from error
    return parse_json_object(body)


def parse_json_object(body: bytes) -> tuple[dict[str, JsonValue], bytes]:
    """Strict JSON: UTF-8, no NaN, no infinity, no key twice, at most 200 levels.

    Raises:
        ProblemError: ``invalid_json``.
    """
    try:
        from_json(body, allow_inf_nan=False)  # refuses what the standard library lets pass
        value: object = json.loads(body, object_pairs_hook=_unique)
        canonical = canonical_json(value)
    except (ValueError, RecursionError) as error:
        raise ProblemError(
            ErrorCode.INVALID_JSON, f"the body is not valid JSON: {str(error)[:300]}"
        ) from error
    if not isinstance(value, dict):
        raise ProblemError(ErrorCode.INVALID_JSON, 'the body is a JSON object, {"name": value}')
    return cast("dict[str, JsonValue]", value), canonical


def _late(seconds: float) -> ProblemError:
    return ProblemError(
        ErrorCode.INVALID_REQUEST,
        f"the body did not come within {seconds:g} s",
        status=408,
        headers={"Connection": "close"},
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("duplicate key")
    return result
