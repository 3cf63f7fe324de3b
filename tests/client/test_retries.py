"""Requests over a network that loses, breaks and lies."""

import asyncio
import ssl
import time

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from comfysnap_client import (
    APIError,
    Client,
    ComfysnapError,
    ConnectionFailed,
    ContractMismatch,
    DeadlineExceeded,
    ErrorCode,
    IdempotencyMismatch,
    InvalidInput,
    JobFailed,
    NotFound,
    OutputExpired,
    PollPolicy,
    RateLimited,
    RetryPolicy,
    ServerError,
    TooLarge,
    Unauthorized,
    UnexpectedResponse,
)
from tests.client.fakes import (
    QUICK,
    DrawInput,
    FakeServer,
    problem,
    rejecting,
    responding,
)

FOX = DrawInput(prompt="a fox")


def keys(server: FakeServer) -> set[str]:
    return {request.headers["idempotency-key"] for request in server.requests_to("/infer_async")}


async def test_one_key_for_every_attempt_of_a_submit_and_one_job(
    client: Client, server: FakeServer
) -> None:
    async def lose(request: Request) -> Response:
        await server.accept(request, "draw")  # the job is created, the response is lost
        return problem(502, "internal")

    server.on(
        "/infer_async", rejecting(503, "unavailable", retry_after="0"), lose, rejecting(429, "x")
    )
    await client.infer_sync(FOX)

    assert len(server.requests_to("/infer_async")) == 4
    assert len(keys(server)) == 1
    assert len(server.jobs) == 1


async def test_each_submit_has_its_own_key_unless_the_caller_sets_one(
    client: Client, server: FakeServer
) -> None:
    await client.infer_async(FOX)
    await client.infer_async(FOX)
    assert len(server.jobs) == 2

    first = await client.infer_async(FOX, idempotency_key="mine")
    assert (await client.infer_async(FOX, idempotency_key="mine")).id == first.id


async def test_the_final_failure_carries_all_details(server: FakeServer) -> None:
    async with Client(server.url, retry=RetryPolicy(attempts=3, initial=0.01)) as client:
        server.on("/infer_async", *[rejecting(503, "unavailable")] * 3)
        with pytest.raises(ServerError) as caught:
            await client.infer_sync(FOX)

    error = caught.value
    assert (error.attempts, error.status, error.code) == (3, 503, ErrorCode.UNAVAILABLE)
    assert error.idempotency_key in keys(server)
    assert error.request_id == server.requests[-1].headers["x-request-id"]
    assert "attempts 3" in str(error)


async def test_a_refused_connection_has_the_network_error_as_its_cause() -> None:
    async with Client("http://127.0.0.1:1", retry=RetryPolicy(attempts=2, initial=0.01)) as client:
        with pytest.raises(ConnectionFailed) as caught:
            await client.check_status("job_x")

    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    assert caught.value.attempts == 2


async def test_only_a_server_that_answered_once_is_waited_for_when_it_is_gone() -> None:
    gone = False

    def answer(request: httpx.Request) -> httpx.Response:
        if gone:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, json=[])

    policy = RetryPolicy(attempts=4, initial=0.01, first_contact=0)
    transport = httpx.MockTransport(answer)
    async with Client("http://test", transport=transport, retry=policy) as client:
        await client.workflows()
        gone = True
        with pytest.raises(ConnectionFailed) as after:
            await client.workflows()
    async with Client("http://test", transport=transport, retry=policy) as client:
        with pytest.raises(ConnectionFailed) as never:
            await client.workflows()

    assert (after.value.attempts, never.value.attempts) == (4, 1)
    assert "http://test" in never.value.message
    assert "comfysnap serve" in never.value.message


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadTimeout(""),
        httpx.WriteTimeout(""),
        httpx.ConnectTimeout(""),
        httpx.RemoteProtocolError("cut"),
        httpx.ReadError("reset"),
        httpx.ProxyError("proxy"),
    ],
)
async def test_every_network_error_is_retried_and_wrapped(error: Exception) -> None:
    class Broken(httpx.AsyncBaseTransport):
        sent = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            self.sent += 1
            raise error

    broken = Broken()
    async with Client("http://test", transport=broken, retry=QUICK) as client:
        with pytest.raises(ConnectionFailed) as caught:
            await client.check_status("job_x")
    assert broken.sent == caught.value.attempts == 10
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [httpx.UnsupportedProtocol("x"), httpx.LocalProtocolError("x")])
async def test_permanent_errors_are_not_retried(error: Exception) -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        raise error

    async with Client("http://test", transport=httpx.MockTransport(refuse)) as client:
        with pytest.raises(ConnectionFailed) as caught:
            await client.check_status("job_x")
    assert caught.value.attempts == 1


