"""``verifyWebhook`` decides as ``verify_webhook`` does, on what the server's signer makes."""

import base64
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from comfysnap_client import InvalidWebhook, verify_webhook
from comfysnap_schema.wire import JobRecord, webhook_body, webhook_key, webhook_signature
from tests.receiver import SECRET
from tests.typescript.conftest import RunNode

OTHER = "whsec_" + base64.b64encode(b"another key of more than 24 bytes").decode()
FILE = {
    "name": "a.png", "kind": "image", "content_type": "image/png", "size": 3, "sha256": "0" * 64,
    "url": "/outputs/job_1/a.png",
}  # fmt: skip


def body(status: str = "succeeded", outputs: dict[str, Any] | None = None) -> bytes:
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    return webhook_body(
        JobRecord(
            id="job_1", workflow="draw", status=status, version=3, created_at=now,
            finished_at=now, outputs=outputs,
        )
    )  # fmt: skip


def signed(
    content: bytes, *secrets: str, age: float = 0, given: object = SECRET, **changes: Any
) -> dict[str, Any]:
    """A request signed with each of the secrets, to be verified with those that are given."""
    stamp = int(time.time() - age)
    keys = [webhook_key(secret) for secret in secrets or (SECRET,)]
    signatures = [webhook_signature(key, "msg_é1", stamp, content) for key in keys]
    headers = {
        "Webhook-Id": "msg_é1", "Webhook-Timestamp": str(stamp),
        "Webhook-Signature": " ".join(signatures),
    }  # fmt: skip
    return {"headers": headers, "body": content, "secret": given, **changes}


def cases() -> list[dict[str, Any]]:
    done = body(outputs={"image": FILE})
    valid = signed(done)
    headers = valid["headers"]
    return [
        valid,
        signed(done, OTHER, SECRET),
        signed(done, given=[OTHER, SECRET]),
        signed(done, given=f"{OTHER} {SECRET}"),
        signed(body("failed")),
        signed(body()),
        signed(done, age=250),
        signed(done, age=250, tolerance=200),
        signed(done, age=301),
        signed(done, age=-310),
        signed(done, OTHER),
        signed(b"not json"),
        signed(b'{"type": "job.succeeded", "timestamp": "2026-11-26T12:00:00Z", "data": {}}'),
        signed(b"\xff\xfe"),
        {**valid, "body": done + b" "},
        {**valid, "headers": {**headers, "Webhook-Id": "msg_2"}},
        {**valid, "headers": {**headers, "Webhook-Id": ""}},
        {**valid, "headers": {**headers, "Webhook-Timestamp": "now"}},
        {**valid, "headers": {**headers, "Webhook-Signature": "v1,x v2,y "}},
        {**valid, "headers": {}},
    ]


def decided(case: dict[str, Any]) -> object:
    try:
        event = verify_webhook(
            case["headers"], case["body"], case["secret"], tolerance=case.get("tolerance", 300)
        )
    except InvalidWebhook as error:
        return error.code
    return {
        "id": event.id, "type": event.type, "job": event.job.id,
        "output": event.job.outputs if event.output is not None else None,
        "timestamp": event.timestamp.timestamp(),
    }  # fmt: skip


def verify(run_node: RunNode, folder: Path, requests: list[dict[str, Any]]) -> list[Any]:
    wire = [{**one, "body": base64.b64encode(one["body"]).decode()} for one in requests]
    (folder / "cases.json").write_text(json.dumps(wire))
    return run_node("webhooks", folder / "cases.json")


def test_both_clients_decide_alike(run_node: RunNode, tmp_path: Path) -> None:
    expected = [decided(case) for case in cases()]
    assert verify(run_node, tmp_path, cases()) == expected
    codes = {one for one in expected if isinstance(one, str)}
    assert codes == {
        "missing_header", "invalid_timestamp", "too_old", "too_new", "invalid_signature",
        "invalid_body",
    }  # fmt: skip


def test_outputs_are_checked_for_the_workflow(run_node: RunNode, tmp_path: Path) -> None:
    headers = {"typed": True}
    requests = [
        signed(body(outputs={"image": FILE}), **headers),
        signed(body(outputs={"image": "a text"}), **headers),
        signed(body(outputs={"image": FILE}), given="whsec_short"),
        signed(body(outputs={"image": FILE}), given=[]),
    ]
    for one in requests:
        one["headers"]["Webhook-Id"] = "msg_é1"
    first, *others = verify(run_node, tmp_path, requests)
    assert first["output"] == {"image": FILE}
    assert others == ["UnexpectedResponse", "TypeError", "TypeError"]
