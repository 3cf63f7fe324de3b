"""``verify_webhook``, against the reference implementation of the specification."""

import base64
import secrets
import time
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks.webhooks import Webhook

from comfysnap_client import (
    ErrorCode,
    InvalidWebhook,
    JobRecord,
    JobStatus,
    UnexpectedResponse,
    UntypedOutput,
    verify_webhook,
)
from comfysnap_client.testing import MockServer
from comfysnap_schema.wire import webhook_body
from comfysnap_schema.wire.webhooks import MAX_WEBHOOK_BYTES
from tests.client.fakes import DrawInput, DrawOutput

JOB = JobRecord(
    id="job_" + "0" * 26, workflow="draw", status=JobStatus.SUCCEEDED, version=3,
    created_at=datetime.now(UTC), finished_at=datetime.now(UTC),
    inputs={"prompt": "a secret fox"}, outputs={"images": []},
)  # fmt: skip


def new_secret(size: int = 32) -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(size)).decode()


SECRET = new_secret()


def signed(
    body: bytes = webhook_body(JOB), *secret: str, age: float = 0, webhook_id: str = "msg_1"
) -> dict[str, str]:
    """The headers as the reference implementation makes them."""
    at = datetime.now(UTC) - timedelta(seconds=age)
    made = [Webhook(one).sign(webhook_id, at, body.decode()) for one in secret or (SECRET,)]
    return {
        "Webhook-Id": webhook_id,
        "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": " ".join(made),
    }


def code_of(headers: dict[str, str], body: bytes | str, secret: str = SECRET) -> str:
    with pytest.raises(InvalidWebhook) as caught:
        verify_webhook(headers, body, secret)
    return caught.value.code


@pytest.mark.parametrize("as_text", [False, True])
def test_what_the_reference_signs_is_accepted(as_text: bool) -> None:
    body = webhook_body(JOB)
    event = verify_webhook(signed(), body.decode() if as_text else body, SECRET, DrawOutput)
    assert (event.id, event.type, event.job.id) == ("msg_1", "job.succeeded", JOB.id)
    assert event.timestamp == JOB.finished_at
    assert isinstance(event.output, DrawOutput)
    assert event.job.inputs == {}


async def test_the_reference_accepts_the_webhooks_of_the_mock_server(
    comfysnap_server: MockServer,
) -> None:
    comfysnap_server.on(DrawInput).succeeds(DrawOutput(images=(comfysnap_server.image(),)))
    async with comfysnap_server.client() as client:
        job = await client.infer_async(DrawInput(prompt="x"), webhook="https://app.example/hook")
    headers, body = comfysnap_server.webhook_request(job.id)
    assert Webhook(comfysnap_server.webhook_secret).verify(body.decode(), headers)
    event = verify_webhook(headers, body, comfysnap_server.webhook_secret, DrawOutput)
    assert event.output is not None
    assert [image.name for image in event.output.images] == ["image.png"]
    again, _ = comfysnap_server.webhook_request(job.id)
    assert again["webhook-id"] == headers["webhook-id"]
    old, body = comfysnap_server.webhook_request(job.id, signed_at=time.time() - 301)
    assert code_of(old, body, comfysnap_server.webhook_secret) == "too_old"


async def test_a_job_that_failed_has_no_output_and_its_error(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).fails(ErrorCode.OUT_OF_MEMORY)
    async with comfysnap_server.client() as client:
        job = await client.infer_async(DrawInput(prompt="x"))
    headers, body = comfysnap_server.webhook_request(job.id)
    event = verify_webhook(headers, body, comfysnap_server.webhook_secret)
    assert (event.type, event.output) == ("job.failed", None)
    assert event.job.error is not None
    assert event.job.error.code == ErrorCode.OUT_OF_MEMORY