async def test_an_invalid_certificate_is_not_retried() -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("tls") from ssl.SSLCertVerificationError("self-signed")

    async with Client("https://test", transport=httpx.MockTransport(refuse)) as client:
        with pytest.raises(ConnectionFailed) as caught:
            await client.check_status("job_x")
    assert caught.value.attempts == 1


async def test_a_pause_that_exceeds_the_deadline_fails_at_once(
    client: Client, server: FakeServer
) -> None:
    server.on("/check_status", rejecting(429, "rate_limited", retry_after="60"))
    async with asyncio.timeout(30):
        with pytest.raises(DeadlineExceeded) as caught:
            await client.check_status("job_x", timeout=50)

    assert caught.value.status == 429
    assert isinstance(caught.value.__cause__, RateLimited)


async def test_a_too_long_retry_after_ends_the_call(client: Client, server: FakeServer) -> None:
    server.on("/check_status", rejecting(503, "unavailable", retry_after="3600"))
    with pytest.raises(ServerError) as caught:
        await client.check_status("job_x")
    assert caught.value.retry_after == 3600


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (422, "invalid_input", InvalidInput),
        (422, "input_unavailable", InvalidInput),
        (401, "unauthorized", Unauthorized),
        (403, "missing_scope", Unauthorized),
        (403, "some_new_code", Unauthorized),
        (404, "unknown_job", NotFound),
        (404, "some_new_code", NotFound),
        (409, "contract_mismatch", ContractMismatch),
        (422, "idempotency_mismatch", IdempotencyMismatch),
        (410, "output_expired", OutputExpired),
        (413, "body_too_large", TooLarge),
        (501, "some_new_code", ServerError),
        (418, "some_new_code", APIError),
        (400, "invalid_request", APIError),
    ],
)
async def test_the_code_selects_the_class_and_an_unknown_code_is_an_api_error(
    server: FakeServer, status: int, code: str, kind: type[APIError]
) -> None:
    server.on("/check_status", rejecting(status, code))
    async with Client(server.url, retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(APIError) as caught:
            await client.check_status("job_x")
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert caught.value.job_id == "job_x"


async def test_invalid_inputs_are_reported_by_field(client: Client, server: FakeServer) -> None:
    body = {
        "title": "no",
        "code": "invalid_input",
        "fields": [{"field": "prompt", "message": "long"}],
    }
    server.on("/infer_async", responding(
        JSONResponse(body, 422, media_type="application/problem+json")
    ))  # fmt: skip
    with pytest.raises(InvalidInput) as caught:
        await client.infer_sync(FOX)
    assert [(f.field, f.message) for f in caught.value.fields] == [("prompt", "long")]
    assert "prompt: long" in str(caught.value)


@pytest.mark.parametrize(
    "response",
    [
        PlainTextResponse("hello", 200),
        PlainTextResponse("nothing here", 404),
        JSONResponse({"detail": "?"}, 400, media_type="application/problem+json"),
        RedirectResponse("https://elsewhere.test/x?secret=1", 308),
    ],
)
async def test_a_foreign_response_is_an_unexpected_response(
    client: Client, server: FakeServer, response: Response
) -> None:
    server.on("/check_status", responding(response))
    with pytest.raises(UnexpectedResponse) as caught:
        await client.check_status("job_x")
    assert "secret" not in str(caught.value)


async def test_a_303_is_followed_by_get_on_the_same_origin(
    client: Client, server: FakeServer
) -> None:
    await client.infer_async(FOX)
    job_id = next(iter(server.jobs))
    hop = RedirectResponse(f"/check_status/{job_id}?hop=1", 303)
    server.on("/infer_async", responding(hop))
    server.on("/check_status", responding(hop))
    job = await client.infer_async(FOX)

    assert job.id == job_id
    assert [request.method for request in server.requests[-3:]] == ["POST", "GET", "GET"]
    assert server.requests[-1].headers["authorization"] == "Bearer sesame"
    assert "content-length" not in server.requests[-1].headers


async def test_a_303_to_another_origin_or_in_a_loop_is_rejected(
    client: Client, server: FakeServer
) -> None:
    for place in ("http://127.0.0.2:1/x", ""):
        server.on("/check_status", responding(RedirectResponse(place, 303)))
        server.handlers[-1:] = [(server.handlers[-1][0], server.handlers[-1][1])] * 21
        with pytest.raises(UnexpectedResponse) as caught:
            await client.check_status("job_x")
        assert caught.value.status == 303
        server.handlers.clear()

    server.on("/", *[responding(RedirectResponse("/check_status/job_x", 303))] * 22)
    with pytest.raises(UnexpectedResponse):
        await client.check_status("job_x")


async def test_a_dropped_poll_never_ends_a_wait(client: Client, server: FakeServer) -> None:
    server.outputs = None
    job = await client.infer_async(FOX)
    server.on("/check_status", *[rejecting(503, "unavailable")] * 15)
    server.on("/check_status", responding(JSONResponse(server.jobs[job.id])))
    server.on("/check_status", responding(PlainTextResponse("a proxy's page", 404)))
    waiting = asyncio.create_task(job.result())
    await server.requested("/check_status", 18)
    await server.finish(job.id, outputs={"text": "done"})

    assert (await waiting).text == "done"


async def test_a_wait_for_an_unknown_job_ends_at_once(client: Client, server: FakeServer) -> None:
    with pytest.raises(NotFound) as caught:
        await client.job("job_nowhere").result()
    assert caught.value.job_id == "job_nowhere"


async def test_a_foreign_response_ends_a_wait_that_never_saw_its_job(
    client: Client, server: FakeServer
) -> None:
    server.on("/check_status", responding(PlainTextResponse("shop", 404)))
    with pytest.raises(UnexpectedResponse):
        await client.job("job_x").result()


async def test_polls_that_are_not_held_back_off(server: FakeServer) -> None:
    server.outputs = None
    pauses: list[tuple[int, float]] = []

    class Recorded(PollPolicy):
        def pause(self, streak: int, *, hint: float | None = None, rand: float) -> float:
            pause = super().pause(streak, hint=hint, rand=rand)
            pauses.append((streak, pause))
            return pause

    async def at_once(request: Request) -> Response:
        return JSONResponse(server.jobs[request.url.path.rpartition("/")[2]])

    server.on("/check_status", *[at_once] * 6)
    async with Client(server.url, polling=Recorded(initial=0.01, maximum=0.05)) as client:
        job = await client.infer_async(FOX)
        started = time.monotonic()
        waiting = asyncio.create_task(job.result())
        await server.requested("/check_status", 7)
        assert time.monotonic() - started >= sum(pause for _, pause in pauses)
        await server.finish(job.id, outputs={})
        await waiting
    assert [streak for streak, _ in pauses] == [1, 2, 3, 4, 5, 6]


async def test_a_failed_job_carries_the_reason(client: Client, server: FakeServer) -> None:
    server.outputs = None
    job = await client.infer_async(FOX)
    error = {
        "title": "no",
        "code": "out_of_memory",
        "fields": [{"field": "steps", "message": "few"}],
    }
    await server.finish(job.id, status="failed", error=error)
    with pytest.raises(JobFailed) as caught:
        await job.result()
    assert caught.value.code == ErrorCode.OUT_OF_MEMORY
    assert caught.value.fields[0].field == "steps"
    assert caught.value.record == await job.wait()


async def test_outputs_that_are_not_valid_for_the_model_are_unexpected(
    client: Client, server: FakeServer
) -> None:
    server.outputs = {"images": 3}
    with pytest.raises(UnexpectedResponse) as caught:
        await client.infer_sync(FOX)
    assert caught.value.record is not None


async def test_a_status_of_a_newer_server_does_not_end_the_wait(
    client: Client, server: FakeServer
) -> None:
    server.outputs = None
    job = await client.infer_async(FOX)
    await server.finish(job.id, status="paused_by_moon")
    with pytest.raises(DeadlineExceeded):
        await job.result(timeout=1)
    assert job.record is not None
    assert job.record.status == "paused_by_moon"


async def test_a_timeout_error_of_an_event_hook_is_not_a_deadline(
    server: FakeServer,
) -> None:
    async def hook(_request: httpx.Request) -> None:
        raise TimeoutError("mine")

    async with Client(server.url, event_hooks={"request": [hook]}) as client:
        with pytest.raises(TimeoutError) as caught:
            await client.check_status("job_x")
    assert not isinstance(caught.value, ComfysnapError)
