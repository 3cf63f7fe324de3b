"""Requests drawn from an OpenAPI document, and a check of each answer against it."""

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote, urlencode

import httpx
import jsonschema_rs

JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, -0.5, 2**63, 2**64, "", "\0", "x" * 300, "é\u2028", "../../etc",
    "%00", "NaN", "1e999", "\ud83d\ude00", [], {}, [[]], {"url": "http://127.0.0.1/"},
    {"sha256": "0" * 64}, {"data": "AAAA", "content_type": "a/b\r\nX: y"}, {"data": "!"},
)  # fmt: skip
BODIES = (b"", b"{", b"[]", b"null", b'{"a":1,"a":2}', b"\xff\xfe", b'{"a":NaN}', b"[" * 3000)
HEADERS: Mapping[str, tuple[str, ...]] = {
    "Content-Type": ("application/json", "text/plain", "application/x-www-form-urlencoded", ";"),
    "Range": ("bytes=0-1", "bytes=-5", "bytes=999999-", "bytes=5-2", "lines=1"),
    "If-None-Match": ("*", '"x"', "W/"),
    "If-Range": ('"x"', "Wed, 21 Oct 2015 07:28:00 GMT"),
    "X-Request-Id": ("abc", "a b", "x" * 200),
    "Origin": ("null", "http://["),
    "Accept": ("text/html", ";q=2"),
    "Sec-Fetch-Site": ("cross-site", "x"),
    "Comfysnap-Contract": ("0" * 16, ""),
    "Last-Event-ID": ("1", "-1", "9" * 40),
}  # fmt: skip

_REFUSED = ("Comfysnap-Contract", "webhook")
"""Nearly every value is refused, so they are drawn seldom."""


@dataclass(frozen=True)
class Case:
    """One request, and what is documented about its answers."""

    method: str
    path: str
    content: bytes | None
    headers: dict[str, str]
    operation: dict[str, Any]


@dataclass
class Report:
    """What a run found."""

    answers: Counter[str] = field(default_factory=Counter[str])
    """By operation and status."""
    faults: list[str] = field(default_factory=list[str])
    job_ids: list[str] = field(default_factory=list[str])


