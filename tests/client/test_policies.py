"""The pure decisions: retries, polls, deadlines, server-sent events."""

import itertools
import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfysnap_client import NO_RETRY, PollPolicy, RetryPolicy
from comfysnap_client.retry import NEVER, Deadline, retry_after
from comfysnap_client.sse import MAX_EVENT_BYTES, ServerSentEvent, SseParser


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_temporary_statuses_are_retried(status: int) -> None:
    assert RetryPolicy().retries(status)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422])
def test_rejected_requests_are_not_retried(status: int) -> None:
    assert not RetryPolicy().retries(status)


def test_pauses_double_up_to_the_maximum() -> None:
    policy = RetryPolicy(attempts=9)
    pauses = [policy.pause(attempt, 0, rand=0) for attempt in range(1, 9)]
    assert pauses == [0.5, 1, 2, 4, 8, 8, 8, 8]
    assert RetryPolicy(attempts=5000).pause(4000, 0, rand=0) == 8


@given(rand=st.floats(0, 1), attempt=st.integers(1, 8))
def test_jitter_subtracts_at_most_a_quarter(rand: float, attempt: int) -> None:
    plain = RetryPolicy().pause(attempt, 0, rand=0)
    randn = RetryPolicy().pause(attempt, 0, rand=rand)
    assert plain is not None
    assert randn is not None
    assert plain * 0.75 <= randn <= plain


def test_giving_up_after_the_last_attempt_or_past_the_budget() -> None:
    assert NO_RETRY.pause(1, 0, rand=0) is None
    assert RetryPolicy(attempts=3).pause(3, 0, rand=0) is None
    assert RetryPolicy(budget=10).pause(1, 9.6, rand=0) is None


def test_a_server_that_was_never_reached_is_given_up_sooner() -> None:
    assert RetryPolicy().pause(1, 14.6, rand=0) == 0.5
    assert RetryPolicy().pause(1, 14.6, rand=0, reached=False) is None
    assert RetryPolicy(first_contact=30).pause(1, 14.6, rand=0, reached=False) == 0.5
    assert RetryPolicy(budget=10).pause(1, 9.6, rand=0, reached=False) is None


@given(hint=st.floats(0, 120), rand=st.floats(0, 1))
def test_a_pause_is_never_shorter_than_retry_after(hint: float, rand: float) -> None:
    pause = RetryPolicy(budget=1000).pause(1, 0, retry_after=hint, rand=rand)
    assert pause is not None
    assert pause >= hint


def test_a_retry_after_over_the_limit_gives_up() -> None:
    assert RetryPolicy(budget=1000).pause(1, 0, retry_after=121, rand=0) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 99 Nov 2026 00:00:00 GMT"}, None),
        (
            {
                "date": "Sun, 22 Nov 2026 00:00:00 GMT",
                "retry-after": "Sun, 22 Nov 2026 00:00:30 GMT",
            },
            30,
        ),
        (
            {
                "date": "Sun, 22 Nov 2026 00:00:30 -0000",
                "retry-after": "Sun, 22 Nov 2026 00:00:00 GMT",
            },
            0,
        ),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers) == seconds


def test_a_retry_after_date_without_a_date_header_uses_the_local_clock() -> None:
    now = datetime.now(UTC)
    assert retry_after({"retry-after": format_datetime(now)}) == 0
    later = retry_after({"retry-after": format_datetime(now + timedelta(seconds=100))})
    assert later is not None
    assert 90 < later <= 100


def test_polls_back_off_with_jitter_and_retry_after_takes_precedence() -> None:
    policy = PollPolicy()
    assert [policy.pause(streak, rand=0.5) for streak in (1, 2, 3)] == [0.5, 0.75, 1.125]
    assert policy.pause(100_000, rand=1) == 6.25
    assert policy.pause(1, rand=0) == 0.375
    assert policy.pause(1, hint=9, rand=0) == 9


def test_many_jobs_share_the_connections_within_the_maximum_pause() -> None:
    policy = PollPolicy()
    assert policy.hold_among(80, 80) == 25
    assert policy.hold_among(800, 80) == 0.5
    assert policy.hold_among(81, 80) < 5


def test_deadlines() -> None:
    assert Deadline.after(math.inf) == NEVER
    assert NEVER.remaining() is None
    assert NEVER.allows(1e9)
    assert Deadline.after(0).remaining() == 0
    assert not Deadline.after(1).allows(2)
    for wrong in (-1, math.nan):
        with pytest.raises(ValueError, match="timeout"):
            Deadline.after(wrong)


STREAM = (
    b"\xef\xbb\xbf: comment\r\nretry: 1500\r\nid: 7\r\nevent: status\r\ndata: {\r\ndata:}\r\n\r\n"
    b"data: a\xe2\x80\xa8b\n\nevent: empty\n\n"
    b"id: a\0b\nretry: x\nfield\nother: 1\ndata\n\ndata: cut"
)
EVENTS = [
    ServerSentEvent("status", "{\n}", "7", 1500),
    ServerSentEvent("message", "a\u2028b", "7", 1500),
    ServerSentEvent("message", "", "7", 1500),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_chunk_boundaries(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    parser = SseParser()
    found = [
        event
        for first, last in itertools.pairwise(places)
        for event in parser.feed(STREAM[first:last])
    ]
    assert found == EVENTS


def test_a_carriage_return_ends_a_line_too() -> None:
    parser = SseParser()
    assert parser.feed(b"data: 1\r\rdata: 2\r") == [ServerSentEvent("message", "1", "", None)]
    assert parser.feed(b"\r\n") == [ServerSentEvent("message", "2", "", None)]


def test_an_oversized_event_is_rejected() -> None:
    with pytest.raises(ValueError, match="large"):
        SseParser().feed(b"data: " + b"x" * MAX_EVENT_BYTES)