async def test_a_job_that_has_not_ended_has_no_webhook(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(DrawInput).hangs()
    async with comfysnap_server.client() as client:
        job = await client.infer_async(DrawInput(prompt="x"))
    for job_id in (job.id, "job_unknown"):
        with pytest.raises(ValueError, match="has ended"):
            comfysnap_server.webhook_request(job_id)


def test_outputs_are_untyped_without_a_model() -> None:
    output = verify_webhook(signed(), webhook_body(JOB), SECRET).output
    assert isinstance(output, UntypedOutput)
    assert output.values == {"images": []}


def test_any_of_several_secrets_and_any_of_several_signatures_will_do() -> None:
    old, new, other = SECRET, new_secret(24), new_secret(64)
    body = webhook_body(JOB)
    for mine in (old, [other, new], f"{other} {new}"):
        assert verify_webhook(signed(body, old, new), body, mine).job.id == JOB.id
    assert code_of(signed(body, old, new), body, other) == "invalid_signature"


def test_a_changed_body_id_or_time_is_refused() -> None:
    body = webhook_body(JOB)
    assert code_of(signed(), body.replace(b"succeeded", b"cancelled")) == "invalid_signature"
    assert code_of({**signed(), "Webhook-Id": "msg_2"}, body) == "invalid_signature"
    assert code_of({**signed(), "Webhook-Id": "msg_\udc80"}, body) == "invalid_signature"
    moved = {**signed(), "Webhook-Timestamp": str(int(time.time()) - 60)}
    assert code_of(moved, body) == "invalid_signature"
    for signature in ("v1,", "v1a,AAAA", "nonsense", "v1,\u00fc"):
        assert code_of({**signed(), "Webhook-Signature": signature}, body) == "invalid_signature"


@pytest.mark.parametrize(("age", "code"), [(310, "too_old"), (-310, "too_new")])
def test_a_timestamp_outside_of_the_tolerance_is_refused(age: float, code: str) -> None:
    body = webhook_body(JOB)
    assert code_of(signed(age=age), body) == code
    assert verify_webhook(signed(age=age), body, SECRET, tolerance=400).job.id == JOB.id
    assert verify_webhook(signed(age=age / 2), body, SECRET).job.id == JOB.id


@pytest.mark.parametrize("stamp", ["soon", "1.5", "-1", "9" * 30, "\u0661\u0662"])
def test_a_timestamp_that_is_not_seconds_is_refused(stamp: str) -> None:
    headers = {**signed(), "Webhook-Timestamp": stamp}
    assert code_of(headers, webhook_body(JOB)) == "invalid_timestamp"


@pytest.mark.parametrize("name", ["Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"])
def test_a_missing_header_is_named(name: str) -> None:
    headers = {key: value for key, value in signed().items() if key != name}
    with pytest.raises(InvalidWebhook) as caught:
        verify_webhook(headers, webhook_body(JOB), SECRET)
    assert caught.value.code == "missing_header"
    assert name.lower() in str(caught.value)


def test_a_signed_body_that_is_no_event_is_refused() -> None:
    body = b'{"type": "invoice.paid", "data": {}}'
    assert code_of(signed(body), body) == "invalid_body"


def test_outputs_of_another_contract_say_what_to_do() -> None:
    body = webhook_body(JOB.model_copy(update={"outputs": {"images": "none"}}))
    with pytest.raises(UnexpectedResponse) as caught:
        verify_webhook(signed(body), body, SECRET, DrawOutput)
    assert caught.value.job_id == JOB.id


def test_outputs_that_are_too_large_are_left_out() -> None:
    body = webhook_body(JOB.model_copy(update={"outputs": {"text": "x" * MAX_WEBHOOK_BYTES}}))
    event = verify_webhook(signed(body), body, SECRET)
    assert (event.job.status, event.job.outputs, event.output) == ("succeeded", None, None)


@pytest.mark.parametrize(
    "secret",
    ["sesame", "whsec_", "whsec_short", new_secret(23), new_secret(65), "whsec_\u00fc", "", " ",
     SECRET.removeprefix("whsec_")],
    ids=range(9),
)  # fmt: skip
def test_a_secret_that_is_not_one_is_refused_and_not_quoted(secret: str) -> None:
    with pytest.raises(ValueError, match="secret") as caught:
        verify_webhook(signed(), webhook_body(JOB), secret)
    assert len(secret) < 10 or secret not in str(caught.value)
    with pytest.raises(ValueError, match="secret"):
        verify_webhook(signed(), webhook_body(JOB), [])