class Fuzzer:
    """Draws requests; the same seed draws the same ones from the same document.

    Args:
        document: The OpenAPI document.
        seed: Of the generator.
        authorization: Values of the header that are tried; None: without it.
    """

    def __init__(
        self, document: dict[str, Any], seed: int, authorization: tuple[str | None, ...] = (None,)
    ) -> None:
        self._document = document
        self._random = random.Random(seed)
        self._authorization = authorization
        self._operations = [
            (method.upper(), path, cast("dict[str, Any]", operation))
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        ]
        self._validators: dict[str, jsonschema_rs.Validator] = {}
        self.report = Report()

    def case(self) -> Case:
        """The next request."""
        pick = self._random
        method, path, operation = pick.choice(self._operations)
        query: list[tuple[str, str]] = []
        headers: dict[str, str] = {}
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                value = self._text(parameter)
                path = path.replace(
                    f"{{{parameter['name']}}}", quote(value, safe="", errors="replace") or "-"
                )
            elif pick.random() < (0.04 if parameter["name"] in _REFUSED else 0.3):
                value = self._text(parameter)
                if parameter["in"] == "query":
                    query.append((parameter["name"], value))
                else:
                    headers[parameter["name"]] = value
        for name, values in HEADERS.items():
            if pick.random() < 0.02:
                headers[name] = pick.choice(values)
        authorization = pick.choice(self._authorization)
        if authorization is not None:
            headers["Authorization"] = authorization
        if pick.random() < 0.03:
            query.append((pick.choice(["x", "label", "wait", "limit"]), str(pick.choice(JUNK))))
        text = urlencode(query, errors="replace")
        content = self._body(operation) if method in ("POST", "PUT") else None
        clean = {name: _header(value) for name, value in headers.items()}
        return Case(method, f"{path}?{text}" if text else path, content, clean, operation)

    def check(self, case: Case, answer: httpx.Response) -> None:
        """Compare an answer with what is documented."""
        report = self.report
        report.answers[f"{case.operation['operationId']} {answer.status_code}"] += 1
        fault = self._fault(case, answer)
        if fault is not None:
            report.faults.append(
                f"{fault}: {case.method} {case.path[:300]} {case.headers}"
                f" {(case.content or b'')[:200]!r}"
                f" -> {answer.status_code} {answer.content[:300]!r}"
            )
        elif answer.is_success and case.method == "POST" and "id" in (found := answer.json()):
            report.job_ids.append(found["id"])

    def _fault(self, case: Case, answer: httpx.Response) -> str | None:
        responses = case.operation["responses"]
        status = str(answer.status_code)
        if answer.status_code >= 500 and status not in responses:
            return "a server error"
        documented = responses.get(status) or (
            responses.get("default") if answer.status_code >= 400 else None
        )
        if documented is None:
            return "an undocumented status"
        if "x-request-id" not in answer.headers:
            return "no request id"
        if case.method == "HEAD" or answer.status_code in (204, 304):
            return "an unexpected body" if answer.content else None
        content = documented.get("content", {})
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if kind not in content and "*/*" not in content:
            return f"an undocumented content type {kind!r}"
        schema = content.get(kind, {}).get("schema")
        if schema and "json" in kind and not self._validator(schema).is_valid(answer.json()):
            return "an answer that its schema does not allow"
        return None

    def _validator(self, schema: dict[str, Any]) -> jsonschema_rs.Validator:
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:
            whole = {**schema, "components": self._document["components"]}
            self._validators[key] = jsonschema_rs.validator_for(whole)
        return self._validators[key]

    def _text(self, parameter: dict[str, Any]) -> str:
        pick, name = self._random, parameter["name"]
        if name == "job_id" and self.report.job_ids and pick.random() < 0.7:
            return pick.choice(self.report.job_ids)
        if pick.random() < 0.15:
            value = pick.choice(JUNK)
            return value if isinstance(value, str) else json.dumps(value)
        if name == "label":
            return pick.choice(["team:red", "a:", ":b", "a" * 65 + ":b"])
        if name == "Idempotency-Key":
            return f"k{pick.randrange(500)}"
        value = self._value(parameter["schema"])
        return value if isinstance(value, str) else json.dumps(value)

    def _body(self, operation: dict[str, Any]) -> bytes:
        pick = self._random
        content = operation.get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema")
        if schema is None or pick.random() < 0.1:
            return pick.choice(BODIES)
        body = self._value(schema)
        if pick.random() < 0.1:
            body[pick.choice(["x", "", "prompt", "\0"])] = pick.choice(JUNK)
        text = json.dumps(body, ensure_ascii=pick.random() < 0.5)
        return text.encode("utf-8", "surrogatepass")

    def _value(self, schema: dict[str, Any]) -> Any:
        """Mostly what the schema allows, at its bounds more often than chance has it."""
        pick = self._random
        if "$ref" in schema:
            return self._value(
                self._document["components"]["schemas"][schema["$ref"].split("/")[-1]]
            )
        if options := schema.get("anyOf") or schema.get("oneOf"):
            return self._value(pick.choice(options))
        if "properties" in schema:
            required = schema.get("required", ())
            return {
                name: pick.choice(JUNK) if pick.random() < 0.04 else self._value(inner)
                for name, inner in schema["properties"].items()
                if pick.random() < (0.95 if name in required else 0.3)
            }
        if "enum" in schema:
            return pick.choice(schema["enum"])
        kinds: str | list[str] = schema.get("type", "string")
        kind = kinds if isinstance(kinds, str) else pick.choice(kinds)
        if kind in ("integer", "number"):
            low, high = schema.get("minimum", -5), schema.get("maximum", 2**31)
            whole = pick.choice([low, high, *[schema.get("default", low)] * 5, low - 1, high + 1])
            return whole if kind == "integer" else whole + pick.choice([0, 0, 0.5])
        if kind == "boolean":
            return pick.random() < 0.5
        if kind == "null":
            return None
        if kind == "array":
            return [self._value(schema.get("items", {})) for _ in range(pick.randrange(3))]
        return pick.choice(["a fox", "x", "é" * 20, "0" * 64, "w" * schema.get("maxLength", 5)])


def _header(value: str) -> str:
    """What a header can carry."""
    return "".join(letter for letter in value if " " <= letter < "\x7f")[:400].strip()


def fuzz(http: httpx.Client, fuzzer: Fuzzer, cases: int) -> Report:
    """Send ``cases`` requests; of a stream only the beginning is read."""
    for _ in range(cases):
        case = fuzzer.case()
        sent = http.build_request(
            case.method, case.path, content=case.content, headers=case.headers
        )
        answer = http.send(sent, stream=True)
        try:
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                next(answer.iter_raw(), b"")
                answer = httpx.Response(answer.status_code, headers=answer.headers)
            else:
                answer.read()
        finally:
            answer.close()
        fuzzer.check(case, answer)
    return fuzzer.report
